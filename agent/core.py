"""What every part of the daemon shares: the host's drivers, the journal, the observer, locks, and how to refuse.

`agent.daemon.Agent` builds one `Context` and hands it to the volume, domain, migration and operation services. A
service never imports another service: it reaches it through the context, so that the wiring is in one place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import structlog

from agent.host import Host
from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    FenceState,
    PreflightReport,
    PreflightRequest,
    Refusal,
    VerdictDesired,
    VmState,
    VolumeDesired,
    VolumeRemoval,
    VolumeState,
)

if TYPE_CHECKING:
    from agent.drivers.content import Content
    from agent.drivers.drbd import Drbd
    from agent.drivers.lvm import Lvm
    from agent.drivers.xen import Xen
    from agent.fence_records import FenceRecord
    from agent.gone import Gone
    from agent.journal import Journal
    from agent.leftovers import Leftovers
    from agent.looks import Looks
    from agent.observer import Observer
    from agent.operations import Operations
    from agent.records import VolumeRecord
    from agent.tls import Credentials

AGENT_VERSION = "0.1.0"
STREAM_LIMIT = 60.0
"""Seconds: a shorter cut of the link between two hosts does not end a migration, a longer one does."""
T = TypeVar("T")


class Refused(Exception):
    """A guard said no: HTTP 409 with `refusal` as the body. Nothing was changed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.refusal = Refusal(reason=reason, message=message)

    @classmethod
    def of(cls, refusal: Refusal) -> Refused:
        return cls(refusal.reason, refusal.message)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of this agent: its certificate (SAN `URI:xentandem:agent:<node>`), its key (0600), the CA."""

    certificate: Path
    key: Path
    authority: Path


class Locks:
    """Mutual exclusion by name (`volume:vm_shaolin`, `group:vg0`, `domain:<uid>`): a hung holder blocks only that."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield


class Tasks:
    """The agent's background tasks. A task that fails is logged with its traceback, never lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger().error("task failed", task=task.get_name(), exc_info=error)

    async def cancel_all(self) -> None:
        """Cancel every task and wait until all have ended."""
        current = asyncio.current_task()
        while pending := [task for task in self._tasks if task is not current]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending)


class VolumeService(Protocol):
    """`agent.volumes.Volumes`."""

    async def put(self, resource: str, desired: VolumeDesired) -> VolumeState: ...
    async def remove(self, resource: str, removal: VolumeRemoval) -> None: ...
    def record(self, resource: str) -> VolumeRecord | None: ...

    def set_role(self, resource: str, uid: str, role: Literal["Primary", "Secondary"]) -> None:
        """Journal the role that this host keeps from now on, without acting: before a hand-over's first effect."""
        ...

    def mark_used(self, resource: str, uid: str) -> None:
        """Journal that a domain here has it as its disk: from then on no content is ever written onto it.

        Call it before `xl create` and before a migration target attaches the disk. Refused if it is not ours.
        """
        ...


class FenceService(Protocol):
    """`agent.fence.Fence`: which side of a volume may go on without the other (docs/fencing.md)."""

    async def put(self, resource: str, wanted: VerdictDesired) -> FenceState: ...

    def record(self, resource: str) -> FenceRecord | None: ...
    def promotable(self, resource: str) -> Refusal | None:
        """Why this host's copy must not be promoted: it is recorded as stale."""
        ...

    def wrote_alone(self, resource: str) -> bool:
        """May this host's disk have writes that its peer lacks?"""
        ...

    def forget(self, resource: str) -> None:
        """The volume is gone."""
        ...

    def abort(self) -> None:
        """Close the handlers' socket at once."""
        ...


class DomainService(Protocol):
    """`agent.domains.Domains(context)` (`PUT/DELETE /v1/domains`, `POST /v1/preflight`).

    Terms are promised by the server before the call; epochs are the service's own.
    """

    async def start(self) -> None:
        """Called once, after journal and observer are up: publish the journal's VMs (`observer.put_vm`), take up work.

        Creates no domain after a reboot of the host.
        """
        ...

    async def put(self, name: str, desired: DomainDesired) -> VmState: ...
    async def remove(self, name: str, removal: DomainRemoval) -> None: ...

    def wake(self, uid: str) -> None:
        """The VM's record in the journal changed (a migration brought it here): show it and look after it."""
        ...

    async def preflight(self, request: PreflightRequest) -> PreflightReport: ...


class RelocationService(Protocol):
    """`agent.migration.Relocation(context)`: the relocation endpoint; registers its operation handlers when built."""

    async def start(self) -> None:
        """Listen on `context.relocation` if the host's desired state allows it (default: yes)."""
        ...

    async def apply(self) -> None:
        """HostDesired changed (`context.observer.state.desired`): open, close or move the listener."""
        ...

    @property
    def port(self) -> int:
        """The port that is bound (port 0 was asked: the one the kernel chose); 0 when not listening."""
        ...

    async def stop(self) -> None: ...

    def abort(self) -> None:
        """Close sockets at once, as the kernel does after kill -9: no goodbye, no other effect."""
        ...


@dataclass(slots=True)
class Context:
    """One agent's world. `host` is the killable view of the real or simulated host: use it, never another one."""

    node: str  # uname -n
    boot_id: str
    state_dir: Path
    host: Host
    journal: Journal
    lvm: Lvm
    drbd: Drbd
    xen: Xen
    content: Content
    tls: TlsFiles
    credentials: Credentials
    relocation: tuple[str, int]  # address and port to listen on unless HostDesired says otherwise
    stream_limit: float = STREAM_LIMIT
    locks: Locks = field(default_factory=Locks)
    tasks: Tasks = field(default_factory=Tasks)
    # Set by the daemon in this order, before any service's start().
    observer: Observer = field(init=False)
    looks: Looks = field(init=False)
    operations: Operations = field(init=False)
    gone: Gone = field(init=False)
    volumes: VolumeService = field(init=False)
    fence: FenceService = field(init=False)
    domains: DomainService = field(init=False)
    leftovers: Leftovers = field(init=False)
    migration: RelocationService = field(init=False)

    def now_text(self) -> str:
        """The host's clock as RFC 3339 in UTC with milliseconds."""
        return time_text(self.host.now())

    def log(self, **bound: object) -> structlog.stdlib.BoundLogger:
        logger: structlog.stdlib.BoundLogger = structlog.get_logger().bind(node=self.node, **bound)
        return logger


def time_text(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds: `2024-05-01T12:00:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class NotHeld(Exception):
    """Somebody else has had the lock all the time."""


@asynccontextmanager
async def held_within(context: Context, name: str, seconds: float) -> AsyncIterator[None]:
    """The lock of that name, waited for at most so long. Raises NotHeld."""
    hold = context.locks.hold(name)
    try:
        await within(context.host, seconds, hold.__aenter__())
    except TimeoutError:
        raise NotHeld(name) from None
    try:
        yield
    finally:
        await hold.__aexit__(None, None, None)


async def within(host: Host, seconds: float, work: Awaitable[T]) -> T:
    """The result of `work`, or TimeoutError after that many seconds of the host's clock; `work` is cancelled then."""
    task = asyncio.ensure_future(work)
    alarm = asyncio.ensure_future(host.sleep(seconds))
    try:
        await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        alarm.cancel()
        if not task.done():
            task.cancel()
