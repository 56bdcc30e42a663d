"""Decisions about a XenVM: where it may run, whether it runs, where it goes, how it ends."""

from __future__ import annotations

from dataclasses import replace

from agent.protocol import DomainRemoval, Refusal
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import Placement
from controller.domain import grants, migration
from controller.domain.actions import FINALIZER, PASSING, Decision, DeleteDomain, PutDomain, Refused, due, refusal_of
from controller.domain.engine import blocked, position, refusals
from controller.domain.move import left_open
from controller.domain.placement import place_vm
from controller.domain.plans.start_vm import OFF, START_VM, STOP_VM
from controller.domain.vm_case import VmCase
from controller.domain.vm_report import RETRY_SECONDS, Report, ended_how
from controller.domain.world import HostView, World, vm_on

WAITS = (
    *("VolumeNotFound", "VolumeNotReady", "VolumeDeleting", "AgentUnreachable", "NodeNotFound", "OperationOpen"),
    "PrimaryElsewhere",  # whoever has no use for it demotes it; a VM that has one is a reason of its own
)
"""Reasons that pass without anybody touching the VM: in progress, not stalled."""


def decide_vm(world: World, vm: XenVM, refused: tuple[Refused, ...] = ()) -> Decision:
    """The next step for one VM. Total: every world has a decision."""
    case = VmCase(world, vm, refused)
    decision = _decide(case)
    left = left_open(case)
    if not left:
        return decision
    look_again = min(RETRY_SECONDS, decision.look_again or RETRY_SECONDS)
    return replace(decision, requests=(*decision.requests, *due(left, refused, world)), look_again=look_again)


def _decide(case: VmCase) -> Decision:
    vm = case.vm
    moving = vm.status.migration is not None and vm.status.migration.outcome is None
    if moving:
        nonsense = migration.nonsense(case)
        if nonsense is not None:
            return Report(case).stalled("Stalled", nonsense).decision()
        return migration.follow(case, Report(case))
    settled = grants.settled(case)
    if isinstance(settled, Refusal):
        return Report(case).stalled("Stalled", settled).decision()
    case = settled
    if vm.deleting:
        return _delete(case)
    taken = _name_taken(case)
    if taken is not None:
        return Report(case).stalled("Stalled", taken).decision()
    if case.placement is None:
        return _place(case)
    if vm.spec.node is not None and vm.spec.node != case.placement.node:
        return _move(case)
    return _as_declared(case, Report(case))


def _name_taken(case: VmCase) -> Refusal | None:
    """The domain's name is another object's, or an unmanaged domain has it on the hosts that could run the VM."""
    holders = case.world.objects.claims("domain", case.name)
    if holders and holders[0][2] != case.uid:
        namespace, name, _ = holders[0]
        return Refusal(
            reason="DomainNameTaken",
            message=f"domain {case.name} belongs to XenVM {namespace}/{name}; give this one another name",
        )
    for node in case.members or ((case.vm.spec.node,) if case.vm.spec.node else ()):
        for domain in case.host(node).domains_by_name.get(case.name, ()):
            if domain.uuid != case.uid:
                return Refusal(
                    reason="DomainNameTaken",
                    message=f"{node} runs a domain {case.name} (uuid {domain.uuid}) that is not this VM's",
                )
    return None


# --- placement ----------------------------------------------------------------------------------------------------


def _place(case: VmCase) -> Decision:
    """The first placement, once the disks are ready: nobody who answers runs it or keeps it as his own."""
    report = Report(case)
    if case.vm.spec.state == "Stopped":
        return report.ready("Stopped", "Stopped", "was never started").set(last_state="Stopped").decision()
    waiting = case.disks_missing()
    if waiting is not None:
        return report.progressing("Pending", waiting.reason, waiting.message).decision()
    node = case.vm.spec.node or place_vm(case.world, case.vm, case.members)
    if isinstance(node, Refusal):
        return report.stalled("Pending", node).decision()
    placed = case.planned(placement=Placement(node=node, epoch=grants.highest_epoch(case) + 1))
    why_not = refusals(START_VM, placed)
    if why_not:
        reason = blocked(START_VM.title, why_not, passing=WAITS)
        if reason.reason in WAITS:
            return report.progressing("Pending", reason.reason, reason.message).decision()
        return report.stalled("Pending", reason).decision()
    return _as_declared(placed, Report(placed))


