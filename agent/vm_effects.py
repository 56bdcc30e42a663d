"""What a step of a VM does on the host. Every effect is followed by looking: xl's exit status proves nothing."""

from __future__ import annotations

from agent.core import Context, Refused
from agent.drivers import xl_config
from agent.drivers.errors import DriverError
from agent.protocol import DomainState
from agent.vm_disks import joined, usable
from agent.vm_records import Now, VmRecord, after_end
from agent.vm_steps import (
    Confirm,
    Create,
    Destroy,
    End,
    GiveUpStopping,
    Pause,
    Settle,
    Shutdown,
    Step,
    Unpause,
)
from agent.vm_store import VmStore, config_path


def volume_uid(context: Context, resource: str) -> str:
    """The uid of the volume behind a disk. Raises Refused("UnknownVolume")."""
    volume = context.observer.state.volumes.get(resource)
    if volume is None or volume.uid is None:
        raise Refused("UnknownVolume", f"{context.node} keeps no volume {resource}")
    return volume.uid


class Effects:
    """Takes the steps of `vm_steps`. The caller holds the VM's lock. Raises Refused, DriverError, CommandTimedOut."""

    def __init__(self, context: Context, store: VmStore) -> None:
        self._context = context
        self._store = store
        self._xen = context.xen

    async def _look(self) -> tuple[DomainState, ...]:
        """... so that everybody sees at once what the effect was."""
        return await self._context.observer.read_domain_list()

    async def take(self, record: VmRecord, step: Step) -> None:
        """One step, whole."""
        uid, now = record.desired.uid, Now.of(self._context.host)
        log = self._context.log(object=record.desired.name, epoch=record.epoch)
        match step:
            case Create():
                await self._create(record)
            case Confirm(domain):
                await self._confirm(record, domain)
            case Unpause(domid):
                await self._attach(record, domid)
                await self._xen.unpause(domid, look=self._look)
                log.info("domain runs", domid=domid)
            case Pause(domid):
                await self._xen.pause(domid, look=self._look)
            case Shutdown(domain):
                await self._shut_down(record, domain)
            case Destroy(domid, why):
                log.info("domain destroyed", domid=domid, why=why)
                await self._destroy(record, domid)
            case End(reason, domid):
                ended = self._store.put(after_end(record, reason, now))
                log.info("guest ended by itself", domid=domid, reason=reason, restart_at=ended.restart_at)
            case GiveUpStopping():
                self._store.update(uid, stopping_since=None)
            case Settle():
                self._store.update(uid, stopping_since=None, started_at=None)

    async def _create(self, record: VmRecord) -> None:
        """`xl create`, paused: it runs only after its disks were found attached."""
        desired, node = record.desired, self._context.node
        disks = desired.config.disks
        seen = await self._context.observer.read_resources(disk.resource for disk in disks)
        refusals = usable(disks, seen, node)
        if refusals:
            raise Refused.of(joined(refusals))
        for disk in desired.config.disks:
            self._context.volumes.mark_used(disk.resource, volume_uid(self._context, disk.resource))
        path = config_path(desired.name)
        await self._context.host.write_text(path, xl_config.render(desired))
        self._store.update(desired.uid, started=desired.config, started_at=None, stopping_since=None)
        await self._xen.create(path, paused=True)

    async def _confirm(self, record: VmRecord, domain: DomainState) -> None:
        """Its disks are attached: it counts as started. A new domain with a dead disk goes, before it ran."""
        uid, disks = record.desired.uid, record.disks
        if domain.state == "paused":
            dead = [disk for disk in disks if not await self._xen.disk_attached(domain.domid, disk.vdev, disk.minor)]
            if dead:
                await self._destroy(record, domain.domid)
                names = ", ".join(f"{disk.vdev} (/dev/drbd{disk.minor})" for disk in dead)
                raise Refused(
                    "DiskNotAttached",
                    f"blkback did not open {names} for {record.desired.name}; its domain was destroyed before it ran",
                )
        self._store.update(uid, started_at=self._context.host.now(), stopping_since=None, restart_at=None)

    async def _attach(self, record: VmRecord, domid: int) -> None:
        """Its disks are open before it runs; a deferred one is attached if this host is Primary."""
        for disk in record.disks:
            if not await self._xen.disk_attached(domid, disk.vdev, disk.minor):
                seen = await self._context.observer.read_resources([disk.resource])
                refusals = usable([disk], seen, self._context.node)
                if refusals:
                    raise Refused.of(refusals[0])
                await self._xen.attach_disk(domid, disk.vdev, disk.minor)

    async def _shut_down(self, record: VmRecord, domain: DomainState) -> None:
        self._store.update(record.desired.uid, stopping_since=self._context.host.monotonic())
        try:
            await self._xen.shutdown(domain.domid)
        except DriverError as error:  # a guest that does not listen is destroyed when its time is over
            self._context.log(object=record.desired.name).info("shutdown not taken", problem=error.message)
        if domain.state == "paused":
            await self._xen.unpause(domain.domid, look=self._look)  # it must run to power off

    async def _destroy(self, record: VmRecord, domid: int) -> None:
        """Destroy and see it gone; what is not gone stays in the record as it was."""
        failed: DriverError | None = None
        try:
            await self._xen.destroy(domid)
        except DriverError as error:  # it may have gone by itself: what is there counts
            failed = error
        for domain in await self._context.observer.read_domain_list():
            if domain.domid == domid and domain.kind != "zombie":
                raise failed or DriverError("DestroyFailed", f"domain {domid} is still there ({domain.flags})")
        self._store.update(record.desired.uid, started_at=None, stopping_since=None)
