"""A host fails and its VMs are taken over; it returns, starts nothing, and gets them back when it has caught up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from harness import Scene, is_ready, runs_on
from test_maintenance import pair, says

from controller.api.common import Condition, condition
from controller.api.xenvm import XenVM


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await made.start()
        yield made


async def running(scene: Scene, name: str, **spec: object) -> XenVM:
    """On mk1, its volume whole under fencing."""
    await scene.apply(*pair(name, **spec))
    found: XenVM = await scene.until("XenVM", name, runs_on("mk1"))
    await scene.until("DrbdVolume", f"vm-{name}", lambda volume: is_ready(volume) and volume.status.fenced)
    return found


def stalled(vm: XenVM) -> Condition:
    found = condition(vm.status.conditions, "Stalled")
    assert found is not None
    return found


async def writes_on(scene: Scene, vm: XenVM) -> None:
    records = scene.simulation.truth.records(vm.metadata.uid)
    before = records.acknowledged
    await scene.until_true(lambda: records.acknowledged > before + 1, "the guest writes")


async def test_rows_04_06_taken_over_by_a_persons_word_and_back_when_the_host_is(scene: Scene) -> None:
    truth = scene.simulation.truth
    vm, stays = await running(scene, "a", onNodeFailure="FailOver"), await running(scene, "b")
    uid = vm.metadata.uid
    await writes_on(scene, vm)
    await scene.crash_host("mk1")
    for name in "ab":
        await scene.until("XenVM", name, lambda one: one.status.phase == "Unknown")
    await scene.until("XenNode", "mk1", says("Ready", "HostUnreachable"))
    assert truth.running(uid) == (), "silence is no evidence"
    acknowledged = truth.records(uid).acknowledged
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": True}})
    vm = await scene.until("XenVM", "a", runs_on("mk2"))
    assert (vm.status.placement.epoch, vm.status.run) == (2, 2)
    assert (vm.spec.node, vm.status.displaced.summary) == ("mk1", "from mk1, OutOfService")
    assert is_ready(vm), "Argo CD and Flux stay green"
    assert truth.running(uid) == ("mk2",)
    assert truth.primaries("vm_a") == ("mk2",)
    verdict = (await scene.volume("vm-a")).status.verdict
    assert verdict is not None
    assert (verdict.survivor, verdict.reason) == ("mk2", "Fenced")
    assert truth.records(uid).acknowledged >= acknowledged
    await writes_on(scene, vm)
    waiting = await scene.until("XenVM", "b", says("Stalled", "HostOff"))
    assert "onNodeFailure: FailOver" in stalled(waiting).message
    assert truth.running(stays.metadata.uid) == ()

    await scene.boot_host("mk1")
    await scene.until_agent(
        "mk1",
        lambda state: uid in state.vms and (state.vms[uid].epoch, state.vms[uid].granted) == (2, False),
        "that its epoch is over",
    )
    assert truth.running(uid) == ("mk2",)
    await scene.until("DrbdVolume", "vm-a", lambda volume: is_ready(volume) and not volume.status.verdict.survivor)
    found = await scene.vm("a")
    assert runs_on("mk2")(found), "mk1 is out of service by a person's word, whoever answers there"
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": False}})
    vm = await scene.until("XenVM", "a", runs_on("mk1"), 90)
    assert vm.status.placement.epoch == 3
    assert truth.running(uid) == ("mk1",)
    vm = await scene.until("XenVM", "a", says("Placed", "AsDeclared"))
    assert vm.status.displaced is None
    await scene.until("XenVM", "b", runs_on("mk1"), 90)


async def test_row_03_without_good_data_it_waits_for_its_host(scene: Scene) -> None:
    truth = scene.simulation.truth
    vm = await running(scene, "a", onNodeFailure="FailOver")
    await scene.crash_host("mk2")
    await scene.until("DrbdVolume", "vm-a", lambda volume: volume.status.verdict is not None)
    await writes_on(scene, vm)
    await scene.crash_host("mk1")
    await scene.boot_host("mk2")
    await scene.until("XenNode", "mk2", is_ready)
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": True}})
    found = await scene.until("XenVM", "a", lambda one: one.status.phase == "Stalled")
    assert stalled(found).reason in ("DiskNotUpToDate", "RecordedStale")
    assert truth.running(vm.metadata.uid) == ()
    assert found.status.placement.node == "mk1"
    await scene.boot_host("mk1")
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": False}})
    found = await scene.until("XenVM", "a", runs_on("mk1"), 90)
    assert truth.running(vm.metadata.uid) == ("mk1",)


async def test_the_node_edited_by_a_person_takes_a_vm_over_that_would_stay(scene: Scene) -> None:
    vm = await running(scene, "a")
    await scene.crash_host("mk1")
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": True}})
    await scene.until("XenVM", "a", says("Stalled", "HostOff"))
    await scene.move("a", "mk2")
    found = await scene.until("XenVM", "a", runs_on("mk2"))
    assert found.status.displaced is None
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk2",)
