"""What is: HostState, kept by pushes where the tools push and by polling where they do not.

Sources: DRBD by `drbdsetup events2` (a bell; then read with `--now`), its percent by polling only while a resync runs;
domains by a xenstore watch in the same way, and by `xl list` every second, five times as often while an operation
runs, because xenstore does not tell of a pause; LVM after own changes and every 30 s; the host's facts every 10 s. A
probe that fails leaves its last values and says so in `problems`: unreadable is never absent. Whoever needs a fact to
act on calls a `read_*` method, which asks the tool now and raises when it cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from agent.core import AGENT_VERSION, Context, within
from agent.drivers.drbd import kernel_version
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.protocol import (
    DomainDisk,
    DomainState,
    GenerationIds,
    HostDesired,
    HostState,
    LogicalVolumeState,
    OperationState,
    Refusal,
    VmState,
    VolumeState,
)
from agent.records import VolumeRecord, assemble
from agent.signals import Flag
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
BELL_RETRY_SECONDS = 5.0
GENERATIONS_AT_ONCE = 4
_SYNCING = ("Sync", "Verify", "WFBitMap", "Starting", "Paused")


class Observer:
    """Keeps `state`. Other parts put in what they know (`put_vm`, `put_operation`, `put_record`, ...)."""

    def __init__(self, context: Context, *, term: int, desired: HostDesired | None) -> None:
        self._context = context
        self._drbd: dict[str, DrbdResource] = {}
        self._drbd_known = False
        self._configured: dict[str, ResConfig] = {}
        self._records: dict[str, VolumeRecord] = {}
        self._generations: dict[str, GenerationIds] = {}
        self._volume_problems: dict[str, Refusal] = {}
        self._problems: dict[str, Refusal] = {}
        self._disks: dict[int, tuple[DomainDisk, ...]] = {}  # by domid: what was last read of each
        self._used_by: dict[str, tuple[str, ...]] = {}  # names of domains by device
        self._inputs: dict[str, tuple[Any, ...]] = {}  # what each VolumeState was put together from
        self._asked = 0
        self._taken: dict[str, int] = {}  # by probe: which asking the state has the answer of
        self._drbd_ring = Flag()
        self._domain_ring = Flag()
        self._stale_generations: set[str] = set()
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

    # --- for everybody ------------------------------------------------------------------------------------------

    @property
    def state(self) -> HostState:
        """The newest state; immutable."""
        return self.watch.state

    async def read_drbd(self) -> dict[str, DrbdResource]:
        """What the kernel's DRBD is now. Raises DriverError, CommandTimedOut."""
        return await self._read("DrbdUnreadable", self._context.drbd.snapshot, self._take_drbd)

    async def read_domains(self) -> tuple[DomainState, ...]:
        """What `xl list` says now. Raises DriverError, CommandTimedOut."""
        return await self._read("DomainsUnreadable", self._context.xen.domains, self._take_domains)

    async def read_logical_volumes(self) -> dict[str, LogicalVolumeState]:
        """Every LV now, by group/name. Raises DriverError, CommandTimedOut."""
        volumes = await self._read("LvmUnreadable", self._context.lvm.logical_volumes, self._take_logical_volumes)
        return {f"{one.group}/{one.name}": one for one in volumes}

    async def read_configured(self) -> dict[str, ResConfig]:
        """Every resource in /etc/drbd.d now, foreign ones too. Raises DriverError, CommandTimedOut."""
        return await self._read(
            "ConfigurationUnreadable", self._context.drbd.configured_resources, self._take_configured
        )

    def put_vm(self, vm: VmState) -> None:
        self._update(vms={**self.state.vms, vm.uid: vm})

    def remove_vm(self, uid: str) -> None:
        self._update(vms={key: value for key, value in self.state.vms.items() if key != uid})

    def put_operation(self, operation: OperationState) -> None:
        self._update(operations={**self.state.operations, operation.id: operation})

    def remove_operation(self, operation_id: str) -> None:
        self._update(operations={key: one for key, one in self.state.operations.items() if key != operation_id})

    def put_host(self, *, term: int, desired: HostDesired | None) -> None:
        self._update(term=term, desired=desired)

    def put_records(self, records: Mapping[str, VolumeRecord]) -> None:
        """The journal's records of all volumes, at the agent's start."""
        self._records = dict(records)
        self.refresh_volumes()

    def put_record(self, resource: str, record: VolumeRecord | None) -> None:
        """The journal's record of a volume changed (None: gone)."""
        if record is None:
            for known in (self._records, self._generations, self._volume_problems):
                known.pop(resource, None)
        else:
            self._records[resource] = record
        self.refresh_volumes(resource)

    def put_problem(self, resource: str, problem: Refusal | None) -> None:
        """What the last attempt to make a volume as it shall be ran into."""
        if problem is None:
            self._volume_problems.pop(resource, None)
        else:
            self._volume_problems[resource] = problem
        self.refresh_volumes(resource)

    def put_generation(self, resource: str, generation: GenerationIds | None) -> None:
        if generation is None:
            self._generations.pop(resource, None)
        else:
            self._generations[resource] = generation
        self.refresh_volumes(resource)

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
        for name, loop in (
            ("drbd", self._keep_drbd()),
            ("drbd bell", self._listen(self._context.drbd.events, self._drbd_ring)),
            ("domain bell", self._listen(self._context.xen.changes, self._domain_ring)),
            ("domains", self._keep_domains()),
            ("lvm", self._keep(LVM_SECONDS, self._read_storage)),
            ("facts", self._keep(FACTS_SECONDS, self._read_facts)),
        ):
            self._context.tasks.spawn(loop, name=f"observe {name}")

    async def _keep(self, seconds: float, read: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._context.host.sleep(seconds)
            await read()

    async def _read_storage(self) -> None:
        await self._try(self.read_logical_volumes)
        await self._try(self.read_configured)

    async def _keep_domains(self) -> None:
        while True:
            busy = any(operation.outcome is None for operation in self.state.operations.values())
            await self._wait_for_ring(self._domain_ring, BUSY_DOMAIN_SECONDS if busy else DOMAIN_SECONDS)
            await self._try(self.read_domains)

    async def _wait_for_ring(self, ring: Flag, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await within(self._context.host, seconds, ring.take())

    async def _keep_drbd(self) -> None:
        while True:
            await self._wait_for_ring(self._drbd_ring, SYNC_SECONDS if self._syncing() else DRBD_SECONDS)
            if not await self._try(self.read_drbd):
                await self._context.host.sleep(RETRY_SECONDS)
                self._drbd_ring.set()

    async def _listen(self, bell: Callable[[], AbstractAsyncContextManager[AsyncIterator[object]]], ring: Flag) -> None:
        """Ring for every line of a command that tells of changes; started again when it ends."""
        while True:
            try:
                async with bell() as lines:
                    async for _ in lines:
                        ring.set()
                said = "the command ended"
            except (DriverError, CommandTimedOut, OSError) as error:
                said = str(error)
            self._context.log().warning("no pushes; polling goes on", source=bell.__qualname__, problem=said)
            await self._context.host.sleep(BELL_RETRY_SECONDS)
            ring.set()

    def _syncing(self) -> bool:
        return any(one.peer is not None and one.peer.replication.startswith(_SYNCING) for one in self._drbd.values())

    async def _read_generation(self, resource: str) -> None:
        """The generation UUIDs of a resource whose role, disk or connection changed."""
        async with self._generation_gate:
            self._stale_generations.discard(resource)
            try:
                generation = await self._context.drbd.metadata(resource)
            except (DriverError, CommandTimedOut) as error:
                generation = None
                self._context.log(object=resource).warning("generation not readable", problem=str(error))
        if resource in self._records:
            self.put_generation(resource, generation)

    async def _read_facts(self) -> None:
        facts = self.state.facts
        try:
            facts = await self._context.xen.host_facts()
            self._problem("XenUnreadable", None)
        except (DriverError, CommandTimedOut, OSError) as error:
            self._problem("XenUnreadable", error)
        try:
            facts = facts.model_copy(update={"drbd_version": await kernel_version(self._context.host)})
        except (DriverError, CommandTimedOut, OSError):
            facts = facts.model_copy(update={"drbd_version": None})
        try:
            facts = facts.model_copy(update={"volume_groups": await self._context.lvm.volume_groups()})
        except (DriverError, CommandTimedOut, OSError) as error:
            facts = facts.model_copy(update={"volume_groups": self.state.facts.volume_groups})
            self._problem("LvmUnreadable", error)
        listening = self._context.migration.port != 0
        self._update(facts=facts.model_copy(update={"relocation_listening": listening}))

    # --- putting it together ------------------------------------------------------------------------------------

    async def _read(self, reason: str, read: Callable[[], Awaitable[T]], take: Callable[[T], None]) -> T:
        """Ask a tool, and take the answer into the state unless one that was asked for later is there already."""
        self._asked += 1
        turn = self._asked
        try:
            value = await read()
        except (DriverError, CommandTimedOut, OSError) as error:
            if turn > self._taken.get(reason, 0):
                self._problem(reason, error)
            raise
        if turn > self._taken.get(reason, 0):
            self._taken[reason] = turn
            take(value)
            self._problem(reason, None)
        return value

    def _take_drbd(self, resources: dict[str, DrbdResource]) -> None:
        for name, one in resources.items():
            changed = _generation_key(self._drbd.get(name)) != _generation_key(one)
            if changed and name in self._records and name not in self._stale_generations:
                self._stale_generations.add(name)
                self._context.tasks.spawn(self._read_generation(name), name=f"generation of {name}")
        self._drbd, self._drbd_known = resources, True
        self.refresh_volumes()

    def _take_domains(self, domains: tuple[DomainState, ...]) -> None:
        known = self.state.domains
        self._update(domains={str(one.domid): _without_noise(known.get(str(one.domid)), one) for one in domains})
        self._disks = {
            one.domid: one.disks if one.disks is not None else self._disks.get(one.domid, ()) for one in domains
        }
        used_by: dict[str, tuple[str, ...]] = {}
        for domain in domains:
            for disk in self._disks[domain.domid]:
                used_by[disk.device] = (*used_by.get(disk.device, ()), domain.name)
        if used_by != self._used_by:
            self._used_by = used_by
            self.refresh_volumes()

    def _take_logical_volumes(self, volumes: tuple[LogicalVolumeState, ...]) -> None:
        self._update(logical_volumes={f"{one.group}/{one.name}": one for one in volumes})
        self.refresh_volumes()

    def _take_configured(self, configured: dict[str, ResConfig]) -> None:
        self._configured = configured
        self.refresh_volumes()

    def refresh_volumes(self, *only: str) -> None:
        """Put VolumeStates together again (all, or `only` those): where a record, the kernel's state, ... changed."""
        known = self.state.volumes
        names = only or sorted({*self._records, *self._configured, *self._drbd})
        volumes: dict[str, VolumeState] = dict(known) if only else {}
        for resource in names:
            inputs = self._inputs_of(resource)
            if inputs is None:
                volumes.pop(resource, None)
                self._inputs.pop(resource, None)
            elif resource in known and self._inputs.get(resource) == inputs:
                volumes[resource] = known[resource]
            else:
                self._inputs[resource] = inputs
                volumes[resource] = assemble(resource, *inputs)
        self._update(volumes=volumes)

    def _inputs_of(self, resource: str) -> tuple[Any, ...] | None:
        """What `assemble` needs; None when nothing here knows the resource."""
        record, kernel = self._records.get(resource), self._drbd.get(resource)
        configuration = self._configured.get(resource)
        if record is None and kernel is None and configuration is None:
            return None
        minor = record.desired.minor if record else kernel.minor if kernel else None
        return (
            record,
            configuration,
            kernel,
            self._drbd_known,
            self.state.logical_volumes.get(record.lv_key) if record else None,
            self._generations.get(resource),
            self._used_by.get(f"/dev/drbd{minor}", ()),
            self._volume_problems.get(resource) or self._problems.get("DrbdUnreadable"),
        )

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
            self.refresh_volumes()

    def _update(self, **values: object) -> None:
        self.watch.publish(self.state.model_copy(update=values))


def _generation_key(one: DrbdResource | None) -> tuple[object, ...]:
    """What a new data generation comes with."""
    if one is None:
        return ()
    peer = one.peer
    return (one.role, one.disk, peer and (peer.connection, peer.disk, peer.role, peer.replication == "Established"))


def _without_noise(old: DomainState | None, new: DomainState) -> DomainState:
    """The old value if nothing but the CPU time and the running/blocked flags moved on: they change all the time.

    That a domain has run at all (its CPU time is no longer 0) is no noise.
    """
    if old is None or (old.cpu_seconds == 0.0) != (new.cpu_seconds == 0.0):
        return new
    return old if new.model_copy(update={"cpu_seconds": old.cpu_seconds, "flags": old.flags}) == old else new
