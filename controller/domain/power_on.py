"""Decisions about switching a fenced host on again (spec.fencing.powerOn). Pure.

First the evidence that it is off is recorded, and everything that follows from it: its VMs are placed elsewhere and run
there, or it is said why they cannot. Then the request is written, with which the evidence ends (HostView.off): whatever
is decided from here on is decided about a host that may be on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.api.common import condition
from controller.api.fencing import PowerOnStatus
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.actions import Event
from controller.domain.conditions import seconds, timestamp
from controller.domain.fencing_guards import to_save
from controller.domain.power import Device, PowerOn
from controller.domain.vm_case import ended_for_good
from controller.domain.world import World

if TYPE_CHECKING:
    from controller.domain.fencing import Fencing

LOOK_SECONDS = 5.0
FIRST_RETRY, LAST_RETRY = 10.0, 300.0


def retry_after(attempt: int) -> float:
    """Seconds after a fence agent's attempt that failed."""
    return min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(attempt - 1, 16))


def switch_on(world: World, node: XenNode, made: Fencing) -> None:
    """Begin, follow, or repeat it. Nothing where it is not asked for, or the evidence is contradicted."""
    fenced, spec = made.fenced, node.spec.fencing
    if fenced is None or fenced.contradicted_at is not None or node.deleting or node.spec.out_of_service:
        return
    if spec is None or spec.power_on != "AfterFencing" or spec.device != fenced.device:
        return
    now = fenced.power_on
    if now is not None and now.done_at is not None:
        return
    if now is None:
        if unsettled(world, node.name):
            made.again(LOOK_SECONDS)
            return
        at = timestamp(world.now)
        now = PowerOnStatus(requested_at=at, not_before=at)
        made.events.append(Event("Normal", "SwitchingOn", f"{spec.agent} is to switch it on again"))
    command = PowerOn(node.name, Device.of(spec), fenced.operation, now.attempt)
    result = world.power.get(command)
    if result is None and world.now >= seconds(now.not_before):
        made.power.append(command)
    elif result is not None and result.state == "on":
        now = now.model_copy(update={"done_at": timestamp(result.at), "result": result.said})
        made.events.append(Event("Normal", "SwitchedOn", result.said))
    elif result is not None and result.state != "running":
        wait = retry_after(now.attempt)
        update = {"attempt": now.attempt + 1, "not_before": timestamp(world.now + wait), "result": result.said}
        made.events.append(Event("Warning", "SwitchOnFailed", f"attempt {now.attempt}: {result.said}"))
        now = now.model_copy(update=update)
    made.fenced = fenced.model_copy(update={"power_on": now})
    made.again(LOOK_SECONDS)


def unsettled(world: World, name: str) -> list[XenVM]:
    """VMs of which something follows from the host's being off, and is not yet done, nor said to be impossible."""
    placed = [vm for host in world.objects.hosts() for vm in world.objects.vms_on(host)]
    volumes = [(one.metadata.namespace, one.metadata.name) for one in world.objects.volumes_on(name)]
    shared = {vm.metadata.uid for volume in volumes for vm in world.objects.vms_using(volume)}
    taken = [vm for vm in placed if _moves(vm, name) or (_came_from(vm, name, shared) and not _settled(vm))]
    return [vm for vm in (*to_save(world, name), *taken) if not _stalled(vm)]


def _moves(vm: XenVM, name: str) -> bool:
    move = vm.status.migration
    return move is not None and move.outcome is None and name in (move.source, move.target)


def _came_from(vm: XenVM, name: str, shared: set[str]) -> bool:
    """Is it elsewhere, and may it have been here? One without spec.node is not said to be displaced."""
    away, placement = vm.status.displaced, vm.status.placement
    here = vm.metadata.uid in shared or (away is not None and away.from_node == name)
    return here and placement is not None and placement.node != name


def _settled(vm: XenVM) -> bool:
    there = vm.status.phase in ("Running", "Paused", "Stopped", "Halted", "Crashed")
    return there or vm.deleting or vm.spec.state == "Stopped" or ended_for_good(vm)


def _stalled(vm: XenVM) -> bool:
    found = condition(vm.status.conditions, "Stalled")
    return found is not None and found.status == "True"
