"""`volume.delete/v1`: Retain keeps the logical volumes, renamed and tagged; Delete removes them."""

from __future__ import annotations

from agent.protocol import Refusal, VolumeRemoval
from controller.domain.actions import DeleteVolume, Request
from controller.domain.engine import Guard, Plan, Step
from controller.domain.volume_case import VolumeCase


def _not_used(case: VolumeCase) -> Refusal | None:
    if case.consumers:
        names = ", ".join(vm.metadata.name for vm in case.consumers)
        return Refusal(
            reason="InUse",
            message=f"it is a disk of XenVM {names}; delete the VM first, or remove the disk from its spec",
        )
    for node in case.nodes:
        view = case.view(node)
        if view and view.used_by:
            return Refusal(
                reason="InUse", message=f"it is a disk of domain {', '.join(view.used_by)}, which is still on {node}"
            )
    return None


def _members_answer(case: VolumeCase) -> Refusal | None:
    for host in case.hosts:
        if _must_answer(case, host.name) and host.live is None:
            return Refusal(
                reason="AgentUnreachable",
                message=f"the agent of {host.name} does not answer ({host.error}); what it holds cannot be given up. "
                f"If the host is off for good: set outOfService: true on XenNode {host.name}",
            )
    return None


def _must_answer(case: VolumeCase, node: str) -> bool:
    """A silent host that is gone for good by a person's word keeps what it holds; one that answers is not gone."""
    host = case.world.objects.host(node)
    return host.live is not None or (host.node is not None and not host.node.spec.out_of_service)


def _left(case: VolumeCase) -> tuple[str, ...]:
    """Members that still hold it, or would make it anew for a request that comes late; the host of a member that need
    not answer is left as it is."""
    return tuple(node for node in case.nodes if _must_answer(case, node) and not _over(case, node))


def _over(case: VolumeCase, node: str) -> bool:
    live = case.world.objects.host(node).live
    return live is not None and case.view(node) is None and case.uid in live.gone


def _remove(case: VolumeCase) -> tuple[Request, ...]:
    body = VolumeRemoval(term=case.world.term, uid=case.uid, policy=case.volume.spec.deletion_policy)
    return tuple(DeleteVolume(node, case.resource, body) for node in _left(case))


DELETE_VOLUME: Plan[VolumeCase] = Plan(
    id="volume.delete/v1",
    title="Deleting the volume",
    guards=(
        Guard("NotUsed", "no XenVM names it and no domain has it open", _not_used),
        Guard("MembersAnswer", "every member that is not out of service answers", _members_answer),
    ),
    steps=(
        Step(
            name="Remove",
            does="drbdadm down, the configuration removed, the logical volume retained (renamed, tagged) or removed; "
            "what still comes for it is refused",
            confirmed=lambda c: not _left(c),
            requests=_remove,
            waiting=lambda c: "being given up on " + " and ".join(_left(c)),
            interrupted="the removal is asked again where the resource is still there, or its end is not remembered",
        ),
    ),
)
