"""What is: HostState, kept by pushes where the tools push and by polling where they do not.

Sources: DRBD by `drbdsetup events2` (a bell; then what rang is read with `--now`), its percent by polling only while a
resync runs; domains by a xenstore watch in the same way, and by `xl list` every second, five times as often while one
moves, because xenstore does not tell of a pause; LVM after own changes and every 30 s; the host's facts every 10 s.
Readings of everything are shared by all who ask at the same time. A probe that fails leaves its last values and says
so in `problems`: unreadable is never absent. Whoever needs a fact to act on calls a `read_*` method, which asks the
tool now and raises when it cannot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from agent.bells import listen, rang
from agent.core import AGENT_VERSION, Context
from agent.domain_view import DomainView, changed_keys
from agent.drivers.errors import DriverError
from agent.facts import read_facts
from agent.fence_records import FenceView
from agent.host import CommandTimedOut
from agent.protocol import (
    DomainState,
    GenerationIds,
    HostDesired,
    HostState,
    LogicalVolumeState,
    OperationState,
    Refusal,
    VmState,
)
from agent.quiet import Quiet, rest
from agent.records import VolumeRecord, generation_key
from agent.shared_reads import SharedRead
from agent.signals import Rung
from agent.volume_view import Around, VolumeView, put
from agent.watch import Watch

if TYPE_CHECKING:
    from agent.drivers.drbd import DrbdResource, ResConfig

T = TypeVar("T")
FACTS_SECONDS = 10.0
LVM_SECONDS = 30.0
DRBD_SECONDS = 30.0  # although nothing rang: the bell itself may be dead
SYNC_SECONDS = 0.5
DOMAIN_SECONDS = 1.0
BUSY_DOMAIN_SECONDS = 0.2
RETRY_SECONDS = 1.0
DISKS_SECONDS = 5.0  # the domains' disks although no domain came, went or changed
GENERATIONS_AT_ONCE = 4
MOVES = ("migrate-send", "migrate-receive")
FEW = 8  # so many resources are asked for one by one; more of them by a dump of all


class Observer:
    """Keeps `state`. Other parts put in what they know (`put_vm`, `put_operation`, `put_record`, ...)."""

    def __init__(self, context: Context, *, term: int, desired: HostDesired | None) -> None:
        self._context = context
        self._volumes = VolumeView()
        self._problems: dict[str, Refusal] = {}
        self._domains = DomainView()
        self._turns = count(1)
        self._taken: dict[str, int] = {}  # by reading: which asking the state has the answer of
        self._drbd_taken: dict[str, int] = {}  # by resource: which asking for it alone `_volumes` has the answer of
        self._drbd_ring = Rung()
        self._domain_ring = Rung()
        self._stale_generations: set[str] = set()
        self.quiet = Quiet(context.host)
        self._generation_gate = asyncio.Semaphore(GENERATIONS_AT_ONCE)
        state = HostState(
            node=context.node,
            boot_id=context.boot_id,
            revision=1,
            agent_version=AGENT_VERSION,
            agent_started_at=context.now_text(),
            term=term,
            desired=desired,
        )
        self.watch = Watch(context.host, state)
        self._shared_drbd = self._share("DrbdUnreadable", context.drbd.snapshot, self._take_drbd)
        self._shared_domains = self._share("DomainsUnreadable", context.xen.domains, self._take_domains)
        self._shared_list = self._share("DomainsUnreadable", context.xen.listed, self._take_list)
        self._shared_volumes = self._share("LvmUnreadable", self._logical_volumes, self._take_logical_volumes)
        files = context.drbd.configured_resources
        self._shared_files = self._share("ConfigurationUnreadable", files, self._take_configured)

    # --- for everybody ------------------------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """The newest state; immutable."""
        return self.watch.state

    def seen(self, resource: str) -> DrbdResource | None:
        """What was read of it last: for a decision whether to read it."""
        return self._volumes.drbd.get(resource)

    async def read_drbd(self) -> dict[str, DrbdResource]:
        """What the kernel's DRBD is now. Raises DriverError, CommandTimedOut."""
        return await self._shared_drbd.ask()

    async def read_resources(self, names: Iterable[str]) -> dict[str, DrbdResource]:
        """Those of them that the kernel's DRBD has now. Raises DriverError, CommandTimedOut."""
        found = await asyncio.gather(*(self._read_resource(name) for name in dict.fromkeys(names)))
        return {one.name: one for one in found if one is not None}

    async def read_domains(self) -> tuple[DomainState, ...]:
        """What `xl list` and xenstore say now. Raises DriverError, CommandTimedOut."""
        return await self._shared_domains.ask()

    async def read_domain_list(self) -> tuple[DomainState, ...]:
        """What `xl list` says now; nobody asked for their disks (None). Raises DriverError, CommandTimedOut."""
        return await self._shared_list.ask()

    async def read_logical_volumes(self) -> dict[str, LogicalVolumeState]:
        """Every LV now, by group/name. Raises DriverError, CommandTimedOut."""
        return await self._shared_volumes.ask()

    async def read_configured(self) -> dict[str, ResConfig]:
        """Every resource in /etc/drbd.d now, foreign ones too. Raises DriverError, CommandTimedOut."""
        return await self._shared_files.ask()

    def put_vm(self, vm: VmState) -> None:
        self._update(vms={**self.state.vms, vm.uid: vm})

    def remove_vm(self, uid: str) -> None:
        self._update(vms={key: value for key, value in self.state.vms.items() if key != uid})

    def put_operation(self, operation: OperationState) -> None:
        self._update(operations={**self.state.operations, operation.id: operation})

    def remove_operation(self, operation_id: str) -> None:
        self._update(operations={key: one for key, one in self.state.operations.items() if key != operation_id})

    def put_gone(self, gone: dict[str, str]) -> None:
        self._update(gone=gone)

    def put_host(self, *, term: int, desired: HostDesired | None) -> None:
        self._update(term=term, desired=desired)

    def put_records(self, records: Mapping[str, VolumeRecord]) -> None:
        """The journal's records of all volumes, at the agent's start."""
        self._volumes.records = dict(records)
        self._refresh()

    def put_record(self, resource: str, record: VolumeRecord | None) -> None:
        """The journal's record of a volume changed (None: gone)."""
        if record is None:
            self._volumes.forget(resource)
        else:
            self._volumes.records[resource] = record
        self._refresh({resource})

    def put_problem(self, resource: str, problem: Refusal | None) -> None:
        """What the last attempt to make a volume as it shall be ran into."""
        put(self._volumes.problems, resource, problem)
        self._refresh({resource})

    def put_window(self, resource: str, window: Refusal | None) -> None:
        """DRBD allows two Primaries of a volume where its configuration does not (None: it does not)."""
        put(self._volumes.windows, resource, window)
        self._refresh({resource})

    def put_host_problem(self, reason: str, problem: Refusal | None) -> None:
        """Something is as it should not be on the host, although every probe can be read (None: no more)."""
        if self._problems.get(reason) != problem:
            put(self._problems, reason, problem)
            self._update(problems=tuple(self._problems[key] for key in sorted(self._problems)))

    def put_fence(self, resource: str, fence: FenceView | None) -> None:
        """What is known of a volume's fencing (None: nothing)."""
        put(self._volumes.fences, resource, fence)
        self._refresh({resource})

    def put_generation(self, resource: str, generation: GenerationIds | None) -> None:
        put(self._volumes.generations, resource, generation)
        self._refresh({resource})

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read everything once (problems do not stop it), then keep it up to date."""
        await asyncio.gather(
            self._try(self.read_logical_volumes),
            self._try(self.read_domains),
            self._try(self.read_drbd),
            self._try(self.read_configured),
            self._read_facts(),
        )
        context = self._context
        for name, loop in (
            ("drbd", self._keep_drbd()),
            ("drbd bell", listen(context, context.drbd.events, self._drbd_ring, lambda event: event.resource)),
            ("domain bell", listen(context, context.xen.changes, self._domain_ring, lambda _: None)),
            ("domains", self._keep_domains()),
            ("lvm", self._keep(LVM_SECONDS, self._read_storage)),
            ("facts", self._keep(FACTS_SECONDS, self._read_facts)),
        ):
            self._context.tasks.spawn(loop, name=f"observe {name}")

    async def _keep(self, seconds: float, read: Callable[[], Awaitable[None]]) -> None:
        took = 0.0
        while True:
            await self._context.host.sleep(max(seconds, rest(took)))
            await self.quiet.over()
            begun = self._context.host.monotonic()
            await read()
            took = self._context.host.monotonic() - begun

    async def _read_storage(self) -> None:
        await self._try(self.read_logical_volumes)
        await self._try(self.read_configured)

    async def _keep_domains(self) -> None:
        """All when something rang or moved on, and now and then; else only the list."""
        full = self._context.host.monotonic()
        took = 0.0
        while True:
            busy = any(one.outcome is None and one.kind in MOVES for one in self.state.operations.values())
            pause = max(BUSY_DOMAIN_SECONDS if busy else DOMAIN_SECONDS, rest(took))
            news = await rang(self._context, self._domain_ring, pause)
            await self.quiet.over()
            begun = self._context.host.monotonic()
            news = news or begun - full >= DISKS_SECONDS
            if not news:
                await self._try(self.read_domain_list)
                news = self._domains.outdated
            if news:
                await self._try(self.read_domains)
                full = self._context.host.monotonic()
            took = self._context.host.monotonic() - begun

    async def _keep_drbd(self) -> None:
        """What rang; while a resync runs, its resources; now and then everything."""
        full = self._context.host.monotonic()
        while True:
            syncing = [name for name, one in self._volumes.drbd.items() if one.resyncing]
            news = await rang(self._context, self._drbd_ring, SYNC_SECONDS if syncing else DRBD_SECONDS)
            await self.quiet.over()
            names = self._drbd_ring.names() if news else frozenset(syncing)
            if names and len(names) <= FEW and self._context.host.monotonic() - full < DRBD_SECONDS:
                known = await self._try(partial(self.read_resources, names))
            else:
                known = await self._try(self.read_drbd)
                full = self._context.host.monotonic()
            if not known:
                await self._context.host.sleep(RETRY_SECONDS)
                self._drbd_ring.set()

    async def _read_generation(self, resource: str) -> None:
        """The generation UUIDs of a resource whose role, disk or connection changed."""
        await self.quiet.over()
        async with self._generation_gate:
            self._stale_generations.discard(resource)
            try:
                generation = await self._context.drbd.metadata(resource)
            except (DriverError, CommandTimedOut) as error:
                generation = None
                self._context.log(object=resource).warning("generation not readable", problem=str(error))
        if resource in self._volumes.records:
            self.put_generation(resource, generation)

    async def _read_facts(self) -> None:
        facts, problems = await read_facts(self._context, self.state.facts)
        for reason, error in problems.items():
            self._problem(reason, error)
        self._update(facts=facts)

    # --- putting it together ------------------------------------------------------------------------------------

    def _share(self, reason: str, read: Callable[[], Awaitable[T]], take: Callable[[T, int], None]) -> SharedRead[T]:
        """`take` gets the answer and which asking it belongs to."""
        name = read.__name__

        async def taken() -> T:
            return await self._read(reason, name, read, take)

        return SharedRead(self._context, name, taken)

    async def _read(
        self, reason: str, name: str, read: Callable[[], Awaitable[T]], take: Callable[[T, int], None]
    ) -> T:
        """Ask a tool, and take the answer into the state unless one that was asked for later is there already."""
        turn = next(self._turns)
        try:
            value = await read()
        except (DriverError, CommandTimedOut, OSError) as error:
            if turn > self._taken.get(name, 0):
                self._problem(reason, error)
            raise
        if turn > self._taken.get(name, 0):
            self._taken[name] = turn
            take(value, turn)
            self._problem(reason, None)
        return value

    async def _read_resource(self, name: str) -> DrbdResource | None:
        """Alone, if DRBD tells of it alone; that it is not there is told only by a dump of everything."""
        turn = next(self._turns)
        try:
            one = await self._context.drbd.resource(name)
        except CommandTimedOut as error:
            self._problem("DrbdUnreadable", error)
            self._drbd_ring.set()  # everything is asked for: then it is readable again, or is not
            raise
        except DriverError:
            one = None
        if one is None:
            return (await self.read_drbd()).get(name)
        if turn > max(self._taken.get("snapshot", 0), self._drbd_taken.get(name, 0)):
            self._drbd_taken[name] = turn
            self._put_drbd({**self._volumes.drbd, name: one})
        return one

    def _take_drbd(self, resources: dict[str, DrbdResource], turn: int) -> None:
        self._drbd_taken = {name: asked for name, asked in self._drbd_taken.items() if asked > turn}
        newer = {name: self._volumes.drbd[name] for name in self._drbd_taken if name in self._volumes.drbd}
        first, self._volumes.drbd_known = not self._volumes.drbd_known, True
        self._put_drbd({**resources, **newer})
        if first:
            self._refresh()

    def _put_drbd(self, resources: dict[str, DrbdResource]) -> None:
        before, self._volumes.drbd = self._volumes.drbd, resources
        changed = changed_keys(before, resources)
        for name in changed & self._volumes.records.keys() - self._stale_generations:
            if name in resources and generation_key(before.get(name)) != generation_key(resources[name]):
                self._stale_generations.add(name)
                self._volumes.generations.pop(name, None)  # unknown until it is read: a decision may rest on it
                self._context.tasks.spawn(self._read_generation(name), name=f"generation of {name}")
        self._refresh(changed)

    def _take_list(self, domains: tuple[DomainState, ...], turn: int) -> None:
        self._domains.take_list(domains, turn)
        self._update(domains=self._domains.shown(self.state.domains))

    def _take_domains(self, domains: tuple[DomainState, ...], turn: int) -> None:
        before = self._domains.used_by
        self._domains.take_all(domains, turn)
        self._update(domains=self._domains.shown(self.state.domains))
        if changed_keys(before, self._domains.used_by):
            self._refresh()

    async def _logical_volumes(self) -> dict[str, LogicalVolumeState]:
        return {f"{one.group}/{one.name}": one for one in await self._context.lvm.logical_volumes()}

    def _take_logical_volumes(self, volumes: dict[str, LogicalVolumeState], turn: int) -> None:
        before = self.state.logical_volumes
        self._update(logical_volumes=volumes)
        if changed := changed_keys(before, volumes):
            self._refresh({name for name, record in self._volumes.records.items() if record.lv_key in changed})

    def _take_configured(self, configured: dict[str, ResConfig], turn: int) -> None:
        before, self._volumes.configured = self._volumes.configured, configured
        self._refresh(changed_keys(before, configured))

    def _refresh(self, only: set[str] | None = None) -> None:
        """Put VolumeStates together again (all, or `only` those): where a record, the kernel's state, ... changed."""
        around = Around(
            self._context.node,
            self.state.logical_volumes,
            self._domains.used_by,
            self._problems.get("DrbdUnreadable"),
        )
        self._update(volumes=self._volumes.shown(self.state.volumes, only, around))

    async def _try(self, read: Callable[[], Awaitable[object]]) -> bool:
        """For the loops: a failure is in `problems` already."""
        try:
            await read()
        except (DriverError, CommandTimedOut, OSError):
            return False
        return True

    def _problem(self, reason: str, error: Exception | None) -> None:
        """A probe failed, or reads again (None)."""
        known = self._problems.get(reason)
        if error is None:
            if known is None:
                return
            del self._problems[reason]
            self._context.log().info("readable again", reason=reason)
        else:
            self._problems[reason] = Refusal(reason=reason, message=str(error) or type(error).__name__)
            if known is None:
                self._context.log().warning("not readable", reason=reason, problem=str(error))
        self._update(problems=tuple(self._problems[key] for key in sorted(self._problems)))
        if reason == "DrbdUnreadable":
            self._refresh()

    def _update(self, **values: object) -> None:
        self.watch.publish(self.state.model_copy(update=values))
