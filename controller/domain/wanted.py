"""Where a VM is wanted: on the host of spec.node, or where it was placed; elsewhere while that host is in maintenance,
or known to be off. spec is never written: status.displaced keeps why it is elsewhere, and so how it comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.protocol import Refusal
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import Displaced, XenVMStatus
from controller.domain.conditions import timestamp
from controller.domain.placement import place_vm
from controller.domain.spare import share_of
from controller.domain.vm_case import VmCase, ended_for_good
from controller.domain.world import HostView

Cause = Literal["Maintenance", "OutOfService", "Fenced"]
"""Why nothing is wanted on a host."""
WORDS: dict[Cause, str] = {
    "Maintenance": "in maintenance",
    "OutOfService": "off, by a person's word (outOfService)",
    "Fenced": "off, by its fence agent's word",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """`node`: the host that shall run it. `nowhere`: it has to leave that host, and no other one can take it."""

    node: str
    reason: Literal["Declared", "Displaced", "Failback"] | Cause
    nowhere: Refusal | None = None

    @property
    def unasked(self) -> bool:
        """Nobody asked for this move by name: limits and priorities hold."""
        return self.reason in ("Maintenance", "Failback")


def trouble(host: HostView) -> Cause | None:
    """Why nothing is wanted there. An agent's silence is no reason: its host may run on."""
    if host.node is None:
        return None
    if host.node.spec.out_of_service:
        return "OutOfService"
    if host.off:
        return "Fenced"
    return "Maintenance" if host.node.spec.maintenance else None


def wanted(case: VmCase) -> Wanted:
    """Where a VM that is placed belongs now. Total, and the same for the same world."""
    assert case.placement is not None
    here = case.placement.node
    declared = case.vm.spec.node or here
    cause = must_leave(case, here)
    if cause is not None:
        return _elsewhere(case, here, declared, cause)
    if declared == here:
        return Wanted(here, "Declared")
    if trouble(case.host(declared)) is not None:
        return Wanted(here, "Displaced")
    away = valid(case)
    if away is None:
        return Wanted(declared, "Declared")
    return Wanted(here, "Displaced") if _stays(case, away, here) else Wanted(declared, "Failback")


def first_place(case: VmCase) -> Wanted | Refusal:
    """Where a VM that was never placed begins."""
    declared = case.vm.spec.node
    if declared is None:
        found = place_vm(case.world, case.vm, case.candidates)
        return found if isinstance(found, Refusal) else Wanted(found, "Declared")
    cause = trouble(case.host(declared))
    if cause is None or (cause != "Maintenance" and case.vm.spec.on_node_failure == "Stay"):
        return Wanted(declared, "Declared")
    place = _elsewhere(case, declared, declared, cause)
    return place.nowhere or place


def must_leave(case: VmCase, node: str) -> Cause | None:
    """Why a VM that is placed there may not stay; None: it may, or has nothing there that runs or shall run."""
    host = case.host(node)
    if case.vm.spec.state == "Stopped" or ended_for_good(case.vm):
        return None
    if host.off:  # not where only a person says so, and its agent answers
        return trouble(host) if case.vm.spec.on_node_failure == "FailOver" else None
    return "Maintenance" if host.node is not None and host.node.spec.maintenance else None


def belongs_at(case: VmCase, source: str) -> bool:
    """Is a move away from there not wanted any more? By wishes alone: a disk that resyncs ends no move."""
    if must_leave(case, source) is not None:
        return False
    declared = case.vm.spec.node or source
    if declared == source or trouble(case.host(declared)) is not None:
        return True
    away = valid(case)
    return away is not None and _policy(case.vm, away) == "Manual"


def _elsewhere(case: VmCase, here: str, declared: str, cause: Cause) -> Wanted:
    host = case.host(declared)
    if declared != here and trouble(host) is None and host.live is not None:
        return Wanted(declared, cause if valid(case) else "Declared")
    share = share_of(case, here) if cause != "Maintenance" else None
    if share is not None:
        found = share.host or share.why
    else:
        found = place_vm(case.world, case.vm, tuple(node for node in case.candidates if node != here))
    if isinstance(found, str):
        return Wanted(found, cause)
    assert found is not None
    why = Refusal(reason=found.reason, message=f"{here} is {WORDS[cause]}, and no other host takes it: {found.message}")
    return Wanted(here, cause, nowhere=why)


# --- away from the host of spec.node --------------------------------------------------------------------------------


def valid(case: VmCase) -> Displaced | None:
    """status.displaced, unless spec.node was edited since: then the edit says where it is wanted."""
    away = case.vm.status.displaced
    return away if away is not None and away.from_node == case.vm.spec.node else None


def displaced(case: VmCase, status: XenVMStatus) -> Displaced | None:
    """What `status` shall say of it: from the moment when it is being brought elsewhere until it is back."""
    declared, move = case.vm.spec.node, status.migration
    node = status.placement.node if status.placement else None
    if move is not None and move.outcome is None and move.target != declared:
        node = move.target
    if declared is None or node in (declared, None):
        return None
    away, cause = valid(case), trouble(case.host(declared))
    if cause is None or (away is not None and away.reason == cause):
        return away
    return Displaced(
        from_node=declared, reason=cause, since=away.since if away is not None else timestamp(case.world.now)
    )


def told(case: VmCase, away: Displaced, node: str) -> str:
    """Why it is on `node`, and how it comes back."""
    cause = trouble(case.host(away.from_node))
    if cause is not None:
        return f"placed on {node}: {away.from_node} is {WORDS[cause]}"
    follows = _stays(case, away, node) or "it goes back"
    return f"placed on {node}, since {away.from_node} was {WORDS[away.reason]}; {follows}"


def _policy(vm: XenVM, away: Displaced) -> Literal["Automatic", "Manual"]:
    return vm.spec.failback or ("Manual" if away.reason == "Fenced" else "Automatic")


def _stays(case: VmCase, away: Displaced, here: str) -> str:
    """Why it does not go back now; empty: it shall."""
    back = away.from_node
    if _policy(case.vm, away) == "Manual":
        if case.vm.spec.failback == "Manual":
            return f"failback is Manual: it stays until spec.node is edited (to {here}, and to {back} when it may go)"
        return (
            f"it stays until somebody says that {back} is good: take {back} through a maintenance (true, then false), "
            f"or set failback: Automatic, or spec.node: {here}"
        )
    if ended_for_good(case.vm):
        return f"it goes back to {back} when it is started again"
    if case.host(here).off:
        return f"{here} is off, too"
    if case.host(back).live is None:
        return f"it goes back when the agent of {back} answers"
    behind = [volume.volume.name for volume in case.volume_cases if not (volume.everywhere() and volume.up_to_date())]
    if behind:
        return f"it goes back to {back} when {', '.join(behind)} is UpToDate on both hosts"
    return ""
