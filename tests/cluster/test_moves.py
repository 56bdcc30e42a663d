"""Moves that go wrong or are taken back: the VM runs on exactly one host, and its status says why it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import Manifest, howto
from harness import Scene, runs_on

from agent.protocol import HostState
from agent.simulation.hypervisor import StreamFault, Xen
from controller.api.common import condition
from controller.api.xenvm import XenVM

FAST, SLOW = 1e9, 6e7  # bytes per second: half a second and nine seconds for the howto's guest


def small_volume() -> Manifest:
    made = howto("DrbdVolume")
    made["spec"]["size"] = "32Mi"
    return made


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    """The howto's VM runs on mk1."""
    async with Scene(cluster, tmp_path, namespace, link_rate=FAST) as made:
        await made.start()
        await made.apply(small_volume(), howto("XenVM"))
        await made.until("XenVM", "shaolin", runs_on("mk1"))
        yield made


async def phase(scene: Scene, node: str, *phases: str) -> None:
    """Until the node's agent is in one of these phases of a move; noticed at once."""

    def there(state: HostState) -> bool:
        return any(one.kind.startswith("migrate") and one.phase in phases for one in state.operations.values())

    await scene.until_agent(node, there, f"a move in {' or '.join(phases)}")


def ended(outcome: str) -> Callable[[XenVM], bool]:
    def check(vm: XenVM) -> bool:
        return vm.status.migration is not None and vm.status.migration.outcome == outcome

    return check


def not_placed(*reasons: str) -> Callable[[XenVM], bool]:
    def check(vm: XenVM) -> bool:
        placed = condition(vm.status.conditions, "Placed")
        return placed is not None and placed.status == "False" and placed.reason in reasons

    return check


def placed_message(vm: XenVM) -> str:
    placed = condition(vm.status.conditions, "Placed")
    return placed.message if placed else ""


async def test_taking_the_edit_back_in_the_transfer_cancels_the_move(scene: Scene) -> None:
    scene.simulation.slow_link(SLOW)
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", "Precopy")
    await scene.move("shaolin", "mk1")
    vm = await scene.until("XenVM", "shaolin", ended("Cancelled"))
    assert vm.status.placement.epoch == 1
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    await scene.runs_only_on(vm, "mk1")
    scene.simulation.slow_link(FAST)
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"))
    await scene.runs_only_on(vm, "mk2")


async def test_taking_the_edit_back_after_the_hand_over_began_moves_it_back(scene: Scene) -> None:
    scene.simulation.slow_link(SLOW)
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", "Precopy")
    scene.simulation.hang("mk1", "drbdsetup")  # the demotion waits, so that the edit comes into the hand-over
    scene.simulation.slow_link(FAST)
    await phase(scene, "mk1", "HandOver")
    await scene.move("shaolin", "mk1")
    scene.simulation.unhang("mk1", "drbdsetup")
    vm = await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and vm.status.placement.epoch == 3)
    await scene.runs_only_on(vm, "mk1")
    assert scene.simulation.truth.records(vm.metadata.uid).hosts == ["mk1", "mk2", "mk1"]


async def test_the_target_is_lost_in_the_transfer(scene: Scene) -> None:
    scene.simulation.slow_link(SLOW)
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", "Precopy")
    await scene.crash_host("mk2")
    vm = await scene.until("XenVM", "shaolin", ended("Failed"))
    assert vm.status.placement.node == "mk1"
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk1",)
    scene.simulation.slow_link(FAST)
    await scene.boot_host("mk2")
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


@pytest.mark.parametrize("when", ["StopAndCopy", "HandOver"])
async def test_the_target_is_lost_at_the_end_of_the_transfer(scene: Scene, when: str) -> None:
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", when)
    await scene.crash_host("mk2")
    await scene.boot_host("mk2")
    vm = await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk2")(vm) or ended("Failed")(vm), 90)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


@pytest.mark.parametrize("at", ["ready", "go", "report"])
async def test_the_stream_is_cut_at_the_last_words(scene: Scene, at: Any) -> None:
    Xen.of(scene.simulation.hosts["mk1"]).stream_fault = StreamFault(at)
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", lambda vm: ended("Failed")(vm) or ended("Succeeded")(vm), 90)
    node = vm.status.placement.node
    assert (node == "mk2") == (vm.status.migration.outcome == "Succeeded")
    await scene.move("shaolin", node)  # not tried again
    vm = await scene.until("XenVM", "shaolin", runs_on(node))
    await scene.runs_only_on(vm, node)


async def test_the_link_is_cut_in_the_transfer(scene: Scene) -> None:
    scene.simulation.slow_link(SLOW)
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", "Precopy")
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until_true(
        lambda: (
            "vm_shaolin" in scene.agents["mk1"].context.observer.state.volumes
            and (peer := scene.agents["mk1"].context.observer.state.volumes["vm_shaolin"].peer) is not None
            and peer.connection != "Connected"
        ),
        "DRBD has noticed",
    )
    placement = (await scene.vm()).status.placement
    assert placement is not None
    assert placement.node == "mk1"
    scene.simulation.restore_link("mk1", "mk2")
    scene.simulation.slow_link(FAST)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


@pytest.mark.parametrize("node", ["mk1", "mk2"])
@pytest.mark.parametrize("when", ["Precopy", "HandOver"])
async def test_an_agent_is_killed_and_comes_back(scene: Scene, node: str, when: str) -> None:
    if when == "Precopy":
        scene.simulation.slow_link(SLOW)
    await scene.move("shaolin", "mk2")
    await phase(scene, "mk1", when)
    await scene.kill_agent(node)
    scene.simulation.slow_link(FAST)
    await scene.start_agent(node)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


async def test_every_reason_against_a_move_is_said_at_once_and_nothing_is_done(scene: Scene) -> None:
    target = Xen.of(scene.simulation.hosts["mk2"])
    target.remove_bridge("xenbr0")
    target.configure(memory_mib=900)
    before = await scene.vm()
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", lambda vm: "xenbr0" in placed_message(vm))
    assert "MiB" in placed_message(vm)
    assert vm.status.placement == before.status.placement
    assert vm.status.phase == "Running"
    await scene.runs_only_on(vm, "mk1")
    target.add_bridge("xenbr0")
    target.configure(memory_mib=2048)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


async def test_a_host_that_takes_no_moves_is_left_alone_and_says_so(scene: Scene) -> None:
    await scene.patch("XenNode", "mk2", {"spec": {"relocation": {"enabled": False}}})
    await scene.until_true(
        lambda: (
            (wish := scene.agents["mk2"].context.observer.state.desired) is not None and not wish.relocation_enabled
        ),
        "mk2 knows",
    )
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", lambda vm: "relocation" in placed_message(vm))
    await scene.runs_only_on(vm, "mk1")
    await scene.patch("XenNode", "mk2", {"spec": {"relocation": {"enabled": True}}})
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"), 90)
    await scene.runs_only_on(vm, "mk2")


async def test_a_host_that_is_not_there_or_has_no_replica_is_no_target(scene: Scene) -> None:
    await scene.move("shaolin", "mk9")
    vm = await scene.until("XenVM", "shaolin", lambda vm: "mk9" in placed_message(vm))
    assert vm.status.placement.node == "mk1"
    await scene.move("shaolin", "mk1")
    vm = await scene.until("XenVM", "shaolin", lambda vm: "mk9" not in placed_message(vm))
    await scene.runs_only_on(vm, "mk1")
