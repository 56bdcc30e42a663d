"""One agent: what it does with a request, and its worker's next step. The guards and decisions are the agent's own."""

from __future__ import annotations

import fencing
import observe
import storage
import verdicts
from observe import RESOURCE
from states import NAMES, Domain, Host, Message, Part, Promise, Stream, Verdict, World, with_host, with_part

from agent import guards, vm_disks, vm_records, vm_steps
from agent.core import Refused
from agent.preflight import arriving, leaving
from agent.protocol import DomainDesired, Refusal

CONFIG = observe.CONFIG


class No(Exception):
    """The agent refuses; nothing was changed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def check_term(host: Host, term: int) -> None:
    refusal = guards.term_not_lower(guards.TermFacts(promised=host.term, requested=term))
    if refusal is not None:
        raise No(refusal.reason)


def handle(world: World, message: Message) -> World:
    """The request's whole effect. Raises No."""
    host = message.host
    check_term(world.hosts[host], message.term)
    world = with_host(world, host, term=message.term)
    match message.key:
        case ("volume", str(role)):
            return _put_volume(world, host, role)
        case ("verdict", int(number), int(survivor), str(reason)):
            return _put_verdict(world, host, verdicts.of_key(number, survivor, reason))
        case ("domain", str(state), int(epoch), int(run)):
            return _put_domain(world, host, state, epoch, run)
        case ("forget", int(epoch)):
            return _forget(world, host, epoch)
        case ("cancel", str(part), bool(keeps)):
            return _cancel(world, host, part, source_keeps=keeps)
        case ("send", str(part), int(epoch), int(peer), int(run)):
            return _begin(world, host, Part(part, "send", peer, epoch, "Starting"), run)
        case ("receive", str(part), int(epoch), int(peer), int(run)):
            return _begin(world, host, Part(part, "receive", peer, epoch, "Listening"), run)
    raise AssertionError(message.key)


def _put_verdict(world: World, host: int, verdict: Verdict) -> World:
    try:
        return fencing.put(world, host, verdict)
    except Refused as error:
        raise No(error.refusal.reason) from None


# --- the volume -----------------------------------------------------------------------------------------------------


def _put_volume(world: World, host: int, role: str) -> World:
    """agent.volumes.Volumes.put at level Up."""
    one = world.hosts[host]
    _leave_role_to_migration(one, role)
    world = with_host(world, host, kept_role=role)
    if role == "Secondary" and one.role == "Primary":
        return demote(world, host)
    if world.hosts[host].role == "Unknown":
        world = storage.connect(storage.attach(world, host))
    elif world.link == "StandAlone":
        world = storage.connect(world._replace(link="Lost"))
    return promote(world, host) if role == "Primary" else world


def _leave_role_to_migration(one: Host, role: str) -> None:
    for part in one.parts:
        if part.outcome is None:
            leaves = part.kind == "send" and part.released
            if one.kept_role != role or (leaves and role == "Primary"):
                raise No("Moving")


def role_facts(world: World, host: int) -> guards.RoleFacts:
    seen, one = observe.kernel(observe.disk_of(world, host)), world.hosts[host]
    return guards.RoleFacts(
        RESOURCE, NAMES[host], seen.get(RESOURCE), readable=True,
        domains=observe.domain_states(one.domains), fence=verdicts.record(one.fence),
    )  # fmt: skip


def promote(world: World, host: int) -> World:
    if world.hosts[host].role == "Primary":
        return world
    refusal = guards.first_refusal(guards.PROMOTE, role_facts(world, host))
    if refusal is not None:
        raise No(refusal.reason)
    try:
        return storage.promote(world, host)
    except storage.Refusal:
        raise No("DrbdRefused") from None


def demote(world: World, host: int) -> World:
    refusal = guards.first_refusal(guards.DEMOTE, role_facts(world, host))
    if refusal is not None:
        raise No(refusal.reason)
    try:
        return storage.demote(world, host)
    except storage.Refusal:
        raise No("DrbdRefused") from None


# --- the domain -----------------------------------------------------------------------------------------------------


