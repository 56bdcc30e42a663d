"""`vm.failover/v1`: from a host that is known to be off to one that has the disks."""

from __future__ import annotations

from dataclasses import dataclass

from agent.protocol import Refusal
from controller.domain.actions import record_ends
from controller.domain.alone import good_once_placed, unproved
from controller.domain.engine import Guard, Plan, Step
from controller.domain.placement import free_memory, memory_needed
from controller.domain.vm_case import VmCase


@dataclass(frozen=True)
class TakeOver:
    """A VM, and the host that shall take it over from the one of its placement."""

    case: VmCase
    target: str

    @property
    def lost(self) -> str:
        assert self.case.placement is not None
        return self.case.placement.node


def _known_off(over: TakeOver) -> Refusal | None:
    home = over.case.home
    if home is not None and home.off:
        return None
    return Refusal(reason="HostNotOff", message=f"nothing proves that {over.lost} is off; silence does not")


def _target_answers(over: TakeOver) -> Refusal | None:
    host = over.case.host(over.target)
    if host.node is None:
        return Refusal(reason="NodeNotFound", message=f"there is no XenNode {over.target}")
    if host.live is None:
        return Refusal(reason="AgentUnreachable", message=f"the agent of {over.target} does not answer: {host.error}")
    return record_ends(host)


def _disks_there(over: TakeOver) -> Refusal | None:
    """Good data on the target: it had every acknowledged write when the hosts last saw each other."""
    missing = over.case.disks_missing()
    if missing is not None:
        return missing
    for volume in over.case.volume_cases:
        name = volume.volume.name
        if over.target not in volume.nodes:
            return Refusal(
                reason="NoReplicaThere",
                message=f"{over.target} holds no replica of {name}; its replicas are on {' and '.join(volume.nodes)}",
            )
        if over.case.host(over.target).live is None:
            continue
        no = good_once_placed(volume, over.target) or unproved(volume, over.target)
        if no is not None:
            only = f"; only {over.lost} is known to have all of its data" if over.lost in volume.nodes else ""
            return Refusal(reason=no.reason, message=f"{no.message}{only}")
    return None


def _lost_by_drbd(over: TakeOver) -> Refusal | None:
    """A host that DRBD is connected with is not off, whatever was said of it."""
    for volume in over.case.volume_cases:
        view = volume.view(over.target)
        if view is not None and view.peer is not None and view.peer.connection == "Connected":
            return Refusal(
                reason="HostLives",
                message=f"DRBD on {over.target} is connected with {over.lost} ({volume.volume.name}): it lives, "
                "and the VM may run there",
            )
    return None


def _no_domain_left(over: TakeOver) -> Refusal | None:
    for name in over.case.world.objects.hosts():
        for domain in over.case.domains(name):
            return Refusal(
                reason="DomainElsewhere",
                message=f"{name} has domain {domain.name} (id {domain.domid}, uuid {domain.uuid}); "
                "a VM runs on one host only",
            )
    return None


def _no_open_part(over: TakeOver) -> Refusal | None:
    """What is open is being cancelled, or goes on by itself to its end."""
    for name, host in over.case.world.objects.hosts().items():
        for part in host.moves_by_vm.get(over.case.uid, ()):
            return Refusal(
                reason="OperationOpen", message=f"{part.id} ({part.kind}, {part.phase}) is still open on {name}"
            )
    return None


def _fits_there(over: TakeOver) -> Refusal | None:
    """What was shared out by priority was counted when the target was chosen; a host of spec.node was not chosen."""
    host, vm = over.case.host(over.target), over.case.vm
    if host.live is None or vm.spec.state == "Stopped":
        return None
    free, _ = free_memory(over.case.world, host, host.live.facts)
    needed = memory_needed(vm)
    if free is not None and free >= needed:
        return None
    told = "unknown" if free is None else f"{max(free, 0)} MiB"
    return Refusal(reason="InsufficientMemory", message=f"{needed} MiB needed on {over.target}, free there: {told}")


FAIL_OVER: Plan[TakeOver] = Plan(
    id="vm.failover/v1",
    title="Failing over",
    guards=(
        Guard("KnownOff", "the host is off by a person's word or a fence agent's, and silent", _known_off),
        Guard(
            "TargetAnswers", "the agent of the host that takes over answers; it is not recorded as off", _target_answers
        ),
        Guard(
            "DisksThere",
            "every disk is good there, and a verdict is or would be given for it",
            _disks_there,
        ),
        Guard("LostByDrbd", "DRBD on that host is not connected with the one that is off", _lost_by_drbd),
        Guard("NoDomainLeft", "no host that answers shows a domain of the VM, in any form", _no_domain_left),
        Guard("NoOpenPart", "no part of a live migration is open on a host that answers", _no_open_part),
        Guard(
            "FitsThere",
            "free memory there, the host being chosen after all VMs of higher priority got theirs",
            _fits_there,
        ),
    ),
    steps=(
        Step(
            name="Place",
            does="the placement moves to the other host, with a new epoch; then the VM is started as always",
            record="status.placement and status.displaced",
            confirmed=lambda over: over.case.placement is not None and over.case.placement.node == over.target,
            requests=lambda over: (),
            waiting=lambda over: f"the placement moves to {over.target}",
            interrupted="the placement was written or was not; the host that was lost is told when it is back, and "
            "starts nothing before",
        ),
    ),
)
