"""Many objects at the same time."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import devcluster
from api_objects import Manifest, howto
from harness import Scene, is_ready, object_writes

from controller.api.common import condition
from controller.api.xenvm import XenVM


def volumes(count: int) -> list[Manifest]:
    """Copies of the howto's volume that leave minor and port to the controller."""
    made = []
    for number in range(count):
        one = copy.deepcopy(howto("DrbdVolume", f"many-{number}"))
        one["spec"] |= {"size": "8Mi", "resource": f"many_{number}"}
        one["spec"]["logicalVolume"]["name"] = f"many_{number}"
        del one["spec"]["device"], one["spec"]["content"]
        made.append(one)
    return made


async def test_volumes_applied_at_once_get_different_minors(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str
) -> None:
    """And no agent has to refuse one: the decisions of one controller see each other's."""
    async with Scene(cluster, tmp_path, namespace) as scene:
        await scene.start()
        manifests = volumes(8)
        await scene.apply(*manifests)
        found = [await scene.until_ready("DrbdVolume", one["metadata"]["name"]) for one in manifests]
        minors = [one.status.device.minor for one in found]
        assert len(set(minors)) == len(minors)
        assert refusals(scene) == []


def greedy(name: str, memory: str, **spec: Any) -> Manifest:
    """A VM without a disk, that any host can run if it has the memory."""
    made = howto("XenVM", name)
    for field in ("node", "maxMemory", "disks", "networks"):
        del made["spec"][field]
    made["spec"] |= {"memory": memory, **spec}
    return made


async def test_vms_applied_at_once_never_overcommit_a_hosts_memory(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str
) -> None:
    """Ten that take 60 % of a host each, three hosts: three run, the others say why not, nothing flaps."""
    async with Scene(cluster, tmp_path, namespace, names=("mk1", "mk2", "mk3")) as scene:
        await scene.start()
        names = [f"greedy-{number}" for number in range(10)]
        await asyncio.gather(*(scene.apply(greedy(name, "1200Mi")) for name in names))
        uids = [(await scene.vm(name)).metadata.uid for name in names]
        truth = scene.simulation.truth
        await scene.until_true(lambda: sum(bool(truth.running(uid)) for uid in uids) == 3, "three run")
        for name in names:
            await scene.until("XenVM", name, lambda vm: is_ready(vm) or reason(vm, "Stalled") == "NoHostFits")
        await scene.until_settled(unwritten=26.0)  # agents read free memory every 10 s, what waits looks every 15 s
        assert object_writes(scene.controllers[-1]) <= 6 * len(names) + 2 * len(scene.names)
        vms = [await scene.vm(name) for name in names]
        placed = [vm.status.placement.node for vm in vms if vm.status.placement]
        assert sorted(placed) == ["mk1", "mk2", "mk3"], "who does not run is placed nowhere"
        waiting = [vm for vm in vms if vm.status.placement is None]
        assert {vm.status.phase for vm in waiting} == {"Pending"}
        for vm in waiting:
            told = condition(vm.status.conditions, "Stalled")
            assert told is not None
            assert all(f"{node}: " in told.message for node in scene.names), told.message
            assert "1204 MiB needed" in told.message
        assert refusals(scene) == [], "no host was asked for what it has not"
        first = next(vm for vm in vms if vm.status.placement)
        await scene.delete("XenVM", first.name)
        await scene.until_gone("XenVM", first.name)
        await scene.until_true(
            lambda: sum(bool(truth.running(uid)) for uid in uids) == 3, "another one takes its place"
        )


async def test_vms_that_ask_for_one_host_say_that_it_has_no_memory(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str
) -> None:
    """Nobody chose the host but who wrote spec.node: the VM stays with it, and starts when there is room."""
    async with Scene(cluster, tmp_path, namespace) as scene:
        await scene.start()
        names = ["greedy-a", "greedy-b", "greedy-c"]
        await asyncio.gather(*(scene.apply(greedy(name, "1200Mi", node="mk1")) for name in names))
        for name in names:
            await scene.until("XenVM", name, lambda vm: is_ready(vm) or reason(vm, "Stalled") is not None)
        vms = [await scene.vm(name) for name in names]
        (first,) = [vm for vm in vms if is_ready(vm)]
        assert [reason(vm, "Stalled") for vm in vms if vm is not first] == ["OutOfMemory", "OutOfMemory"]
        await scene.delete("XenVM", first.name)
        truth, uids = scene.simulation.truth, [vm.metadata.uid for vm in vms if vm is not first]
        await scene.until_true(lambda: any(map(truth.running, uids)), "another one starts when there is room", 90)


def reason(vm: XenVM, kind: str) -> str | None:
    found = condition(vm.status.conditions, kind)
    return found.reason if found else None


def refusals(scene: Scene) -> list[Any]:
    return [
        sample
        for metric in scene.controllers[0].metrics.requests.collect()
        for sample in metric.samples
        if sample.labels.get("outcome") == "refused" and sample.value
    ]
