"""Volumes: makes each DRBD resource on this host what its VolumeDesired says, level by level, under its own lock.

Reserved: the names are this volume's. Provisioned: LV, configuration, metadata. Up: attached and connecting; only then
a role. What shall be is in the journal before anything is done for it, and every step looks first whether it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Literal, TypeVar

from agent.core import Context, Refused
from agent.drivers.drbd import DrbdResource
from agent.drivers.errors import DriverError
from agent.drivers.lvm import owner_tag
from agent.fence_door import handler_path
from agent.guards import CREATE_METADATA, DEMOTE, PROMOTE, MetadataFacts, RoleFacts, require
from agent.host import CommandTimedOut
from agent.ownership import RESERVE, OwnershipFacts
from agent.protocol import Refusal, VolumeDesired, VolumeRemoval, VolumeState
from agent.records import VolumeRecord, external_metadata_size
from agent.removal import Removal

T = TypeVar("T")
LEVELS = ("Reserved", "Provisioned", "Up")
RECONNECT_SECONDS = 15.0  # between attempts to connect what DRBD has parted
BROUGHT_UP_AT_ONCE = 4  # resources that are brought up at the same time after a reboot


class Volumes:
    """`agent.core.VolumeService`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records: dict[str, VolumeRecord] = {}
        self._removal = Removal(context, self)
        self._connected_at: dict[str, float] = {}  # when a connection was tried again last

    # --- the journal's records ------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the journal's volumes and show them."""
        for resource, value in self._context.journal.items("volumes"):
            self._records[resource] = VolumeRecord.model_validate(value)
        self._context.observer.put_records(self._records)

    def record(self, resource: str) -> VolumeRecord | None:
        return self._records.get(resource)

    def owned(self, resource: str, uid: str) -> VolumeRecord:
        """The record of that volume. Raises Refused("UnknownVolume", "UidMismatch")."""
        record = self._records.get(resource)
        if record is None:
            raise Refused("UnknownVolume", f"{self._context.node} keeps no volume {resource}")
        if record.desired.uid != uid:
            raise Refused("UidMismatch", f"{resource} belongs to {record.owner} (uid {record.desired.uid}), not {uid}")
        return record

    def save(self, resource: str, record: VolumeRecord, **update: object) -> VolumeRecord:
        """The record with `update`, on disk when this returns."""
        record = record.model_copy(update=update)
        self._context.journal.put("volumes", resource, record.model_dump(mode="json"))
        self._records[resource] = record
        self._context.observer.put_record(resource, record)
        return record

    def forget(self, resource: str) -> None:
        """The volume is gone; on disk when this returns."""
        self._context.fence.forget(resource)
        self._context.journal.delete("volumes", resource)
        self._records.pop(resource, None)
        self._context.observer.put_record(resource, None)

    # --- VolumeService --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """After an agent's start: bring up (as Secondary) what was up before a reboot, go on with deletions."""
        gate = asyncio.Semaphore(BROUGHT_UP_AT_ONCE)

        async def take_up(resource: str, removing: bool) -> None:
            async with gate:
                try:
                    await (self._removal.go_on(resource) if removing else self.bring_back(resource))
                except Refused as error:
                    self._context.log(object=resource).warning("volume not taken up", **error.refusal.model_dump())

        for resource, record in self._records.items():
            if record.removal is not None or record.desired.level == "Up":
                self._context.tasks.spawn(take_up(resource, record.removal is not None), name=f"take up {resource}")

    async def put(self, resource: str, desired: VolumeDesired) -> VolumeState:
        """Make it so. Raises Refused with what stands against it; VolumeState.problem says the same afterwards."""
        async with self._context.locks.hold(f"volume:{resource}"), self._noting(resource, desired.uid):
            self._leave_role_to_operation(resource, desired)
            record = await self._reserve(resource, desired)
            if record.desired.role == "Secondary":  # first: a role is given up although the disk has failed
                await self._demote(resource, record)
            if LEVELS.index(record.desired.level) >= LEVELS.index("Provisioned"):
                record = await self._provision(resource, record)
            if record.desired.level == "Up":
                record = await self._up(resource, record)
                if record.desired.role == "Primary":
                    await self._promote(resource, record)
        return self._context.observer.state.volumes[resource]

    async def remove(self, resource: str, removal: VolumeRemoval) -> None:
        async with self._context.locks.hold(f"volume:{resource}"), self._noting(resource, removal.uid):
            await self._removal.begin(resource, removal)

    def set_role(self, resource: str, uid: str, role: Literal["Primary", "Secondary"]) -> None:
        record = self.owned(resource, uid)
        self.save(resource, record, desired=record.desired.model_copy(update={"role": role}))

    def mark_used(self, resource: str, uid: str) -> None:
        record = self.owned(resource, uid)
        if not record.used:
            self.save(resource, record, used=True)

    def _leave_role_to_operation(self, resource: str, desired: VolumeDesired) -> None:
        """While a guest that has this disk moves, the move alone changes its role: no late wish takes it back. Nor is
        anything written while a snapshot keeps what is given up."""
        known = self._records.get(resource)
        for operation in self._context.operations.running():
            body = operation.request.body
            if body.kind == "discard-changes" and body.resource == resource and desired.role == "Primary":
                raise Refused("GivingUp", f"{resource} on {self._context.node} gives up its data ({operation.id})")
            if body.kind not in ("migrate-send", "migrate-receive"):
                continue
            leaves = body.kind == "migrate-send" and bool(operation.notes.get("released"))
            stays = known is None or (known.desired.role == desired.role and not (leaves and desired.role == "Primary"))
            if not stays and any(disk.resource == resource for disk in body.domain.config.disks):
                raise Refused(
                    "Moving",
                    f"the role of {resource} on {self._context.node} is the business of operation {operation.id}"
                    f" ({operation.phase}), which moves {body.domain.name}; wait for its end",
                )

    # --- levels ---------------------------------------------------------------------------------------------------

    async def _reserve(self, resource: str, desired: VolumeDesired) -> VolumeRecord:
        """The names, minor and port are this volume's: checked against everything on the host, then journalled."""
        self._context.gone.check(desired.uid)
        known = self._records.get(resource)
        if known is not None and known.desired.uid == desired.uid and known.removal is not None:
            raise Refused("BeingDeleted", f"{resource} is being deleted with policy {known.removal.policy}")
        observer = self._context.observer
        volumes, configured, kernel = await asyncio.gather(
            _or_none(observer.read_logical_volumes),
            _or_none(observer.read_configured),
            _or_none(observer.read_drbd),
        )
        # No await from here to the journal: two volumes that want the same minor cannot both pass.
        require(
            RESERVE,
            OwnershipFacts(
                node=self._context.node,
                desired=desired,
                records=self._records,
                logical_volumes=volumes,
                configured=configured,
                kernel=kernel,
            ),
        )
        known = self._records.get(resource)
        if known is None:
            return self.save(resource, VolumeRecord(desired=desired))
        if LEVELS.index(desired.level) < LEVELS.index(known.desired.level):
            desired = desired.model_copy(update={"level": known.desired.level})
        return self.save(resource, known, desired=desired)

    async def _provision(self, resource: str, record: VolumeRecord) -> VolumeRecord:
        record = await self._logical_volumes(resource, record)
        await self.install(record.desired)
        return await self._metadata(resource, record)

    async def install(self, desired: VolumeDesired) -> None:
        """The configuration, with the handler where fencing is wanted."""
        handler = handler_path(self._context.state_dir) if desired.fencing is not None else None
        await self._context.drbd.install(desired, fence_handler=handler)

    async def _logical_volumes(self, resource: str, record: VolumeRecord) -> VolumeRecord:
        """The LV (and the one of external metadata), tagged with the owner's uid from its first moment."""
        desired = record.desired
        wanted = [(desired.group, desired.logical_volume, desired.size)]
        if desired.metadata_group:
            wanted.append((desired.metadata_group, record.metadata_lv, external_metadata_size(desired.size)))
        present = self._context.observer.state.logical_volumes  # read by _reserve just now
        missing = [(group, name, size) for group, name, size in wanted if f"{group}/{name}" not in present]
        if missing and record.volume in ("made", "adopted"):
            names = " and ".join(f"{group}/{name}" for group, name, _ in missing)
            raise Refused(
                "LogicalVolumeLost",
                f"{names} was there on {self._context.node} and is gone. It is not made anew by itself: its data is"
                " on the other host only. Restore it, or replace this replica",
            )
        if missing:
            record = self.save(resource, record, volume="making")
            await self._check_room(missing)
            await self._context.drbd.forget_place(desired.minor)
            for group, name, size in missing:
                await self._context.lvm.create(group, name, size, [owner_tag(desired.uid)])
            present = await self._context.observer.read_logical_volumes()
        for group, name, size in wanted:
            found = present.get(f"{group}/{name}")
            if found is None or found.owner_uid != desired.uid:
                raise Refused("NotConfirmed", f"{group}/{name} is not there with its tag after lvcreate")
            if found.size < size:
                raise Refused("TooSmall", f"{group}/{name} has {found.size} bytes, {size} are needed; grow it first")
        if record.volume == "none":  # an earlier journal made it: nobody knows what it went through
            return self.save(resource, record, volume="adopted", used=True)
        return record if record.volume != "making" else self.save(resource, record, volume="made")

    async def _check_room(self, missing: list[tuple[str, str, int]]) -> None:
        groups = {group.name: group for group in await self._context.lvm.volume_groups()}
        host = self._context.observer.state.desired
        for name in dict.fromkeys(group for group, _, _ in missing):
            group = groups.get(name)
            if group is None:
                known = ", ".join(sorted(groups)) or "none"
                raise Refused("NoVolumeGroup", f"{self._context.node} has no volume group {name} (it has: {known})")
            if host is not None and name not in host.volume_groups:
                allowed = ", ".join(host.volume_groups) or "none"
                raise Refused("GroupNotAllowed", f"{self._context.node} offers the volume groups {allowed}, not {name}")
            needed = sum(-(-size // group.extent) * group.extent for one, _, size in missing if one == name)
            if needed > group.free:
                raise Refused(
                    "NoSpace",
                    f"{name} on {self._context.node} has {group.free >> 20} MiB free,"
                    f" {-(-needed >> 20)} MiB are needed",
                )

    async def _metadata(self, resource: str, record: VolumeRecord) -> VolumeRecord:
        """DRBD metadata: made once, where clearly none is, on an LV that is ours."""
        kernel = (await self._context.observer.read_resources([resource])).get(resource)
        if kernel is not None and kernel.disk != "Diskless":
            return record if record.metadata == "created" else self.save(resource, record, metadata="created")
        if kernel is not None and record.up_in == self._context.boot_id:
            raise Refused(
                "DiskFailed",
                f"DRBD detached the disk of {resource} on {self._context.node} (an IO error?); see the kernel log,"
                f" replace the disk, then `drbdadm attach {resource}`",
            )
        generation = await self._context.drbd.metadata(resource)
        if generation is not None and (record.metadata == "creating" or record.volume == "adopted"):
            record = self.save(resource, record, metadata="created")
        if generation is None or record.metadata == "none":
            require(CREATE_METADATA, self._metadata_facts(record, generation is None))
            record = self.save(resource, record, metadata="creating")
            await self._context.drbd.create_metadata(resource)
            generation = await self._context.drbd.metadata(resource)
            if generation is None:
                raise Refused("NotConfirmed", f"drbdadm create-md left no metadata on {record.lv_key}")
            record = self.save(resource, record, metadata="created")
        self._context.observer.put_generation(resource, generation)
        return record

    def _metadata_facts(self, record: VolumeRecord, clearly_none: bool) -> MetadataFacts:
        volumes = self._context.observer.state.logical_volumes  # read by _reserve or _logical_volumes just now
        holder = volumes.get(record.metadata_key or record.lv_key)
        return MetadataFacts(record=record, logical_volume=holder, clearly_none=clearly_none, attached=False)

    async def _up(self, resource: str, record: VolumeRecord) -> VolumeRecord:
        """Attached and connecting, with the options and addresses that are wanted."""
        kernel = (await self._context.observer.read_resources([resource])).get(resource)
        as_wanted = (record.options, record.addresses) == (record.desired.options, record.addresses_wanted)
        if kernel is None:
            await self._context.drbd.up(resource)
        elif kernel.disk == "Diskless" or kernel.peer is None or not as_wanted:
            await self._context.drbd.adjust(resource)
        elif kernel.peer.connection == "StandAlone" and self._may_connect(resource):
            await self._context.drbd.connect(resource)
        else:
            return self._attached(resource, record)
        kernel = await self._reread(resource)
        if kernel.disk == "Diskless":
            raise Refused("NotConfirmed", f"{resource} is configured in the kernel without its disk")
        update = {"options": record.desired.options, "addresses": record.addresses_wanted}
        return self._attached(resource, self.save(resource, record, **update))

    def _may_connect(self, resource: str) -> bool:
        """A handshake was refused. What was in the way may be gone, which is found by trying, now and then."""
        now = self._context.host.monotonic()
        if now - self._connected_at.get(resource, float("-inf")) < RECONNECT_SECONDS:
            return False
        self._connected_at[resource] = now
        return True

    def _attached(self, resource: str, record: VolumeRecord) -> VolumeRecord:
        if record.up_in == self._context.boot_id:
            return record
        return self.save(resource, record, up_in=self._context.boot_id)

    async def bring_back(self, resource: str) -> None:
        """Up again as Secondary after a reboot; nothing is made, nothing promoted."""
        async with self._context.locks.hold(f"volume:{resource}"):
            record = self._records.get(resource)
            if record is None or record.removal is not None or record.metadata != "created":
                return
            async with self._noting(resource, record.desired.uid):
                kernel = await self._context.observer.read_resources([resource])
                if resource in kernel:
                    self._attached_if_disk(resource, record, kernel[resource])
                    return
                await self.install(record.desired)
                await self._up(resource, record)
                self._context.log(object=resource).info("volume is up again after a reboot")

    def _attached_if_disk(self, resource: str, record: VolumeRecord, kernel: DrbdResource) -> None:
        if kernel.disk != "Diskless":
            self._attached(resource, record)

    # --- roles ----------------------------------------------------------------------------------------------------

    async def _promote(self, resource: str, record: VolumeRecord) -> None:
        facts = await self._role_facts(resource)
        if facts.kernel is not None and facts.kernel.role == "Primary":
            return
        require(PROMOTE, facts)
        await self._context.drbd.primary(resource, record.desired.minor)
        if (await self._reread(resource)).role != "Primary":
            raise Refused("NotConfirmed", f"{resource} is not Primary after drbdsetup primary")
        self._context.log(object=resource).info("promoted")

    async def _demote(self, resource: str, record: VolumeRecord) -> None:
        facts = await self._role_facts(resource)
        if facts.readable and (facts.kernel is None or facts.kernel.role == "Secondary"):
            return
        require(DEMOTE, replace(facts, domains=await _or_none(self._context.observer.read_domains)))
        await self._context.drbd.secondary(resource, record.desired.minor)
        if (await self._reread(resource)).role != "Secondary":
            raise Refused("NotConfirmed", f"{resource} is not Secondary after drbdsetup secondary")
        self._context.log(object=resource).info("demoted")

    async def _role_facts(self, resource: str) -> RoleFacts:
        seen = await _or_none(partial(self._context.observer.read_resources, [resource]))
        kernel, fence = (seen or {}).get(resource), self._context.fence.record(resource)
        return RoleFacts(resource, self._context.node, kernel, readable=seen is not None, fence=fence)

    async def _reread(self, resource: str) -> DrbdResource:
        kernel = (await self._context.observer.read_resources([resource])).get(resource)
        if kernel is None:
            raise Refused("NotConfirmed", f"{resource} is not in the kernel's DRBD after the command succeeded")
        return kernel

    def _noting(self, resource: str, uid: str) -> _Noting:
        return _Noting(self._context, self, resource, uid)


class _Noting:
    """Turns what went wrong into a Refused, and shows it as the volume's problem until an attempt succeeds."""

    def __init__(self, context: Context, volumes: Volumes, resource: str, uid: str) -> None:
        self._context, self._volumes, self._resource, self._uid = context, volumes, resource, uid

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        refusal = refusal_of(error)
        record = self._volumes.record(self._resource)
        if record is not None and record.desired.uid == self._uid and (error is None or refusal is not None):
            self._context.observer.put_problem(self._resource, refusal)
        if refusal is not None and not isinstance(error, Refused):
            raise Refused.of(refusal) from error


def refusal_of(error: BaseException | None) -> Refusal | None:
    """What a failed attempt is called; None for success, cancellation and defects."""
    if isinstance(error, Refused):
        return error.refusal
    if isinstance(error, DriverError):
        return Refusal(reason=error.reason, message=error.message)
    if isinstance(error, CommandTimedOut):
        return Refusal(reason="TimedOut", message=f"{error}; what it did is observed before the next attempt")
    return None


async def _or_none(read: Callable[[], Awaitable[T]]) -> T | None:
    """A fact for a guard: None when it cannot be read."""
    try:
        return await read()
    except (DriverError, CommandTimedOut, OSError):
        return None
