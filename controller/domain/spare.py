"""Memory for the VMs of a host that is lost, or may be: who gets it, by priority, and who would not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.protocol import Refusal
from controller.api.xenvm import XenVM
from controller.domain.alone import good_once_placed, unproved
from controller.domain.placement import free_memory, memory_needed, unfit
from controller.domain.vm_case import VmCase, ended_for_good
from controller.domain.world import World


@dataclass(frozen=True, slots=True)
class Share:
    """What one VM of the lost host gets: the host that has room for it, or why none has."""

    vm: XenVM
    host: str | None
    why: Refusal | None = None


def shares(world: World, lost: str) -> Iterator[Share]:
    """VMs on the host with onNodeFailure: FailOver that run or shall run, in order of priority."""
    free: dict[str, int] = {}
    for vm in _heirs(world, lost):
        case, needed = VmCase(world, vm), memory_needed(vm)
        why = {name: no for name in case.candidates if name != lost and (no := _no_room(case, name, needed, free))}
        fitting = [(-free[name], name) for name in case.candidates if name != lost and name not in why]
        if fitting:
            host = min(fitting)[1]
            free[host] -= needed
            yield Share(vm, host)
            continue
        told = "; ".join(f"{name}: {no.message}" for name, no in why.items()) or "no other host has its disks"
        reason = next(iter(why.values())).reason if why else "NoReplicaElsewhere"
        yield Share(vm, None, Refusal(reason=reason, message=told))


def share_of(case: VmCase, lost: str) -> Share | None:
    """None: it is not one that fails over from there."""
    return next((share for share in shares(case.world, lost) if share.vm.metadata.uid == case.uid), None)


def _heirs(world: World, lost: str) -> list[XenVM]:
    others = (name for name in world.objects.hosts() if name != lost)
    taken = {vm.metadata.uid for name in others for vm in world.objects.vms_on(name)}  # also by a status on its way
    found = [
        vm
        for vm in world.objects.vms_on(lost)
        if vm.spec.on_node_failure == "FailOver"
        and vm.spec.state != "Stopped"
        and vm.metadata.uid not in taken
        and not (vm.deleting or ended_for_good(vm))
    ]
    return sorted(found, key=lambda vm: (-vm.spec.priority, vm.metadata.namespace, vm.metadata.name))


def _no_room(case: VmCase, name: str, needed: int, free: dict[str, int]) -> Refusal | None:
    """`free`: MiB on the hosts that were looked at, after those that came first."""
    host = case.host(name)
    no = unfit(host)
    if no is not None or host.live is None:
        return Refusal(reason="HostNotUsable", message=no or "unknown")
    for volume in case.volume_cases:
        bad = good_once_placed(volume, name)
        if bad is None and any(one.off for one in volume.hosts):
            bad = unproved(volume, name)
        if bad is not None:
            return bad
    if name not in free:
        found, _ = free_memory(case.world, host, host.live.facts)
        if found is None:
            return Refusal(reason="InsufficientMemory", message="its free memory is unknown")
        free[name] = found
    if free[name] < needed:
        return Refusal(reason="InsufficientMemory", message=f"{max(free[name], 0)} MiB free, {needed} MiB needed")
    return None
