"""Deletion of a volume on this host: refused while in use, journalled, then down, unconfigured, and kept or removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from agent.core import Context, Refused
from agent.drivers.errors import DriverError
from agent.drivers.lvm import RETAINED_TAG
from agent.guards import RoleFacts, no_domain_uses
from agent.protocol import LogicalVolumeState, VolumeRemoval
from agent.records import VolumeRecord
from agent.vm_records import VmRecord

if TYPE_CHECKING:
    from agent.volumes import Volumes

OPEN_SECONDS = 5.0  # udev's probes hold a device for a moment after it was let go


class Removal:
    """The steps of DELETE /v1/volumes. Each looks first whether it is done: after a crash anywhere it goes on."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context, self._volumes = context, volumes

    async def begin(self, resource: str, removal: VolumeRemoval) -> None:
        """Under the volume's lock. Raises Refused; nothing to delete is success."""
        record = self._volumes.record(resource)
        if record is None:
            await self._check_nothing_is_left(resource, removal)
            if removal.policy != "Unreserve":
                self._context.gone.add(removal.uid)
            return
        record = self._volumes.owned(resource, removal.uid)
        if removal.policy == "Unreserve":
            await self._unreserve(resource, record)
            return
        if record.removal is not None and record.removal.policy != removal.policy:
            raise Refused("BeingDeleted", f"{resource} is being deleted with policy {record.removal.policy}")
        await self._check_unused(resource, record)
        if record.removal is None:
            record = self._volumes.save(resource, record, removal=removal)
        await self._steps(resource, record, removal)

    async def go_on(self, resource: str) -> None:
        """A deletion that an earlier agent process began."""
        async with self._context.locks.hold(f"volume:{resource}"):
            record = self._volumes.record(resource)
            if record is not None and record.removal is not None:
                await self.begin(resource, record.removal)

    async def _unreserve(self, resource: str, record: VolumeRecord) -> None:
        """Nothing was ever made for it, by the journal and by what is here: the names are free again."""
        uid = record.desired.uid
        volumes = await self._context.observer.read_logical_volumes()
        made = [f"logical volume {key}" for key, one in volumes.items() if one.owner_uid == uid]
        made += ["its configuration"] if resource in await self._context.observer.read_configured() else []
        made += ["DRBD in the kernel"] if resource in await self._context.observer.read_drbd() else []
        begun = (record.volume, record.metadata) != ("none", "none") or record.removal is not None
        if made or begun:
            what = ", ".join(made) or "what the journal says was begun"
            raise Refused("NotOnlyReserved", f"{self._context.node} has more of {resource} than its names: {what}")
        self._volumes.forget(resource)
        self._context.log(object=resource).info("reservation given up")

    async def _steps(self, resource: str, record: VolumeRecord, removal: VolumeRemoval) -> None:
        await self._take_down(resource, record)
        await self._context.drbd.uninstall(resource)
        await self._context.observer.read_configured()
        for key in filter(None, (record.lv_key, record.metadata_key)):
            await self._leave(record, key, removal)
        await self._context.observer.read_logical_volumes()
        self._context.gone.add(removal.uid)  # first: killed in between, an agent goes on with the deletion
        self._volumes.forget(resource)
        self._context.log(object=resource, term=removal.term).info("volume deleted", policy=removal.policy)

    async def _check_nothing_is_left(self, resource: str, removal: VolumeRemoval) -> None:
        """Without a record: done already, unless something here still carries the uid (a lost journal)."""
        volumes = await self._context.observer.read_logical_volumes()
        left = [key for key, one in volumes.items() if one.owner_uid == removal.uid and not one.retained]
        configured = (await self._context.observer.read_configured()).get(resource)
        if left or (configured is not None and configured.owner_uid == removal.uid):
            raise Refused(
                "UnknownVolume",
                f"{self._context.node} keeps no record of {resource}, but {', '.join(left) or 'its configuration'}"
                f" carries its uid {removal.uid}; PUT the volume first, then delete it",
            )

    async def _check_unused(self, resource: str, record: VolumeRecord) -> None:
        if busy := self._context.operations.running(record.desired.uid):
            raise Refused("InUse", f"operation {busy[0].id} ({busy[0].state.kind}) works on {resource}")
        for _, value in self._context.journal.items("vms"):
            vm = VmRecord.model_validate(value)
            if vm.granted and vm.wants_domain and any(disk.resource == resource for disk in vm.desired.config.disks):
                raise Refused(
                    "InUse", f"{resource} is a disk of {vm.desired.name}, which shall run here; stop it first"
                )
        kernel = (await self._context.observer.read_drbd()).get(resource)
        if kernel is None:
            return
        domains = await self._context.observer.read_domains()
        refusal = no_domain_uses(RoleFacts(resource, self._context.node, kernel, readable=True, domains=domains))
        if refusal is not None:
            raise Refused.of(refusal)

    async def _take_down(self, resource: str, record: VolumeRecord) -> None:
        if resource not in await self._context.observer.read_drbd():
            return
        await self._volumes.install(record.desired)  # drbdadm needs the file, which may be gone after a crash
        await self._patiently(self._down, resource, {"DeviceOpen"})
        if resource in await self._context.observer.read_drbd():
            raise Refused("NotConfirmed", f"{resource} is still in the kernel's DRBD after drbdadm down")

    async def _down(self, resource: str) -> None:
        await self._context.drbd.down(resource)

    async def _leave(self, record: VolumeRecord, key: str, removal: VolumeRemoval) -> None:
        """One LV: kept under another name, or removed. Only one that carries the volume's uid is touched."""
        volumes = await self._context.observer.read_logical_volumes()
        volume = volumes.get(key)
        if volume is None:
            return
        if volume.owner_uid != record.desired.uid:
            if record.volume == "none":
                return  # somebody else's, and never ours
            raise Refused(
                "LogicalVolumeNotOurs", f"{key} does not carry uid {record.desired.uid} any more; not touched"
            )
        if removal.policy == "Delete":
            await self._patiently(self._remove_volume, key, {"RemoveFailed"})
        else:
            await self._retain(record, volume)

    async def _remove_volume(self, key: str) -> None:
        group, _, name = key.partition("/")
        await self._context.lvm.remove(group, name)

    async def _retain(self, record: VolumeRecord, volume: LogicalVolumeState) -> None:
        suffix = "_meta" if volume.name == record.metadata_lv else ""
        if not volume.retained:
            await self._context.lvm.add_tag(volume.group, volume.name, RETAINED_TAG)
        await self._context.lvm.rename(volume.group, volume.name, record.retained_lv + suffix)

    async def _patiently(self, step: Callable[[str], Awaitable[None]], argument: str, passing: set[str]) -> None:
        """Try again for a moment while somebody has the device open."""
        end = self._context.host.monotonic() + OPEN_SECONDS
        while True:
            try:
                return await step(argument)
            except DriverError as error:
                if error.reason not in passing or self._context.host.monotonic() >= end:
                    raise
            await self._context.host.sleep(0.2)
