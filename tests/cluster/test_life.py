"""A VM's and a volume's life: stopped, paused, rebooted and ended by the guest itself, deleted with both policies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import devcluster
import pytest
from api_objects import Manifest, howto
from harness import Scene, is_ready, runs_on

from agent.simulation.hypervisor import Domain, Xen
from controller.api.common import condition
from controller.api.xenvm import XenVM


def small_volume(name: str = "", **spec: object) -> Manifest:
    made = howto("DrbdVolume", name)
    made["spec"] |= {"size": "32Mi", **spec}
    return made


def vm_manifest(**spec: object) -> Manifest:
    made = howto("XenVM")
    made["spec"] |= spec
    return made


def in_phase(*phases: str) -> Callable[[XenVM], bool]:
    return lambda vm: vm.status.phase in phases


def domain(scene: Scene, node: str = "mk1") -> Domain | None:
    return Xen.of(scene.simulation.hosts[node]).find("shaolin")


def guest_does(scene: Scene, what: str) -> None:
    found = domain(scene)
    assert found is not None
    assert found.guest is not None
    getattr(found.guest, what)()


@pytest.fixture
async def empty(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await made.start()
        yield made


@pytest.fixture
async def scene(empty: Scene) -> Scene:
    """The howto's VM runs on mk1."""
    await empty.apply(small_volume(), vm_manifest(shutdownGraceSeconds=3))
    await empty.until("XenVM", "shaolin", runs_on("mk1"))
    return empty


# --- states -----------------------------------------------------------------------------------------------------------


async def test_stopped_is_shut_down_and_demoted_and_running_starts_it_again(scene: Scene) -> None:
    truth = scene.simulation.truth
    vm = await scene.vm()
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    stopped = await scene.until("XenVM", "shaolin", lambda vm: is_ready(vm) and vm.status.phase == "Stopped")
    assert truth.running(vm.metadata.uid) == ()
    assert domain(scene) is None
    assert stopped.status.placement == vm.status.placement
    await scene.until_true(lambda: truth.primaries("vm_shaolin") == (), "demoted, for nobody needs it")
    await scene.until("DrbdVolume", "vm-shaolin", lambda volume: volume.status.primary == "" and is_ready(volume))
    assert truth.replicas_identical("vm_shaolin")
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    again = await scene.until("XenVM", "shaolin", runs_on("mk1"))
    assert again.status.run > vm.status.run
    assert truth.running(vm.metadata.uid) == ("mk1",)


async def test_a_guest_that_does_not_shut_down_is_destroyed_after_its_time(scene: Scene) -> None:
    found = domain(scene)
    assert found is not None
    assert found.guest is not None
    found.guest.ask = lambda word: None  # type: ignore[method-assign]  # deaf
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", in_phase("Stopping"))
    await scene.until("XenVM", "shaolin", in_phase("Stopped"))
    assert domain(scene) is None


async def test_paused_stays_in_memory_and_goes_on(scene: Scene) -> None:
    truth, uid = scene.simulation.truth, (await scene.vm()).metadata.uid
    found = domain(scene)
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Paused"}})
    await scene.until("XenVM", "shaolin", lambda vm: is_ready(vm) and vm.status.phase == "Paused")
    assert truth.running(uid) == ()
    assert domain(scene) is found
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    assert domain(scene) is found, "not started anew"
    assert truth.running(uid) == ("mk1",)


async def test_a_stopped_vm_is_moved_by_its_placement_alone(scene: Scene) -> None:
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", in_phase("Stopped"))
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", lambda vm: vm.status.placement.node == "mk2")
    assert vm.status.placement.epoch == 2
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    await scene.until("XenVM", "shaolin", runs_on("mk2"))
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk2",)


# --- what the guest does itself ---------------------------------------------------------------------------------------


async def test_a_guest_that_reboots_is_started_again_on_its_host(scene: Scene) -> None:
    truth, vm = scene.simulation.truth, await scene.vm()
    before = domain(scene)
    guest_does(scene, "reboot")
    await scene.until_true(lambda: domain(scene) not in (None, before), "it was started again")
    vm = await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and vm.status.restarts == 1)
    await scene.until_true(lambda: truth.running(vm.metadata.uid) == ("mk1",), "it runs")


async def test_a_guest_that_powers_itself_off_stays_off_until_it_is_asked_for(scene: Scene) -> None:
    guest_does(scene, "poweroff")
    vm = await scene.until("XenVM", "shaolin", in_phase("Halted", "Stopped"))
    await scene.until_settled()
    assert domain(scene) is None
    assert (await scene.vm()).status.run == vm.status.run, "it is not started again by mistake"
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda vm: is_ready(vm) and vm.status.phase == "Stopped")
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    await scene.until("XenVM", "shaolin", runs_on("mk1"))


async def test_a_guest_that_crashes_is_started_again(scene: Scene) -> None:
    before = domain(scene)
    guest_does(scene, "crash")
    await scene.until_true(lambda: domain(scene) not in (None, before), "it was started again")
    await scene.until("XenVM", "shaolin", runs_on("mk1"))