def _move(case: VmCase) -> Decision:
    """spec.node is another host than the placement: live if it runs, by release and new placement if it doesn't."""
    placement, target = case.placement, case.vm.spec.node
    assert placement is not None
    assert target is not None
    report = Report(case)
    home, here = case.home, case.here
    if home is None or home.live is None:
        why = home.error if home else "unknown"
        refusal = Refusal(
            reason="AgentUnreachable",
            message=f"the agent of {placement.node} does not answer: {why}. A host that is silent may still run the VM",
        )
        report.not_placed(refusal.reason, f"moving to {target} is blocked: {refusal.message}", warn=True)
        return report.unknown(refusal).decision()
    off = here is None or here.status in OFF
    if off and not case.domains(placement.node):
        return _move_cold(case, report, target)
    if case.vm.spec.state == "Stopped":
        report.not_placed("Stopping", f"moving to {target} waits until the guest is shut down on {placement.node}")
        return _as_declared(case, report)
    if here is not None and here.status in ("running", "paused"):
        _settle_running(case, report, here.status)
        return migration.begin(case, target, report)
    state = here.status if here else "unknown"
    report.not_placed(
        "NotRunning",
        f"moving to {target} waits: the domain is {state} on {placement.node}; "
        "state: Stopped lets it move without running",
    )
    return _as_declared(case, report)


def _move_cold(case: VmCase, report: Report, target: str) -> Decision:
    """No domain is left: the old host gives up its grant durably, then the placement changes, with a new epoch.

    Both replicas must be identical at that moment: later starts rely on the placement's host being the newest.
    """
    placement = case.placement
    assert placement is not None
    reason = _cold_blocked(case, target)
    if reason is not None:
        report.not_placed(reason.reason, f"moving to {target} is blocked: {reason.message}", warn=True)
        return _as_declared(case, report)
    here = case.here
    others = [promise.epoch for name, promise in grants.promises(case).items() if name != placement.node]
    move = case.vm.status.migration
    epoch = max(placement.epoch, move.epoch if move else 0, *others, 0) + 1
    if here is not None and here.epoch >= epoch and not here.granted:
        report.set(placement=Placement(node=target, epoch=here.epoch), phase="Pending")
        report.event("Normal", "Placed", f"{placement.node} released the VM; it is placed on {target}")
        report.conditions.progressing("Placed", f"placed on {target}")
        report.look_again = 0.1
        return report.decision()
    report.not_placed("Releasing", f"{placement.node} gives up the VM to {target}")
    report.requests = (PutDomain(placement.node, case.desired("Released", epoch)),)
    no = refusal_of(report.requests, case.refused)
    if no is not None:
        return report.stalled("Pending", no).decision()
    return report.progressing("Pending", "Releasing", f"{placement.node} gives up the VM").decision()


def _cold_blocked(case: VmCase, target: str) -> Refusal | None:
    host = case.host(target)
    if host.node is None:
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {target}; apply it, or change spec.node")
    if host.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {target} does not answer: {host.error}")
    if open_there := host.moves_by_vm.get(case.uid):
        return Refusal(
            reason="OperationOpen", message=f"{open_there[0].id} of an earlier move is still open on {target}"
        )
    for domain in case.domains(target):
        return Refusal(
            reason="DomainInTheWay",
            message=f"{target} has domain {domain.name} (id {domain.domid}) with the VM's name or uuid",
        )
    for volume in case.volume_cases:
        if target not in volume.nodes:
            return Refusal(
                reason="NoReplicaThere",
                message=f"{target} holds no replica of {volume.volume.name}; its replicas are on "
                f"{' and '.join(volume.nodes)}",
            )
        if not (volume.everywhere() and volume.up_to_date()):
            return Refusal(
                reason="DiskNotUpToDate",
                message=f"{volume.volume.name} must be UpToDate and connected on both hosts, "
                f"it is {volume.volume.status.disk_state or 'unknown'}",
            )
    return None


