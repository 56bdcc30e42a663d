"""After a split brain: keep what a replica holds (LVM snapshot), and give up what this host wrote alone.

Which side gives up is the controller's decision, or a person's; whether it may, is looked at here again: not where a
domain has the disk, not another generation than the choice was made for, and nothing that no snapshot keeps.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core import Context, Refused
from agent.drivers.lvm import SNAPSHOT_TAG
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
    """A snapshot of this volume keeps it; without one DRBD counts not one block that was written alone, and no verdict
    let this side go on."""
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
            origin, there = await self._there(body)
            if not there:
                await self._context.lvm.snapshot(origin, body.name, (SNAPSHOT_TAG + body.uid,))
                _, there = await self._there(body)
                if not there:
                    raise Refused("NotConfirmed", f"{origin.group}/{body.name} is not there after lvcreate")
            operation.enter("Done")

    async def resume(self, operation: Operation) -> None:
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "a snapshot is taken in a moment")

    async def _there(self, body: TakeSnapshot) -> tuple[LogicalVolumeState, bool]:
        """Its origin, and whether it is there. Raises Refused when the name is another's, or the origin is gone."""
        record = self._volumes.owned(body.resource, body.uid)
        volumes = await self._context.observer.read_logical_volumes()
        origin = volumes.get(record.lv_key)
        if origin is None:
            raise Refused("LogicalVolumeMissing", f"{record.lv_key} is not there")
        found = volumes.get(f"{origin.group}/{body.name}")
        if found is not None and not has_tag(found, SNAPSHOT_TAG + body.uid):
            raise Refused("LogicalVolumeTaken", f"{origin.group}/{body.name} is there and is no snapshot of this one")
        return origin, found is not None


class DiscardHandler:
    """`discard-changes`: Starting -> Discarding -> Done. The resync that follows is DRBD's own, and is observed."""

    first_phase = "Starting"

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        body = _discard(request)
        return body.resource, body.uid

    async def check(self, request: OperationRequest) -> None:
        require(DISCARD, await self._facts(request))

    async def run(self, operation: Operation) -> None:
        body = _discard(operation.request)
        async with self._context.locks.hold(f"volume:{body.resource}"):
            facts = await self._facts(operation.request)
            require(DISCARD, facts)
            assert facts.record is not None
            operation.enter("Discarding")
            await self._discard(body, facts.record)
            operation.enter("Done")

    async def resume(self, operation: Operation) -> None:
        """Either it is as it was, and is done again, or the peer's data is already on its way here."""
        body = _discard(operation.request)
        facts = await self._facts(operation.request)
        changed = generation_is_the_chosen(facts)
        connected = parted(facts) is not None
        if operation.phase == "Discarding" and facts.generation is not None and (connected or changed is not None):
            self._context.log(object=body.resource, operation=operation.id).info("the resync had begun")
            operation.enter("Done")
            return
        await self.run(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        raise Refused("NotCancellable", "the connection is made in a moment, and the resync cannot be taken back")

    async def _discard(self, body: DiscardChanges, record: VolumeRecord) -> None:
        drbd = self._context.drbd
        kernel = (await self._context.observer.read_drbd()).get(body.resource)
        if kernel is not None and kernel.peer is not None and kernel.peer.connection != "StandAlone":
            await drbd.disconnect(body.resource)
        if kernel is not None and kernel.role == "Primary":
            await drbd.secondary(body.resource, record.desired.minor)
        self._volumes.set_role(body.resource, body.uid, "Secondary")
        await drbd.connect_discarding(body.resource)
        await self._context.observer.read_drbd()

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
