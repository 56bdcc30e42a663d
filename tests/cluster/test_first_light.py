"""The main job: two manifests become a replicated, running VM, and editing spec.node moves it live, there and back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import devcluster
import pytest
from api_objects import howto
from harness import Scene, object_writes, runs_on

from agent.simulation.truth import Truth
from controller.api.common import quantity_bytes
from controller.api.xennode import XenNode
from controller.domain.actions import STEP_SECONDS


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
        await scene.until_true(partial(wrote_on, truth, uid, before), "the guest writes on")
    assert truth.records(uid).hosts == ["mk1", "mk2", "mk1"]
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda vm: vm.status.phase == "Stopped")
    await scene.until_true(lambda: truth.replicas_identical("vm_shaolin"), "both replicas are the same, byte for byte")


async def test_a_new_vm_and_a_move_cost_the_api_server_few_writes_and_rest_none(scene: Scene) -> None:
    """The hosts' facts too: each XenNode is written once for all that changed there, within 30 s."""
    await scene.until_settled()
    created, lasted = await writes_of(
        scene, lambda: scene.apply(howto("DrbdVolume"), howto("XenVM")), "mk1", memory={"mk1": -512, "mk2": 0}
    )
    assert created <= 12 + told_meanwhile(lasted)
    moved, lasted = await writes_of(
        scene, lambda: scene.move("shaolin", "mk2"), "mk2", memory={"mk1": 512, "mk2": -512}
    )
    assert moved <= 8 + told_meanwhile(lasted)


def told_meanwhile(seconds: float) -> int:
    """What lasts tells its steps now and then, and once that the sync has started."""
    times = int(seconds / STEP_SECONDS)
    return times + min(times, 1)


async def writes_of(
    scene: Scene, act: Callable[[], Awaitable[None]], node: str, *, memory: dict[str, int]
) -> tuple[int, float]:
    """API writes until the VM runs there and all is told, the hosts' facts too; and how long the VM took.

    `memory`: by how many MiB the free memory of each host changes by it.
    """
    controller = scene.controllers[-1]
    expected = {name: free_mib(await scene.node(name)) + change for name, change in memory.items()}
    before, begun = object_writes(controller), time.monotonic()
    await act()
    await scene.until("XenVM", "shaolin", runs_on(node))
    await scene.until_ready("XenVM", "shaolin")
    lasted = time.monotonic() - begun
    for name, free in expected.items():
        await scene.until("XenNode", name, partial(has_free, free), 30)
    await scene.until_settled()
    return object_writes(controller) - before, lasted


def wrote_on(truth: Truth, uid: str, before: int) -> bool:
    return truth.records(uid).acknowledged > before + 1


def has_free(mib: int, node: XenNode) -> bool:
    return free_mib(node) == mib


def free_mib(node: XenNode) -> int:
    assert node.status.memory is not None
    return quantity_bytes(node.status.memory.free) >> 20
