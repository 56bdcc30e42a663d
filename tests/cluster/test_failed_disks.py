"""A disk that fails under a VM, on a real API server: the VM moves to the host that it writes to, and never back there
before the disk is replaced."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import devcluster
import pytest
from fencing_place import RESOURCE, VM, VOLUME, acknowledged, healed, running, stands, two_hosts, writes
from harness import Scene, is_ready, runs_on

from agent.protocol import HostState
from controller.api.common import condition
from controller.api.xenvm import XenVM


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with two_hosts(cluster, tmp_path, namespace) as made:
        yield made


async def fails(scene: Scene, uid: str, name: str) -> None:
    scene.simulation.fail_disk(name)
    await writes(scene, uid)  # DRBD finds out when it is written
    await scene.until_agent(name, lambda state: state.volumes[RESOURCE].disk == "Diskless", "a disk that failed")


async def replaced(scene: Scene, name: str) -> None:
    scene.simulation.repair_disk(name)
    done = await scene.simulation.hosts[name].run(["drbdadm", "attach", RESOURCE])
    assert done.exit == 0, done
    await scene.until("DrbdVolume", VOLUME, is_ready)
    await scene.until_true(lambda: scene.simulation.truth.replicas_identical(RESOURCE), "replicas that are the same")


def held(reason: str) -> Callable[[XenVM], bool]:
    def check(vm: XenVM) -> bool:
        found = condition(vm.status.conditions, "Placed")
        return found is not None and found.status == "False" and found.reason == reason

    return check


async def test_row_10_it_moves_live_to_the_host_it_writes_to_and_not_back_before_the_disk_is_replaced(
    scene: Scene,
) -> None:
    await scene.start_controller()
    uid = await running(scene)
    await fails(scene, uid, "mk1")
    await scene.move(VM, "mk2")
    await scene.until("XenVM", VM, runs_on("mk2"))
    await writes(scene, uid)
    assert scene.simulation.truth.records(uid).hosts == ["mk1", "mk2"]
    await scene.move(VM, "mk1")
    vm = await scene.until("XenVM", VM, held("DiskNotUpToDate"))
    assert "replace it on mk1" in condition(vm.status.conditions, "Placed").message  # type: ignore[union-attr]
    await replaced(scene, "mk1")
    await scene.until("XenVM", VM, runs_on("mk1"))
    await writes(scene, uid)
    assert scene.simulation.truth.running(uid) == ("mk1",)


async def test_row_10_a_maintenance_takes_it_away_from_the_failed_disk(scene: Scene) -> None:
    await scene.start_controller()
    uid = await running(scene)
    await fails(scene, uid, "mk1")
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": True}})
    await scene.until("XenVM", VM, runs_on("mk2"))
    drained = await scene.until("XenNode", "mk1", lambda node: _drained(node) == "SafeToReboot")
    assert drained
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": False}})
    await writes(scene, uid)
    assert (await scene.vm()).status.placement.node == "mk2"  # type: ignore[union-attr]
    await replaced(scene, "mk1")
    await scene.until("XenVM", VM, runs_on("mk1"))


def _drained(node: object) -> str:
    found = condition(node.status.conditions, "Drained")  # type: ignore[attr-defined]
    return found.reason if found is not None else ""


async def test_row_12_without_disk_and_cable_its_io_waits_and_no_error_is_seen(scene: Scene) -> None:
    await scene.start_controller()
    uid = await running(scene)
    await fails(scene, uid, "mk1")
    scene.simulation.cut_link("mk1", "mk2")
    volume = await scene.until("DrbdVolume", VOLUME, lambda one: one.status.frozen == "mk1")
    assert "no-data" in condition(volume.status.conditions, "Stalled").message  # type: ignore[union-attr]
    assert scene.agents["mk1"].context.observer.state.volumes[RESOURCE].suspended == "no-data"
    before = acknowledged(scene, uid)
    await scene.until_settled()
    assert acknowledged(scene, uid) == before
    assert scene.simulation.truth.primaries(RESOURCE) == ("mk1",)
    scene.simulation.restore_link("mk1", "mk2")
    await writes(scene, uid)  # a guest that had seen an IO error would write no more
    volume = await scene.until("DrbdVolume", VOLUME, lambda one: one.status.frozen == "" and is_ready(one))
    assert volume.status.verdict is None


async def test_row_10_stopped_it_moves_too(scene: Scene) -> None:
    await scene.start_controller()
    uid = await running(scene)
    await fails(scene, uid, "mk1")
    await scene.patch("XenVM", VM, {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", VM, lambda vm: vm.status.phase == "Stopped")
    await scene.move(VM, "mk2")
    await scene.until("XenVM", VM, lambda vm: vm.status.placement.node == "mk2" and vm.status.phase == "Stopped")
    await scene.patch("XenVM", VM, {"spec": {"state": "Running"}})
    await scene.until("XenVM", VM, runs_on("mk2"))
    await writes(scene, uid)
    assert (await scene.volume()).status.verdict is None
    assert scene.simulation.truth.records(uid).hosts == ["mk1", "mk2"]


async def test_row_12_stopped_it_moves_though_the_cable_is_out(scene: Scene) -> None:
    """Its disk is Secondary on mk1 and has failed: mk2 has everything, which a verdict says when it is promoted."""
    await scene.start_controller()
    uid = await running(scene)
    await fails(scene, uid, "mk1")
    await scene.patch("XenVM", VM, {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", VM, lambda vm: vm.status.phase == "Stopped")
    scene.simulation.cut_link("mk1", "mk2")
    for name in scene.names:
        await scene.until_agent(name, apart, "that it is alone")
    await scene.move(VM, "mk2")
    await scene.patch("XenVM", VM, {"spec": {"state": "Running"}})
    await scene.until("XenVM", VM, runs_on("mk2"))
    await writes(scene, uid)
    assert stands(1, "mk2", "PeerDiskless")(await scene.volume())
    assert scene.simulation.truth.primaries(RESOURCE) == ("mk2",)
    scene.simulation.restore_link("mk1", "mk2")
    scene.simulation.repair_disk("mk1")
    done = await scene.simulation.hosts["mk1"].run(["drbdadm", "attach", RESOURCE])
    assert done.exit == 0, done
    await healed(scene, 2)


def apart(state: HostState) -> bool:
    peer = state.volumes[RESOURCE].peer
    return peer is not None and peer.connection != "Connected"
