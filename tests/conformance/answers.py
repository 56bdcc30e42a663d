"""Answers as text, and what of them may differ between two runs: times, counters, speeds, random identifiers."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Counters of DRBD (drbdsetup(8), /proc/drbd): they count requests, and two kernels never get the same ones
_COUNTERS = (
    r"\b(ns|nr|dw|dr|al|bm|lo|pe|ua|ap|ep)(:)\d+",
    r"\b(read|written|al-writes|bm-writes|upper-pending|lower-pending|received|sent|pending|unacked)(:)\d+",
    r"\b(oos|out-of-sync)(:)[1-9]\d*",  # none at all is more than a number
    r"\b(done)(:)\d+\.\d\d",
    r"\b(blocked|congested)(:)\w+",
)
_RULES: tuple[tuple[str, str], ...] = (
    (r"(?m)^(  \S+ role:\w+) congested:\w+", r"\1"),  # said only at an instant at which it is
    *((pattern, r"\1\2N") for pattern in _COUNTERS),
    (r"\s+(upper-pending:\S+)\s+(lower-pending:\S+)", r" \1 \2"),  # lines are filled up to 80 columns
    (r"srcversion: [0-9A-F]+", "srcversion: N"),
    (r"\[[=>.]+\] (\w+)'?e?d?: *\d+\.\d% \(\d+/", r"[bar] \1: N% (N/"),
    (r"finish: \d+:\d\d:\d\d speed: [\d,]+ \([\d,]+\)( want: [\d,]+)? K/sec", "finish: N speed: N (N) K/sec"),
    (r"\d+% +sector pos: \d+/", "N% sector pos: N/"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 \[\d+\]", "TIME"),
    # Xen: domain and process numbers, seconds of processor time; whether it runs or waits at that instant
    (r"\bDomain [1-9]\d*([:\s])", r"Domain N\1"),
    (r"\[\d+\] exited", "[N] exited"),
    (r"(Rebooting|Shutting down) domain \d+", r"\1 domain N"),
    (r"(?m)^(\S+ +)[1-9]\d*( +\d+ +\d+     )[r-][b-]([p-][s-]\S{2} +)\d+\.\d", r"\1N\2**\3N"),
    (r"(?m)^(Domain-0 +0 +\d+ +\d+     r-----) +\d+\.\d", r"\1 N"),
    (r"/(vbd|vif|console|domain)/[1-9]\d*/", r"/\1/N/"),
)
_GENERATION = re.compile(r"(?<![0-9A-F])[0-9A-F]{16}(?![0-9A-F])")
_VOLUME = re.compile(r"[0-9A-Za-z]{6}(?:-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}")
_PLAIN = {"0" * 16, "0" * 15 + "4", "0" * 15 + "5", "F" * 16}


@dataclass(frozen=True)
class Answer:
    """What one command said, and its exit status."""

    exit: int
    stdout: str = ""
    stderr: str = ""

    def __str__(self) -> str:
        """In the form of tests/samples."""
        lines = [*self.stdout.splitlines(), *(f"[stderr] {line}" for line in self.stderr.rstrip("\n").splitlines())]
        return "\n".join([*lines, f"[exit {self.exit}]"])


class Plain:
    """Texts of one scenario without what may differ. Equal identifiers get equal names, in the order of their coming,
    so that the texts still tell which side has whose data generation."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        for pattern, replacement in _RULES:
            text = re.sub(pattern, replacement, text)
        text = _VOLUME.sub(lambda found: self._name("lv", found[0]), text)
        return _GENERATION.sub(self._generation, text)

    def _generation(self, found: re.Match[str]) -> str:
        word = found[0]
        if word in _PLAIN:
            return word
        number = int(word, 16)  # bit 0 is no part of it: it says that the side is Primary (drbdmeta(8)) ...
        name = self._name("uuid", f"{number & ~1:016X}")
        current = found.string[found.end() : found.end() + 1] == ":" and found.start() == 0
        return name + ("+1" if number & 1 and current else "")  # ... in get-gi's first field, and nothing in others

    def _name(self, kind: str, value: str) -> str:
        count = sum(name.startswith(kind) for name in self._names.values())
        return self._names.setdefault(value, f"{kind}-{count + 1}")
