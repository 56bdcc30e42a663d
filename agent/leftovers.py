"""Removes what other people's migrations left of the VMs that this host knows, where `leftover_proof` allows it.

It looks at what the observer knows anyway, and asks the tools only while there is a leftover. It also tells of
receivers that nobody of ours started; it ends no process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.core import Context, NotHeld, Refused, held_within
from agent.drivers.errors import DriverError
from agent.foreign import PROGRAMS, receiving
from agent.host import CommandTimedOut, HostProcess
from agent.leftover_proof import Facts, Keep, Remove, Sight, counted, from_peer, incomplete, judge, seen
from agent.protocol import DomainState, Refusal
from agent.vm_records import Removal, VmRecord
from agent.vm_store import VmStore, domain_lock

LOOK_SECONDS = 5.0
RARELY_SECONDS = 60.0
RARER = 20.0  # a leftover that stays is looked at ever more rarely: after this part of its age
PROCESSES_SECONDS = 30.0
LOCK_SECONDS = 5.0


class Leftovers:
    """`await start()`; `why(uid)` says what keeps a VM's leftover from being removed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = VmStore(context)
        self._sights: dict[int, Sight] = {}  # by domid
        self._due: dict[int, float] = {}  # Host.monotonic
        self._why: dict[str, Refusal] = {}  # by uid of the VM
        self._begun: set[str] = set()  # uids of VMs of which the journal says that a leftover is being removed

    async def start(self) -> None:
        self._begun = {record.desired.uid for record in self._store.all() if record.removing is not None}
        await self._tell_receivers()
        self._context.tasks.spawn(self._keep_clean(), name="leftovers")
        self._context.tasks.spawn(self._keep_telling(), name="foreign receivers")

    def why(self, uid: str) -> Refusal | None:
        """None: there is no leftover of it, or it is about to go."""
        return self._why.get(uid)

    # --- receivers ------------------------------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        while True:
            await self._context.host.sleep(PROCESSES_SECONDS)
            await self._context.observer.quiet.over()
            await self._tell_receivers()

    async def _tell_receivers(self) -> None:
        """One that can't be seen is no news: whoever acts on it asks again himself."""
        processes = await find_processes(self._context)
        if processes is not None:
            told = receiving(processes, self._context.node)
            self._context.observer.put_host_problem("ForeignReceiver", told)

    # --- leftovers ------------------------------------------------------------------------------------------------

    async def _keep_clean(self) -> None:
        while True:
            await self._context.host.sleep(LOOK_SECONDS)
            await self._context.observer.quiet.over()
            await self.look()

    async def look(self) -> None:
        """Once at every leftover whose time it is. Raises nothing but what ends the agent."""
        state, now = self._context.observer.state, self._context.host.monotonic()
        if any(problem.reason == "DomainsUnreadable" for problem in state.problems):
            self._sights.clear()  # what was not seen may have been anything
            return
        found = list(self._found(state.domains.values()))
        self._sights = {one.domid: seen(self._sights.get(one.domid), one, now) for _, one in found}
        for uid in tuple(self._begun):
            self._forget_removed(uid, state.domains)
        for uid in self._why.keys() - {record.desired.uid for record, _ in found}:
            self._say(uid, None)
        for record, domain in found:
            if now >= self._due.get(domain.domid, 0.0):
                await self._look_at(record, domain)
                age = now - self._sights[domain.domid].since if domain.domid in self._sights else 0.0
                self._due[domain.domid] = now + min(RARELY_SECONDS, age / RARER)
        self._due = {domid: due for domid, due in self._due.items() if domid in self._sights}

    def _found(self, domains: Iterable[DomainState]) -> Iterable[tuple[VmRecord, DomainState]]:
        left = [_bare(one) for one in domains if one.kind != "main" and one.uuid is not None]
        if not left:
            return
        records = {record.desired.uid.lower(): record for record in self._store.all()}
        for one in left:
            if (record := records.get((one.uuid or "").lower())) is not None:
                yield record, one

    async def _look_at(self, record: VmRecord, domain: DomainState) -> None:
        uid = record.desired.uid
        if self._context.operations.running(uid):
            del self._sights[domain.domid]  # its own business; afterwards everything is seen anew
            self._say(uid, None)
            return
        try:
            async with held_within(self._context, domain_lock(uid), LOCK_SECONDS):
                self._say(uid, await self._decide(uid, domain))
        except NotHeld:
            return
        except Refused as error:
            self._say(uid, error.refusal)
        except DriverError as error:
            self._say(uid, Refusal(reason=error.reason, message=error.message))
        except (CommandTimedOut, OSError) as error:
            self._say(uid, Refusal(reason="Unreadable", message=str(error)))

    async def _decide(self, uid: str, domain: DomainState) -> Refusal | None:
        """The caller holds the VM's lock. What it finds last is the domain itself: nothing is asked after that."""
        sight = self._sights[domain.domid]
        if not incomplete(domain):
            sight = self._sights[domain.domid] = await self._count(uid, sight)
        processes = await find_processes(self._context)
        listed = {one.domid: one for one in map(_bare, await self._context.observer.read_domain_list())}
        if (there := listed.get(domain.domid)) is None:
            return None
        running = self._context.operations.running(uid)
        facts = Facts(
            node=self._context.node,
            boot_id=self._context.boot_id,
            record=self._store.get(uid),
            domain=there,
            sight=sight,
            now=self._context.host.monotonic(),
            busy=running[0].id if running else None,
            processes=processes,
        )
        match judge(facts):
            case Keep(why):
                return why
            case Remove(_, why):
                await self._remove(uid, there, why)
        return None

    async def _count(self, uid: str, sight: Sight) -> Sight:
        """What the other host wrote to the copy's disks. Raises DriverError, CommandTimedOut."""
        record = self._store.get(uid)
        if record is None or record.granted or record.boot_id != self._context.boot_id:
            return sight
        # If it cannot be told now, what was counted is void
        self._sights[sight.domain.domid] = counted(sight, {}, self._context.host.monotonic())
        received: dict[str, int | None] = {}
        for resource in await self._disks_of(sight.domain, record):
            before = await self._context.observer.read_resources([resource])
            count = await self._context.drbd.received_kib(resource)
            after = await self._context.observer.read_resources([resource])
            counts = [from_peer(one.get(resource), count) for one in (before, after)]
            received[resource] = None if None in counts else count
        return counted(sight, received, self._context.host.monotonic())

    async def _disks_of(self, copy: DomainState, record: VmRecord) -> list[str]:
        """Volumes that the copy itself has as writable disks: the VM's may be other ones by now, and another VM's.

        Raises DriverError, CommandTimedOut.
        """
        found = (one.disks for one in await self._context.observer.read_domains() if one.domid == copy.domid)
        devices = {disk.device for disk in next(found, None) or ()}
        devices -= {f"/dev/drbd{disk.minor}" for disk in record.disks if disk.mode == "r"}
        volumes = self._context.observer.state.volumes.values()
        return [one.resource for one in volumes if one.uid is not None and f"/dev/drbd{one.minor}" in devices]

    async def _remove(self, uid: str, domain: DomainState, why: str) -> None:
        """Journal, destroy, see it gone. Of the VM's own life the record says what it said. Raises DriverError."""
        removal = Removal(domid=domain.domid, boot_id=self._context.boot_id)
        self._store.update(uid, removing=removal)
        self._begun.add(uid)
        log = self._context.log(vm=uid, domid=domain.domid)
        log.warning("leftover of a migration is destroyed", name=domain.name, flags=domain.flags, why=why)
        failed: DriverError | None = None
        try:
            await self._context.xen.destroy(domain.domid)
        except DriverError as error:  # it may have gone by itself: what is there counts
            failed = error
        for one in await self._context.observer.read_domain_list():
            if one.domid == domain.domid:
                raise failed or DriverError("DestroyFailed", f"domain {one.domid} is still there ({one.flags})")
        self._store.update(uid, removing=None)
        self._sights.pop(domain.domid, None)
        self._begun.discard(uid)
        log.info("leftover is gone")

    def _forget_removed(self, uid: str, domains: Mapping[str, DomainState]) -> None:
        """A removal that an agent before this one began, or that Xen took its time for, is over."""
        record = self._store.get(uid)
        begun = record.removing if record is not None else None
        if begun is None or begun.boot_id != self._context.boot_id or str(begun.domid) not in domains:
            self._store.update(uid, removing=None)
            self._begun.discard(uid)

    def _say(self, uid: str, why: Refusal | None) -> None:
        if self._why.get(uid) == why:
            return
        if why is None:
            del self._why[uid]
        else:
            self._why[uid] = why
            self._context.log(vm=uid).info("leftover stays", reason=why.reason, problem=why.message)
        self._context.domains.wake(uid)


async def find_processes(context: Context) -> tuple[HostProcess, ...] | None:
    """Those that move, save or restore domains; None: it could not be told."""
    try:
        return await context.host.find_processes(PROGRAMS)
    except OSError:
        return None


def _bare(domain: DomainState) -> DomainState:
    return domain.model_copy(update={"disks": None})
