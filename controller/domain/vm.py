"""Decisions about a XenVM: where it may run, whether it runs, where it goes, how it ends."""

from __future__ import annotations

from dataclasses import replace

from agent.protocol import Refusal
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import Placement
from controller.domain import grants, hand_over, migration
from controller.domain.actions import PASSING, RECORD_ENDS, Decision, PutDomain, Refused, due, record_ends, refusal_of
from controller.domain.alone import PENDING
from controller.domain.engine import blocked, position, refusals
from controller.domain.move import left_open
from controller.domain.plans.start_vm import OFF, START_VM, STOP_VM, nowhere_else, stop_problem
from controller.domain.slots import queued
from controller.domain.takeover import host_off, take_over, waits_for_host
from controller.domain.vm_case import VmCase, ended_for_good
from controller.domain.vm_deletion import delete
from controller.domain.vm_report import RETRY_SECONDS, Report, ended_how
from controller.domain.wanted import Wanted, first_place, wanted
from controller.domain.world import World

WAITS = (
    *("VolumeNotFound", "VolumeNotReady", "VolumeDeleting", "AgentUnreachable", "NodeNotFound", "OperationOpen"),
    "HostLives",  # or DRBD has not noticed yet that it does not
    "PrimaryElsewhere",  # whoever has no use for it demotes it; a VM that has one is a reason of its own
    PENDING,  # the volume's own decision records it
    RECORD_ENDS,
)
"""Reasons that pass without anybody touching the VM: in progress, not stalled."""
QUEUED_SECONDS = 5.0
"""A move that waits for its turn is looked at again after this; one that ends tells those that wait on its hosts."""


def decide_vm(world: World, vm: XenVM, refused: tuple[Refused, ...] = ()) -> Decision:
    """The next step for one VM. Total: every world has a decision."""
    case = VmCase(world, vm, refused)
    decision = _decide(case)
    left = (*left_open(case), *grants.outlived(case))
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
        return delete(case)
    taken = _name_taken(case)
    if taken is not None:
        return Report(case).stalled("Stalled", taken).decision()
    if case.placement is None:
        return _place(case)
    want = wanted(case)
    if want.node == case.placement.node and want.nowhere is None:
        return _as_declared(case, Report(case))
    if case.home is not None and case.home.off:
        return _take_over(case, want)
    return _move(case, want)


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
    want = first_place(case)
    if isinstance(want, Refusal):
        return report.stalled("Pending", want).decision()
    placed = case.planned(placement=Placement(node=want.node, epoch=grants.highest_epoch(case) + 1))
    why_not = refusals(START_VM, placed)
    if why_not:
        reason = blocked(START_VM.title, why_not, passing=WAITS)
        if reason.reason in WAITS:
            return report.progressing("Pending", reason.reason, reason.message).decision()
        return report.stalled("Pending", reason).decision()
    return _as_declared(placed, Report(placed))


def _move(case: VmCase, want: Wanted) -> Decision:
    """It is wanted on another host than the placement's: live if it runs, else by release and new placement."""
    placement, target = case.placement, want.node
    assert placement is not None
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
    if want.nowhere is not None:
        report.not_placed(want.nowhere.reason, want.nowhere.message, warn=True)
        return _as_declared(case, report)
    off = here is None or here.status in OFF
    if off and not case.domains(placement.node):
        return _move_cold(case, report, target)
    if case.vm.spec.state == "Stopped":
        report.not_placed("Stopping", f"moving to {target} waits until the guest is shut down on {placement.node}")
        return _as_declared(case, report)
    if here is not None and here.status in ("running", "paused"):
        _settle_running(case, report, here.status)
        turn = queued(case, placement.node, target) if want.unasked else None
        if turn is None:
            return migration.begin(case, target, report)
        report.not_placed(turn.reason, turn.message)
        report.look_again = QUEUED_SECONDS
        return report.decision()
    state = here.status if here else "unknown"
    report.not_placed(
        "NotRunning",
        f"moving to {target} waits: the domain is {state} on {placement.node}; "
        "state: Stopped lets it move without running",
    )
    return _as_declared(case, report)


def _take_over(case: VmCase, want: Wanted) -> Decision:
    """The host of the placement is known to be off: the placement changes by compare-and-swap, with a new epoch."""
    taken = take_over(case, want)
    if isinstance(taken, Refusal):
        report = Report(case)
        if taken.reason in WAITS:
            return report.progressing("Pending", taken.reason, taken.message).decision()
        return report.stalled("Stalled", taken).decision()
    report = Report(taken)
    report.event("Warning", "FailedOver", f"{host_off(case)}; it is started on {want.node}")
    return _as_declared(taken, report)


def _move_cold(case: VmCase, report: Report, target: str) -> Decision:
    """No domain is left: the old host gives up its grant durably, then the placement changes, with a new epoch.

    No replica may be newer than the target's at that moment: later starts rely on the placement's host being the
    newest.
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
    assert case.placement is not None
    host = case.host(target)
    if host.node is None:
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {target}; apply it, or change spec.node")
    if host.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {target} does not answer: {host.error}")
    if (no := record_ends(host)) is not None:
        return no
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
        if (no := hand_over.without_running(volume, case.placement.node, target)) is not None:
            return no
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
    if ended_for_good(case.vm):
        for kind in ("Ready", "Stalled"):
            report.conditions.keep(kind)  # as it was seen: without a new wish nobody starts it there
        return report.decision()
    if case.home is not None and case.home.off:
        if case.vm.spec.state == "Stopped":
            return report.ready("Stopped", "Stopped", host_off(case)).decision()
        return report.stalled("Stalled", waits_for_host(case)).decision()
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
    twice = nowhere_else(case)
    if twice is not None:
        report.stalled("Paused" if status == "paused" else "Running", _made_by_hand(node, twice))
        return
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


def _made_by_hand(node: str, twice: Refusal) -> Refusal:
    """The VM is left as it is: it is the one that was placed, and DRBD keeps the other from its disks."""
    return Refusal(
        reason=twice.reason,
        message=f"{twice.message}. It was not made by Xentandem. The VM goes on on {node}, and is neither moved nor"
        " changed before the other is gone: end it there (xl destroy), and look for what started it (xendomains, a"
        " script)",
    )


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
    return report.follow(STOP_VM, at, "Stopping", stop_problem(case)).decision()
