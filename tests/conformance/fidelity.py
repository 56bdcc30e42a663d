"""docs/fidelity.md: every scenario with what simulated and real hosts answered."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agent import logs
from tests.conformance.every import in_order
from tests.conformance.play import on_simulated
from tests.conformance.scenario import SCENARIOS, Recording, Seen, differences

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENT = PROJECT / "docs" / "fidelity.md"
HEAD = """\
# Do simulated hosts answer as real ones?

Each scenario of [tests/conformance](../tests/conformance) is written once and played on simulated and on real hosts
(the [lab](lab.md)). What the tools say is compared word for word, with its exit status, sizes to the byte; so are the
agents' answers, their refusals with reason and words, and the order of what `GET /v1/watch` tells. Left out is only
what differs between any two runs: times, counters, speeds, random identifiers (but not which of them are equal).

What real hosts answered is kept in `tests/conformance/recorded`. `hack/test` plays every scenario on simulated hosts
and fails where one answer is another than recorded; `hack/test tests/lab` plays them on real hosts and fails in the
same way, so that the recording stays true. What was never played on real hosts says so. Written by `hack/fidelity`;
`hack/fidelity --lab` records on real hosts first.

"""


@dataclass(frozen=True)
class Result:
    """Of one scenario on simulated hosts."""

    seen: list[Seen]
    told: list[str]

    @property
    def known(self) -> list[Seen]:
        return [one for one in self.seen if one.differs]


def row(name: str, recording: Recording | None, simulated: str) -> str:
    scenario = SCENARIOS[name]
    if recording is None:
        return f"| {name} | {scenario.does} | | not compared | never played |"
    return f"| {name} | {scenario.does} | {len(recording.seen)} | {simulated} | {recording.date} |"


def document(results: dict[str, Result]) -> str:
    """The whole text."""
    recordings = {name: Recording.load(name) for name in results}
    tools = sorted({one.tools for one in recordings.values() if one is not None})
    lines = [HEAD + "Real hosts: " + "; ".join(tools) + ".\n"]
    heads = "| scenario | what it does | answers | simulated | real, recorded |", "|---|---|---|---|---|"
    for level, title in (("tools", "The tools themselves"), ("agents", "The agents' API")):
        lines += [f"## {title}\n", *heads]
        for name, result in results.items():
            if SCENARIOS[name].level == level:
                lines.append(row(name, recordings[name], _simulated(result)))
        lines.append("")
    known = [f"- {name}, `{one.label}`: {one.differs}" for name, result in results.items() for one in result.known]
    lines += ["## Known differences\n", *(known or ["None."])]
    return "\n".join(lines) + "\n"


def _simulated(result: Result) -> str:
    if result.told:
        return f"**differs in {len(result.told)}**"
    return f"equal but for {len(result.known)} known" if result.known else "equal"


async def _play(name: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        seen = await on_simulated(SCENARIOS[name], Path(folder))
    recording = Recording.load(name)
    told = differences(seen, recording.seen, simulated=True) if recording is not None else []
    return Result(seen, told)


def main(arguments: list[str]) -> int:
    """0 when every answer was as recorded."""
    if arguments not in ([], ["--lab"]):
        print("usage: hack/fidelity [--lab]", file=sys.stderr)
        return 2
    if arguments:
        environment = dict(os.environ, XENTANDEM_RECORD="1")
        test = [str(PROJECT / "hack" / "test"), "tests/lab/test_conformance.py"]
        if status := subprocess.call(test, env=environment):
            return status
    logs.configure("console", "error")
    results = {}
    for name in in_order():
        results[name] = asyncio.run(_play(name))
        compared = Recording.load(name) is not None
        print(
            f"{name}: {_simulated(results[name]) if compared else 'not compared'}",
            *results[name].told,
            sep="\n",
            flush=True,
        )
    DOCUMENT.write_text(document(results))
    print(f"wrote {DOCUMENT.relative_to(PROJECT)}")
    return 1 if any(result.told for result in results.values()) else 0
