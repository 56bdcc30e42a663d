"""An agent, or the controller, is killed at every kind of thing it does: before it, or after it, still unheard."""

from __future__ import annotations

import asyncio
from pathlib import Path

import devcluster
import pytest
from api_objects import Manifest, howto
from burnin_lib.keeper import Keeper
from harness import Scene, is_ready, runs_on
from mortal import Moment, MortalScene

from controller.reconcile import lanes
from controller.runtime.queue import ObjectKey

pytestmark = pytest.mark.xdist_group("faults")
SECONDS = 90.0


def objects() -> list[Manifest]:
    volume, vm = howto("DrbdVolume"), howto("XenVM")
    volume["spec"] |= {"size": "16Mi", "deletionPolicy": "Delete"}
    vm["spec"] |= {"memory": "64Mi", "maxMemory": "64Mi", "shutdownGraceSeconds": 5}
    return [volume, vm]


async def life(scene: Scene) -> None:
    """Made, moved, paused, stopped, started elsewhere, deleted."""
    await scene.apply(*objects())
    await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and is_ready(vm), SECONDS)
    uid = (await scene.vm()).metadata.uid
    truth = scene.simulation.truth
    await scene.move("shaolin", "mk2")
    await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk2")(vm) and is_ready(vm), SECONDS)
    assert truth.running(uid) == ("mk2",)
    for state in ("Paused", "Running", "Stopped"):
        await scene.patch("XenVM", "shaolin", {"spec": {"state": state}})
        await scene.until("XenVM", "shaolin", lambda vm: is_ready(vm) and vm.status.phase == vm.spec.state, SECONDS)
    assert truth.running(uid) == ()
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running", "node": "mk1"}})
    await scene.until("XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and is_ready(vm), SECONDS)
    assert truth.running(uid) == ("mk1",)
    await scene.until("DrbdVolume", "vm-shaolin", is_ready, SECONDS)
    assert truth.replicas_identical("vm_shaolin")
    await scene.delete("XenVM", "shaolin")
    await scene.until_gone("XenVM", "shaolin", SECONDS)
    await scene.delete("DrbdVolume", "vm-shaolin")
    await scene.until_gone("DrbdVolume", "vm-shaolin", SECONDS)
    for host in scene.simulation.hosts.values():
        assert not [name for group in host.volume_groups.groups.values() for name in group.volumes]
        assert not host.files.exists("/etc/drbd.d/vm_shaolin.res")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before a request is repeated are for real hosts."""
    monkeypatch.setattr(lanes, "REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(lanes, "LONGEST_SECONDS", 0.5)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.timeout(240)
async def test_agents_die_at_every_effect(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, moment: Moment
) -> None:
    async with MortalScene(cluster, tmp_path, namespace) as scene:
        scene.arm(moment)
        try:
            await scene.start()
            for host in scene.mortal.values():
                host.armed = True
            await life(scene)
        finally:
            await scene.disarm()
        for words in ("lvcreate", "drbdadm", "write /etc/drbd.d", "xl create", "xl shutdown", "xl migrate", "lvremove"):
            assert [one for one in scene.deaths if words in one], (words, scene.deaths)
        assert len(scene.deaths) > 25, scene.deaths


class Blow:
    """An `on_step` that kills its controller after every kind of step once."""

    def __init__(self) -> None:
        self.deaths: list[str] = []
        self.keeper: Keeper | None = None

    async def __call__(self, step: str, key: ObjectKey) -> None:
        moment, _, what = step.partition(" ")
        kind = f"{key[0]} {what}"
        if moment == "after" and kind not in self.deaths and self.keeper is not None:
            self.deaths.append(kind)
            self.keeper.kill()
            await asyncio.Event().wait()  # until the kill cancels this too: nothing after it happens


@pytest.mark.timeout(240)
async def test_the_controller_dies_at_every_step(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> None:
    """After it; before it, too, in tests/cluster/test_killed.py for each by itself."""
    async with Scene(cluster, tmp_path, namespace) as scene:
        for name in scene.names:
            await scene.start_agent(name)
            await scene.apply(scene.node_manifest(name))
        blow = Blow()
        blow.keeper = Keeper(scene, on_step=blow)
        try:
            await life(scene)
        finally:
            await blow.keeper.stop()
        for words in (
            "PutVolume mk1 Up",
            "PutDomain mk1 Stopped",
            "migrate-send",
            "DeleteDomain",
            "DeleteVolume",
            "finalizer",
        ):
            assert [one for one in blow.deaths if words in one], (words, blow.deaths)
        assert len(blow.deaths) > 15, blow.deaths
