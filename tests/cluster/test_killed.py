"""The controller is killed after every single thing it does, and a new one goes on to the same end.

The lists are checked against a run that nobody kills: a request that is new in a plan must be killed here too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import devcluster
import pytest
from api_objects import howto
from harness import Scene

from controller.operator import Controller
from controller.runtime.queue import ObjectKey

CREATE = (
    "PutHost mk1",
    "PutHost mk2",
    "PutVolume mk1 Reserved",
    "PutVolume mk2 Reserved",
    "PutVolume mk1 Provisioned",
    "PutVolume mk2 Provisioned",
    "PutVolume mk1 Up",
    "PutVolume mk2 Up",
    "Operate mk1 initial-sync",
    "Operate mk1 write-content",
    "PutDomain mk1 Running",
)
MOVE = ("Operate mk2 migrate-receive", "Operate mk1 migrate-send")
WRITES = tuple(f"{kind} {what}" for kind in ("DrbdVolume", "XenVM") for what in ("finalizer", "status", "status 2"))
LAST_WRITES = ("XenVM status 3",)
MOVE_WRITES = ("XenVM status", "XenVM status 2")


class Killer:
    """An `on_step` that notes what was done, and ends its controller at one point, as SIGKILL would."""

    def __init__(self, when: str = "") -> None:
        self.when = when
        self.seen: list[str] = []
        self.struck = asyncio.Event()
        self.armed = True
        self.controller: Controller | None = None

    async def __call__(self, name: str, key: ObjectKey) -> None:
        if not self.armed:
            return
        moment, _, what = name.partition(" ")
        if what in ("status", "finalizer"):
            what = f"{key[0]} {what}"
            again = self.seen.count(f"{moment} {what}") + 1
            what = f"{what} {again}" if again > 1 else what
            self.seen.append(f"{moment} {what.rstrip(' 0123456789')}")
        else:
            self.seen.append(f"{moment} {what}")
        if f"{moment} {what}" == self.when and not self.struck.is_set():
            assert self.controller is not None
            self.struck.set()
            self.controller.kill()
            await asyncio.Event().wait()  # until the kill cancels this too: nothing after it happens

    async def watch(self, scene: Scene) -> Controller:
        self.controller = await scene.start_controller(wait=False, on_step=self)
        return self.controller


async def _succeed(scene: Scene, killer: Killer) -> None:
    """Wait for the blow, then let another controller take over."""
    controller = killer.controller
    assert controller is not None
    await asyncio.wait_for(killer.struck.wait(), 40)
    await scene.ended(controller)
    await scene.start_controller()


async def _hosts(scene: Scene) -> None:
    await asyncio.gather(*(scene.start_agent(name) for name in scene.names))
    for name in scene.names:
        await scene.apply(scene.node_manifest(name))


async def _created(scene: Scene) -> None:
    volume = await scene.until_ready("DrbdVolume", "vm-shaolin")
    assert volume.status.disk_state == "UpToDate/UpToDate"
    assert volume.status.content.state == "Written"
    vm = await scene.until_ready("XenVM", "shaolin")
    assert vm.status.phase == "Running"
    assert (vm.status.placement.node, vm.status.placement.epoch) == ("mk1", 1)
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk1",)


async def _moved(scene: Scene) -> None:
    vm = await scene.until(
        "XenVM", "shaolin", lambda vm: vm.status.placement.node == "mk2" and vm.status.phase == "Running"
    )
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk2",)
    vm = await scene.until("XenVM", "shaolin", lambda vm: vm.status.migration.outcome is not None)
    assert vm.status.migration.outcome == "Succeeded"


def small() -> list[dict[str, object]]:
    volume = howto("DrbdVolume")
    volume["spec"]["size"] = "32Mi"
    return [volume, howto("XenVM")]


async def test_the_lists_are_complete(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> None:
    async with Scene(cluster, tmp_path, namespace) as scene:
        killer = Killer()
        await _hosts(scene)
        await killer.watch(scene)
        await scene.apply(*small())
        await _created(scene)
        await scene.until_settled()
        requests = {name.removeprefix("after ") for name in killer.seen if name.startswith("after ")}
        assert requests - {"DrbdVolume status", "DrbdVolume finalizer", "XenVM status", "XenVM finalizer",
                           "XenNode status", "XenNode finalizer"} == set(CREATE)  # fmt: skip
        killer.seen.clear()
        await scene.move("shaolin", "mk2")
        await _moved(scene)
        await scene.until_settled()
        requests = {name.removeprefix("after ") for name in killer.seen if name.startswith("after ")}
        assert requests - {"DrbdVolume status", "XenVM status", "XenNode status"} == set(MOVE)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", [*CREATE, *WRITES, *LAST_WRITES])
async def test_a_create_goes_on(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, moment: str, what: str
) -> None:
    async with Scene(cluster, tmp_path, namespace) as scene:
        killer = Killer(f"{moment} {what}")
        await _hosts(scene)
        await killer.watch(scene)
        await scene.apply(*small())
        await _succeed(scene, killer)
        await _created(scene)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", [*MOVE, *MOVE_WRITES])
async def test_a_move_goes_on(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, moment: str, what: str
) -> None:
    async with Scene(cluster, tmp_path, namespace) as scene:
        killer = Killer(f"{moment} {what}")
        killer.armed = False
        await _hosts(scene)
        await killer.watch(scene)
        await scene.apply(*small())
        await _created(scene)
        await scene.until_settled()
        killer.armed = True
        await scene.move("shaolin", "mk2")
        await _succeed(scene, killer)
        await _moved(scene)
