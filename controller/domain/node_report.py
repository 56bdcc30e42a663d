"""What a XenNode says beyond its agent's words: is it cleared, would its VMs fit elsewhere, does a silent one live."""

from __future__ import annotations

from collections.abc import Iterator

from agent.protocol import Refusal
from controller.api.common import condition
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.conditions import Conditions
from controller.domain.slots import is_blocked, is_queued
from controller.domain.spare import shares
from controller.domain.vm_case import VmCase
from controller.domain.volume_case import VolumeCase, created
from controller.domain.wanted import must_leave
from controller.domain.world import HostView, World

NAMED = 5
"""So many of a kind are named in a message, the rest is counted."""


# --- maintenance ----------------------------------------------------------------------------------------------------


def drained(world: World, node: XenNode, conditions: Conditions) -> None:
    """`Drained`, while spec.maintenance: what is left on the host; SafeToReboot once nothing would miss it."""
    host = world.objects.host(node.name)
    if not node.spec.maintenance:
        return
    if host.live is None:
        conditions.keep("Drained")  # as it was seen last: it may be rebooting just now
        return
    blocked = list(_blocked(world, host))
    left = [vm for vm in world.objects.vms_on(node.name) if _is_left(world, vm, node.name)]
    if left or blocked:
        moving = sum((vm.metadata.namespace, vm.metadata.name) in world.objects.moving() for vm in left)
        waiting = sum(map(is_queued, left))
        counts = f"{len(left)} VMs are left, {moving} on their way, {waiting} waiting for their turn"
        told = f"{counts}; in the way: {_listed(blocked)}" if blocked else counts
        conditions.set("Drained", "False", "Blocked" if blocked else "Moving", told)
        return
    unsafe = list(_missed(world, node.name))
    if unsafe:
        conditions.set("Drained", "True", "Drained", f"no VM runs here; not yet safe to reboot: {_listed(unsafe)}")
        return
    conditions.set(
        "Drained",
        "True",
        "SafeToReboot",
        "no VM runs here, no volume is Primary here, and each replica here has an UpToDate one elsewhere",
    )


def _is_left(world: World, vm: XenVM, node: str) -> bool:
    """Does it run there, or is it to run there, come or go?"""
    case = VmCase(world, vm)
    move = vm.status.migration
    if move is not None and move.outcome is None:
        return True
    placed = case.placement is not None and case.placement.node == node
    return case.is_here(node) or (placed and must_leave(case, node) is not None)


def _blocked(world: World, host: HostView) -> Iterator[str]:
    """VMs that something keeps there, and domains that nobody moves."""
    known = set()
    for vm in world.objects.vms_on(host.name):
        known.add(vm.metadata.uid.lower())
        if _is_left(world, vm, host.name) and is_blocked(vm) and not _moves(vm):
            yield f"XenVM {vm.metadata.namespace}/{vm.metadata.name}: {_why(vm)}"
    for domain in host.live.domains.values() if host.live else ():
        if (domain.uuid or "").lower() not in known:
            yield f"domain {domain.name} (id {domain.domid}), which belongs to no XenVM placed here"


def _moves(vm: XenVM) -> bool:
    """Live, or as one that is shut down and started elsewhere."""
    placed = condition(vm.status.conditions, "Placed")
    cold = placed is not None and placed.reason in ("Stopping", "Releasing")
    return cold or (vm.status.migration is not None and vm.status.migration.outcome is None)


def _why(vm: XenVM) -> str:
    told = {one.type: one for one in vm.status.conditions}
    stalled, placed = told.get("Stalled"), told.get("Placed")
    if stalled is not None and stalled.status == "True":
        return stalled.message
    return placed.message if placed else ""


def _missed(world: World, node: str) -> Iterator[str]:
    """Volumes that would be without an UpToDate replica, or lose their Primary, if the host went now."""
    for volume in world.objects.volumes_on(node):
        case, name = VolumeCase(world, volume), f"DrbdVolume {volume.metadata.namespace}/{volume.metadata.name}"
        view = case.view(node)
        if not created(volume.status, volume):
            yield f"{name} is still being made"
        elif view is not None and view.role == "Primary":
            yield f"{name} is Primary here"
        else:
            for other in (one for one in case.nodes if one != node):
                seen = case.view(other)
                if seen is None or seen.disk != "UpToDate":
                    yield f"{name} is {seen.disk if seen else 'not seen'} on {other}"


# --- before a host fails --------------------------------------------------------------------------------------------


def failover_ready(world: World, node: XenNode, conditions: Conditions) -> bool:
    """`FailoverReady`, where a VM has onNodeFailure: FailOver: would all of them fit elsewhere? Whether it is there."""
    if world.objects.host(node.name).off:
        return False
    found = list(shares(world, node.name))
    if not found:
        return False
    short = [share for share in found if share.why is not None]
    if not short or short[0].why is None:
        told = f"all {len(found)} VMs with onNodeFailure: FailOver would be started elsewhere if this host failed"
        conditions.set("FailoverReady", "True", "Fits", told)
        return True
    names = [
        f"{share.vm.metadata.namespace}/{share.vm.metadata.name} ({share.why.message})" for share in short if share.why
    ]
    conditions.set(
        "FailoverReady",
        "False",
        short[0].why.reason,
        f"{len(short)} of {len(found)} VMs with onNodeFailure: FailOver would not be started elsewhere if this host "
        f"failed: {_listed(names)}",
    )
    return True


# --- an agent that is silent ----------------------------------------------------------------------------------------


def silence(world: World, host: HostView) -> Refusal:
    """Is only the agent gone, or the host? By what DRBD on the other hosts says. Nothing is concluded from it."""
    connected: list[str] = []
    lost: list[str] = []
    for volume in world.objects.volumes_on(host.name):
        case = VolumeCase(world, volume)
        for other in (name for name in case.nodes if name != host.name):
            view = case.view(other)
            if view is None or view.peer is None:
                continue
            (connected if view.peer.connection == "Connected" else lost).append(f"{case.resource} on {other}")
    said = f"the agent does not answer: {host.error}"
    if connected:
        return Refusal(
            reason="AgentDown",
            message=f"{said}. The host itself lives: DRBD is connected to it ({_listed(connected)}). "
            "Its VMs go on; nothing of them can be changed before the agent is back",
        )
    if lost:
        return Refusal(
            reason="HostUnreachable",
            message=f"{said}, and DRBD is not connected to it either ({_listed(lost)}). It may be off, or cut off with "
            "its VMs running; nothing is started elsewhere before it is known to be off",
        )
    return Refusal(reason="AgentUnreachable", message=f"{said}. The host and its VMs may run on")


def _listed(names: list[str]) -> str:
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more
