"""One agent and a volume: agent.volumes, agent.content and agent.removal step by step, with the agent's own guards.

A request is handled as a chain of worlds, one after each effect or journal entry: an agent can be killed after any of
them. What refuses raises `No`, and what was done until then stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import volume_drbd as drbd
import volume_seen as seen
from agents import No
from observe import RESOURCE
from volume_world import (
    CONTENT,
    NAMES,
    PARTLY,
    UIDS,
    Job,
    Message,
    Record,
    VolumeHost,
    VolumeWorld,
    with_host,
    with_job,
    with_lv,
    with_record,
)

from agent import guards, ownership
from agent.protocol import Refusal

Worlds = Iterator[VolumeWorld]
LEVELS = ("Reserved", "Provisioned", "Up")


def check(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise No(refusal.reason)


def handle(world: VolumeWorld, message: Message) -> Worlds:
    """Every world on the way, the last one is the request's whole effect."""
    host, key = message.host, message.key
    check(guards.term_not_lower(guards.TermFacts(promised=world.hosts[host].term, requested=message.term)))
    world = with_host(world, host, term=message.term)
    match key:
        case ("put", int(uid), str(level), str(role)):
            yield from put(world, host, uid, level, role)
        case ("remove", int(uid), str(policy)):
            yield from remove(world, host, uid, policy)
        case (str(kind), int(uid), int(attempt)):
            yield begin(world, host, Job(kind, uid, attempt))
        case _:
            raise AssertionError(key)


def _record(world: VolumeWorld, host: int, uid: int) -> Record:
    """agent.volumes.Volumes.owned."""
    kept = world.hosts[host].record
    if kept is None:
        raise No("UnknownVolume")
    if kept.uid != uid:
        raise No("UidMismatch")
    return kept


# --- PUT /v1/volumes ------------------------------------------------------------------------------------------------


def put(world: VolumeWorld, host: int, uid: int, level: str, role: str) -> Worlds:
    world = _reserve(world, host, uid, level, role)
    yield world
    kept = _record(world, host, uid)
    one = world.hosts[host]
    if kept.role == "Secondary" and one.kernel is not None and one.kernel.role == "Primary":
        check(guards.first_refusal(guards.DEMOTE, role_facts(world, host)))
        world = drbd.demote(world, host)
        yield world
    if LEVELS.index(kept.level) >= 1:
        for step in provision(world, host):
            world = step
            yield world
    if kept.level == "Up":
        world = bring_up(world, host)
        yield world
        kernel = world.hosts[host].kernel
        if kept.role == "Primary" and kernel is not None and kernel.role != "Primary":
            check(guards.first_refusal(guards.PROMOTE, role_facts(world, host)))
            yield _tool(lambda: drbd.promote(world, host))


def _tool(step: Callable[[], VolumeWorld]) -> VolumeWorld:
    try:
        return step()
    except drbd.Refusal:
        raise No("ToolRefused") from None


def role_facts(world: VolumeWorld, host: int) -> guards.RoleFacts:
    return guards.RoleFacts(RESOURCE, NAMES[host], seen.kernel(world, host), readable=True, domains=())


def is_gone(one: VolumeHost, uid: int) -> bool:
    """agent.gone.Gone.check."""
    return uid in one.gone


def _forgotten(world: VolumeWorld, host: int, uid: int) -> VolumeWorld:
    return with_host(world, host, gone=tuple(sorted({*world.hosts[host].gone, uid})))


def _reserve(world: VolumeWorld, host: int, uid: int, level: str, role: str) -> VolumeWorld:
    one = world.hosts[host]
    if is_gone(one, uid):
        raise No("Gone")
    kept = one.record
    if kept is not None and kept.uid == uid and kept.removal is not None:
        raise No("BeingDeleted")
    kernel = seen.kernel(world, host)
    facts = ownership.OwnershipFacts(
        node=NAMES[host],
        desired=seen.desired(uid, level, role),
        records={RESOURCE: seen.record(kept)} if kept is not None else {},
        logical_volumes=seen.logical_volumes(one),
        configured=seen.configuration(one),
        kernel={RESOURCE: kernel} if kernel is not None else {},
    )
    check(guards.first_refusal(ownership.RESERVE, facts))
    if kept is None or kept.uid != uid:
        return with_host(world, host, record=Record(uid, level, role))
    higher = max(level, kept.level, key=LEVELS.index)
    return with_record(world, host, level=higher, role=role)


