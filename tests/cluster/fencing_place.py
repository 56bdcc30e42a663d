"""A VM whose volume is under fencing: what the tests of lost hosts, cables and disks share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import devcluster
from api_objects import Manifest, howto
from harness import Scene, is_ready, runs_on

from controller.api.drbdvolume import DrbdVolume

RESOURCE, VOLUME, VM = "vm_shaolin", "vm-shaolin", "shaolin"


@asynccontextmanager
async def two_hosts(cluster: devcluster.Cluster, directory: Path, namespace: str) -> AsyncIterator[Scene]:
    """Agents and their XenNodes; no controller yet."""
    async with Scene(cluster, directory, namespace) as made:
        await asyncio.gather(*(made.start_agent(name) for name in made.names))
        for name in made.names:
            await made.apply(made.node_manifest(name))
        yield made


def small_volume(**spec: Any) -> Manifest:
    made = howto("DrbdVolume")
    made["spec"] |= {"size": "32Mi", **spec}
    return made


async def running(scene: Scene, **spec: Any) -> str:
    """The howto's VM runs on mk1, its volume under fencing; its uid."""
    await scene.apply(small_volume(**spec), howto("XenVM"))
    vm = await scene.until("XenVM", VM, runs_on("mk1"))
    await scene.until("DrbdVolume", VOLUME, lambda volume: is_ready(volume) and volume.status.fenced)
    return str(vm.metadata.uid)


def acknowledged(scene: Scene, uid: str) -> int:
    return scene.simulation.truth.records(uid).count


async def writes(scene: Scene, uid: str) -> None:
    """The guest's writes are acknowledged again."""
    before = acknowledged(scene, uid)
    await scene.until_true(lambda: acknowledged(scene, uid) > before + 5, "writes that are acknowledged")


def stands(number: int, survivor: str, reason: str) -> Any:
    def check(volume: DrbdVolume) -> bool:
        verdict = volume.status.verdict
        return verdict is not None and (verdict.number, verdict.survivor, verdict.reason) == (number, survivor, reason)

    return check


async def healed(scene: Scene, number: int) -> None:
    volume = await scene.until("DrbdVolume", VOLUME, lambda one: stands(number, "", "Redundant")(one) and is_ready(one))
    assert volume.status.frozen == ""
    await scene.until_true(lambda: scene.simulation.truth.replicas_identical(RESOURCE), "replicas that are the same")
