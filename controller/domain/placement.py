"""Where something may go, and what stands in its way: names that are taken, hosts without room."""

from __future__ import annotations

from collections.abc import Iterable

from agent.protocol import DOMAIN_OVERHEAD_MIB, HostFacts, HostState, Refusal, VolumeState
from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM
from controller.domain.volume_case import VolumeCase
from controller.domain.world import HostView, World, domains_on, vm_on


def claimed_by_another(case: VolumeCase) -> Refusal | None:
    """A resource, LV, minor or port that another object holds, or something unmanaged on a member. Names the other."""
    volume = case.volume
    spec, status = volume.spec, volume.status
    wanted = [("resource", case.resource), *(("lv", name) for name in volume.logical_volumes)]
    if spec.device.minor is not None:
        wanted.append(("minor", str(spec.device.minor)))
    if spec.device.port is not None:
        wanted.append(("port", str(spec.device.port)))
    for kind, value in wanted:
        holders = case.world.objects.claims(kind, value)
        if holders and holders[0][2] != case.uid:
            namespace, name, _ = holders[0]
            return Refusal(
                reason=_TAKEN[kind][0],
                message=f"{_TAKEN[kind][1]} {value} belongs to DrbdVolume {namespace}/{name}; {_TAKEN[kind][2]}",
            )
    for name in status.nodes or spec.nodes or ():
        if unmanaged := _unmanaged(case, case.world.objects.host(name)):
            return unmanaged
    return None


_TAKEN = {
    "resource": ("ResourceTaken", "DRBD resource", "write another one in spec.resource"),
    "lv": ("LogicalVolumeTaken", "logical volume", "write another name in spec.logicalVolume"),
    "minor": ("MinorTaken", "minor", "write another one in spec.device, or leave it out and one is chosen"),
    "port": ("PortTaken", "port", "write another one in spec.device, or leave it out and one is chosen"),
}


def _unmanaged(case: VolumeCase, host: HostView) -> Refusal | None:
    live, spec = host.live, case.volume.spec
    if live is None:
        return None
    for lv in case.volume.logical_volumes:
        found = live.logical_volumes.get(lv)
        if found is not None and found.owner_uid != case.uid:
            whose = f"of another owner ({found.owner_uid})" if found.owner_uid else "that Xentandem did not make"
            return Refusal(
                reason="LogicalVolumeTaken",
                message=f"{host.name} has a logical volume {lv} {whose}; choose another name in spec.logicalVolume",
            )
    for view in _alike(case, live):
        if view.uid == case.uid:
            continue
        if view.resource == case.resource:
            reason, what = "ResourceTaken", f"resource {case.resource}"
        elif view.minor is not None and view.minor == spec.device.minor:
            reason, what = "MinorTaken", f"minor {view.minor}"
        elif view.port is not None and view.port == spec.device.port:
            reason, what = "PortTaken", f"port {view.port}"
        else:
            continue
        whose = f"{view.namespace}/{view.name}" if view.uid else "that Xentandem did not make"
        return Refusal(
            reason=reason,
            message=f"{what} on {host.name} belongs to resource {view.resource} {whose}; choose another one",
        )
    return None


def _alike(case: VolumeCase, live: HostState) -> Iterable[VolumeState]:
    """Volumes that may have a name of this one: all if it declares numbers, else by the resource's name alone."""
    device = case.volume.spec.device
    if device.minor is not None or device.port is not None:
        return live.volumes.values()
    found = live.volumes.get(case.resource)
    return () if found is None else (found,)


def place_volume(world: World, volume: DrbdVolume) -> tuple[str, str] | Refusal:
    """Two schedulable hosts with the volume group and room, most free space first; or why there are not two."""
    group, needed = volume.spec.logical_volume.group, volume.spec.size_bytes
    fitting: list[tuple[int, str]] = []
    why: list[str] = []
    for name, host in sorted(world.objects.hosts().items()):
        reason = unfit(host)
        groups = host.live.facts.volume_groups if host.live else None
        found = next((g for g in groups or () if g.name == group), None)
        if reason is None and (found is None or host.node is None or group not in host.node.spec.volume_groups):
            reason = f"no volume group {group}"
        meta = volume.spec.meta_disk.group
        if reason is None and meta and not any(g.name == meta for g in groups or ()):
            reason = f"no volume group {meta} for the metadata"
        if reason is None and found is not None and found.free < needed:
            reason = f"{found.free >> 20} MiB free in {group}, {needed >> 20} MiB needed"
        if reason is not None:
            why.append(f"{name}: {reason}")
        elif found is not None:
            fitting.append((-found.free, name))
    if len(fitting) < 2:
        told = "; ".join(why) or "there are no XenNodes"
        return Refusal(reason="NotEnoughHosts", message=f"two hosts are needed, {len(fitting)} fit. {told}")
    first, second = sorted(name for _, name in sorted(fitting)[:2])
    return first, second


def unfit(host: HostView) -> str | None:
    """Why nothing new comes to the host."""
    if host.node is None:
        return "no XenNode"
    if host.node.spec.out_of_service or host.off:
        return "off"
    if host.node.spec.maintenance:
        return "in maintenance"
    if host.node.deleting or not host.node.spec.schedulable:
        return "not schedulable"
    if host.live is None:
        return "its agent does not answer"
    return None


def place_vm(world: World, vm: XenVM, candidates: tuple[str, ...]) -> str | Refusal:
    """The host with room for the VM that has the most left; or why none has room."""
    needed = memory_needed(vm)
    best: list[tuple[int, str]] = []
    why: list[str] = []
    for name in candidates:
        host = world.objects.host(name)
        reason, free, left = unfit(host), None, 0
        if reason is None and host.live is not None:
            free, left = free_memory(world, host, host.live.facts)
        if reason is None and free is None:
            reason = "its free memory is unknown"
        if reason is None and free is not None and free < needed:
            reason = f"{max(free, 0)} MiB free, {needed} MiB needed"
        if reason is not None:
            why.append(f"{name}: {reason}")
        else:
            best.append((-left, name))
    if not best:
        told = "; ".join(why) or "no other host holds a replica of every disk"
        return Refusal(reason="NoHostFits", message=f"no host can run the VM. {told}")
    return min(best)[1]


def memory_needed(vm: XenVM) -> int:
    """MiB that its domain takes of a host."""
    return vm.spec.memory_mib + DOMAIN_OVERHEAD_MIB


def _coming(host: HostView, vm: XenVM) -> int:
    """MiB that a VM which is placed there will take yet. A domain that is being built has its memory bit by bit."""
    domains = domains_on(host, vm.metadata.uid, vm.metadata.name)
    state = vm_on(host, vm.metadata.uid)
    if domains and (state is None or state.status != "starting"):
        return 0
    return max(0, memory_needed(vm) - sum(domain.memory_mib or 0 for domain in domains))


def free_memory(world: World, host: HostView, facts: HostFacts) -> tuple[int | None, int]:
    """MiB that are free for certain, None: not known; and MiB that no VM has, to compare hosts by.

    Agents read free memory now and then, but tell of domains at once: what a domain took since that reading is not
    free, and VMs that are placed together must not all go where most was free then.
    """
    coming = sum(_coming(host, vm) for vm in world.objects.vms_on(host.name) if vm.spec.state != "Stopped")
    held = sum(domain.memory_mib or 0 for domain in host.live.domains.values()) if host.live else 0
    left = (facts.memory_total_mib or 0) - held - coming
    return None if facts.memory_free_mib is None else min(facts.memory_free_mib - coming, left), left
