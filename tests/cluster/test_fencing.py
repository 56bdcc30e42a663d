"""Hosts that lose each other, on a real API server: IO stands still until the record says who goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import devcluster
import pytest
from fencing_place import RESOURCE, VM, VOLUME, acknowledged, healed, running, small_volume, stands, two_hosts, writes
from harness import Scene, is_ready, is_unknown, runs_on
from prometheus_client.parser import text_string_to_metric_families
from test_two_controllers import never_deposed

from agent.core import Refused
from agent.protocol import HostState, VolumeDesired
from agent.simulation.hypervisor import Xen
from controller.api.common import condition
from controller.api.drbdvolume import DrbdVolume
from controller.operator import Controller
from controller.runtime.queue import ObjectKey


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with two_hosts(cluster, tmp_path, namespace) as made:
        yield made


def degraded(*reasons: str) -> Any:
    def check(volume: DrbdVolume) -> bool:
        found = condition(volume.status.conditions, "Degraded")
        return found is not None and found.reason in reasons

    return check


def metric(controller: Controller, name: str) -> float:
    for family in text_string_to_metric_families(controller.metrics.render().decode()):
        if family.name == name:
            return family.samples[0].value
    raise AssertionError(f"no metric {name}")


async def test_row_07_a_pulled_cable_freezes_for_a_moment_and_heals(scene: Scene) -> None:
    controller = await scene.start_controller()
    uid = await running(scene)
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)
    await scene.until("DrbdVolume", VOLUME, lambda one: one.status.frozen == "" and degraded("Disconnected")(one))
    assert metric(controller, "xentandem_volume_verdicts") == 1
    await scene.until_agent("mk2", lambda state: state.volumes[RESOURCE].disk == "Outdated", "that mk2 is outdated")
    scene.simulation.restore_link("mk1", "mk2")
    await healed(scene, 2)
    assert metric(controller, "xentandem_volume_verdicts") == 0
    assert scene.simulation.truth.running(uid) == ("mk1",)
    # ... and again: numbers grow
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(3, "mk1", "PeerLost"))
    await writes(scene, uid)
    scene.simulation.restore_link("mk1", "mk2")
    await healed(scene, 4)


async def test_row_09_the_other_host_is_lost_again_before_the_end_is_recorded(scene: Scene) -> None:
    """No controller saw that mk1 gave its verdict back: it gets another one, and does not stay frozen."""
    controller = await scene.start_controller()
    uid = await running(scene)
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)
    await scene.kill_controller(controller)
    scene.simulation.restore_link("mk1", "mk2")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].fence.given_back, "that it gave it back")
    await scene.crash_host("mk2")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].fence_question is not None, "that it asks")
    await scene.start_controller()
    await scene.until("DrbdVolume", VOLUME, stands(2, "mk1", "PeerLost"))
    await writes(scene, uid)


async def test_row_01_the_host_without_the_vm_loses_power_and_comes_back(scene: Scene) -> None:
    await scene.start_controller()
    uid = await running(scene)
    await scene.crash_host("mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)
    await scene.boot_host("mk2")
    await healed(scene, 2)
    assert scene.simulation.truth.running(uid) == ("mk1",)


async def test_row_08_without_the_controller_it_stands_still_and_the_link_thaws_it(scene: Scene) -> None:
    controller = await scene.start_controller()
    uid = await running(scene)
    await scene.kill_controller(controller)
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].fence_question is not None, "that it asks")
    before = acknowledged(scene, uid)
    await asyncio.sleep(3)
    assert acknowledged(scene, uid) == before
    scene.simulation.restore_link("mk1", "mk2")
    await writes(scene, uid)
    await scene.start_controller()
    volume = await scene.until_ready("DrbdVolume", VOLUME)
    assert volume.status.verdict is None


async def test_row_08_the_next_controller_answers_what_was_asked_while_there_was_none(scene: Scene) -> None:
    controller = await scene.start_controller()
    uid = await running(scene)
    await scene.kill_controller(controller)
    await scene.crash_host("mk2")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].fence_question is not None, "that it asks")
    controller = await scene.start_controller()
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)


async def test_row_08_policy_continue_is_recorded_when_a_controller_is_back(scene: Scene) -> None:
    controller = await scene.start_controller()
    uid = await running(scene, fencing={"whenControllerUnreachable": "Continue", "after": "30s"})
    await scene.kill_controller(controller)
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].fence_question is not None, "that it asks")
    fence: Any = scene.agents["mk1"].context.fence
    heard = scene.simulation.clock.now() - 31
    fence.heard = lambda: heard  # half a minute of silence
    await writes(scene, uid)
    await scene.start_controller()
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "WroteAlone"))
    scene.simulation.restore_link("mk1", "mk2")
    await healed(scene, 2)


async def test_rows_04_and_06_a_dead_host_is_no_reason_until_a_person_says_that_it_is_off(scene: Scene) -> None:
    """The volume alone: where the VM goes is another question."""
    await scene.start_controller()
    await scene.apply(small_volume())
    await scene.until("DrbdVolume", VOLUME, lambda volume: is_ready(volume) and volume.status.fenced)
    await scene.crash_host("mk1")
    await scene.until("DrbdVolume", VOLUME, degraded("Disconnected"))
    await scene.until("XenNode", "mk1", lambda node: not is_ready(node))  # until then its last word counts
    wanted = scene.agents["mk2"].context.journal.get("volumes", RESOURCE)
    assert wanted is not None
    primary = VolumeDesired.model_validate(wanted["desired"] | {"role": "Primary"})
    promoting = asyncio.create_task(scene.agents["mk2"].context.volumes.put(RESOURCE, primary))
    volume = await scene.until(
        "DrbdVolume",
        VOLUME,
        lambda one: "outOfService" in (condition(one.status.conditions, "Degraded") or one).message,
    )
    assert volume.status.verdict is None
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": True}})
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk2", "Fenced"))
    try:
        await promoting
    except Refused:  # the handler's time was over before the person spoke
        await scene.agents["mk2"].context.volumes.put(RESOURCE, primary)
    assert scene.simulation.truth.primaries(RESOURCE) == ("mk2",)
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": False}})
    await scene.boot_host("mk1")
    await healed(scene, 2)


async def test_a_host_whose_agent_lost_its_journal_takes_its_volume_up_again(scene: Scene) -> None:
    """While a guest runs on it; from then on what is asked there is answered again."""
    await scene.start_controller()
    uid = await running(scene)
    await scene.kill_agent("mk1")
    (journal,) = (scene.directory / "agents" / "mk1").rglob("journal.log")
    journal.unlink()
    await scene.start_agent("mk1")
    await scene.until_agent("mk1", lambda state: state.volumes[RESOURCE].uid is not None, "that it knows the volume")
    await scene.until("DrbdVolume", VOLUME, is_ready)
    await scene.until("XenVM", VM, runs_on("mk1"))
    assert scene.simulation.truth.primaries(RESOURCE) == ("mk1",)
    assert scene.simulation.truth.running(uid) == ("mk1",)
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)


# --- moves ---------------------------------------------------------------------------------------------------------


async def test_row_26_a_cable_that_is_pulled_in_a_move(scene: Scene) -> None:
    """The source goes on by a verdict, the move waits until both sides are whole and its end is recorded."""
    await scene.start_controller()
    uid = await running(scene)
    scene.simulation.slow_link(6e7)
    await scene.move(VM, "mk2")

    def receiving(state: HostState) -> bool:
        return any(one.phase == "Receiving" for one in state.operations.values())

    await scene.until_agent("mk2", receiving, "that it receives")
    scene.simulation.cut_link("mk1", "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)
    scene.simulation.slow_link(1e9)
    scene.simulation.restore_link("mk1", "mk2")
    await scene.until("XenVM", VM, runs_on("mk2"), 120)
    await healed(scene, 2)
    assert scene.simulation.truth.running(uid) == ("mk2",)


async def test_row_17_the_source_dies_when_the_target_is_about_to_be_promoted(scene: Scene) -> None:
    """It gave the VM away and both sides were whole: the memory that arrived goes on."""
    await scene.start_controller()
    uid = await running(scene)
    drbd = scene.agents["mk2"].context.drbd
    promote = drbd.primary

    async def after_a_blow(resource: str, minor: int, *, patience: float = 5.0) -> None:
        if "mk1" in scene.agents:
            await scene.crash_host("mk1")
        await promote(resource, minor, patience=patience)

    drbd.primary = after_a_blow  # type: ignore[method-assign]
    await scene.move(VM, "mk2")
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk2", "HandedOver"), 120)
    await scene.until("XenVM", VM, lambda vm: vm.status.placement.node == "mk2" and vm.status.phase == "Running", 120)
    await writes(scene, uid)
    assert scene.simulation.truth.records(uid).hosts == ["mk1", "mk2"]
    await scene.boot_host("mk1")
    await healed(scene, 2)
    assert scene.simulation.truth.running(uid) == ("mk2",)
    assert scene.simulation.truth.primaries(RESOURCE) == ("mk2",)


async def test_row_17_the_source_dies_before_the_target_saw_it_secondary(scene: Scene) -> None:
    """It let go and said so: the copy waits until somebody says that it is off, and goes on with its memory."""
    await scene.start_controller()
    uid = await running(scene)
    guest = Xen.of(scene.simulation.hosts["mk1"]).by_uuid(uid)
    assert guest is not None
    assert guest.guest is not None
    boot, drbd = guest.guest.state.boot, scene.agents["mk1"].context.drbd

    def told() -> bool:
        return any(one.notes.get("released") for one in scene.agents["mk2"].context.operations.running(uid))

    async def blow(resource: str, minor: int, *, patience: float = 5.0) -> None:
        await scene.until_true(told, "the release")
        await scene.crash_host("mk1")

    drbd.secondary = blow  # type: ignore[method-assign]
    await scene.move(VM, "mk2")
    await scene.until_true(lambda: "mk1" not in scene.agents, "mk1 without power", 120)
    await scene.until("XenVM", VM, is_unknown)
    assert scene.simulation.truth.running(uid) == ()
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": True}})
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk2", "Fenced"), 120)
    await scene.until("XenVM", VM, runs_on("mk2"), 120)
    await writes(scene, uid)
    copy = Xen.of(scene.simulation.hosts["mk2"]).by_uuid(uid)
    assert copy is not None
    assert copy.guest is not None
    assert copy.guest.state.boot == boot
    await scene.patch("XenNode", "mk1", {"spec": {"outOfService": False}})
    await scene.boot_host("mk1")
    await healed(scene, 2)
    assert scene.simulation.truth.running(uid) == ("mk2",)


# --- killed and doubled -------------------------------------------------------------------------------------------

STEPS = ("DrbdVolume status", "PutVerdict mk1 1", "PutVerdict mk2 1")


class Blow:
    """Kills its controller at one step about the volume, as SIGKILL."""

    def __init__(self, when: str) -> None:
        self.when, self.armed, self.struck = when, False, asyncio.Event()
        self.controller: Controller | None = None

    async def __call__(self, name: str, key: ObjectKey) -> None:
        moment, _, what = name.partition(" ")
        what = f"{key[0]} {what}" if what == "status" else what
        if self.armed and f"{moment} {what}" == self.when and not self.struck.is_set():
            assert self.controller is not None
            self.struck.set()
            self.controller.kill()
            await asyncio.Event().wait()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", STEPS)
async def test_the_controller_is_killed_at_each_line_of_the_sequence(scene: Scene, moment: str, what: str) -> None:
    blow = Blow(f"{moment} {what}")
    blow.controller = await scene.start_controller(on_step=blow)
    uid = await running(scene)
    blow.armed = True
    scene.simulation.cut_link("mk1", "mk2")
    await asyncio.wait_for(blow.struck.wait(), 40)
    await scene.ended(blow.controller)
    await scene.start_controller()
    await scene.until("DrbdVolume", VOLUME, stands(1, "mk1", "PeerLost"))
    await writes(scene, uid)
    scene.simulation.restore_link("mk1", "mk2")
    await healed(scene, 2)


async def test_two_leaders_give_one_verdict(scene: Scene) -> None:
    for _ in range(2):
        controller = Controller(scene.options())
        never_deposed(controller)
        await scene.adopt(controller)
    uid = await running(scene)
    for number in (1, 3):
        scene.simulation.cut_link("mk1", "mk2")
        await scene.until("DrbdVolume", VOLUME, stands(number, "mk1", "PeerLost"))
        await writes(scene, uid)
        scene.simulation.restore_link("mk1", "mk2")
        await healed(scene, number + 1)


async def test_the_agent_of_the_frozen_host_is_killed_again_and_again(scene: Scene) -> None:
    await scene.start_controller()
    uid = await running(scene)
    scene.simulation.cut_link("mk1", "mk2")
    for _ in range(3):
        await scene.kill_agent("mk1")
        await asyncio.sleep(0.5)
        await scene.start_agent("mk1")
        await asyncio.sleep(0.2)
    await writes(scene, uid)
    scene.simulation.restore_link("mk1", "mk2")
    volume = await scene.until_ready("DrbdVolume", VOLUME)
    assert volume.status.verdict is not None
    assert scene.simulation.truth.running(uid) == ("mk1",)
