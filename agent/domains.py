"""PUT and DELETE /v1/domains: what the controller wishes of each VM, promised first, then made so by one worker a VM.

A wish is checked and journalled in `put`, and the answer does not wait for its effect. The worker reads what is (never
what it remembers), takes `vm_steps.next_step`, does it, and looks again, until there is nothing to do. While a
migration of the VM runs it holds the VM's lock, and the worker stands still.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from agent.core import Context, NotHeld, Refused, held_within, within
from agent.domain_view import of_vms
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.journal import JournalError
from agent.preflight import preflight
from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    DomainState,
    HostState,
    PreflightReport,
    PreflightRequest,
    Refusal,
    VmState,
)
from agent.signals import Flag
from agent.vm_disks import joined, usable
from agent.vm_effects import Effects
from agent.vm_records import Now, VmRecord, accept, in_the_way, mine, status_of, vm_state
from agent.vm_steps import Blocked, Create, Rest, next_step
from agent.vm_store import VmStore, config_path, domain_lock

RELEASE_WAIT = 10.0  # a release waits so long for a step under way
RETRY_FIRST, RETRY_MOST = 1.0, 30.0
BLOCKED_SECONDS = 5.0  # what stands in the way is looked at again, although nothing rang
GONE_SECONDS = 0.2
STEPS_AT_ONCE = 50


class _Worker:
    """One VM's worker: what it does not need to remember over a restart."""

    def __init__(self, uid: str, name: str, *, asked: bool) -> None:
        self.uid = uid
        self.name = name
        self.asked = asked  # the controller asked this agent process
        self.ring = Flag()
        self.problem: Refusal | None = None
        self.failures = 0
        self.create_at = 0.0  # no domain is made before: the last one was a failure, and its traces ring, too
        self.status: str | None = None
        self.since: str | None = None
        self.seen: tuple[object, ...] | None = None


