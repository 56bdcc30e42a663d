"""`hack/bench --lab`: what is measured on two real Xen hosts, in one run that nobody has to watch."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from demo_lib.screen import DemoFailed
from lab_lib.tools import LabFailed, prepare

from bench_lib import lab_life, lab_moves, lab_stream, timeline
from bench_lib.by_hand import TRANSPORTS
from bench_lib.lab_moves import OURS, Move, Race
from bench_lib.lab_stage import LabStage
from bench_lib.report import Result, Row
from bench_lib.stage import BenchScreen
from bench_lib.timeline import Span
from kubectl_xen.cluster import Problem

SCENARIOS = ("life", "stream", "moves")
ROUNDS, QUICK_ROUNDS = 5, 1
MINUTES = 27.0
REST_MINUTES = 3.0  # for what comes after the moves


def run(options: Namespace, screen: BenchScreen, folder: Path) -> tuple[list[Result], list[str]]:
    """What could be measured, and what could not. Raises DemoFailed, LabFailed, Problem when there is nothing."""
    prepare()
    end = time.monotonic() + MINUTES * 60
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    results: list[Result] = []
    problems: list[str] = []

    def as_far(measure: Callable[[], Result]) -> None:
        try:
            results.append(measure())
        except (DemoFailed, LabFailed, Problem, OSError) as error:
            problems.append(str(error))
            screen.line(f"Not measured: {error}")

    with LabStage(folder / "lab", screen) as stage:
        screen.heading("life: new volume, new VM")
        rows, seen = lab_life.make(stage)
        stage.settled()
        stage.hand.make()
        if "moves" in options.scenarios:
            screen.heading("moves: by spec.node and by hand, in turns")
            made = Race(stage, seen).run(rounds, (OURS, *TRANSPORTS), end - REST_MINUTES * 60)
            if made.of(OURS):
                results.append(lab_moves.result(made))
                if options.write:
                    timeline.write(drawn(made.of(OURS)))
            if made.problem:
                problems.append(made.problem)
                screen.line(f"The moves ended early: {made.problem}")
        if "stream" in options.scenarios:
            screen.heading("stream: with TLS and without")
            as_far(lambda: lab_stream.result(lab_stream.measure(stage, rounds)))
        if "life" in options.scenarios:
            screen.heading("life: starts, and what is known how soon")
            as_far(lambda: _life(stage, rows, min(3, rounds)))
    return results, problems


def _life(stage: LabStage, rows: list[Row], rounds: int) -> Result:
    starts = lab_life.starts(stage, rounds)
    return lab_life.result(rows, starts, lab_life.knowledge(stage, rounds))


def drawn(moves: list[Move]) -> str:
    """The picture of the move whose whole time is the median."""
    move = sorted(moves, key=lambda one: one.whole)[(len(moves) - 1) // 2]

    def lane(name: str, who: str) -> timeline.Lane:
        moments = [(one.what, one.at - move.begun) for one in move.moments if one.who == who]
        return timeline.lane(name, moments, move.whole)

    sent = lane(f"agent on {move.source}", "migrate-send")
    received = lane(f"agent on {move.target}", "migrate-receive")
    left, came = move.left - move.begun, move.came - move.begun
    guest = timeline.Lane(
        "guest",
        (
            Span(f"on {move.source}", 0.0, left),
            Span("stands still", left, came),
            Span(f"on {move.target}", came, max(came, move.whole)),
        ),
    )
    begins = [span.begun for span in (*sent.spans, *received.spans) if span.name in ("StopAndCopy", "HandOver")]
    enlarged = (min([left, *begins]) - 0.5, max(came, move.whole) + 0.2)
    title = (
        f"A move by an edit of spec.node, {move.source} to {move.target}: {move.whole:.1f} s, pause {move.pause:.2f} s"
    )
    lanes = (lane("status", "status"), sent, received, guest)
    return timeline.picture(title, [one for one in lanes if one.spans], enlarged)
