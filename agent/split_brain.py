"""After a split brain: keep what a replica holds (LVM snapshot), and give up what this host wrote alone.

Which side gives up is the controller's decision, or a person's; whether it may, is looked at here again: not where a
domain has the disk, not another generation than the choice was made for, and nothing that no snapshot keeps. The
snapshot of when the split was found is not enough for that: the VM went on in the same generation.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core import Context, Refused
from agent.drivers.lvm import SNAPSHOT_TAG, snapshot_room
from agent.fence_records import FenceRecord, holds
from agent.guards import Guard, RoleFacts, no_domain_uses, require
from agent.operations import Operation
from agent.protocol import (
    DiscardChanges,
    GenerationIds,
    LogicalVolumeState,
    OperationCancel,
    OperationRequest,
    PeerState,
    Refusal,
    TakeSnapshot,
)
from agent.records import VolumeRecord, has_tag
from agent.volumes import Volumes

if TYPE_CHECKING:
    from collections.abc import Mapping

SNAPSHOTS = 3  # of one `discard-changes`, which fails and is asked for again: each takes as much room as the volume


@dataclass(frozen=True, slots=True)
class DiscardFacts:
    """None: could not be read."""

    wanted: DiscardChanges
    record: VolumeRecord | None
    role: RoleFacts
    generation: GenerationIds | None
    volumes: Mapping[str, LogicalVolumeState] | None  # by group/name
    fence: FenceRecord | None

    @property
    def node(self) -> str:
        return self.role.node

    @property
    def peer(self) -> PeerState | None:
        return self.role.kernel.peer if self.role.kernel else None


def volume_is_known(facts: DiscardFacts) -> Refusal | None:
    """The volume is kept here under that uid, and DRBD has it."""
    if facts.record is None or facts.record.desired.uid != facts.wanted.uid:
        return Refusal(reason="UnknownVolume", message=f"{facts.node} keeps no such volume {facts.wanted.resource}")
    if facts.role.kernel is None:
        return Refusal(reason="NotUp", message=f"DRBD on {facts.node} does not have {facts.wanted.resource}")
    return None


def parted(facts: DiscardFacts) -> Refusal | None:
    """The replicas do not see each other: what is connected has one history."""
    if facts.peer is not None and facts.peer.connection == "Connected":
        return Refusal(
            reason="Connected", message=f"{facts.wanted.resource} is connected to its peer: there is nothing to give up"
        )
    return None


def generation_is_the_chosen(facts: DiscardFacts) -> Refusal | None:
    """What is given up is what the choice was made for: nothing was begun here since."""
    if facts.generation is None:
        return Refusal(reason="Unreadable", message=f"the generation of {facts.wanted.resource} cannot be read")
    if _masked(facts.generation.current) != _masked(facts.wanted.generation):
        return Refusal(
            reason="GenerationChanged",
            message=f"{facts.wanted.resource} on {facts.node} is generation {facts.generation.current} by now, not"
            f" {facts.wanted.generation}, which the choice was made for; look at both sides and choose again",
        )
    return None


def nobody_uses_it(facts: DiscardFacts) -> Refusal | None:
    """No domain here has the disk, running or not."""
    return no_domain_uses(facts.role)


def kept_or_nothing_written(facts: DiscardFacts) -> Refusal | None:
    """A snapshot of this volume was taken, and another will be; without one DRBD counts not one block that was written
    alone, and no verdict let this side go on."""
    if facts.wanted.snapshot is None:
        behind = facts.peer.out_of_sync_kib if facts.peer else None
        if behind == 0 and not holds(facts.fence, facts.node):
            return None
        told = "an unknown number of" if behind is None else behind
        return Refusal(
            reason="NotKept", message=f"{told} KiB were written on {facts.node} alone; take a snapshot of them first"
        )
    group = facts.record.desired.group if facts.record else ""
    found = (facts.volumes or {}).get(f"{group}/{facts.wanted.snapshot}")
    if found is None or not has_tag(found, SNAPSHOT_TAG + facts.wanted.uid):
        return Refusal(
            reason="NotKept", message=f"{group}/{facts.wanted.snapshot} on {facts.node} is no snapshot of this volume"
        )
    return None


DISCARD: tuple[Guard[DiscardFacts], ...] = (
    volume_is_known,
    parted,
    generation_is_the_chosen,
    nobody_uses_it,
    kept_or_nothing_written,
)


class SnapshotHandler:
    """`snapshot`: Starting -> Done. A snapshot that is there already, of this volume, is the one."""

    first_phase = "Starting"

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _snapshot(request)
        return body.resource, body.uid

    async def check(self, request: OperationRequest) -> None:
        body = _snapshot(request)
        self._volumes.owned(body.resource, body.uid)
        await self._there(body)

    async def run(self, operation: Operation) -> None:
        body = _snapshot(operation.request)
        async with self._context.locks.hold(f"volume:{body.resource}"):
            if not await self._there(body):
                await take_snapshot(self._context, self._volumes.owned(body.resource, body.uid), body.name)
            operation.enter("Done")

    async def resume(self, operation: Operation) -> None:
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "a snapshot is taken in a moment")

    async def _there(self, body: TakeSnapshot) -> bool:
        """Raises Refused when the name is another's, or the origin is gone."""
        record = self._volumes.owned(body.resource, body.uid)
        volumes = await self._context.observer.read_logical_volumes()
        return snapshot_there(volumes, _origin(volumes, record), body.name, body.uid)