class Domains:
    """`agent.core.DomainService`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = VmStore(context)
        self._effects = Effects(context, self._store)
        self._workers: dict[str, _Worker] = {}

    # --- requests -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Publish the journal's VMs and take them up. A VM that did not run in this boot is not started."""
        for record in self._store.all():
            self._take_up(record.desired.uid, record.desired.name, asked=False)
        self._context.tasks.spawn(self._listen(), name="domains: listen")

    async def put(self, name: str, desired: DomainDesired) -> VmState:
        """Promise and wish. Raises Refused, DriverError, CommandTimedOut; the effect follows by itself."""
        uid = desired.uid
        self._context.gone.check(uid)
        self._identity(name, desired)
        record = self._store.get(uid)
        wanted = self._accept(record, desired)
        if (state := self._during_operation(record, desired)) is not None:
            return state
        if record is not None and wanted == record and desired.state in ("Released", "Stopped"):
            return self._ring(uid, name)
        if desired.state == "Released":
            async with _held(self._context, uid):
                present = mine(uid, name, await self._context.observer.read_domain_list())
                if present:
                    raise Refused("DomainPresent", f"{_listed(present)} is on {self._context.node}; it must go first")
                return self._commit(desired)
        if wanted.wants_domain:
            await self._check_start(wanted)
        return self._commit(desired)

    async def remove(self, name: str, removal: DomainRemoval) -> None:
        """Forget for good a VM that has no domain here. Raises Refused."""
        record = self._store.get(removal.uid)
        if record is None:
            self._context.gone.add(removal.uid)
            return
        if record.desired.name != name:
            raise Refused("UidMismatch", f"{removal.uid} is {record.desired.name} here, not {name}")
        if removal.epoch < record.epoch:
            raise Refused("EpochTooOld", f"epoch {removal.epoch} is over: this host promised epoch {record.epoch}")
        self._no_operation(removal.uid, name)
        async with _held(self._context, removal.uid):
            self._no_operation(removal.uid, name)
            present = mine(removal.uid, name, await self._context.observer.read_domain_list())
            if present:
                raise Refused("DomainPresent", f"{_listed(present)} is on {self._context.node}; stop it first")
            await self._context.host.remove(config_path(name))
            self._context.gone.add(removal.uid)
            self._store.delete(removal.uid)
        self._context.observer.remove_vm(removal.uid)
        if (worker := self._workers.pop(removal.uid, None)) is not None:
            worker.ring.set()

    async def preflight(self, request: PreflightRequest) -> PreflightReport:
        """Every reason that stands against it now; changes nothing."""
        return await preflight(self._context, request)

    def wake(self, uid: str) -> None:
        if (record := self._store.get(uid)) is not None:
            self._take_up(uid, record.desired.name, asked=False)
            self._show(uid)

    # --- what is accepted ---------------------------------------------------------------------------------------

    def _identity(self, name: str, desired: DomainDesired) -> None:
        if name != desired.name:
            raise Refused("NameMismatch", f"the request for {name} describes {desired.name}")
        for other in self._store.all():
            if other.desired.name == name and other.desired.uid != desired.uid:
                raise Refused(
                    "NameTaken",
                    f"{name} on {self._context.node} belongs to XenVM {other.desired.namespace}/{other.desired.name}"
                    f" (uid {other.desired.uid})",
                )

    def _accept(self, record: VmRecord | None, desired: DomainDesired) -> VmRecord:
        return accept(record, desired, boot_id=self._context.boot_id, now=Now.of(self._context.host))

    def _during_operation(self, record: VmRecord | None, desired: DomainDesired) -> VmState | None:
        """While a migration runs nothing else changes the VM. None: none runs."""
        running = self._context.operations.running(desired.uid)
        if not running:
            return None
        # Also a start at the epoch of a copy that arrives: only the source's own release may wake that memory.
        operation = running[0]
        if record is not None and (desired.epoch, desired.state) == (record.epoch, record.desired.state):
            return self._ring(desired.uid, desired.name)
        raise Refused(
            "OperationRunning",
            f"{desired.name} is busy with operation {operation.id} ({operation.state.kind}, {operation.phase});"
            " wait for it or cancel it",
        )

    def _no_operation(self, uid: str, name: str) -> None:
        for operation in self._context.operations.running(uid):
            raise Refused("OperationRunning", f"{name} is busy with operation {operation.id} ({operation.phase})")

    async def _check_start(self, wanted: VmRecord) -> None:
        """Refuse a start that could not happen now, before anything is promised."""
        uid, name, node = wanted.desired.uid, wanted.desired.name, self._context.node
        domains = await self._context.observer.read_domain_list()
        if (refusal := in_the_way(uid, name, domains, node)) is not None:
            raise Refused.of(refusal)
        if wanted.halted is not None or mine(uid, name, domains):
            return
        disks = wanted.desired.config.disks
        seen = await self._context.observer.read_resources(disk.resource for disk in disks)
        refusals = usable(disks, seen, node)
        if refusals:
            raise Refused.of(joined(refusals))

    def _commit(self, desired: DomainDesired) -> VmState:
        """Accept against the newest record, journal, wake the worker. No await: nothing comes between."""
        self._context.gone.check(desired.uid)
        record = self._store.get(desired.uid)
        wanted = self._accept(record, desired)
        self._no_operation(desired.uid, desired.name)
        if wanted != record:
            self._store.put(wanted)
            self._context.log(object=desired.name, epoch=wanted.epoch, run=wanted.run).info(
                "domain wish accepted", state=desired.state, granted=wanted.granted
            )
        return self._ring(desired.uid, desired.name)

    def _ring(self, uid: str, name: str) -> VmState:
        self._take_up(uid, name, asked=True)
        state = self._show(uid)
        assert state is not None
        return state

    def _take_up(self, uid: str, name: str, *, asked: bool) -> None:
        worker = self._workers.get(uid)
        if worker is None:
            worker = self._workers[uid] = _Worker(uid, name, asked=asked)
            self._context.tasks.spawn(self._work(worker), name=f"domain {uid}")
        worker.asked = worker.asked or asked
        if asked:
            worker.create_at = 0.0
        worker.ring.set()

    # --- what is shown ------------------------------------------------------------------------------------------

    def _may_start(self, record: VmRecord, worker: _Worker | None) -> bool:
        ran = record.started_at is not None or record.restart_at is not None
        return record.boot_id == self._context.boot_id and (ran or (worker is not None and worker.asked))

    def _show(self, uid: str) -> VmState | None:
        record, worker = self._store.get(uid), self._workers.get(uid)
        if record is None:
            return None
        state: HostState = self._context.observer.state
        readable = all(problem.reason != "DomainsUnreadable" for problem in state.problems)
        own = mine(uid, record.desired.name, state.domains.values()) if readable else None
        may_start = self._may_start(record, worker)
        status = status_of(record, own, may_start)
        if worker is not None and worker.status != status:
            worker.status, worker.since = status, self._context.now_text()
        shown = vm_state(
            record,
            own,
            may_start=may_start,
            since=worker.since if worker else None,
            problem=_both(worker.problem if worker else None, self._context.leftovers.why(uid)),
        )
        self._context.observer.put_vm(shown)
        return shown

    async def _listen(self) -> None:
        """Wake the workers whose domains or operations changed, as the observer sees them."""
        domains = operations = None
        while True:
            state = self._context.observer.state
            if state.domains is not domains or state.operations is not operations:
                domains, operations = state.domains, state.operations
                index, running = of_vms(domains.values()), self._context.operations.running()
                for worker in list(self._workers.values()):
                    keys = {worker.name, worker.uid.lower(), ""}
                    near = {domain.domid: domain for key in keys for domain in index.get(key, ())}
                    own = mine(worker.uid, worker.name, (near[domid] for domid in sorted(near)))
                    seen = (
                        tuple((domain.domid, domain.name, domain.kind, domain.state) for domain in own),
                        tuple(one.id for one in running if one.state.subject_uid == worker.uid),
                    )
                    if worker.seen != seen:
                        worker.seen = seen
                        worker.ring.set()
            if self._context.observer.state is state:
                await self._context.observer.watch.changed()

    # --- the worker ---------------------------------------------------------------------------------------------

    async def _work(self, worker: _Worker) -> None:
        while self._workers.get(worker.uid) is worker:
            log = self._context.log(vm=worker.uid)
            try:
                problem, pause = await self._advance(worker)
                if problem is not worker.problem:
                    worker.failures = 0
            except JournalError:
                raise  # nothing can be promised any more: no VM is touched before the agent is started again
            except Exception as error:
                if not isinstance(error, Refused | DriverError | CommandTimedOut | OSError):
                    log.error("defect", exc_info=error)
                problem = _as_refusal(error)
                pause = min(RETRY_MOST, RETRY_FIRST * 2.0**worker.failures)
                worker.failures = min(worker.failures + 1, 10)
                worker.create_at = self._context.host.monotonic() + pause
            if problem is not None and problem != worker.problem:
                log.warning("domain not as it shall be", reason=problem.reason, problem=problem.message)
            worker.problem = problem
            self._show(worker.uid)
            await _wait(self._context, worker.ring, pause)

    async def _advance(self, worker: _Worker) -> tuple[Refusal | None, float | None]:
        """Steps until there is none to take: (what stands against it, seconds until the next look)."""
        for _ in range(STEPS_AT_ONCE):
            if self._context.operations.running(worker.uid):
                return None, None
            async with self._context.locks.hold(domain_lock(worker.uid)):
                record = self._store.get(worker.uid)
                if record is None or self._context.operations.running(worker.uid):
                    return None, None
                domains = await self._context.observer.read_domain_list()
                record = self._store.get(worker.uid) or record
                now = Now.of(self._context.host)
                may_start = self._may_start(record, worker)
                step = next_step(record, domains, now=now, may_start=may_start, node=self._context.node)
                if isinstance(step, Rest):
                    dying = any(one.state == "dying" for one in mine(worker.uid, record.desired.name, domains))
                    return None, GONE_SECONDS if dying else step.seconds
                if isinstance(step, Blocked):
                    return step.refusal, BLOCKED_SECONDS
                if isinstance(step, Create) and now.clock < worker.create_at:
                    return worker.problem, worker.create_at - now.clock
                await self._effects.take(record, step)
            self._show(worker.uid)
        return Refusal(reason="NoRest", message="the domain changes faster than the agent can follow"), RETRY_MOST