# --- running, paused, stopped -------------------------------------------------------------------------------------


def _as_declared(case: VmCase, report: Report) -> Decision:
    """On the placement's host: what spec.state says."""
    vm, here = case.vm, case.here
    wish, run = vm.spec.state, max(vm.status.run, here.run if here else 0)
    last = vm.status.last_state
    if wish != "Stopped" and (last == "Stopped" or (last is None and here is None)):
        # A new start is asked for: a guest that powered itself off in the last run may start again.
        run += 1
    if run != vm.status.run:
        case = case.planned(run=run, last_state=wish)
        report.case = case
        report.set(run=run)
    report.set(last_state=wish, placement=case.placement)
    if case.home is None or case.home.live is None:
        return _silent(case, report)
    if wish == "Stopped":
        return _stop(case, report)
    if grants.given_away(case):
        return _take_back(case, report)
    assert case.placement is not None
    asked = here is not None and here.epoch == case.placement.epoch and here.run == max(case.vm.status.run, 1)
    if here is not None and asked:
        if here.status in ("running", "paused"):
            _settle_running(case, report, here.status)
            return report.decision()
        ended = _ended_by_guest(case, report)
        if ended is not None:
            return ended
    return _start(case, report)


def _take_back(case: VmCase, report: Report) -> Decision:
    """The release for a move that did not follow: the host gets the VM again, with a new epoch."""
    placement = grants.taken_back(case)
    if isinstance(placement, Refusal):
        return report.progressing("Pending", placement.reason, placement.message).decision()
    case = case.planned(placement=placement)
    report.case = case
    report.set(placement=placement)
    return _start(case, report)


def _silent(case: VmCase, report: Report) -> Decision:
    """An agent that does not answer is not a host that is off: the VM may run on, nothing is started elsewhere."""
    name = case.placement.node if case.placement else ""
    why = case.home.error if case.home else "unknown"
    if case.vm.status.run == 0 or (case.vm.spec.state == "Stopped" and case.vm.status.phase == "Stopped"):
        message = f"the agent of {name} does not answer: {why}"
        return report.progressing(case.vm.status.phase or "Pending", "AgentUnreachable", message).decision()
    return report.unknown(
        Refusal(reason="AgentUnreachable", message=f"the agent of {name} does not answer: {why}. The VM may run on")
    ).decision()


def _settle_running(case: VmCase, report: Report, status: str) -> None:
    """The domain is there: Ready if it is as declared, else one request to make it so."""
    assert case.placement is not None
    paused = case.vm.spec.state == "Paused"
    node = case.placement.node
    if paused == (status == "paused"):
        phase = "Paused" if paused else "Running"
        report.ready(phase, phase, f"{'is paused' if paused else 'runs'} on {node}")
        return
    if case.vm.spec.state == "Stopped":
        return
    report.requests = (case.put("Paused" if paused else "Running", as_started=True),)
    no = refusal_of(report.requests, case.refused) or (case.here.problem if case.here else None)
    if no is not None and no.reason not in PASSING:
        report.stalled("Running" if paused else "Paused", no)
    else:
        report.progressing("Running" if paused else "Paused", "Pausing" if paused else "Unpausing", f"on {node}")


