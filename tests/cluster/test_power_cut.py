"""Row 23: both hosts lose power at once, and one of them never comes back. The other one has every write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from harness import Scene, is_ready, runs_on
from test_failover import running, stalled, writes_on
from test_maintenance import says


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await made.start()
        yield made


async def cut_power(scene: Scene) -> None:
    """No host writes after the other one is off."""
    for name in scene.names:
        scene.simulation.power_off(name)
    for name in scene.names:
        await scene.kill_agent(name)


@pytest.mark.parametrize(("back", "lost"), [("mk1", "mk2"), ("mk2", "mk1")])
async def test_row_23_one_of_both_hosts_comes_back(scene: Scene, back: str, lost: str) -> None:
    """mk1 has the VM: it is started there again, or taken over by mk2, once the other one is known to be off."""
    truth = scene.simulation.truth
    vm = await running(scene, "a", onNodeFailure="FailOver")
    uid = vm.metadata.uid
    await writes_on(scene, vm)
    await cut_power(scene)
    acknowledged = truth.records(uid).acknowledged
    await scene.boot_host(back)
    await scene.until("XenNode", back, is_ready)
    await scene.until("XenNode", lost, says("Ready", "HostUnreachable"))
    if back == "mk1":
        told = stalled(await scene.until("XenVM", "a", says("Stalled", "DiskNotUpToDate")))
        assert f"outOfService: true on XenNode {lost}" in told.message
    assert truth.primaries("vm_a") == (), "nobody knows yet whether the other one has newer data"

    await scene.patch("XenNode", lost, {"spec": {"outOfService": True}})
    vm = await scene.until("XenVM", "a", runs_on(back))
    verdict = (await scene.volume("vm-a")).status.verdict
    assert verdict is not None
    assert (verdict.survivor, verdict.stale, verdict.reason) == (back, lost, "Fenced")
    assert truth.running(uid) == (back,)
    assert truth.records(uid).acknowledged >= acknowledged
    await writes_on(scene, vm)

    await scene.boot_host(lost)
    await scene.until("DrbdVolume", "vm-a", lambda volume: is_ready(volume) and not volume.status.verdict.survivor)
    assert truth.running(uid) == (back,)
