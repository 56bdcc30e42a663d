"""`vm.start/v1`, `vm.stop/v1`: from Primary disks to a running domain, and back."""

from __future__ import annotations

from agent.protocol import Refusal
from controller.domain.actions import Request
from controller.domain.engine import Guard, Plan, Step
from controller.domain.vm_case import VmCase


def _home_answers(case: VmCase) -> Refusal | None:
    home = case.home
    if home is None or home.node is None:
        name = case.placement.node if case.placement else case.vm.spec.node
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {name}; apply one, or change spec.node")
    if home.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {home.name} does not answer: {home.error}")
    if home.node.spec.out_of_service:
        return Refusal(reason="OutOfService", message=f"{home.name} is out of service by a person's word")
    return None


def _disks_ready(case: VmCase) -> Refusal | None:
    return case.disks_missing()


def _replica_here(case: VmCase) -> Refusal | None:
    if case.placement is None or not case.volume_cases:
        return None
    node = case.placement.node
    for volume in case.volume_cases:
        if node not in volume.nodes:
            return Refusal(
                reason="NoReplicaHere",
                message=f"{node} holds no replica of {volume.volume.name}; its replicas are on "
                f"{' and '.join(volume.nodes)}: set spec.node to one of them",
            )
    return None


def _up_to_date_here(case: VmCase) -> Refusal | None:
    if case.placement is None or case.home is None or case.home.live is None:
        return None
    node = case.placement.node
    for volume in case.volume_cases:
        view = volume.view(node)
        if view is None:
            return Refusal(reason="ReplicaMissing", message=f"{node} does not show the replica of {volume.volume.name}")
        if view.disk != "UpToDate":
            return Refusal(
                reason="DiskNotUpToDate", message=f"{volume.volume.name} is {view.disk} on {node}, not UpToDate"
            )
        if view.suspended != "no":
            return Refusal(reason="Suspended", message=f"IO of {volume.volume.name} on {node} is frozen")
        if view.peer is not None and view.peer.role == "Primary":
            return Refusal(
                reason="PrimaryElsewhere", message=f"{volume.volume.name} is Primary on the other host of {node}"
            )
    return None


def _nowhere_else(case: VmCase) -> Refusal | None:
    """A domain of the VM on another host, in any form, forbids a start: found by uuid and by name, also unmanaged."""
    assert case.placement is not None
    for name, host in case.world.objects.hosts().items():
        if name == case.placement.node or host.live is None:
            continue
        for domain in case.domains(name):
            return Refusal(
                reason="DomainElsewhere",
                message=f"{name} has domain {domain.name} (id {domain.domid}, uuid {domain.uuid}); "
                "a VM runs on one host only",
            )
    return None


def _running(case: VmCase) -> bool:
    here, placement = case.here, case.placement
    wish = "paused" if case.vm.spec.state == "Paused" else "running"
    return here is not None and placement is not None and here.epoch == placement.epoch and here.status == wish


def _create(case: VmCase) -> tuple[Request, ...]:
    return (case.put("Paused" if case.vm.spec.state == "Paused" else "Running"),)


def _stopped(case: VmCase) -> bool:
    here = case.here
    return here is None or (here.status == "absent" and here.desired in ("Stopped", "Released"))


START_VM: Plan[VmCase] = Plan(
    id="vm.start/v1",
    title="Starting the VM",
    guards=(
        Guard("DisksReady", "every disk's volume is there, synchronised once, with its content", _disks_ready),
        Guard("HomeAnswers", "the agent of the placement's host answers", _home_answers),
        Guard("ReplicaHere", "the host holds a replica of every disk", _replica_here),
        Guard("UpToDateHere", "every replica is UpToDate here, not frozen, and Primary nowhere else", _up_to_date_here),
        Guard("NowhereElse", "no other host shows a domain of the VM", _nowhere_else),
    ),
    steps=(
        Step(
            name="Promote",
            does="every disk becomes Primary on the placement's host",
            record="status.placement: node and epoch",
            confirmed=lambda c: c.placement is not None and not c.not_primary_at(c.placement.node),
            requests=lambda c: c.promotions(c.placement.node) if c.placement else (),
            waiting=lambda c: f"the disks become Primary on {c.placement.node if c.placement else ''}",
            interrupted="Primary without a user does no harm; promotion is repeated",
        ),
        Step(
            name="Create",
            does="the agent promises the epoch, creates the domain paused, checks its disks, and unpauses it",
            confirmed=_running,
            requests=_create,
            waiting=lambda c: f"the domain starts on {c.placement.node if c.placement else ''}",
            interrupted="the agent knows by its journal and by xl whether the domain is there: never two",
        ),
    ),
)

STOP_VM: Plan[VmCase] = Plan(
    id="vm.stop/v1",
    title="Stopping the VM",
    guards=(Guard("HomeAnswers", "the agent of the placement's host answers", _home_answers),),
    steps=(
        Step(
            name="Shutdown",
            does="clean shutdown; destroyed after spec.shutdownGraceSeconds",
            confirmed=_stopped,
            requests=lambda c: (c.put("Stopped"),),
            waiting=lambda c: f"the guest shuts down on {c.placement.node if c.placement else ''}",
            interrupted="the agent goes on with the shutdown that its journal holds",
        ),
    ),
)
