"""The controller behind an API server that loses, repeats, confuses and forgets: it ends where the last spec says."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import Manifest, howto
from burnin_lib.keeper import Keeper
from burnin_lib.proxy import BAD, Faults, Proxy
from harness import Scene, is_ready

from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM

NAMES = ("one", "two")
RESYNC_SECONDS = 2.0
pytestmark = pytest.mark.xdist_group("faults")


def objects() -> list[Manifest]:
    made = []
    for name in NAMES:
        volume, vm = howto("DrbdVolume", f"vm-{name}"), howto("XenVM", name)
        volume["spec"] = {
            "size": "16Mi", "logicalVolume": {"group": "vg0"}, "nodes": ["mk1", "mk2"],
            "content": {"filesystem": "ext4"},
        }  # fmt: skip
        vm["spec"] |= {"memory": "64Mi", "maxMemory": "64Mi", "disks": [{"volume": f"vm-{name}", "device": "xvda"}]}
        vm["spec"] |= {"networks": [{"bridge": "xenbr0"}], "shutdownGraceSeconds": 3}
        made += [volume, vm]
    return made


def is_at_rest(one: XenVM | DrbdVolume) -> bool:
    """Ready, and nothing is left to do: a VM that has just moved is Ready before its source is clean."""
    return is_ready(one) and not any(c.type == "Reconciling" for c in one.status.conditions)


def as_declared(vm: XenVM) -> bool:
    placement = vm.status.placement
    there = placement.node if placement is not None and vm.spec.state != "Stopped" else vm.spec.node
    return is_at_rest(vm) and vm.status.phase == vm.spec.state and there == vm.spec.node


async def hosts(scene: Scene) -> None:
    await asyncio.gather(*(scene.start_agent(name) for name in scene.names))
    for name in scene.names:
        await scene.apply(scene.node_manifest(name))


def is_used_on(node: str, volume: DrbdVolume) -> bool:
    return is_at_rest(volume) and volume.status.primary == node


def has_primaries(scene: Scene, resource: str, wanted: tuple[str, ...]) -> bool:
    return scene.simulation.truth.primaries(resource) == wanted


async def end(scene: Scene) -> dict[str, Any]:
    """What there is at last, without what tells of the way that led there."""
    found: dict[str, Any] = {}
    for name in NAMES:
        vm = await scene.until("XenVM", name, as_declared, 90)
        wanted = () if vm.spec.state == "Stopped" else (vm.spec.node,)
        volume = await scene.until("DrbdVolume", f"vm-{name}", partial(is_used_on, "".join(wanted)), 90)
        resource = volume.status.resource
        await scene.until_true(partial(has_primaries, scene, resource, wanted), f"{resource} is Primary on {wanted}")
        assert scene.simulation.truth.running(vm.metadata.uid) == (wanted if vm.spec.state == "Running" else ())
        assert scene.simulation.truth.replicas_identical(resource)
        found[name] = {
            "spec": (vm.spec.node, vm.spec.state),
            "phase": vm.status.phase,
            "volume": (volume.status.disk_state, volume.status.primary, volume.status.content.state),
            "conditions": sorted((one.type, one.status, one.reason) for one in vm.status.conditions),
            "volume's conditions": sorted((one.type, one.status, one.reason) for one in volume.status.conditions),
        }
    return found


async def edits(scene: Scene, proxy: Proxy, keeper: Keeper, chance: random.Random, count: int) -> None:
    """A person who cannot make up their mind, and a controller that dies now and then."""
    for _ in range(count):
        name = chance.choice(NAMES)
        match chance.randrange(7):
            case 0 | 1 | 2:
                await scene.move(name, chance.choice(scene.names))
            case 3 | 4 | 5:
                state = chance.choice(["Running", "Running", "Stopped", "Paused"])
                await scene.patch("XenVM", name, {"spec": {"state": state}})
            case _:
                keeper.kill()
        await asyncio.sleep(chance.random() * 0.9)


async def spoilt(
    cluster: devcluster.Cluster, folder: Path, namespace: str, seed: int, faults: Faults
) -> dict[str, Any]:
    chance = random.Random(seed)
    async with Scene(cluster, folder, namespace) as scene, Proxy(cluster.kubeconfig, seed) as proxy:
        await hosts(scene)
        proxy.faults = faults
        keeper = Keeper(scene, kubeconfig=str(proxy.kubeconfig), resync_seconds=RESYNC_SECONDS)
        try:
            await scene.apply(*objects())
            await edits(scene, proxy, keeper, chance, 10)
            specs = {name: (await scene.vm(name)).spec for name in NAMES}
            proxy.heal()
            found = await end(scene)
        finally:
            await keeper.stop()
        assert proxy.done.total() > 2, "hardly any of it came to pass: this proves nothing"
        assert {name: (spec.node, spec.state) for name, spec in specs.items()} == {
            name: one["spec"] for name, one in found.items()
        }, "the controller wrote a spec"
        return found


async def direct(cluster: devcluster.Cluster, folder: Path, namespace: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The same objects as they were at last, made at once."""
    async with Scene(cluster, folder, namespace) as scene:
        await scene.start()
        made = objects()
        for one in made:
            if one["kind"] == "XenVM":
                one["spec"]["node"], one["spec"]["state"] = wanted[one["metadata"]["name"]]["spec"]
        await scene.apply(*made)
        return await end(scene)


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_end_is_as_if_the_last_spec_had_been_the_first(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, seed: int
) -> None:
    found = await spoilt(cluster, tmp_path / "spoilt", namespace, seed, BAD)
    assert found == await direct(cluster, tmp_path / "direct", namespace, found)


@pytest.mark.parametrize(
    "faults",
    [Faults(drop=0.5), Faults(stale=0.7), Faults(lost=0.4)],
    ids=["events lost", "stale reads", "answers lost"],
)
async def test_one_kind_of_fault_at_a_time(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str, faults: Faults
) -> None:
    await spoilt(cluster, tmp_path, namespace, 7, faults)
