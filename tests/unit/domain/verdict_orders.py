"""Every order in which cables, power, writes, promotions, two controllers and late messages can come, around the real
rules of the controller (`controller.domain.verdict`) and of the agent (`agent.fence_records`).

DRBD is a small model: protocol C, resource-and-stonith, generations. A guest's write is acknowledged where the disk is
Primary, UpToDate and not frozen; connected, both sides have it. The accident: a write is acknowledged on a side that
lacks one that was acknowledged before.

Controllers decide from what they saw, however long ago, and write by compare-and-swap against the status alone. What
was ever recorded may reach any agent at any time, any number of times, in any order. Agents remember nothing but their
journal. A person says that a host is off only of one that is, and then it stays so.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from agent.core import Refused
from agent.drivers.drbd import DrbdResource
from agent.fence_records import (
    FAILED,
    Answer,
    FenceFacts,
    FenceRecord,
    FenceView,
    GiveBack,
    Outdate,
    Resume,
    accept,
    holds,
    next_step,
    promotable,
)
from agent.protocol import GenerationIds, PeerState, Verdict, VerdictDesired
from tests.unit.domain.verdict_drbd import (
    NAMES,
    RESOURCE,
    Accident,
    Move,
    Seen,
    Silent,
    Told,
    World,
    alone,
    connect,
    linked,
    lose,
    power_off,
    put,
    synchronised,
    write,
)
from tests.unit.domain.worlds import VOLUME_UID, Worlds, howto, volume_state


def verdict_of(told: Told) -> Verdict:
    if told.survivor is None:
        return Verdict(number=told.number, reason="Redundant")
    return Verdict(number=told.number, survivor=NAMES[told.survivor], stale=NAMES[1 - told.survivor], reason="PeerLost")


@cache
def record_of(told: Told | None, given_back: bool) -> FenceRecord | None:
    return None if told is None else FenceRecord(uid=VOLUME_UID, verdict=verdict_of(told), given_back=given_back)


@cache
def kernel_of(one: tuple[Any, ...]) -> DrbdResource:
    role, disk, frozen, connection, replication, peer_role, peer_disk = one
    peer = PeerState(connection=connection, role=peer_role, disk=peer_disk, replication=replication)
    return DrbdResource(
        name=RESOURCE, minor=1, role=role, disk=disk, suspended="fencing" if frozen else "no", size_kib=1, peer=peer
    )


def kernel(world: World, host: int) -> DrbdResource | None:
    one, other = world.hosts[host], world.hosts[1 - host]
    if not one.up:
        return None
    if not linked(world):
        return kernel_of((one.role, one.disk, one.frozen, "Connecting", "Off", "Unknown", one.peer_disk))
    replication = "Established"
    if world.link == "Syncing":
        replication = "SyncSource" if world.source == host else "SyncTarget"
    return kernel_of((one.role, one.disk, one.frozen, "Connected", replication, other.role, other.disk))


def agent(world: World, host: int) -> Iterator[Move]:
    one = world.hosts[host]
    record, drbd = record_of(one.verdict, one.given_back), kernel(world, host)
    name = NAMES[host]
    step = next_step(FenceFacts(name, record, drbd, asked=one.asked))
    match step:
        case GiveBack():
            yield f"{name} gives the verdict back", put(world, host, given_back=True)
        case Resume():
            yield f"{name} resumes", alone(world, host)
        case Outdate():
            yield f"{name} is outdated", put(world, host, disk="Outdated")
        case Answer() if step.exit == FAILED:
            yield f"{name}'s handler: 1", put(world, host, asked=False)
        case Answer():
            role, disk = ("Primary", "UpToDate") if one.role == "Secondary" else (one.role, one.disk)
            after = alone(world, host, asked=False, peer_disk="Outdated", role=role, disk=disk)
            yield f"{name}'s handler: {step.exit}", after
        case _:
            pass


def deliver(world: World, host: int, told: Told) -> World | None:
    one = world.hosts[host]
    wanted = VerdictDesired(term=1, uid=VOLUME_UID, resource=RESOURCE, verdict=verdict_of(told))
    try:
        after = accept(record_of(one.verdict, one.given_back), wanted)
    except Refused as error:
        if error.refusal.reason == "VerdictContradicts":
            raise Accident(error.refusal.message) from None
        return None
    return put(world, host, verdict=told, given_back=after.given_back)


def may_promote(world: World, host: int) -> bool:
    """agent.guards.PROMOTE."""
    one, drbd = world.hosts[host], kernel(world, host)
    record = record_of(one.verdict, one.given_back)
    if drbd is None or promotable(record, NAMES[host], RESOURCE) is not None or one.frozen:
        return False
    good = one.disk == "UpToDate" or (one.disk == "Consistent" and holds(record, NAMES[host]))
    return good and drbd.peer is not None and drbd.peer.role != "Primary"


# --- the controllers ----------------------------------------------------------------------------------------------


def view_of(world: World, host: int) -> tuple[Any, ...]:
    one = world.hosts[host]
    return (kernel(world, host), one.generation, one.verdict, one.given_back, one.asked)


@cache
def decided(seen: Seen) -> Told | None:
    """The verdict that the controller wants to record; the same one: nothing new."""
    worlds: Worlds = howto(created=True)
    status = worlds.status("DrbdVolume", "vm-shaolin") | {"fenced": True}
    if seen.status is not None:
        made = verdict_of(seen.status)
        status["verdict"] = made.model_dump(exclude_none=True)
    worlds.set_status("DrbdVolume", "vm-shaolin", status)
    for host, view in enumerate(seen.views):
        name = NAMES[host]
        if isinstance(view, Silent):
            last = record_of(view.verdict, view.given_back)
            if last is not None:
                worlds.tell(name, volumes={RESOURCE: volume_state(fence=last.shown)})
            else:
                worlds.hosts[name].state = None
            worlds.hosts[name].connected = False
            if view.off:
                worlds.edit("XenNode", name, outOfService=True)
            continue
        drbd, generation, verdict, given_back, asked = view
        record = record_of(verdict, given_back)
        assert drbd is None or isinstance(drbd, DrbdResource)
        fence = FenceView(record, asked=asked)
        worlds.tell(
            name,
            volumes={
                RESOURCE: volume_state(
                    configured=drbd is not None,
                    role=drbd.role if drbd else "Secondary",
                    disk=drbd.disk if drbd else "Diskless",
                    suspended=drbd.suspended if drbd else "no",
                    peer=drbd.peer if drbd else None,
                    generation=GenerationIds(current=f"{(generation + 1) * 16:016X}", bitmap="0" * 16),
                    fence=record.shown if record is not None else volume_state().fence,
                    fence_question=fence.question(drbd, NAMES[1 - host]),
                )
            },
        )
    found = worlds.decide_volume().status.verdict
    if found is None:
        return None
    return Told(found.number, NAMES.index(found.survivor) if found.survivor else None)


def controllers(world: World) -> Iterator[Move]:
    """One that looks and writes at once, and one that stands still in between: then others may have written."""
    for first, missed in _looks(world, 0):
        for second, missed_too in _looks(world, 1):
            silences = world.silences - missed - missed_too
            looked = Seen(world.status, (first, second))
            if silences < 0 or (told := decided(looked)) == world.status or told is None:
                continue
            after = world._replace(silences=silences)
            yield f"a controller records {told}", recorded(after, told)
            if world.stills and world.seen is None:
                yield "a controller looks, and stands still", after._replace(seen=looked, stills=world.stills - 1)
    if world.seen is not None:
        after, told = world._replace(seen=None), decided(world.seen)
        assert told is not None
        if world.seen.status == world.status:  # compare-and-swap
            after = recorded(after, told)
        yield f"the controller that stood still writes {told}", after


def recorded(world: World, told: Told) -> World:
    return world._replace(status=told, recorded=world.recorded | {told})


def _looks(world: World, host: int) -> list[tuple[tuple[Any, ...], int]]:
    """What it can see of a host: what its agent says, or silence, with its journal as it was seen last or without, and
    a person's word; and whether it missed an agent."""
    one = world.hosts[host]
    off = not one.on and world.off_for_good[host]
    last = [Silent(off), *([Silent(off, one.verdict, one.given_back)] if one.verdict is not None else [])]
    return [(view_of(world, host), 0), *((view, 1) for view in last)] if one.on else [(view, 0) for view in last]