def _ended_by_guest(case: VmCase, report: Report) -> Decision | None:
    """The guest ended by itself, or is about to be restarted by its agent, by onPoweroff, onReboot, onCrash."""
    here = case.here
    assert here is not None
    if here.status == "halted" and here.halted_reason == "poweroff":
        message = "the guest powered itself off; to start it again set state: Stopped, then Running"
        return report.ready("Halted", "PoweredOff", message).decision()
    if here.status in ("halted", "crashed", "preserved"):
        kept = " and its domain is preserved" if here.status == "preserved" else ""
        cause = {"crash": "crashed", "reboot": "rebooted"}.get(here.halted_reason or "", "ended")
        return report.stalled(
            "Crashed" if here.halted_reason == "crash" else "Halted",
            Refusal(
                reason="GuestCrashed" if here.halted_reason == "crash" else "GuestEnded",
                message=f"the guest {cause}{kept}; to start it again set state: Stopped, then Running",
            ),
        ).decision()
    if here.status in ("starting", "stopping"):
        phase = "Starting" if here.status == "starting" else "Stopping"
        if here.problem is not None and here.status == "starting" and here.problem.reason in PASSING:
            return None  # its disk was demoted when the start came: promoted again, it is asked for again
        if here.problem is not None:
            return report.stalled(phase, here.problem).decision()
        if here.restart.next_at:
            phase = "Crashed" if here.restart.last_reason == "crash" else "Starting"
            message = f"the guest {ended_how(here)}; it is started again at {here.restart.next_at}"
            return report.progressing(phase, "Restarting", message).decision()
        return report.progressing(phase, phase, f"the domain is {here.status}").decision()
    if here.status == "unknown":
        why = here.problem.message if here.problem else "xl does not answer"
        return report.unknown(Refusal(reason="DomainUnknown", message=why)).decision()
    return None


def _start(case: VmCase, report: Report) -> Decision:
    why_not = refusals(START_VM, case)
    if why_not:
        reason = blocked(START_VM.title, why_not, passing=WAITS)
        if reason.reason in WAITS:
            return report.progressing("Pending", reason.reason, reason.message).decision()
        return report.stalled("Pending", reason).decision()
    at = position(START_VM, case)
    return report.follow(START_VM, at, "Starting").decision()


def _stop(case: VmCase, report: Report) -> Decision:
    at = position(STOP_VM, case)
    if at.step is None:
        return report.ready("Stopped", "Stopped", "is shut down").decision()
    return report.follow(STOP_VM, at, "Stopping", _stop_problem(case)).decision()


def _stop_problem(case: VmCase) -> Refusal | None:
    """What keeps the agent from stopping it, once it was asked to."""
    return case.here.problem if case.here is not None and case.here.desired == "Stopped" else None


# --- deletion -----------------------------------------------------------------------------------------------------


def _delete(case: VmCase) -> Decision:
    """Shut down first, then every agent forgets it; a silent host that ran it holds the deletion up."""
    if FINALIZER not in case.vm.metadata.finalizers:
        return Decision()
    report, home = Report(case), case.home
    if home is not None:
        if home.live is None and not home.off:
            message = (
                f"deleting is blocked: the agent of {home.name} does not answer ({home.error}), and the VM may run "
                f"there. If the host is off for good: set outOfService: true on XenNode {home.name}"
                f"{'' if home.node else ' (apply it again for that)'}"
            )
            return report.stalled("Deleting", Refusal(reason="AgentUnreachable", message=message)).decision()
        at = position(STOP_VM, case)
        if home.live is not None and at.step is not None:
            return report.follow(STOP_VM, at, "Deleting", _stop_problem(case)).decision()
    for name in case.world.objects.hosts():
        if case.is_here(name):
            left = ", ".join(f"{domain.name} (id {domain.domid})" for domain in case.domains(name))
            refusal = Refusal(reason="DomainLeft", message=f"{name} still has domain {left}; it must go first")
            return report.stalled("Deleting", refusal).decision()
    removal = DomainRemoval(term=case.world.term, uid=case.uid, epoch=max(grants.highest_epoch(case), 1))
    removals = tuple(
        DeleteDomain(name, case.name, removal)
        for name, host in case.world.objects.hosts().items()
        if vm_on(host, case.uid) is not None or _may_come_late(case, host)
    )
    if not removals:
        return Decision(finalizer="remove")
    report.requests = removals
    no = refusal_of(removals, case.refused)
    if no is not None:
        return report.stalled("Deleting", no).decision()
    report.progressing("Deleting", "Forgetting", "the agents forget the VM")
    report.look_again = RETRY_SECONDS
    return report.decision()


def _may_come_late(case: VmCase, host: HostView) -> bool:
    """A request to start it there could still be under way: its agent must know that the VM is gone for good."""
    at_home = case.placement is not None and host.name == case.placement.node
    return at_home and host.live is not None and case.uid not in host.live.gone
