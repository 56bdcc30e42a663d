"""Takes the pieces that a parser reads out of a recorded session (tests/samples): mixed output of many tools."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
FILES = sorted(path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*") if path.is_file())

HEADER = re.compile(r"Name +ID +Mem +VCPUs\tState\tTime\(s\)")
DOMAIN = re.compile(r"\S.* +\d+ +\d+ +\d+ +[-rbpscd?w]{6} +\d+\.\d")
PROC_LINE = re.compile(r"(?:^|(?<=STATE )|(?<=: ))(?: ?\d+: cs:\S+ ro:\S+ ds:\S+ +(?:[ABC] )? *[-\w]{6})", re.M)
GENERATIONS = re.compile(r"\b[0-9A-F]{16}:[0-9A-F]{16}:[0-9A-F]{16}:[0-9A-F]{16}(?::[01]){7}")
EVENT = re.compile(r"^(?:\d{4}-\d\d-\d\dT\S+ )?(?:exists|change|create|destroy|call|response) (?:-|\S+ name:).*$", re.M)
REFUSAL = re.compile(r"State change failed: \(-\d+\)|Failure: \(\d+\)")


@dataclass(frozen=True)
class Piece:
    kind: str  # list, proc, proc-line, dump, event, generations, info, lvm, refusal, config
    text: str


def pieces(name: str) -> list[Piece]:
    return list(_pieces((SAMPLES / name).read_text(encoding="utf-8", errors="replace")))


def of_kind(kind: str) -> list[tuple[str, str]]:
    """(file, text) of every piece of a kind."""
    return [(name, piece.text) for name in FILES for piece in pieces(name) if piece.kind == kind]


def _pieces(text: str) -> Iterator[Piece]:
    for block in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, output = block.partition("\n")
        output = re.split(r"^\[exit ", output, flags=re.M)[0]
        if command == "cat /proc/drbd":
            yield Piece("proc", output)
        if command == "drbdsetup events2 --now":
            yield Piece("dump", output)
    yield from _lists(text)
    yield from (Piece("proc-line", match[0].strip()) for match in PROC_LINE.finditer(text))
    yield from (Piece("generations", match[0]) for match in GENERATIONS.finditer(text))
    yield from (Piece("event", match[0]) for match in EVENT.finditer(text))
    yield from (Piece("refusal", match[0]) for match in REFUSAL.finditer(text))
    if re.search(r"^xen_version +:", text, re.M):
        yield Piece("info", text)
    yield from _lvm(text)


def _lists(text: str) -> Iterator[Piece]:
    """Each header of `xl list` with its domains. A session that watched one domain repeats its line: one list's end.

    `xl list NAME`, which shows that domain alone, is left out: the driver never asks so.
    """
    taken: list[str] = []
    for line in [*text.splitlines(), ""]:
        if taken and line not in taken and DOMAIN.match(line):
            taken.append(line)
            continue
        if any(row.startswith("Domain-0 ") for row in taken):
            yield Piece("list", "\n".join(taken))
        taken = [line] if HEADER.match(line) else []


def _lvm(text: str) -> Iterator[Piece]:
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find('{\n      "report"', at)) >= 0:
        document, end = decoder.raw_decode(text, at)
        yield Piece("lvm", json.dumps(document))
        at = end
