"""`hack/explore`: one exploration, or many side by side, and what they saw."""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import scenarios
from explorer import Violation, explore


class Wanted(NamedTuple):
    """`most`: worlds that are looked at, at most."""

    start: str
    faults: int
    edits: int
    most: int


STARTS = ("new", "running", "moving", "stopped")
DEEP = (
    Wanted("moving", 2, 0, 2_000_000),
    Wanted("moving", 1, 1, 1_500_000),
    Wanted("running", 1, 2, 1_000_000),
    Wanted("new", 1, 2, 1_000_000),
    Wanted("stopped", 2, 2, 500_000),
)
"""More than 5,000,000 together, with what is seen to its end."""


def main(arguments: list[str]) -> int:
    """Exit status 1 when an accident was found: its story is printed."""
    parser = argparse.ArgumentParser(
        prog="hack/explore",
        description="Searches every order in which requests, faults and edits can come, by the real decisions and"
        " guards, for an accident: the VM on two hosts, two Primaries, a lost write, or a world that never comes to"
        " rest.",
    )
    parser.add_argument("--deep", action="store_true", help="several million worlds, from several starts: hours")
    parser.add_argument("--start", choices=STARTS, default="running")
    parser.add_argument("--faults", type=int, default=1, help="how much may go wrong (%(default)s)")
    parser.add_argument("--edits", type=int, default=1, help="how often a person changes their mind (%(default)s)")
    parser.add_argument("--most", type=int, default=200_000, help="worlds to look at (%(default)s)")
    given = parser.parse_args(arguments)
    wanted = DEEP if given.deep else (Wanted(given.start, given.faults, given.edits, given.most),)
    bad = 0
    for ended, told in _all(wanted):
        print(told, flush=True)
        bad += not ended
    return 1 if bad else 0


def _all(wanted: tuple[Wanted, ...]) -> Iterator[tuple[bool, str]]:
    with ProcessPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
        yield from pool.map(_one, wanted)


def _one(wanted: Wanted) -> tuple[bool, str]:
    title = f"{wanted.start}, {wanted.faults} faults, {wanted.edits} edits"
    try:
        found = explore(getattr(scenarios, wanted.start)(wanted.faults, wanted.edits), most=wanted.most)
    except Violation as violation:
        return False, f"{title}: {violation}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    end = "all that there are" if found.exhausted else "the nearest ones"
    return True, (
        f"{title}: no accident in {found.states:,} worlds, {found.steps:,} steps, up to {found.depth} deep, {end}"
        f" ({found.seconds:.0f} s, {memory} MiB)"
    )
