"""A host is taken out for maintenance and comes back; one fails, its VMs are taken over, and it returns."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import Manifest, howto
from harness import Scene, is_ready, runs_on

from controller.api.common import condition
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM

RATE = 24 << 20  # bytes/s: a guest of 16 MiB moves in about a second, so that two are on their way together
NAMES = ("a", "b", "c", "d")


def pair(name: str, **spec: Any) -> tuple[Manifest, Manifest]:
    """A small volume and a VM on it, on mk1."""
    volume, vm = copy.deepcopy(howto("DrbdVolume", f"vm-{name}")), copy.deepcopy(howto("XenVM", name))
    volume["spec"] |= {"size": "8Mi", "resource": f"vm_{name}"}
    volume["spec"]["logicalVolume"]["name"] = f"vm_{name}"
    del volume["spec"]["device"], volume["spec"]["content"], vm["spec"]["maxMemory"], vm["spec"]["networks"]
    vm["spec"] |= {"memory": "16Mi", "disks": [{"volume": f"vm-{name}", "device": "xvda"}], **spec}
    return volume, vm


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace, link_rate=RATE) as made:
        await made.start()
        yield made


async def everybody(scene: Scene, check: Callable[[XenVM], bool], seconds: float = 90.0) -> list[XenVM]:
    return [await scene.until("XenVM", name, check, seconds) for name in NAMES]


def says(kind: str, *reasons: str) -> Callable[[Any], bool]:
    def check(found: Any) -> bool:
        told = condition(found.status.conditions, kind)
        return told is not None and told.reason in reasons

    return check


class Moves:
    """The live moves that a host sends, as its agent tells of them: the order, and how many at the same time."""

    def __init__(self, scene: Scene, node: str) -> None:
        self._watch = scene.agents[node].context.observer.watch
        self.order: list[str] = []
        self.most = 0

    async def watch(self) -> None:
        while True:
            sent = [one for one in self._watch.state.operations.values() if one.kind == "migrate-send"]
            self.order += [one.subject for one in sent if one.subject not in self.order]
            self.most = max(self.most, sum(one.outcome is None for one in sent))
            await self._watch.changed()


@contextlib.asynccontextmanager
async def watched(scene: Scene, node: str) -> AsyncIterator[Moves]:
    moves = Moves(scene, node)
    task = asyncio.create_task(moves.watch())
    try:
        yield moves
    finally:
        task.cancel()


async def test_maintenance_moves_all_away_within_limits_and_they_come_back(scene: Scene) -> None:
    for name in NAMES:
        await scene.apply(*pair(name, priority=10 if name in "cd" else 0))
    await everybody(scene, runs_on("mk1"))
    async with watched(scene, "mk1") as moves:
        await scene.patch("XenNode", "mk1", {"spec": {"maintenance": True}})
        away = await everybody(scene, runs_on("mk2"))
        assert moves.most == 2
        assert set(moves.order[:2]) == {"c", "d"}
    assert {vm.status.displaced.summary for vm in away if vm.status.displaced} == {"from mk1, Maintenance"}
    node: XenNode = await scene.until("XenNode", "mk1", says("Drained", "SafeToReboot"))
    assert node.status.phase == "Maintenance"
    for vm in await everybody(scene, says("Placed", "Maintenance")):
        assert is_ready(vm)
        assert condition(vm.status.conditions, "Reconciling") is None, "Argo CD and Flux see nothing that is open"
        assert vm.spec.node == "mk1", "what is in Git stays"
    async with watched(scene, "mk2") as moves:
        await scene.patch("XenNode", "mk1", {"spec": {"maintenance": False}})
        back = await everybody(scene, runs_on("mk1"))
        assert moves.most == 2
    for vm in await everybody(scene, says("Placed", "AsDeclared")):
        assert vm.status.displaced is None
    node = await scene.until("XenNode", "mk1", lambda node: node.status.phase == "Ready")
    assert condition(node.status.conditions, "Drained") is None
    truth = scene.simulation.truth
    for vm in back:
        assert truth.running(vm.metadata.uid) == ("mk1",)
        assert truth.records(vm.metadata.uid).hosts == ["mk1", "mk2", "mk1"]


async def test_maintenance_that_is_taken_back_ends_what_has_not_handed_over(scene: Scene) -> None:
    await scene.apply(*pair("a"))
    await scene.until("XenVM", "a", runs_on("mk1"))
    scene.simulation.slow_link(1 << 20)
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": True}})
    await scene.until_agent(
        "mk1", lambda state: any(one.phase == "Precopy" for one in state.operations.values()), "a move in Precopy"
    )
    node = await scene.until("XenNode", "mk1", says("Drained", "Moving"))
    assert node.status.phase == "Maintenance"
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": False}})
    vm = await scene.until("XenVM", "a", lambda vm: vm.status.migration and vm.status.migration.outcome == "Cancelled")
    assert (vm.status.placement.node, vm.status.placement.epoch) == ("mk1", 1)
    vm = await scene.until("XenVM", "a", says("Placed", "AsDeclared"))
    assert vm.status.displaced is None
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk1",)


async def test_a_vm_that_cannot_leave_is_named_and_runs_on(scene: Scene) -> None:
    await scene.apply(*pair("a"))
    await scene.until("XenVM", "a", runs_on("mk1"))
    await scene.patch("XenNode", "mk2", {"spec": {"schedulable": False}})
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": True}})
    node = await scene.until("XenNode", "mk1", says("Drained", "Blocked"))
    told = condition(node.status.conditions, "Drained")
    assert told is not None
    assert "/a: mk1 is in maintenance, and no other host takes it" in told.message
    assert "mk2: not schedulable" in told.message
    vm = await scene.vm("a")
    assert is_ready(vm)
    await scene.patch("XenNode", "mk2", {"spec": {"schedulable": True}})
    await scene.until("XenVM", "a", runs_on("mk2"))
    await scene.until("XenNode", "mk1", says("Drained", "SafeToReboot"))


async def test_an_agent_that_is_killed_is_not_a_host_that_is_gone(scene: Scene) -> None:
    await scene.apply(*pair("a", onNodeFailure="FailOver"))
    vm = await scene.until("XenVM", "a", runs_on("mk1"))
    await scene.kill_agent("mk1")
    node = await scene.until("XenNode", "mk1", says("Ready", "AgentDown"))
    told = condition(node.status.conditions, "Ready")
    assert told is not None
    assert told.status == "Unknown"
    assert "vm_a on mk2" in told.message
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk1",)
    await scene.start_agent("mk1")
    await scene.until("XenNode", "mk1", says("Ready", "AgentAnswers"))
    await scene.crash_host("mk1")
    await scene.until("XenNode", "mk1", says("Ready", "HostUnreachable"))
    vm = await scene.until("XenVM", "a", lambda vm: vm.status.phase == "Unknown")
    assert vm.status.placement.node == "mk1", "silence is no evidence"
    assert scene.simulation.truth.running(vm.metadata.uid) == ()


class Frozen:
    """Whether IO of any volume ever stood still on a host, as its agent saw it."""

    def __init__(self, scene: Scene, node: str) -> None:
        self._watch = scene.agents[node].context.observer.watch
        self.seen = False

    async def watch(self) -> None:
        while True:
            self.seen = self.seen or any(one.suspended != "no" for one in self._watch.state.volumes.values())
            await self._watch.changed()


@pytest.mark.parametrize("clean", [True, False], ids=["drbdadm down", "power off"])
async def test_row_29_a_planned_reboot_freezes_nobody_if_drbd_says_good_bye(scene: Scene, clean: bool) -> None:
    await scene.apply(*pair("a"))
    vm = await scene.until("XenVM", "a", runs_on("mk1"))
    await scene.until("DrbdVolume", "vm-a", lambda volume: is_ready(volume) and volume.status.fenced)
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": True}})
    await scene.until("XenNode", "mk1", says("Drained", "SafeToReboot"))
    assert runs_on("mk2")(await scene.vm("a"))
    frozen = Frozen(scene, "mk2")
    watching = asyncio.create_task(frozen.watch())
    await scene.kill_agent("mk1")
    if clean:
        assert (await scene.simulation.hosts["mk1"].run(["drbdadm", "down", "all"])).exit == 0
    await scene.crash_host("mk1")
    await scene.until("DrbdVolume", "vm-a", lambda volume: volume.status.phase == "Degraded")
    records = scene.simulation.truth.records(vm.metadata.uid)
    before = records.acknowledged
    await scene.until_true(lambda: records.acknowledged > before + 5, "the guest writes on")
    verdict = (await scene.volume("vm-a")).status.verdict
    assert (frozen.seen, verdict is not None and verdict.reason) == ((False, False) if clean else (True, "PeerLost"))
    watching.cancel()
    await scene.boot_host("mk1")
    await scene.until("XenNode", "mk1", says("Drained", "SafeToReboot"))
    await scene.until_ready("DrbdVolume", "vm-a")
    await scene.patch("XenNode", "mk1", {"spec": {"maintenance": False}})
    await scene.until("XenVM", "a", runs_on("mk1"), 90)
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk1",)
