"""What the agents promised, against status.placement: they are durable on their own, and may know more than the record.

That happens when a record was closed or lost while the agents went on, was restored from a copy, or when spec.node went
back after the release. A grant is exclusive: a host gets an epoch only after the other one gave it away on its disk.
"""

from __future__ import annotations

from agent.protocol import Refusal, VmState
from controller.api.xenvm_status import Placement
from controller.domain.actions import PutDomain
from controller.domain.vm_case import VmCase
from controller.domain.world import vm_on


def promises(case: VmCase) -> dict[str, VmState]:
    """By host, of those that answer: what its agent promised and keeps for the VM."""
    hosts = case.world.objects.hosts().items()
    return {name: state for name, host in hosts if (state := vm_on(host, case.uid)) is not None}


def highest_epoch(case: VmCase) -> int:
    """The highest epoch that the VM's record and the agents that answer know of, 0 for a new VM."""
    status = case.vm.status
    recorded = (status.placement.epoch if status.placement else 0, status.migration.epoch if status.migration else 0)
    return max(*recorded, *(state.epoch for state in promises(case).values()), 0)


def settled(case: VmCase) -> VmCase | Refusal:
    """The case with the placement that the grants speak for; or why nothing may be done before a person looked."""
    placement = case.placement
    known = promises(case)
    owners = [name for name, state in known.items() if state.granted and _counts(state, placement)]
    newest = max((known[name].epoch for name in owners), default=0)
    # A host that was off keeps what is over; where nothing of the VM is left that is no second owner.
    owners = [name for name in owners if known[name].epoch == newest or case.is_here(name)]
    if len(owners) > 1:
        return Refusal(
            reason="GrantedTwice",
            message=f"{', '.join(owners)} all keep the VM as theirs (after a restore, or a status edited by hand); "
            "compare with xl list on each, stop the wrong ones, and have their agents forget it",
        )
    if not owners:
        return case
    (name,) = owners
    epoch = known[name].epoch
    if placement is not None and (name, epoch) == (placement.node, placement.epoch):
        return case
    if placement is not None and epoch == placement.epoch:
        return Refusal(
            reason="GrantedElsewhere",
            message=f"{name} keeps the VM as its own at epoch {epoch}, but status.placement says {placement.node}; "
            "compare with xl list on both, then correct the status (kubectl edit --subresource=status)",
        )
    return case.planned(placement=Placement(node=name, epoch=epoch))


def _counts(state: VmState, placement: Placement | None) -> bool:
    return placement is None or state.epoch >= placement.epoch


def outlived(case: VmCase) -> tuple[PutDomain, ...]:
    """Hosts that still keep the VM as theirs at an epoch that is over are told the present one: they were off, or were
    not reached, when it was placed elsewhere. Where a domain or a move of it is left, that is seen to first.
    """
    placement, move = case.placement, case.vm.status.migration
    hosts = case.world.objects.hosts().values()
    if placement is None or (move is not None and move.outcome is None):
        return ()
    if any(case.uid in host.moves_by_vm for host in hosts):
        return ()
    return tuple(
        PutDomain(name, case.desired("Released", placement.epoch))
        for name, state in promises(case).items()
        if state.granted and state.epoch < placement.epoch and name != placement.node and not case.is_here(name)
    )


def given_away(case: VmCase) -> bool:
    """Did the placement's host give its epoch away, so that it may not run the VM at it any more?"""
    here, placement = case.here, case.placement
    return here is not None and placement is not None and not here.granted and here.epoch >= placement.epoch


def taken_back(case: VmCase) -> Placement | Refusal:
    """A new epoch for the same host, after it gave the VM away and nobody took it: seen, not assumed."""
    assert case.placement is not None
    home = case.placement.node
    others = (case.host(name) for name in case.members or tuple(case.world.objects.hosts()))
    silent = [host.name for host in others if host.live is None and not host.off]
    if silent:
        return Refusal(
            reason="AgentUnreachable",
            message=f"{home} gave the VM away, and {', '.join(silent)}, which may have taken it, does not answer",
        )
    for name, host in case.world.objects.hosts().items():
        if case.uid in host.moves_by_vm or case.is_here(name):
            return Refusal(
                reason="OperationOpen",
                message=f"{home} gave the VM away, and {name} still has a part of the move or a domain of it",
            )
    return Placement(node=home, epoch=highest_epoch(case) + 1)
