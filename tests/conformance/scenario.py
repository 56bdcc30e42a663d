"""Scenarios: what is done to two hosts, whatever they are made of, and what they answered."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

RECORDED = Path(__file__).parent / "recorded"
Level = Literal["tools", "agents"]
Start = Literal["clean", "synced", "running"]
"""Of the agents' level: empty hosts; tests.lab.hosts' volume in sync, Primary on mk1; its VM running there."""
_MARK = "== "


@dataclass(frozen=True)
class Seen:
    """One answer of a scenario. `differs`: why the simulation is known to answer otherwise here."""

    label: str
    text: str
    differs: str = ""


@dataclass(frozen=True)
class Scenario:
    """`play` is given a place's tools (`level` "tools") or agents ("agents"); both keep what they saw."""

    name: str
    level: Level
    does: str
    play: Callable[[Any], Awaitable[None]]
    start: Start = "clean"


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    level: Level, does: str, *, start: Start = "clean"
) -> Callable[[Callable[[Any], Awaitable[None]]], Scenario]:
    """Puts a function into the list, under its name; `does` is its line in docs/fidelity.md."""

    def enter(play: Callable[[Any], Awaitable[None]]) -> Scenario:
        name = play.__name__.replace("_", "-")
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(name, level, does, play, start)
        return SCENARIOS[name]

    return enter


@dataclass(frozen=True)
class Recording:
    """What real hosts answered, when, and which versions they had."""

    date: str
    tools: str
    seen: list[Seen] = field(default_factory=list)

    @classmethod
    def load(cls, name: str) -> Recording | None:
        path = RECORDED / f"{name}.txt"
        if not path.exists():
            return None
        head, *parts = ("\n" + path.read_text()).split("\n" + _MARK)
        date, _, tools = head.strip().removeprefix("# ").partition(": ")
        texts = [part.partition("\n") for part in parts]
        return cls(date, tools, [Seen(label, text.strip("\n")) for label, _, text in texts])

    def save(self, name: str) -> None:
        parts = [f"# {self.date}: {self.tools}", *(f"{_MARK}{one.label}\n{one.text}\n" for one in self.seen)]
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{name}.txt").write_text("\n".join(parts).rstrip("\n") + "\n")


def record(name: str, seen: list[Seen], tools: str) -> None:
    """Keep what real hosts answered now."""
    Recording(datetime.datetime.now(datetime.UTC).date().isoformat(), tools, seen).save(name)


def differences(seen: list[Seen], recorded: list[Seen], *, simulated: bool) -> list[str]:
    """What is not as recorded, each as a text to read; [] when all is equal.

    A simulated answer that is marked as known to differ has to differ: otherwise the mark is to be removed.
    """
    told = []
    if [one.label for one in seen] != [one.label for one in recorded]:
        asked, kept = {one.label for one in seen}, {one.label for one in recorded}
        told.append(
            "other questions than were recorded, so record it anew;"
            f" new: {sorted(asked - kept)[:5]}, no longer asked: {sorted(kept - asked)[:5]}"
        )
    real: dict[str, list[str]] = {}
    for one in recorded:
        real.setdefault(one.label, []).append(one.text)
    for one in seen:
        if not (texts := real.get(one.label)):
            continue
        text = texts.pop(0)
        known = bool(one.differs) and simulated
        if known and one.text == text:
            told.append(f"{one.label}: no longer differs, so remove `differs`")
        elif not known and one.text != text:
            told.append(_difference(one.label, one.text, text, "simulated" if simulated else "now"))
    return told


def _difference(label: str, text: str, recorded: str, kind: str) -> str:
    return "\n".join(
        (label, f"  {kind}:", *(f"    {line}" for line in text.splitlines()), "  recorded on real hosts:",
         *(f"    {line}" for line in recorded.splitlines()))
    )  # fmt: skip
