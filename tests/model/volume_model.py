"""What may happen in a volume's life, what must never be, and where it may rest."""

from __future__ import annotations

from collections.abc import Iterator

import volume_agent as agent_side
import volume_drbd as drbd
import volume_seen as seen
from agents import No
from volume_world import (
    CONTENT,
    GUEST,
    HOSTS,
    NAMES,
    NOTHING,
    UIDS,
    Message,
    Still,
    Volume,
    VolumeHost,
    VolumeWorld,
    with_host,
)

Steps = Iterator[tuple[str, VolumeWorld]]
WIRE = 3


def progress(world: VolumeWorld) -> Steps:
    """What happens by itself, and heals by itself."""
    for message in dict.fromkeys(world.wire):
        yield from _delivered(world, message)
    yield from _leader(world)
    for host in HOSTS:
        one = world.hosts[host]
        if one.on and one.agent:
            for job in one.jobs:
                if job.outcome is None:
                    *_, after = agent_side.run(world, host, job)
                    yield f"{NAMES[host]}'s agent: {job.kind} {_ended(after, host, job.kind)}", after
            if not any(job.outcome is None for job in one.jobs):
                taken_up = agent_side.start(world, host)
                if taken_up is not None:
                    yield f"{NAMES[host]}'s agent takes the volume up", taken_up
        if not one.on:
            yield f"{NAMES[host]} boots", with_host(world, host, on=True, agent=True)
        elif not one.agent:
            yield f"{NAMES[host]}'s agent starts", with_host(world, host, agent=True)
        if not one.heard:
            yield f"the controllers reach {NAMES[host]}", with_host(world, host, heard=True)
    if not world.cable:
        yield "the replication link is back", drbd.connect(world._replace(cable=True))
    elif world.link == "Off" and (linked := drbd.connect(world)) != world:
        yield "DRBD connects", linked
    if world.link == "Syncing":
        yield "DRBD has synchronised", drbd.synchronised(world)


def _ended(world: VolumeWorld, host: int, kind: str) -> str:
    job = next(one for one in reversed(world.hosts[host].jobs) if one.kind == kind)
    return f"{job.outcome} {job.reason or ''}".strip()


def faults(world: VolumeWorld) -> Steps:
    """One unit of the budget each."""
    for message in dict.fromkeys(world.wire):
        one = world.hosts[message.host]
        yield f"lost: {_told(message)}", _taken(world, message)
        if one.on and one.agent:
            try:
                *partly, done = agent_side.handle(world, message)
                yield f"{_told(message)}; and once more, later", done
            except No:
                partly = _until_refused(world, message)
            for number, after in enumerate(partly, 1):
                killed = with_host(_taken(after, message), message.host, agent=False)
                yield f"{_told(message)}; the agent is killed after step {number}", killed
    for host in HOSTS:
        one = world.hosts[host]
        if one.on:
            off = agent_side.rebooted(one)
            yield f"{NAMES[host]} loses power", _with(drbd.disconnect(world), host, off)
        if one.on and one.agent:
            yield f"{NAMES[host]}'s agent is killed", with_host(world, host, agent=False)
            for job in one.jobs:
                if job.outcome is None:
                    *partly, _ = agent_side.run(world, host, job)
                    for number, after in enumerate(partly, 1):
                        killed = with_host(after, host, agent=False)
                        yield f"{NAMES[host]}'s agent: {job.kind}, killed after step {number}", killed
            if one.record is not None or one.jobs:
                empty = with_host(world, host, agent=False, record=None, jobs=(), gone=(), term=world.term)
                yield f"{NAMES[host]}'s agent is killed, and its journal is lost", empty
        if one.heard:
            yield f"the controllers do not reach {NAMES[host]}", with_host(world, host, heard=False)
    if world.cable:
        yield "the replication link is cut", drbd.disconnect(world._replace(cable=False))
    if world.term == 1:
        yield "another controller leads", world._replace(term=2, refused=())
    if world.frozen is None:
        yield (
            "a controller looks, and stands still",
            world._replace(frozen=Still(world.term, world.volume, _views(world))),
        )


def _with(world: VolumeWorld, host: int, one: VolumeHost) -> VolumeWorld:
    return world._replace(hosts=(one, world.hosts[1]) if host == 0 else (world.hosts[0], one))


