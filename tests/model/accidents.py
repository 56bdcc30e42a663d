"""Which accident is found without which guard: the table of docs/exploration.md, and its proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import fence_mutations as f
import mutations as m
import pair
import pair_mutations as p
import pair_scenarios as two
import scenarios as vm
import volume_mutations as v
import volume_scenarios as volume
from explorer import Found, explore

Start = Callable[[int, int], Any]


class Accident(NamedTuple):
    """`guard`: in words. `without`: what is taken away, the guard first, then whatever backs it. `found`: what breaks.
    `rests`: that it comes to rest is looked at, too."""

    guard: str
    without: tuple[Callable[[], m.Patches], ...]
    start: Start
    faults: int
    edits: int
    found: str
    rests: bool = False


FORGOT, TWICE = "mk2 forgot the epoch that it promised", "the VM runs twice: on mk1 and mk2"
GENERATIONS = "both disks have a data generation of their own, and neither knows the other one's"
STUCK = "it never comes to rest"
SPLIT = "split brain: both sides went on alone"

ACCIDENTS = (
    Accident(
        "placement: written by compare-and-swap",
        (m.placement_cas,), vm.stopped, 1, 1, "the placement's epoch went from 2 back to 1", True,
    ),
    Accident(
        "term: a deposed controller is refused",
        (m.term,), vm.stopped, 1, 1, "mk1 forgot the term that it promised", True,
    ),
    Accident("promise: no epoch below the promised one", (m.epoch_too_old,), vm.mad_at_moved, 0, 0, FORGOT),
    Accident(
        "promise: no epoch that was given away", (m.epoch_released, m.disks_usable), vm.mad_at_moved, 0, 0, TWICE
    ),
    Accident(
        "promise: nothing runs that was given away",
        (m.only_what_is_granted, m.disks_usable), vm.mad_at_moved, 0, 0, TWICE,
    ),
    Accident(
        "promise: not given away or forgotten while its domain is here",
        (m.domain_present,), vm.mad_at_running, 0, 0, "the VM runs on mk1, which gave it away",
    ),
    Accident(
        "storage: DRBD's allow-two-primaries no",
        (m.drbd_two_primaries, m.peer_not_primary), vm.mad_at_running, 0, 0, "two Primaries",
    ),
    Accident(
        "storage: no promotion while the peer may be newer",
        (m.drbd_fencing,), vm.mad_at_cut, 0, 0, "two Primaries",
    ),
    Accident(
        "storage: no demotion of a disk that is open",
        (m.drbd_open, m.no_domain_uses), vm.mad_at_running, 0, 0, "the VM runs on mk1, whose disk is Secondary",
    ),
    Accident(
        "agent: a domain only on disks that are Primary and UpToDate here",
        (m.disks_usable,), vm.mad_at_running, 0, 0, TWICE,
    ),
    Accident(
        "agent: no wish changes a VM that moves",
        (m.busy,), vm.late_stop, 0, 0, "the VM runs on mk1, which gave it away", True,
    ),
    Accident(
        "agent: what was deleted stays deleted",
        (m.gone,), vm.late_start, 0, 0, "the VM was deleted, and ['mk1'] runs it", True,
    ),
    Accident(
        "move: the source finds its release in its journal", (m.release_journalled,), vm.released, 1, 0, STUCK, True
    ),
    Accident(
        "move: the target takes over only what its source gave away",
        (m.source_let_go, m.whole_at_take_over), vm.arrived, 1, 0, STUCK, True,
    ),
    Accident(
        "move: ... and only when its own DRBD sees both disks whole and Secondary",
        (m.whole_at_take_over, m.drbd_two_primaries, m.peer_not_primary), vm.released, 1, 0, "two Primaries", True,
    ),
    Accident(
        "move: after the permission to go the source's domain is not resumed by the source alone",
        (m.judge_source, m.source_let_go, m.whole_at_take_over, m.drbd_two_primaries, m.peer_not_primary),
        vm.going, 1, 0, "two Primaries", True,
    ),
    Accident(
        "fencing: the verdict is written by compare-and-swap",
        (f.verdict_cas,), vm.second_thoughts, 0, 0, "one verdict's number was given to both sides", True,
    ),
    Accident(
        "fencing: no verdict while another stands",
        (f.one_verdict,), vm.only_copy_lost, 0, 0, "both sides hold a verdict", True,
    ),
    Accident(
        "fencing: an agent takes no lower verdict than it knows",
        (f.verdict_number,), vm.alone, 1, 0, "mk2 forgot verdict 2", True,
    ),
    Accident(
        "fencing: a verdict is held until its holder gave it back",
        (f.verdict_given_back,), vm.whole_to_be_fenced, 1, 0, "both sides hold a verdict", True,
    ),
    Accident("fencing: frozen IO waits for a verdict", (f.frozen_waits,), vm.frozen_to_be_fenced, 0, 0, SPLIT, True),
    Accident(
        "fencing: no promotion of a copy that is recorded as stale",
        (f.recorded_stale, f.stale_handler), vm.mad_at_stale, 0, 0, SPLIT,
    ),
    Accident(
        "fencing: a stale side's handler hears no",
        (f.stale_handler, f.recorded_stale), vm.mad_at_stale, 0, 0, SPLIT,
    ),
    Accident(
        "fencing: a stale copy is outdated in DRBD",
        (f.stale_outdated, f.recorded_stale, f.stale_handler), vm.mad_at_stale, 0, 0, SPLIT,
    ),
    Accident(
        "failover: a time-out is no evidence",
        (f.silence_is_no_evidence,), vm.frozen_out_of_reach, 0, 0, TWICE, True,
    ),
    Accident(
        "failover: a host that answers is not off",
        (f.answers_is_not_off,), vm.known_off, 0, 0,
        "nothing happens any more, and it is told as being on its way: Ready=False HostLives", True,
    ),
    Accident(
        "two VMs: moves that nobody asked for wait for their turn",
        (p.moves_in_turn,), two.one_moves, 0, 0, "more moves at once than the limit", True,
    ),
    Accident(
        "two VMs: the most important move is next",
        (p.turn_by_priority,), two.draining, 0, 0,
        "monk, which is more important, waits, and the other one's move begins", True,
    ),
    Accident(
        "two VMs: a VM fails over only to where its memory is free",
        (p.room_is_counted,), two.two_hosts_lost, 0, 0, "more memory is given away than mk2 has", True,
    ),
    Accident(
        "two VMs: the most important one of a lost host gets the room",
        (p.room_by_priority,), two.one_fits, 0, 0,
        "shaolin has the room that monk, which is more important, waits for", True,
    ),
    Accident(
        "volume: metadata is never made twice",
        (v.metadata_never_made,), volume.wiped, 0, 0, "a guest's data of volume 0 is on no disk any more",
    ),
    Accident(
        "volume: metadata only where clearly none is",
        (v.metadata_clearly_none,), volume.foreign_metadata, 0, 0, "mk1: metadata is made anew over a data generation",
    ),
    Accident(
        "volume: what was removed is not made anew",
        (v.volume_gone,), volume.late_put, 0, 0, "volume 0 was removed on mk1, and is made there anew",
    ),
    Accident(
        "volume: force only while both sides are Inconsistent and connected",
        (v.force_both_new,), volume.mad_at_connected, 1, 0, "two Primaries",
    ),
    Accident(
        "volume: force only on metadata without a data generation",
        (v.force_generation, v.force_both_new), volume.mad_at_connected, 1, 0, GENERATIONS,
    ),
    Accident(
        "volume: force once",
        (v.force_once, v.force_generation, v.force_both_new), volume.mad_at_connected, 1, 0, GENERATIONS,
    ),
    Accident(
        "volume: content only where blkid finds none",
        (v.content_no_signature,), volume.mad_at_whole, 0, 0, "mk1: a guest's data is written over",
    ),
    Accident(
        "volume: content once",
        (v.content_once, v.content_never_used, v.content_no_signature), volume.mad_at_whole, 0, 0,
        "mk1: a guest's data is written over",
    ),
    Accident(
        "volume: content never on what a guest had",
        (v.content_never_used, v.content_once, v.content_no_signature), volume.mad_at_whole, 0, 0,
        "mk1: a guest's data is written over",
    ),
    Accident(
        "volume: a logical volume of another owner is not taken",
        (v.reserve_logical_volume, v.volume_ours), volume.mad_at_leftover, 0, 0,
        "volume 0 is up on mk1 on a logical volume of volume 2",
    ),
    Accident(
        "volume: metadata only on its own logical volume",
        (v.metadata_ours, v.metadata_never_made, v.reserve_logical_volume, v.volume_ours), volume.mad_at_by_hand, 0, 0,
        "volume 0 is up on mk2 on a logical volume of somebody else",
    ),
    Accident(
        "volume: only its own logical volume is removed",
        (v.volume_ours,), volume.exchanged, 0, 0,
        "mk1: a logical volume of somebody else is removed, and nobody asked for that",
    ),
)  # fmt: skip


def explored(one: Accident, *, without: tuple[Callable[[], m.Patches], ...] | None = None, most: int = 5_000) -> Found:
    """Raises Violation. `without`: other guards than the accident's own."""
    start = one.start(one.faults, one.edits)
    mad = one.start.__module__ == vm.__name__ and not one.rests
    check = m.accidents if mad else pair.at_once if isinstance(start, pair.Pair) else None
    with m.without(*(one.without if without is None else without)):
        return explore(start, most=most, check=check, rests=one.rests)


def table() -> str:
    """As docs/exploration.md has it."""
    rows = ["| without the guard | and without what backs it | the explorer finds |", "|---|---|---|"]
    for one in ACCIDENTS:
        first, *backing = (lock.__name__ for lock in one.without)
        backed = ", ".join(f"`{name}`" for name in backing) or "-"
        rows.append(f"| {one.guard} (`{first}`) | {backed} | {one.found} |")
    return "\n".join(rows) + "\n"