@asynccontextmanager
async def _held(context: Context, uid: str) -> AsyncIterator[None]:
    """The VM's lock, waited for at most RELEASE_WAIT seconds. Raises Refused("Busy")."""
    try:
        async with held_within(context, domain_lock(uid), RELEASE_WAIT):
            yield
    except NotHeld:
        raise Refused("Busy", f"a change of this VM is under way on {context.node}; try again") from None


async def _wait(context: Context, ring: Flag, seconds: float | None) -> None:
    if seconds is None:
        await ring.take()
        return
    with suppress(TimeoutError):
        await within(context.host, seconds, ring.take())


def _both(problem: Refusal | None, leftover: Refusal | None) -> Refusal | None:
    if problem is None or leftover is None:
        return problem or leftover
    return problem.model_copy(update={"message": f"{problem.message}; {leftover.message}"})


def _listed(domains: Sequence[DomainState]) -> str:
    return ", ".join(f"domain {one.name} (id {one.domid}, {one.flags})" for one in domains)


def _as_refusal(error: Exception) -> Refusal:
    match error:
        case Refused():
            return error.refusal
        case DriverError():
            return Refusal(reason=error.reason, message=error.message)
        case CommandTimedOut():
            return Refusal(reason="TimedOut", message=str(error))
    return Refusal(reason="InternalError", message=f"{type(error).__name__}: {error}")