async def test_a_crashed_guest_that_is_to_be_preserved_is_kept(empty: Scene) -> None:
    await empty.apply(small_volume(), vm_manifest(onCrash="preserve"))
    await empty.until("XenVM", "shaolin", runs_on("mk1"))
    found = domain(empty)
    guest_does(empty, "crash")
    await empty.until("XenVM", "shaolin", in_phase("Crashed"))
    assert domain(empty) is found


# --- deletion ---------------------------------------------------------------------------------------------------------


async def test_deleting_a_vm_shuts_it_down_first_and_leaves_its_volume(scene: Scene) -> None:
    truth, uid = scene.simulation.truth, (await scene.vm()).metadata.uid
    await scene.delete("XenVM", "shaolin")
    await scene.until_gone("XenVM", "shaolin")
    assert truth.running(uid) == ()
    for agent in scene.agents.values():
        assert uid not in agent.context.observer.state.vms
    volume = await scene.until("DrbdVolume", "vm-shaolin", lambda volume: volume.status.used_by == ())
    assert volume.status.phase == "Ready"


async def test_a_volume_in_use_is_not_deleted_and_says_who_uses_it(scene: Scene) -> None:
    await scene.delete("DrbdVolume", "vm-shaolin")
    volume = await scene.until("DrbdVolume", "vm-shaolin", lambda volume: volume.status.phase == "Deleting")
    said = " ".join(one.message for one in volume.status.conditions)
    assert "shaolin" in said
    await scene.until_settled()
    assert (await scene.vm()).status.phase == "Running"
    await scene.delete("XenVM", "shaolin")
    await scene.until_gone("XenVM", "shaolin")
    await scene.until_gone("DrbdVolume", "vm-shaolin")


async def test_retain_keeps_the_logical_volumes_and_delete_removes_them(empty: Scene) -> None:
    kept, gone = small_volume(), small_volume("gone", deletionPolicy="Delete")
    gone["spec"] |= {"logicalVolume": {"group": "vg0", "name": "gone"}, "resource": "gone", "device": {}}
    await empty.apply(kept, gone)
    await empty.until_ready("DrbdVolume", "vm-shaolin")
    uid = (await empty.until_ready("DrbdVolume", "gone")).metadata.uid
    for name in ("vm-shaolin", "gone"):
        await empty.delete("DrbdVolume", name)
        await empty.until_gone("DrbdVolume", name)
    for agent in empty.agents.values():
        state = agent.context.observer.state
        assert state.volumes == {}
        assert uid not in {one.owner_uid for one in state.logical_volumes.values()}
        retained = [one for one in state.logical_volumes.values() if one.retained]
        assert len(retained) == 1
        assert "vg0/vm_shaolin" not in state.logical_volumes, "renamed, so that its name is free"
    await empty.apply(small_volume())
    again = await empty.until_ready("DrbdVolume", "vm-shaolin")
    assert again.status.content.state == "Written"


# --- what stands in the way -------------------------------------------------------------------------------------------


async def test_names_that_another_object_has_are_refused_and_given_once_they_are_free(empty: Scene) -> None:
    await empty.apply(small_volume())
    await empty.until_ready("DrbdVolume", "vm-shaolin")
    second = small_volume("second", logicalVolume={"group": "vg0", "name": "second"}, resource="second")
    await empty.apply(second)
    stalled = await empty.until(
        "DrbdVolume", "second", lambda volume: condition(volume.status.conditions, "Stalled") is not None
    )
    reason = condition(stalled.status.conditions, "Stalled")
    assert reason is not None
    assert reason.reason == "MinorTaken"
    assert "vm-shaolin" in reason.message
    await empty.delete("DrbdVolume", "vm-shaolin")
    await empty.until_gone("DrbdVolume", "vm-shaolin")
    await empty.until_ready("DrbdVolume", "second")


async def test_minors_and_ports_that_are_left_out_never_collide(empty: Scene) -> None:
    names = [f"v{n}" for n in range(8)]
    for name in names:
        made = small_volume(name, logicalVolume={"group": "vg0"}, device={}, content=None)
        del made["spec"]["resource"], made["spec"]["content"]
        await empty.apply(made)
    volumes = [await empty.until_ready("DrbdVolume", name) for name in names]
    assert len({volume.status.device.minor for volume in volumes}) == len(names)
    assert len({volume.status.device.port for volume in volumes}) == len(names)


async def test_a_vm_waits_for_its_volume_and_says_so(empty: Scene) -> None:
    await empty.apply(vm_manifest())
    vm = await empty.until("XenVM", "shaolin", lambda vm: vm.status.observed_generation == 1)
    assert "vm-shaolin" in " ".join(one.message for one in vm.status.conditions)
    assert domain(empty) is None
    await empty.apply(small_volume())
    await empty.until("XenVM", "shaolin", runs_on("mk1"))


async def test_a_vm_without_a_node_is_placed_where_its_volume_is(empty: Scene) -> None:
    manifest = vm_manifest()
    del manifest["spec"]["node"]
    await empty.apply(small_volume(), manifest)
    vm = await empty.until_ready("XenVM", "shaolin")
    assert empty.simulation.truth.running(vm.metadata.uid) == (vm.status.placement.node,)