def _put_domain(world: World, host: int, state: str, epoch: int, run: int) -> World:
    """agent.domains.Domains.put."""
    one = world.hosts[host]
    if is_gone(one):
        raise No("Gone")
    desired = observe.desired(state, epoch, run)
    kept = observe.record(one.promise) if one.promise else None
    wanted = _accept(kept, desired)
    if observe.busy(one) is not None:
        if kept is not None and (epoch, state) == (kept.epoch, kept.desired.state):
            return with_host(world, host, asked=True)
        raise No("OperationRunning")
    if state == "Released" and in_use(one) and wanted != kept:
        raise No("DomainPresent")
    if wanted.wants_domain:
        _check_start(world, host, wanted)
    return with_host(world, host, promise=observe.promise_of(wanted), asked=True)


def is_gone(one: Host) -> bool:
    """agent.gone.Gone.check."""
    return one.gone


def in_use(one: Host) -> bool:
    """A domain of the VM is here: it is neither given away nor forgotten."""
    return bool(one.domains)


def _accept(kept: vm_records.VmRecord | None, desired: DomainDesired) -> vm_records.VmRecord:
    try:
        return vm_records.accept(kept, desired, boot_id=observe.BOOT, now=observe.AGENTS_NOW)
    except Refused as error:
        raise No(error.refusal.reason) from None


def _check_start(world: World, host: int, wanted: vm_records.VmRecord) -> None:
    domains = observe.domain_states(world.hosts[host].domains)
    refusal = vm_records.in_the_way(observe.VM_UID, observe.VM, domains, NAMES[host])
    if refusal is not None:
        raise No(refusal.reason)
    if wanted.halted is not None or domains:
        return
    if against := usable(world, host):
        raise No(against[0].reason)


def usable(world: World, host: int) -> list[Refusal]:
    return vm_disks.usable(CONFIG.disks, observe.kernel(observe.disk_of(world, host)), NAMES[host])


def _forget(world: World, host: int, epoch: int) -> World:
    one = world.hosts[host]
    if one.promise is None:
        return with_host(world, host, gone=True)
    if epoch_over(one.promise, epoch):
        raise No("EpochTooOld")
    if observe.busy(one) is not None:
        raise No("OperationRunning")
    if in_use(one):
        raise No("DomainPresent")
    return with_host(world, host, promise=None, gone=True)


def epoch_over(promise: Promise, epoch: int) -> bool:
    """A removal that was decided before the last placement."""
    return epoch < promise.epoch


def work(world: World, host: int) -> tuple[str, World] | None:
    """The VM's worker takes one step (agent.domains.Domains._advance, agent.vm_effects.Effects)."""
    one = world.hosts[host]
    if one.promise is None or observe.busy(one) is not None:
        return None
    step = vm_steps.next_step(
        observe.record(one.promise),
        observe.domain_states(one.domains),
        now=observe.AGENTS_NOW,
        may_start=observe.may_start(one),
        node=NAMES[host],
    )
    after = _take(world, host, one.promise, step)
    return None if after is None or after == world else (f"{NAMES[host]}'s agent: {type(step).__name__}", after)


def _take(world: World, host: int, promise: Promise, step: vm_steps.Step) -> World | None:
    one = world.hosts[host]
    match step:
        case vm_steps.Create():
            if usable(world, host):
                return None
            made = promise._replace(made=True, started=False, stopping=False)
            domain = Domain("main", "paused", attached=True)
            return with_host(world, host, promise=made, domains=(*one.domains, domain))
        case vm_steps.Confirm(domain):
            if domain.state == "paused" and not _attached(one, domain.domid):
                return _destroy(world, host, promise, domain.domid)
            return with_host(world, host, promise=promise._replace(started=True, stopping=False, restarting=False))
        case vm_steps.Unpause(domid):
            if not _attached(one, domid) and usable(world, host):
                return None
            return run(world, host, domid)
        case vm_steps.Pause(domid):
            return _set(world, host, domid, state="paused")
        case vm_steps.Shutdown(domain):
            world = with_host(world, host, promise=promise._replace(stopping=True))
            return world if domain.state == "suspended" else _set(world, host, domain.domid, state="poweroff", ran=True)
        case vm_steps.Destroy(domid):
            return _destroy(world, host, promise, domid)
        case vm_steps.End(reason):
            ended = observe.promise_of(vm_records.after_end(observe.record(promise), reason, observe.AGENTS_NOW))
            return with_host(world, host, promise=ended)
        case vm_steps.GiveUpStopping():
            return with_host(world, host, promise=promise._replace(stopping=False))
        case vm_steps.Settle():
            return with_host(world, host, promise=promise._replace(stopping=False, started=False))
    return None  # Rest, Blocked