def _until_refused(world: VolumeWorld, message: Message) -> list[VolumeWorld]:
    made = []
    try:
        for after in agent_side.handle(world, message):
            made.append(after)
    except No:
        pass
    return made


def edits(world: VolumeWorld) -> Steps:
    """What people do: delete it, make it anew under the same name, let a guest write to it."""
    volume = world.volume
    if volume.exists and not volume.deleting:
        for deletes in (False, True):
            word = "Delete" if deletes else "Retain"
            changed = world._replace(volume=volume._replace(deleting=True, deletes=deletes))
            if deletes:
                changed = changed._replace(given_up=(*world.given_up, volume.uid))
            yield f"kubectl: deletionPolicy {word}, delete", changed
    if not volume.exists and volume.uid + 1 < len(UIDS):
        yield "kubectl: apply, again", world._replace(volume=Volume(uid=volume.uid + 1))
    if made(volume) and not volume.deleting and not world.used and world.link == "Connected":
        kernels = [one.kernel for one in world.hosts]
        if all(kernel is not None and kernel.disk == "UpToDate" for kernel in kernels):
            marked = drbd.guest(world, 0)
            if marked.hosts[0].record is not None:
                kept = marked.hosts[0].record._replace(used=True)
                yield "a guest has it as its disk on mk1, and writes", with_host(marked, 0, record=kept)


def made(volume: Volume) -> bool:
    """controller.domain.volume_case.created."""
    content = volume.content is not None and volume.content.done
    return volume.sync is not None and volume.sync.done and (content or not seen.CONTENT)


# --- the wire, the controllers ----------------------------------------------------------------------------------------


def _told(message: Message) -> str:
    return f"{NAMES[message.host]} gets {' '.join(str(word) for word in message.key)} (term {message.term})"


def _taken(world: VolumeWorld, message: Message) -> VolumeWorld:
    wire = list(world.wire)
    if message in wire:
        wire.remove(message)
    return world._replace(wire=tuple(wire))


def _delivered(world: VolumeWorld, message: Message) -> Steps:
    one = world.hosts[message.host]
    if not (one.on and one.agent):
        yield f"nobody hears: {_told(message)}", _taken(world, message)
        return
    after = world
    try:
        for step in agent_side.handle(world, message):
            after = step
        yield _told(message), _taken(after, message)
    except No as no:
        refused = world.refused
        if message.term == world.term and not message.mad:
            kept = (one for one in refused if one[:2] != (message.host, message.key))
            refused = (*kept, (message.host, message.key, no.reason))
        yield f"{_told(message)}: refused, {no.reason}", _taken(after, message)._replace(refused=refused)


def _views(world: VolumeWorld) -> tuple[object, ...]:
    return tuple(seen.view(world, host) for host in HOSTS)


def _leader(world: VolumeWorld) -> Steps:
    if world.volume.exists:
        written, requests, _ = seen.look(world.volume, _views(world), world.term, world.refused)
        after = _send(world._replace(volume=written, refused=()), world.term, requests)
        if after != world:
            yield f"the controller looks{_said(requests)}", after
    if world.frozen is not None:
        still = world.frozen
        written, requests, _ = seen.look(still.volume, still.views, still.term, ())
        after = world._replace(frozen=None)
        if written == still.volume or commits(world, still):
            sent = _send(after if written == still.volume else after._replace(volume=written), still.term, requests)
            if sent != after:
                yield f"the other controller goes on{_said(requests)}", sent
        yield "the other controller goes away", after


def commits(world: VolumeWorld, still: Still) -> bool:
    """Compare-and-swap."""
    return still.volume == world.volume


def _said(requests: tuple[tuple[int, tuple[object, ...]], ...]) -> str:
    asked = ", ".join(f"{NAMES[host]} {' '.join(str(word) for word in key)}" for host, key in requests)
    return f", asks {asked}" if asked else ""


def _send(world: VolumeWorld, term: int, requests: tuple[tuple[int, tuple[object, ...]], ...]) -> VolumeWorld:
    mad = [one for one in world.wire if one.mad]
    wire = [one for one in world.wire if not one.mad]
    for host, key in requests:
        if len(wire) < WIRE and not any((one.host, one.term) == (host, term) for one in wire):
            wire.append(Message(host, term, key))
    return world._replace(wire=tuple(sorted(mad + wire, key=repr)))


# --- rules ------------------------------------------------------------------------------------------------------------