# --- everything that can happen -----------------------------------------------------------------------------------


def moves(world: World) -> Iterator[Move]:
    if world.link == "Syncing":
        yield "resync ends", synchronised(world)
    if (connected := connect(world)) is not None:
        yield "DRBD connects", connected
    yield from controllers(world)
    for host, one in enumerate(world.hosts):
        if one.on:
            yield from agent(world, host)
            for told in world.recorded:
                if (after := deliver(world, host, told)) is not None and after != world:
                    yield f"{NAMES[host]} is told {told}", after
        if one.unasked:
            yield f"{NAMES[host]}'s DRBD calls its handler", put(world, host, asked=True, unasked=False)
        if one.up and one.role == "Primary" and one.disk == "UpToDate" and not one.frozen and world.writes:
            yield f"{NAMES[host]} writes", write(world, host)
        yield from wishes(world, host)
    yield from faults(world)


def wishes(world: World, host: int) -> Iterator[Move]:
    """What somebody, of whatever term and epoch, asks of an agent."""
    one, name = world.hosts[host], NAMES[host]
    if not world.wishes or not one.up:
        return
    after = world._replace(wishes=world.wishes - 1)
    if one.role == "Primary":
        yield f"{name} is demoted", put(after, host, role="Secondary", frozen=False, unasked=False, asked=False)
    elif may_promote(world, host) and not one.asked:
        if linked(world):
            yield f"{name} is promoted", put(after, host, role="Primary")
        elif one.peer_disk in ("Inconsistent", "Outdated") and one.disk == "UpToDate":
            yield f"{name} is promoted alone", alone(after, host, role="Primary")
        else:
            yield f"{name} is to be promoted: its handler asks", put(after, host, asked=True)


def faults(world: World) -> Iterator[Move]:
    if not world.cable:
        yield "cable in", world._replace(cable=True)
    for host, one in enumerate(world.hosts):
        name, said = NAMES[host], world.off_for_good
        if not one.on and not said[host]:
            yield f"{name} boots", put(world, host, on=True, up=True)
            yield (
                f"a person says that {name} is off",
                world._replace(off_for_good=(said[0] or host == 0, said[1] or host == 1)),
            )
        if said[host]:
            yield (
                f"a person says that {name} may come back",
                world._replace(off_for_good=(said[0] and host != 0, said[1] and host != 1)),
            )
    if not world.faults:
        return
    after = world._replace(faults=world.faults - 1)
    if world.cable:
        yield "cable out", lose(after)._replace(cable=False)
    for host, one in enumerate(world.hosts):
        if one.on:
            yield f"{NAMES[host]} loses power", power_off(after, host)