def _attached(one: Host, domid: int) -> bool:
    return one.domains[domid - 1].attached


def _set(world: World, host: int, domid: int, **update: object) -> World:
    domains = list(world.hosts[host].domains)
    domains[domid - 1] = domains[domid - 1]._replace(**update)  # type: ignore[arg-type]
    return with_host(world, host, domains=tuple(domains))


def run(world: World, host: int, domid: int) -> World:
    """Its disk is open, and it runs and writes."""
    return storage.written(_set(world, host, domid, state="running", ran=True, attached=True))


def _destroy(world: World, host: int, promise: Promise, domid: int) -> World:
    world = without(world, host, domid)
    return with_host(world, host, promise=promise._replace(started=False, stopping=False))


def without(world: World, host: int, domid: int) -> World:
    domains = world.hosts[host].domains
    return with_host(world, host, domains=domains[: domid - 1] + domains[domid:])


# --- operations -----------------------------------------------------------------------------------------------------


def part_of(host: Host, part_id: str) -> Part | None:
    return next((part for part in host.parts if part.id == part_id), None)


def _begin(world: World, host: int, wanted: Part, run_number: int) -> World:
    """agent.operations.Operations.submit with the handlers' checks."""
    one = world.hosts[host]
    known = part_of(one, wanted.id)
    if known is not None:
        if other_body(known, wanted):
            raise No("OperationIdTaken")
        return world
    if observe.busy(one) is not None:
        raise No("OperationRunning")
    if is_gone(one) and wanted.kind == "receive":
        raise No("Gone")
    against = against_move(world, host, wanted, run_number)
    if against:
        raise No(against)
    return with_host(world, host, parts=(*one.parts, wanted))


def other_body(known: Part, wanted: Part) -> bool:
    """The id is that of another operation."""
    return (known.kind, known.peer, known.epoch) != (wanted.kind, wanted.peer, wanted.epoch)


def keeps_it(one: Host, epoch: int) -> bool:
    """A receive at an epoch that is this host's own already."""
    return one.promise is not None and one.promise.granted and one.promise.epoch >= epoch


def against_move(world: World, host: int, wanted: Part, run_number: int, *, own: str | None = None) -> str | None:
    """migration.source.Send.check and migration.target.Receive.check."""
    domain = observe.desired("Running", wanted.epoch, run_number)
    seen = observe.seen(world, host, own=own)
    if wanted.kind == "send":
        refusals = leaving(seen, domain)
    else:
        refusals = arriving(seen, domain, source=NAMES[wanted.peer])
        if keeps_it(world.hosts[host], wanted.epoch):
            return "EpochTooOld"
    return refusals[0].reason if refusals else None


def _cancel(world: World, host: int, part_id: str, *, source_keeps: bool) -> World:
    """agent.operations.Operations.cancel with the handlers' answers."""
    one = world.hosts[host]
    part = part_of(one, part_id)
    if part is None:
        raise No("NoSuchOperation")
    if part.outcome is not None or part.cancel_asked:
        return world
    if part.kind == "receive":
        if taken_over(one, part) or may_be_the_only_one(part, source_keeps=source_keeps):
            raise No("NotCancellable")
        return with_part(world, host, part.id, part.kind, cancel_asked=True, cancelled=True)
    stream = world.stream
    if released(one, part):
        raise No("NotCancellable")
    if not part.unclear and stream is not None and stream.id == part.id:
        if may_go(stream):
            raise No("NotCancellable")
        world = world._replace(stream=stream._replace(cut=True))
    return with_part(world, host, part.id, part.kind, cancel_asked=True, cancelled=True, job=False)


def taken_over(one: Host, part: Part) -> bool:
    """The VM is this host's own, or the source has let go of it: it only goes forward."""
    return keeps_it(one, part.epoch) or part.released


def may_be_the_only_one(part: Part, *, source_keeps: bool) -> bool:
    """A copy that has arrived, and nobody saw the source keep the VM."""
    return part.phase == "Received" and not source_keeps


def may_go(stream: Stream) -> bool:
    """The permission to go was recorded: the target may have the guest."""
    return stream.go


def released(one: Host, part: Part) -> bool:
    """migration.source.Send._released."""
    return one.promise is not None and not one.promise.granted and one.promise.epoch > part.epoch