def provision(world: VolumeWorld, host: int) -> Worlds:
    """Logical volume, configuration, metadata."""
    kept, lv = world.hosts[host].record, world.hosts[host].lv
    assert kept is not None
    if lv is None:
        if lost(kept):
            raise No("LogicalVolumeLost")
        world = with_record(world, host, volume="making")
        yield world
        uid = kept.uid
        world = _tool(lambda: drbd.create_lv(world, host, uid))
        yield world
    elif not ours(lv.uid, kept):
        raise No("NotConfirmed")
    kept = world.hosts[host].record
    assert kept is not None
    if kept.volume == "none":
        world = with_record(world, host, volume="adopted", used=True)
    elif kept.volume == "making":
        world = with_record(world, host, volume="made")
    world = with_host(world, host, configured=kept.uid)
    yield world
    yield from _metadata(world, host)


def lost(kept: Record) -> bool:
    """It was there, so its data is on the other host only."""
    return kept.volume in ("made", "adopted")


def ours(uid: int, kept: Record) -> bool:
    return uid == kept.uid


def _metadata(world: VolumeWorld, host: int) -> Worlds:
    one = world.hosts[host]
    kept, lv = one.record, one.lv
    assert kept is not None
    assert lv is not None
    if one.kernel is not None:
        yield with_record(world, host, metadata="created")
        return
    if lv.metadata and (kept.metadata == "creating" or kept.volume == "adopted"):
        world = with_record(world, host, metadata="created")
        kept = world.hosts[host].record
        assert kept is not None
    if not lv.metadata or kept.metadata == "none":
        facts = guards.MetadataFacts(
            record=seen.record(kept),
            logical_volume=seen.logical_volume(lv),
            clearly_none=not lv.metadata,
            attached=False,
        )
        check(guards.first_refusal(guards.CREATE_METADATA, facts))
        world = with_record(world, host, metadata="creating")
        yield world
        world = drbd.create_metadata(world, host)
        yield world
        world = with_record(world, host, metadata="created")
    yield world


def bring_up(world: VolumeWorld, host: int) -> VolumeWorld:
    if world.hosts[host].kernel is None:
        world = _tool(lambda: drbd.up(world, host))
    return with_record(world, host, up=True)


# --- operations -------------------------------------------------------------------------------------------------------


def begin(world: VolumeWorld, host: int, wanted: Job) -> VolumeWorld:
    """agent.operations.Operations.submit with the handlers' checks."""
    one = world.hosts[host]
    if any(one[:3] == wanted[:3] for one in one.jobs):
        return world
    if any(job.outcome is None for job in one.jobs):
        raise No("OperationRunning")
    kept = one.record
    if wanted.kind == "content":
        check(guards.first_refusal(guards.WRITE_CONTENT, content_facts(world, host, wanted)))
    elif kept is None or kept.uid != wanted.uid or kept.forced_by != wanted.attempt:
        check(guards.first_refusal(guards.FORCE, force_facts(world, host, wanted)))
    return with_host(world, host, jobs=(*one.jobs, wanted))


def run(world: VolumeWorld, host: int, job: Job) -> Worlds:
    """The operation from where it is, to its end; also when it is resumed after the agent's end."""
    try:
        steps = _force(world, host, job) if job.kind == "force" else _content(world, host, job)
        for step in steps:
            world = step
            yield world
        yield with_job(world, host, job, outcome="Succeeded")
    except (No, drbd.Refusal) as error:
        reason = error.reason if isinstance(error, No) else "ToolRefused"
        yield with_job(world, host, job, outcome="Failed", reason=reason)


def force_facts(world: VolumeWorld, host: int, job: Job) -> guards.ForceFacts:
    one = world.hosts[host]
    kernel, lv = seen.kernel(world, host), one.lv
    return guards.ForceFacts(
        operation=seen.operation_id("force", job.uid, job.attempt),
        uid=UIDS[job.uid],
        record=seen.record(one.record) if one.record is not None else None,
        logical_volume=seen.logical_volume(lv) if lv is not None else None,
        kernel=kernel,
        generation=seen.generation(lv.generation) if kernel is not None and lv is not None and lv.metadata else None,
    )


