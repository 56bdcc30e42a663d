"""Two Primaries allowed where our configuration says no: somebody's migration by hand, or what is left of one.

DRBD itself then no longer refuses a second writer, so it is told, and closed once nobody can be in the middle of using
it: at most one side Primary, both seen, for a while, and no migration's process here. DRBD tells of it only when asked
(`drbdsetup show`, one process for all volumes): every few minutes, and soon when both sides of a volume are Primary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core import Context, NotHeld, Refused, held_within
from agent.drivers.errors import DriverError
from agent.foreign import told, working
from agent.host import CommandTimedOut, HostProcess
from agent.leftovers import find_processes
from agent.protocol import Refusal
from agent.records import VolumeRecord

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource
    from agent.volumes import Volumes

TICK_SECONDS = 5.0
LOOK_SECONDS = 300.0
OPEN_SECONDS = 30.0  # while one is open
STEADY_SECONDS = 120.0
"""So long it was open, never with two Primaries, before it is closed: a migration by hand opens it, then promotes."""
LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """An open window, as it is just now."""

    node: str
    resource: str
    record: VolumeRecord
    disk: DrbdResource | None  # None: not in the kernel, or not readable
    steady: float  # seconds that it was seen open without two Primaries
    busy: str | None  # an operation of ours that has to do with the volume
    processes: Sequence[HostProcess] | None  # None: could not be read


def two_primaries(disk: DrbdResource | None) -> bool:
    """Both sides are Primary now."""
    return disk is not None and disk.peer is not None and (disk.role, disk.peer.role) == ("Primary", "Primary")


def against_closing(facts: Facts) -> Refusal | None:
    """Why the agent leaves it open, with what a person does; None: it applies its own configuration again. Total."""
    name, disk = facts.resource, facts.disk

    def no(message: str) -> Refusal:
        return Refusal(
            reason="TwoPrimariesAllowed",
            message=f"DRBD on {facts.node} allows two Primaries of {name}, which Xentandem never asks for: {message}",
        )

    if two_primaries(disk):
        return no(
            f"and both hosts are. A link that is lost now splits them. On the host where no domain uses it:"
            f" drbdadm secondary {name}. It is closed by itself afterwards"
        )
    peer = disk.peer if disk is not None else None
    if disk is None or peer is None or peer.connection != "Connected" or "Unknown" in (disk.role, peer.role):
        return no("it is closed once both hosts see each other, so that it is known who is Primary")
    if disk.resyncing or disk.disk == "Diskless" or disk.suspended != "no":
        return no("it is closed once the disks are as they should be")
    record = facts.record
    if record.desired.level != "Up" or record.removal is not None:
        return no("the volume is not to be used here")
    if (record.options, record.addresses) != (record.desired.options, record.addresses_wanted):
        return no("it is closed with the change of its settings that is under way")
    if facts.busy is not None:
        return no(f"it is closed after operation {facts.busy}")
    if facts.processes is None:
        return no("the processes of the host could not be read, so a migration may be using it")
    if workers := working(facts.processes):
        return no(f"it is closed when {told(workers)} has ended")
    if facts.steady < STEADY_SECONDS:
        return no(f"it is closed if it is still open in {STEADY_SECONDS:g} s")
    return None


class Windows:
    """`await start()`."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes
        self._open: dict[str, float] = {}  # by resource: Host.monotonic since when, without two Primaries
        self._asked = float("-inf")

    async def start(self) -> None:
        self._context.tasks.spawn(self._keep_closed(), name="two Primaries")

    async def _keep_closed(self) -> None:
        while True:
            await self._context.host.sleep(TICK_SECONDS)
            await self._context.observer.quiet.over()
            await self.look()

    async def look(self) -> None:
        """Asks DRBD if it is time. Raises nothing but what ends the agent."""
        now = self._context.host.monotonic()
        if now - self._asked < (OPEN_SECONDS if self._open or self._suspicious() else LOOK_SECONDS):
            return
        self._asked = now
        try:
            allowed = await self._context.drbd.two_primaries()
        except (DriverError, CommandTimedOut, OSError) as error:
            self._context.log().info("net options not readable", problem=str(error))
            return
        ours = {name for name in allowed if self._volumes.record(name) is not None}
        for resource in self._open.keys() - ours:
            self._closed(resource)
        for resource in sorted(ours):
            await self._look_at(resource)

    def _suspicious(self) -> bool:
        """Two Primaries are seen: it must be open."""
        ours = (name for name in self._context.observer.state.volumes if self._volumes.record(name) is not None)
        return any(two_primaries(self._context.observer.seen(name)) for name in ours)

    async def _look_at(self, resource: str) -> None:
        now = self._context.host.monotonic()
        if resource not in self._open:
            self._context.log(object=resource).warning("two Primaries are allowed")
        self._open.setdefault(resource, now)
        try:
            async with held_within(self._context, f"volume:{resource}", LOCK_SECONDS):
                against = await self._decide(resource)
        except NotHeld:
            return
        except (Refused, DriverError, CommandTimedOut, OSError) as error:
            against = Refusal(reason="TwoPrimariesAllowed", message=f"{resource} on {self._context.node}: {error}")
        if against is None:
            self._closed(resource)
        else:
            self._context.observer.put_window(resource, against)

    async def _decide(self, resource: str) -> Refusal | None:
        """None: it is closed. The caller holds the volume's lock."""
        record = self._volumes.record(resource)
        if record is None:
            return None
        processes = await find_processes(self._context)
        disk = (await self._context.observer.read_resources([resource])).get(resource)
        now = self._context.host.monotonic()
        if two_primaries(disk):
            self._open[resource] = now
        facts = Facts(
            node=self._context.node,
            resource=resource,
            record=record,
            disk=disk,
            steady=now - self._open[resource],
            busy=self._busy(resource),
            processes=processes,
        )
        if (against := against_closing(facts)) is not None:
            return against
        await self._volumes.install(record.desired)
        await self._context.drbd.adjust(resource)
        if resource in await self._context.drbd.two_primaries():
            raise DriverError("NotConfirmed", "two Primaries are still allowed after drbdadm adjust")
        return None

    def _busy(self, resource: str) -> str | None:
        """An operation that changes the volume, or moves a VM that has it as its disk."""
        for operation in self._context.operations.running():
            body = operation.request.body
            domain = getattr(body, "domain", None)
            disks = {disk.resource for disk in domain.config.disks} if domain is not None else set()
            if resource in disks or getattr(body, "resource", None) == resource:
                return operation.id
        return None

    def _closed(self, resource: str) -> None:
        self._open.pop(resource, None)
        self._context.log(object=resource).info("one Primary at the most again")
        self._context.observer.put_window(resource, None)
