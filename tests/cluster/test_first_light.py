"""The main job: two manifests become a replicated, running VM, and editing spec.node moves it live, there and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from api_objects import howto
from harness import Scene, object_writes, runs_on


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await made.start()
        yield made


async def test_two_manifests_become_a_running_vm_that_moves_there_and_back(scene: Scene) -> None:
    truth = scene.simulation.truth
    await scene.apply(howto("DrbdVolume"), howto("XenVM"))
    volume = await scene.until_ready("DrbdVolume", "vm-shaolin")
    assert volume.status.disk_state == "UpToDate/UpToDate"
    assert volume.status.content.detail == "ext4"
    vm = await scene.until_ready("XenVM", "shaolin")
    uid = vm.metadata.uid
    assert vm.status.phase == "Running"
    assert truth.running(uid) == ("mk1",)
    for target, epoch in (("mk2", 2), ("mk1", 3)):
        before = truth.records(uid).acknowledged
        await scene.move("shaolin", target)
        vm = await scene.until("XenVM", "shaolin", runs_on(target))
        assert vm.status.placement.epoch == epoch
        assert vm.status.migration.outcome == "Succeeded"
        assert truth.running(uid) == (target,)
        assert truth.primaries("vm_shaolin") == (target,)
        await scene.until_true(lambda at=before: truth.records(uid).acknowledged > at + 1, "the guest writes on")
    assert truth.records(uid).hosts == ["mk1", "mk2", "mk1"]
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda vm: vm.status.phase == "Stopped")
    await scene.until_true(lambda: truth.replicas_identical("vm_shaolin"), "both replicas are the same, byte for byte")


async def test_a_new_vm_and_a_move_cost_the_api_server_few_writes_and_rest_none(scene: Scene) -> None:
    controller = scene.controllers[-1]
    await scene.until_settled()
    start = object_writes(controller)
    await scene.apply(howto("DrbdVolume"), howto("XenVM"))
    await scene.until_ready("XenVM", "shaolin")
    await scene.until_settled()
    created = object_writes(controller)
    await scene.move("shaolin", "mk2")
    await scene.until("XenVM", "shaolin", runs_on("mk2"))
    await scene.until_settled()
    moved = object_writes(controller)
    # The goals are 12 and 8; how many it is depends on how long sync and transfer take (docs/benchmarks.md).
    assert created - start <= 16
    assert moved - created <= 12
