"""A XenVM that is being deleted: shut down first, then forgotten by every agent."""

from __future__ import annotations

from agent.protocol import DomainRemoval, Refusal
from controller.domain import grants
from controller.domain.actions import FINALIZER, Decision, DeleteDomain, refusal_of
from controller.domain.engine import position
from controller.domain.plans.start_vm import STOP_VM, stop_problem
from controller.domain.vm_case import VmCase
from controller.domain.vm_report import RETRY_SECONDS, Report
from controller.domain.world import HostView, vm_on


def delete(case: VmCase) -> Decision:
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
            return report.follow(STOP_VM, at, "Deleting", stop_problem(case)).decision()
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
