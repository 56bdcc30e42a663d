"""What TLS costs a migration's stream on the lab's hosts: the agents' own code carries the same bytes without it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from lab_lib import agents, settings

from bench_lib.lab_stage import LabStage
from bench_lib.report import Listing, Result, Row, number
from bench_lib.stage import Failed

PORT = 9100
START_LIMIT = 300.0  # the agent's modules take long to be loaded under emulation
PYTHON = f"/{agents.PREFIX}/bin/python"
RATIO_GOAL = 0.8


@dataclass(frozen=True)
class Carried:
    mode: str
    seconds: float
    bytes: int
    source_cpu: float
    target_cpu: float

    @property
    def rate(self) -> float:
        """MB/s"""
        return self.bytes / self.seconds / 1e6


def measure(stage: LabStage, rounds: int) -> list[Carried]:
    """With and without TLS in turns, from mk1 to mk2. Raises Failed."""
    for name in stage.consoles:
        shell = stage.hosts.lab.shell(name)
        for part in ("stream_source.py", "stream_target.py"):
            shell.send((Path(__file__).parent / part).read_bytes(), f"cat > /run/{part}")
    stage.consoles["mk1"].ok(f"{PYTHON} /run/stream_source.py make /run/stream")
    stage.freeze()
    try:
        return [_carry(stage, mode) for _ in range(rounds) for mode in ("tls", "plain")]
    finally:
        stage.thaw()


def _carry(stage: LabStage, mode: str) -> Carried:
    here, there = stage.consoles["mk1"], stage.consoles["mk2"]
    pki = "/etc/xentandem/pki"
    listen = f"{PYTHON} /run/stream_target.py {mode} {PORT} mk1 {pki}"
    there.ok(f"(setsid {listen} >/run/stream.log 2>&1 </dev/null &)")
    there.ok("until grep -q listening /run/stream.log; do sleep 0.1; done", limit=START_LIMIT)
    address = settings.address(stage.hosts.lab.machine("mk2").index)
    sent = here.ok(f"{PYTHON} /run/stream_source.py {mode} {address} {PORT} mk2 {pki} /run/stream")
    try:
        seconds, count, cpu, stage_ = sent.output.split()
        taken = there.ok(
            "until [ $(wc -l </run/stream.log) -ge 2 ]; do sleep 0.1; done; cat /run/stream.log; rm /run/stream.log"
        )
        target = float(taken.output.split()[1])
    except (ValueError, IndexError):
        raise Failed(f"the stream's two ends did not tell what they did: {sent.output}") from None
    if stage_ != "sent":
        raise Failed(f"the relay did not read the stream to its end: {sent.output}")
    stage.screen.progress(
        f"stream, {mode}: {int(count) / 1e6 / float(seconds):.1f} MB/s, CPU {cpu} s and {target:.2f} s"
    )
    return Carried(mode, float(seconds), int(count), float(cpu), target)


def result(carried: list[Carried]) -> Result:
    tls = [one for one in carried if one.mode == "tls"]
    plain = [one for one in carried if one.mode == "plain"]
    ratios = [one.rate / other.rate for one, other in zip(tls, plain, strict=False)]
    between = f"({min(ratios):.2f} to {max(ratios):.2f})"
    median = statistics.median(ratios)
    rows = (Row(f"rate with TLS / without: median {between}", median, "times", RATIO_GOAL, least=True),)
    listing = Listing(
        "Medians",
        ("stream", "rate", "CPU of the relay", "CPU of the target's agent"),
        tuple(
            (
                name,
                f"{number(statistics.median(one.rate for one in part))} MB/s",
                f"{number(statistics.median(one.source_cpu for one in part))} s",
                f"{number(statistics.median(one.target_cpu for one in part))} s",
            )
            for name, part in (("with TLS 1.3", tls), ("without", plain))
        ),
    )
    size = carried[0].bytes / 1e6
    how = (
        f"{len(ratios)} rounds of both in turns: {size:.0f} MB as `xl migrate` sends them, through the agents' relay"
        " and receiving code, from mk1 to mk2; nothing else runs there"
    )
    return Result("lab-stream", how, rows, (listing,))