def snapshot_there(volumes: Mapping[str, LogicalVolumeState], origin: LogicalVolumeState, name: str, uid: str) -> bool:
    """Is there a snapshot of that name? Raises Refused when it is something else."""
    found = volumes.get(f"{origin.group}/{name}")
    if found is not None and not has_tag(found, SNAPSHOT_TAG + uid):
        raise Refused("LogicalVolumeTaken", f"{origin.group}/{name} is there and is no snapshot of this one")
    return found is not None


async def take_snapshot(context: Context, record: VolumeRecord, name: str) -> None:
    """Seen to be there when this returns. Raises Refused, DriverError."""
    origin, uid = _origin(await context.observer.read_logical_volumes(), record), record.desired.uid
    await context.lvm.snapshot(origin, name, (SNAPSHOT_TAG + uid,))
    if not snapshot_there(await context.observer.read_logical_volumes(), origin, name, uid):
        raise Refused("NotConfirmed", f"{origin.group}/{name} is not there after lvcreate")


def _origin(volumes: Mapping[str, LogicalVolumeState], record: VolumeRecord) -> LogicalVolumeState:
    origin = volumes.get(record.lv_key)
    if origin is None:
        raise Refused("LogicalVolumeMissing", f"{record.lv_key} is not there")
    return origin