def broken(before: VolumeWorld, after: VolumeWorld) -> str | None:
    """The rule that the step breaks; None: none."""
    primaries = [one for one in after.hosts if one.kernel is not None and one.kernel.role == "Primary"]
    if len(primaries) > 1:
        return "two Primaries"
    for host, (old, new) in enumerate(zip(before.hosts, after.hosts, strict=True)):
        wrong = _lvs(before, old, new)
        if wrong is not None:
            return f"{NAMES[host]}: {wrong}"
        again, kept = new.record, old.record
        if again is not None and again.uid in old.gone and (kept is None or kept.uid != again.uid):
            return f"volume {again.uid} was removed on {NAMES[host]}, and is made there anew"
    first, second = (one.lv for one in after.hosts)
    for host, one in enumerate(after.hosts):
        if one.kernel is not None and one.record is not None and one.lv is not None and one.lv.uid != one.record.uid:
            return f"volume {one.record.uid} is up on {NAMES[host]} on a logical volume of {_whose(one.lv.uid)}"
    known = {(one.uid, one.generation) for one in (first, second) if one is not None and one.generation}
    if len(known) > len({uid for uid, _ in known}):
        return "both disks have a data generation of their own, and neither knows the other one's"
    for uid in range(len(UIDS)):
        had, has = (_best(world, uid) for world in (before, after))
        writing = any(one.record is not None and one.record.content == "writing" for one in before.hosts)
        least = GUEST if writing else CONTENT  # what was not recorded as written is written again
        if has < had and had >= least and uid not in after.given_up:
            what = "a guest's data" if had == GUEST else "the content"
            return f"{what} of volume {uid} is on no disk any more"
    return None


def _best(world: VolumeWorld, uid: int) -> int:
    """The most that is left of a volume's data on any disk where it can be read."""
    return max((lv.data for one in world.hosts for lv in one.lvs if lv.of == uid), default=NOTHING)


def _lvs(world: VolumeWorld, old: VolumeHost, new: VolumeHost) -> str | None:
    changed = [lv for lv in new.lvs if lv not in old.lvs]
    for lv in old.lvs:
        if lv in new.lvs:
            continue
        same = next((one for one in changed if one.uid == lv.uid), None)
        if same is None:
            if lv.uid not in world.given_up:
                return f"a logical volume of {_whose(lv.uid)} is removed, and nobody asked for that"
            continue
        if lv.generation and same.metadata and not same.generation:
            return "metadata is made anew over a data generation"
        if lv.data >= CONTENT and same.of != lv.of and world.link != "Syncing":
            return f"data of {_whose(lv.of)} is written over"
        if lv.data == GUEST and same.data < GUEST and world.link != "Syncing":
            return "a guest's data is written over"
        if lv.generation != same.generation and lv.generation and lv.data == GUEST and same.of != lv.of:
            return "a guest's disk is given up for another one's"
    return None


def _whose(uid: int) -> str:
    return "somebody else" if uid < 0 else f"volume {uid}"


WAITED_FOR = ("Stalled=True", "Ready=Unknown", "Degraded=True", "Ready=True")


def silent(world: VolumeWorld) -> str | None:
    """Why a world at rest is not as it shall be, and does not say so."""
    volume = world.volume
    if not volume.exists:
        return None
    _, _, told = seen.look(volume, _views(world), world.term, world.refused)
    if not any(one.startswith(WAITED_FOR) for one in told):
        return f"nothing happens any more, and it is told as being on its way: {told}"
    if any(one.startswith("Ready=True UpToDate") for one in told) and not made(volume):
        return "it is told as ready, and was not made"
    return None


def stalled(world: VolumeWorld) -> bool:
    """An agent's no is told to a person, who has to act; that it is asked again now and then is no way out."""
    if not world.refused or not world.volume.exists:
        return False
    _, _, told = seen.look(world.volume, _views(world), world.term, world.refused)
    return any(one.startswith("Stalled=True") for one in told)


def canonical(world: VolumeWorld) -> VolumeWorld:
    """Operations that ended, of objects that are gone, are forgotten; logical volumes have one order."""
    uid = world.volume.uid
    hosts = tuple(
        one._replace(
            jobs=tuple(job for job in one.jobs if job.uid == uid or job.outcome is None),
            lvs=tuple(sorted(one.lvs)),
        )
        for one in world.hosts
    )
    return world._replace(hosts=hosts)  # type: ignore[arg-type]
