"""What both sides of a hand-over share: the disks in DRBD's eyes at little cost, and going on until it is done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.core import Context, Refused, within
from agent.drivers.drbd import PROC, DrbdResource
from agent.drivers.drbd_parse import parse_proc
from agent.drivers.errors import DriverError, Unreadable
from agent.fence_records import holds
from agent.host import CommandTimedOut, Job
from agent.migration.stream import percent
from agent.operations import Operation
from agent.protocol import DomainDesired, DomainState, PeerState, Refusal, TransferProgress
from agent.vm_disks import against_hand_over
from agent.vm_records import mine

PAGE = 4096
PAGES_PER_MIB = (1 << 20) // PAGE
PUBLISH_SECONDS = 1.0  # telling it costs the agent, its watchers and the API server; memory is copied meanwhile
MOMENT = 0.02
_TELLING = ("xc: error", "libxl: error", "migration sender:", "migration receiver")
_RATE_SHARE = 0.3  # of the newest reading in the rate that is shown


@dataclass(slots=True)
class Live:
    """What one running migration has in memory. A cancellation is accepted under `deciding`, never beside a start."""

    deciding: asyncio.Lock = field(default_factory=asyncio.Lock)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    job: Job | None = None


async def disks_now(context: Context, domain: DomainDesired) -> dict[str, DrbdResource]:
    """The domain's resources as DRBD has them this instant. Raises DriverError, CommandTimedOut.

    On 8.4 from /proc/drbd, which costs no process: the hand-over reads it every few milliseconds while a guest stands
    still. (What it does not know is the resource's name: the minor stands for it.)
    """
    if context.drbd.dialect != "8.4":
        return await context.observer.read_drbd()
    try:
        devices = parse_proc(await context.host.read_text(PROC))
    except (OSError, ValueError) as error:
        raise Unreadable(f"{PROC}: {error}") from error
    found = {}
    for disk in domain.config.disks:
        if (device := devices.get(disk.minor)) is None:
            continue
        peer = PeerState(
            connection=device.connection,
            role=device.peer_role,
            disk=device.peer_disk,
            replication=device.replication,
            out_of_sync_kib=device.out_of_sync_kib,
        )
        known = context.observer.state.volumes.get(disk.resource)
        suspended = "yes" if device.suspended else "no"
        found[disk.resource] = DrbdResource(
            name=disk.resource,
            minor=disk.minor if known is None or known.minor is None else known.minor,
            role=device.role,
            disk=device.disk,
            suspended=suspended,
            size_kib=None,
            peer=peer,
        )
    return found


async def own_domains(context: Context, domain: DomainDesired) -> list[DomainState]:
    """The VM's domains on this host, read now; not their disks. Raises DriverError, CommandTimedOut."""
    return mine(domain.uid, domain.name, await context.observer.read_domain_list())


async def against_taking_over(context: Context, domain: DomainDesired, *, alone: Sequence[str] | None) -> list[Refusal]:
    """Why the target must not make these disks its own yet: by its own DRBD, and by the verdicts that it knows.

    A verdict for this host stands for a source that is lost after it let go: it never resumed the guest, so that the
    copied memory is the newest, and of what it acknowledged all is here unless it was written alone.
    A copy that is recorded as older than the other side's is never promoted before the end of that is recorded.
    `alone`: disks that the source may have written without this host; None: nobody says, so all of them.
    Raises DriverError, CommandTimedOut.
    """
    disks, seen = domain.config.disks, await disks_now(context, domain)
    names = [disk.resource for disk in disks]
    held = [name for name in names if holds(context.fence.record(name), context.node)]
    against = against_hand_over(
        disks,
        seen,
        context.node,
        side="target",
        role="Secondary",
        peer_role="Secondary",
        alone=names if alone is None else alone,
        held=held,
    )
    stale = (context.fence.promotable(disk.resource) for disk in disks)
    return [*against, *(refusal for refusal in stale if refusal is not None)]


async def insist(
    context: Context,
    operation: Operation,
    attempt: Callable[[], Awaitable[None]],
    *,
    final: frozenset[str] = frozenset(),
) -> None:
    """Do it again until it is done: past this point there is only forward. What holds it up shows meanwhile.

    A Refused or DriverError whose reason is in `final` is raised.
    """
    pause = 0.02
    while True:
        try:
            await attempt()
        except (Refused, DriverError) as error:
            reason, message = _told(error)
            if reason in final:
                raise
            operation.trouble(Refusal(reason=reason, message=message))
        except CommandTimedOut as error:
            operation.trouble(Refusal(reason="TimedOut", message=str(error)))
        else:
            operation.trouble(None)
            return
        await context.host.sleep(pause)
        pause = min(2.0, pause * 2)


def _told(error: Refused | DriverError) -> tuple[str, str]:
    if isinstance(error, Refused):
        return error.refusal.reason, error.refusal.message
    return error.reason, error.message


async def has_ended(context: Context, job: Job) -> bool:
    """Whether a job is over by now."""
    try:
        await within(context.host, MOMENT, job.wait())
    except TimeoutError:
        return False
    return True


async def last_errors(job: Job | None) -> str:
    """The last errors that xl and its helpers told of: for a person, not for a decision."""
    if job is None:
        return ""
    told = deque([line.strip() async for line in job.stderr() if line.startswith(_TELLING)], maxlen=3)
    return " | ".join(told)


class Reading(Protocol):
    """What the stream's headers say: stream.SenderStream, or the relay's file."""

    @property
    def stage(self) -> str: ...
    @property
    def round(self) -> int: ...
    @property
    def round_pages(self) -> int: ...
    @property
    def pages(self) -> int: ...
    @property
    def pages_total(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Meter:
    """Turns readings into the operation's TransferProgress, a few times a second; percent never runs backwards."""

    def __init__(self, context: Context, operation: Operation, domain: DomainDesired) -> None:
        self._context = context
        self._operation = operation
        self._pages = domain.config.memory_mib * PAGES_PER_MIB  # where the stream does not say
        self._shown = operation.state.transfer or TransferProgress()
        self._at: float | None = None

    def take(self, reading: Reading, *, now: bool = False) -> None:
        clock = self._context.host.monotonic()
        if self._at is not None and clock - self._at < PUBLISH_SECONDS and not now:
            return
        rate = self._shown.rate_bytes_s
        if self._at is not None and clock > self._at:
            # Memory, rather than bytes on the line: a stream may carry a page as less than it is
            memory = (reading.pages - self._shown.pages_sent) * PAGE
            fresh = max(0, memory, reading.bytes - self._shown.bytes_sent) / (clock - self._at)
            rate = rate + _RATE_SHARE * (fresh - rate) if rate else fresh
        self._at = clock
        total = reading.pages_total or self._pages
        shown = TransferProgress(
            round=reading.round,
            pages_sent=reading.pages,
            pages_total=total,
            bytes_sent=reading.bytes,
            rate_bytes_s=round(rate, 1),
            percent=max(self._shown.percent, percent(reading.stage, reading.round, reading.round_pages, total)),
        )
        if shown != self._shown:
            self._shown = shown
            self._operation.progress(transfer=shown)