class DiscardHandler:
    """`discard-changes`: Starting -> Demoting -> Keeping -> Discarding -> Done. The resync that follows is DRBD's own,
    and is observed. While it is under way the disk is not promoted (`Volumes.put`): its snapshot stays the newest.
    """

    first_phase = "Starting"

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _discard(request)
        return body.resource, body.uid

    async def check(self, request: OperationRequest) -> None:
        facts = await self._facts(request)
        require(DISCARD, facts)
        if facts.wanted.snapshot is not None:
            await self._require_room(facts)

    async def run(self, operation: Operation) -> None:
        body = _discard(operation.request)
        async with self._context.locks.hold(f"volume:{body.resource}"):
            facts = await self._facts(operation.request)
            require(DISCARD, facts)
            name = self._snapshot_name(operation, facts) if body.snapshot is not None else None
            if name is not None and not self._has(facts, name):
                await self._require_room(facts)  # before anything is touched
            operation.enter("Demoting")
            await self._demote(facts)
            if name is not None:
                operation.enter("Keeping", snapshot=name)
                await self._keep(facts, name)
            await self._require_idle(operation.request)
            operation.enter("Discarding")
            await self._context.drbd.connect_discarding(body.resource)
            await self._context.observer.read_drbd()
            operation.enter("Done")

    async def resume(self, operation: Operation) -> None:
        """Either it is as it was, and is done again, or the peer's data is already on its way here."""
        body = _discard(operation.request)
        facts = await self._facts(operation.request)
        changed = generation_is_the_chosen(facts)
        connected = parted(facts) is not None
        begun = any(step.name == "Discarding" for step in operation.state.steps)
        if begun and facts.generation is not None and (connected or changed is not None):
            self._context.log(object=body.resource, operation=operation.id).info("the resync had begun")
            operation.enter("Done")
            return
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "the connection is made in a moment, and the resync cannot be taken back")

    async def _demote(self, facts: DiscardFacts) -> None:
        """Nothing can be written here from then on."""
        drbd, body = self._context.drbd, facts.wanted
        assert facts.record is not None
        self._volumes.set_role(body.resource, body.uid, "Secondary")
        kernel = facts.role.kernel
        if kernel is not None and kernel.peer is not None and kernel.peer.connection != "StandAlone":
            await drbd.disconnect(body.resource)
        if kernel is not None and kernel.role == "Primary":
            await drbd.secondary(body.resource, facts.record.desired.minor)

    def _snapshot_name(self, operation: Operation, facts: DiscardFacts) -> str:
        """The one that this operation began with before the agent died, or one that is not there. One of an earlier
        run that failed is older than what is there now."""
        if (begun := operation.notes.get("snapshot")) is not None:
            return str(begun)
        assert facts.record is not None
        first = f"{facts.record.desired.logical_volume}.{operation.id}"
        names = [first, *(f"{first}-{number}" for number in range(2, SNAPSHOTS + 1))]
        for name in names:
            if f"{facts.record.desired.group}/{name}" not in (facts.volumes or {}):
                return name
        raise Refused(
            "TooManySnapshots",
            f"{', '.join(names)} are there in {facts.record.desired.group} on {facts.node}, of attempts that failed:"
            " nothing was given up. Remove those that are not needed (lvremove), then it is tried again",
        )

    async def _keep(self, facts: DiscardFacts, name: str) -> None:
        assert facts.record is not None
        if not self._has(facts, name):
            await take_snapshot(self._context, facts.record, name)

    def _has(self, facts: DiscardFacts, name: str) -> bool:
        assert facts.record is not None
        volumes = facts.volumes or {}
        return snapshot_there(volumes, _origin(volumes, facts.record), name, facts.wanted.uid)

    async def _require_room(self, facts: DiscardFacts) -> None:
        """Raises Refused("NoSpace")."""
        assert facts.record is not None
        origin = _origin(facts.volumes or {}, facts.record)
        for group in await self._context.lvm.volume_groups():
            needed = -(-snapshot_room(origin.size) // group.extent) * group.extent
            if group.name == origin.group and needed > group.free:
                raise Refused(
                    "NoSpace",
                    f"{group.name} on {facts.node} has {group.free >> 20} MiB free, {needed >> 20} MiB are needed for a"
                    f" snapshot of {origin.name} as it is now; nothing was given up",
                )

    async def _require_idle(self, request: OperationRequest) -> None:
        """Demoted and still what the choice was made for: looked at once more, the last thing before it is given up."""
        facts = await self._facts(request)
        require(DISCARD, facts)
        if facts.role.kernel is None or facts.role.kernel.role != "Secondary":
            raise Refused(
                "NotSecondary", f"{facts.wanted.resource} on {facts.node} is not Secondary: promoted by hand?"
            )

    async def _facts(self, request: OperationRequest) -> DiscardFacts:
        """Raises DriverError when something cannot be read: then nothing is given up."""
        body = _discard(request)
        observer = self._context.observer
        volumes, kernel, domains = await asyncio.gather(
            observer.read_logical_volumes(), observer.read_drbd(), observer.read_domains()
        )
        up = kernel.get(body.resource)
        return DiscardFacts(
            wanted=body,
            record=self._volumes.record(body.resource),
            role=RoleFacts(body.resource, self._context.node, up, readable=True, domains=domains),
            generation=await self._context.drbd.metadata(body.resource) if up is not None else None,
            volumes=volumes,
            fence=self._context.fence.record(body.resource),
        )


def _masked(current: str) -> int:
    """Without the bit that says "Primary"."""
    return int(current, 16) & ~1


def _snapshot(request: OperationRequest) -> TakeSnapshot:
    assert isinstance(request.body, TakeSnapshot)
    return request.body


def _discard(request: OperationRequest) -> DiscardChanges:
    assert isinstance(request.body, DiscardChanges)
    return request.body