def _force(world: VolumeWorld, host: int, job: Job) -> Worlds:
    """agent.content.InitialSyncHandler.run, and what `resume` does before."""
    kept = _record(world, host, job.uid)
    if world.hosts[host].kernel is None and kept.metadata == "created" and kept.removal is None:
        world = bring_up(world, host)
        yield world
    facts = force_facts(world, host, job)
    has_data = facts.generation is not None and not facts.generation.fresh
    if kept.forced_by == job.attempt and has_data:
        return
    check(guards.first_refusal(guards.FORCE, facts))
    world = with_record(world, host, forced_by=job.attempt, role="Primary")
    yield world
    world = with_lv(world, host, forced_tag=True)
    yield world
    check(guards.first_refusal(guards.FORCE, force_facts(world, host, job)))
    yield drbd.force(world, host)


def content_facts(world: VolumeWorld, host: int, job: Job) -> guards.ContentFacts:
    one = world.hosts[host]
    lv = one.lv
    primary = one.kernel is not None and one.kernel.role == "Primary"
    return guards.ContentFacts(
        operation=seen.operation_id("content", job.uid, job.attempt),
        uid=UIDS[job.uid],
        record=seen.record(one.record) if one.record is not None else None,
        logical_volume=seen.logical_volume(lv) if lv is not None else None,
        role=role_facts(world, host),
        signature=drbd.signature(world, host) if primary else None,
    )


def _content(world: VolumeWorld, host: int, job: Job) -> Worlds:
    """agent.content.WriteContentHandler.run."""
    kept = _record(world, host, job.uid)
    if kept.content == "written" and kept.content_by == job.attempt:
        return
    check(guards.first_refusal(guards.WRITE_CONTENT, content_facts(world, host, job)))
    world = with_record(world, host, content="writing", content_by=job.attempt)
    yield world
    world = with_lv(world, host, content_tag=True)
    yield world
    world = drbd.write(world, host, PARTLY)
    yield world
    world = drbd.write(world, host, CONTENT)
    yield world
    yield with_record(world, host, content="written")


# --- DELETE /v1/volumes -----------------------------------------------------------------------------------------------


def remove(world: VolumeWorld, host: int, uid: int, policy: str) -> Worlds:
    """agent.removal.Removal.begin and its steps."""
    one = world.hosts[host]
    kept = one.record
    if kept is None:
        if any(lv.uid == uid and not lv.retained for lv in one.lvs) or one.configured == uid:
            raise No("UnknownVolume")
        yield _forgotten(world, host, uid)
        return
    kept = _record(world, host, uid)
    if kept.removal is not None and kept.removal != policy:
        raise No("BeingDeleted")
    if any(job.outcome is None and job.uid == uid for job in one.jobs):
        raise No("InUse")
    world = with_record(world, host, removal=kept.removal or policy)
    yield world
    if one.kernel is not None:
        world = drbd.down(world, host)
        yield world
    world = with_host(world, host, configured=None)
    yield world
    lv = world.hosts[host].lv
    if lv is not None:
        if not ours(lv.uid, kept):
            raise No("LogicalVolumeNotOurs")
        if policy == "Retain" and any(other.retained and other.uid == lv.uid for other in world.hosts[host].lvs):
            raise No("RenameFailed")  # lvrename: the name is there already
        world = _delete(world, host) if policy == "Delete" else with_lv(world, host, retained=True)
        yield world
    world = _forgotten(world, host, uid)
    yield world
    yield with_host(world, host, record=None)


def _delete(world: VolumeWorld, host: int) -> VolumeWorld:
    one = world.hosts[host]
    return with_host(world, host, lvs=tuple(lv for lv in one.lvs if lv is not one.lv))


def start(world: VolumeWorld, host: int) -> VolumeWorld | None:
    """What an agent does by itself after its start: what was up comes up again, deletions go on. None: nothing."""
    one = world.hosts[host]
    kept = one.record
    if kept is None:
        return None
    try:
        if kept.removal is not None:
            *_, after = remove(world, host, kept.uid, kept.removal)
            return after
        if kept.level == "Up" and kept.metadata == "created" and one.kernel is None:
            return bring_up(world, host)
    except No:
        return None
    return None


def rebooted(one: VolumeHost) -> VolumeHost:
    """Power lost: the kernel forgets, the journal does not."""
    kept = one.record._replace(up=False) if one.record is not None else None
    return one._replace(on=False, agent=False, kernel=None, record=kept)
