"""What a migration by hand leaves behind, on the whole system: the VM's condition shows it, and ends with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from api_objects import howto
from harness import Scene, runs_on

from agent import leftover_proof, leftovers, windows
from agent.simulation.hypervisor import Xen
from agent.simulation.process import Pipe
from controller.api.common import ApiObject, Condition, condition
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM

INCOMING = "shaolin--incoming"


@pytest.fixture
async def scene(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """The howto's VM runs on mk1, and did on mk2 before."""
    monkeypatch.setattr(leftovers, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(leftovers, "PROCESSES_SECONDS", 0.2)
    monkeypatch.setattr(leftover_proof, "STEADY_SECONDS", 2.0)
    monkeypatch.setattr(windows, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(windows, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(windows, "OPEN_SECONDS", 0.5)
    monkeypatch.setattr(windows, "STEADY_SECONDS", 2.0)
    async with Scene(cluster, tmp_path, namespace, link_rate=1e9) as made:
        await made.start()
        volume, vm = howto("DrbdVolume"), howto("XenVM")
        volume["spec"]["size"], vm["spec"]["node"] = "32Mi", "mk2"
        await made.apply(volume, vm)
        await made.until("XenVM", "shaolin", runs_on("mk2"))
        await made.move("shaolin", "mk1")
        await made.until("XenVM", "shaolin", runs_on("mk1"))
        yield made


def shown(thing: ApiObject, kind: str) -> Condition | None:
    assert isinstance(thing, XenVM | XenNode | DrbdVolume)
    found = condition(thing.status.conditions, kind)
    return found if found is not None and found.status == "True" else None


async def test_row_39_half_of_a_migration_by_hand_is_told_and_removed(scene: Scene) -> None:
    scene.simulation.slow_link(2e7)
    source, target = (scene.simulation.hosts[name] for name in ("mk1", "mk2"))
    sender = source.processes.start(["xl", "migrate", "-p", "-e", "shaolin", "mk2"])
    vm = await scene.until("XenVM", "shaolin", lambda vm: shown(vm, "Stalled") is not None)
    left = Xen.of(target).find(INCOMING)
    assert left is not None
    stalled = shown(vm, "Stalled")
    assert stalled is not None
    assert (stalled.reason, INCOMING in stalled.message) == ("DomainElsewhere", True)
    for process in tuple(target.processes.running.values()):
        if process.argv[:2] == ["xl", "migrate-receive"]:
            process.kill()
    await sender.wait()
    scene.simulation.slow_link(1e9)
    vm = await scene.until(
        "XenVM", "shaolin", lambda vm: runs_on("mk1")(vm) and shown(vm, "Stalled") is None and left.gone
    )
    await scene.runs_only_on(vm, "mk1")
    await scene.move("shaolin", "mk2")
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"))
    await scene.runs_only_on(vm, "mk2")


async def test_rows_40_41_a_window_and_a_receiver_are_told_and_the_window_is_closed(scene: Scene) -> None:
    target = scene.simulation.hosts["mk2"]
    receiver = target.processes.start(["xl", "migrate-receive", "-p", "-e"], stdin=Pipe())
    node = await scene.until("XenNode", "mk2", lambda node: shown(node, "ForeignReceiver") is not None)
    assert shown(node, "Ready") is not None
    receiver.kill()
    await scene.until("XenNode", "mk2", lambda node: shown(node, "ForeignReceiver") is None)
    resource = next(iter(target.drbd.resources))
    for host in scene.simulation.hosts.values():
        argv = ["drbdadm", "net-options", "--allow-two-primaries=yes", resource]
        assert (await host.run(argv)).exit == 0
    volume = await scene.until("DrbdVolume", "vm-shaolin", lambda one: shown(one, "TwoPrimariesAllowed") is not None)
    assert shown(volume, "Ready") is not None
    await scene.until("DrbdVolume", "vm-shaolin", lambda one: shown(one, "TwoPrimariesAllowed") is None)
    for agent in scene.agents.values():
        assert await agent.context.drbd.two_primaries() == frozenset()
