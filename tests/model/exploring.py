"""`hack/explore`: one exploration, or many, and what they saw; and what is found without each guard."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pair_scenarios
import scenarios
import volume_scenarios
from accidents import ACCIDENTS, Accident, explored, table
from explorer import Explorer, Found, Violation


class Wanted(NamedTuple):
    """`most`: worlds that are looked at, at most."""

    start: str
    faults: int
    edits: int
    most: int

    def __str__(self) -> str:
        return f"{self.start}, {self.faults} faults, {self.edits} edits"


VM_STARTS = ("new", "running", "moving", "stopped", "copying", "going", "arrived", "reported", "released", "moved",
             "protected", "cut_off", "alone", "whole_again", "only_copy_lost", "fenced", "lost", "known_off",
             "power_cut", "taken_over", "switched_off", "continues", "went_on")  # fmt: skip
PAIR_STARTS = ("apart", "third_host", "draining", "one_moves", "one_fits", "two_hosts_lost")
VOLUME_STARTS = ("creating", "connected", "whole", "leftover", "retained", "by_hand")
DEEP = (
    Wanted("creating", 2, 1, 1_300_000),
    Wanted("whole", 2, 2, 400_000),
    Wanted("moving", 1, 0, 900_000),
    Wanted("moving", 1, 1, 600_000),
    Wanted("fenced", 2, 0, 600_000),
    Wanted("protected", 1, 1, 600_000),
    Wanted("known_off", 1, 0, 400_000),
    Wanted("power_cut", 1, 2, 400_000),
    Wanted("two_hosts_lost", 2, 0, 400_000),
    Wanted("draining", 1, 1, 400_000),
    Wanted("creating", 1, 2, 500_000),
    Wanted("running", 1, 2, 500_000),
    Wanted("new", 1, 2, 500_000),
    Wanted("stopped", 2, 2, 400_000),
)
"""More than 5,000,000 together."""


def main(arguments: list[str]) -> int:
    """Exit status 1 when an accident was found, or one that should have been was not: its story is printed."""
    parser = argparse.ArgumentParser(
        prog="hack/explore",
        description="Searches every order in which requests, faults and edits can come, by the real decisions and"
        " guards, for an accident: the VM on two hosts, two Primaries, a lost write, or a world that never comes to"
        " rest. docs/exploration.md tells what is looked at.",
    )
    parser.add_argument("--deep", action="store_true", help="several million worlds, from several starts: an hour")
    parser.add_argument("--mutations", action="store_true", help="take each guard away, and find the accident")
    parser.add_argument("--table", action="store_true", help="the table of guards in docs/exploration.md")
    parser.add_argument("--start", choices=(*VM_STARTS, *PAIR_STARTS, *VOLUME_STARTS), default="running")
    parser.add_argument("--faults", type=int, default=1, help="how much may go wrong (%(default)s)")
    parser.add_argument("--edits", type=int, default=1, help="how often a person changes their mind (%(default)s)")
    parser.add_argument("--most", type=int, help="worlds to look at, in each search (200000; with --deep: millions)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    given = parser.parse_args(arguments)
    if given.table:
        print(table(), end="")
        return 0
    if given.mutations:
        return _tell(_mutation(one) for one in ACCIDENTS)
    if given.deep:
        return _tell(_side_by_side([one._replace(most=given.most or one.most) for one in DEEP], given.jobs))
    return _tell([_one(Wanted(given.start, given.faults, given.edits, given.most or 200_000))])


def _tell(ended: Iterable[tuple[bool, str]]) -> int:
    bad = 0
    for good, told in ended:
        print(told, flush=True)
        bad += not good
    return 1 if bad else 0


def _side_by_side(wanted: list[Wanted], jobs: int) -> Iterator[tuple[bool, str]]:
    """Each in a process of its own, which gives its memory back."""
    with ProcessPoolExecutor(min(len(wanted), jobs), get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from pool.map(_one, wanted)


def _one(wanted: Wanted) -> tuple[bool, str]:
    module = (
        scenarios if wanted.start in VM_STARTS else pair_scenarios if wanted.start in PAIR_STARTS else volume_scenarios
    )
    start = getattr(module, wanted.start)(wanted.faults, wanted.edits)
    try:
        found = Explorer(start).run(wanted.most, lambda found: print(f"  {wanted}: {_so_far(found)}", file=sys.stderr))
    except Violation as violation:
        return False, f"{wanted}: {violation}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    end = "all that there are" if found.exhausted else "the nearest ones"
    return True, f"{wanted}: no accident in {_so_far(found)}, {end} ({cpu:.0f} s of CPU, {memory} MiB)"


def _so_far(found: Found) -> str:
    return f"{found.states:,} worlds, {found.steps:,} steps, up to {found.depth} deep, {found.seconds:.0f} s"


def _mutation(one: Accident) -> tuple[bool, str]:
    title = f"without {' and '.join(lock.__name__ for lock in one.without)}, from {one.start.__name__}"
    try:
        found = explored(one)
    except Violation as violation:
        return violation.broken == one.found, f"{title}: {violation}\n"
    return False, f"{title}: nothing was found in {_so_far(found)}\n"
