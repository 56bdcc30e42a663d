"""Both sides of a volume were written without the other: nothing is lost, a person chooses, both meet again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import howto
from harness import Scene, is_ready

from controller.api.common import condition
from controller.api.drbdvolume import DrbdVolume

RESOURCE, VOLUME = "vm_shaolin", "vm-shaolin"
BLOCK = 4096


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await asyncio.gather(*(made.start_agent(name) for name in made.names))
        for name in made.names:
            await made.apply(made.node_manifest(name))
        await made.start_controller()
        volume = howto("DrbdVolume")
        volume["spec"] |= {"size": "32Mi"}
        await made.apply(volume)
        await made.until("DrbdVolume", VOLUME, lambda one: is_ready(one) and one.status.fenced)
        yield made


async def write_alone(scene: Scene, host: str, data: bytes) -> None:
    """By hand, as somebody does who believes that the other host is gone."""
    machine = scene.simulation.hosts[host]
    await scene.until_agent(host, lambda state: apart(state.volumes[RESOURCE].peer), "that it is alone")
    done = await machine.run(["drbdadm", "primary", "--force", RESOURCE], timeout=60)
    assert done.exit == 0, done
    device = machine.open_device("/dev/drbd1", "w")
    await device.write(7 * BLOCK, data * BLOCK)
    device.close()
    done = await machine.run(["drbdadm", "secondary", RESOURCE])
    assert done.exit == 0, done


def apart(peer: Any) -> bool:
    return peer is None or peer.connection != "Connected"


async def read(scene: Scene, host: str, path: str) -> bytes:
    device = scene.simulation.hosts[host].open_device(path, "r")
    found = await device.read(7 * BLOCK, BLOCK)
    device.close()
    return bytes(found[:1])


async def split(scene: Scene, *, written: dict[str, bytes]) -> None:
    scene.simulation.cut_link("mk1", "mk2")
    for host, data in written.items():
        await write_alone(scene, host, data)
    scene.simulation.restore_link("mk1", "mk2")


def found(volume: DrbdVolume) -> bool:
    """With a snapshot of each side."""
    seen = volume.status.split_brain
    return seen is not None and all(side.snapshot for side in seen.sides)


def told(volume: DrbdVolume) -> str:
    degraded = condition(volume.status.conditions, "Degraded")
    return f"{degraded.reason}: {degraded.message}" if degraded is not None else ""


async def test_row_24_both_sides_are_kept_and_a_person_chooses(scene: Scene) -> None:
    await split(scene, written={"mk1": b"a", "mk2": b"b"})
    volume = await scene.until("DrbdVolume", VOLUME, found)
    record = volume.status.split_brain
    assert (record.kind, record.survivor) == ("SplitBrain", "")
    assert [side.node for side in record.sides] == ["mk1", "mk2"]
    assert told(volume).startswith("SplitBrain: ")
    assert "kubectl xen resolve vm-shaolin" in told(volume)
    for side, data in zip(record.sides, (b"a", b"b"), strict=True):
        assert await read(scene, side.node, f"/dev/{side.snapshot}") == data

    await scene.patch("DrbdVolume", VOLUME, {"spec": {"splitBrain": {"id": "00000000", "survivor": "mk2"}}})
    volume = await scene.until("DrbdVolume", VOLUME, lambda one: "another one" in told(one))
    assert record.id in told(volume)
    await scene.patch("DrbdVolume", VOLUME, {"spec": {"splitBrain": {"id": record.id, "survivor": "mk9"}}})
    await scene.until("DrbdVolume", VOLUME, lambda one: "holds no replica" in told(one))
    assert (await scene.volume()).status.split_brain is not None

    # mk1 held the verdict, so mk2's copy is recorded as stale and outdated
    await scene.patch("DrbdVolume", VOLUME, {"spec": {"splitBrain": {"id": record.id, "survivor": "mk2"}}})
    await scene.until("DrbdVolume", VOLUME, lambda one: "the disk of mk2 is Outdated" in told(one))
    assert (await scene.volume()).status.split_brain is not None

    await scene.patch("DrbdVolume", VOLUME, {"spec": {"splitBrain": {"id": record.id, "survivor": "mk1"}}})
    await scene.until("DrbdVolume", VOLUME, lambda one: one.status.split_brain is None and is_ready(one))
    await scene.until_true(lambda: scene.simulation.truth.replicas_identical(RESOURCE), "replicas that are the same")
    done = await scene.simulation.hosts["mk2"].run(["drbdadm", "primary", RESOURCE])
    assert done.exit == 0, done
    assert await read(scene, "mk2", "/dev/drbd1") == b"a"
    await scene.simulation.hosts["mk2"].run(["drbdadm", "secondary", RESOURCE])
    assert await read(scene, "mk2", f"/dev/{record.sides[1].snapshot}") == b"b"  # what was given up is still there


async def test_row_24_the_controller_is_killed_in_the_middle(scene: Scene) -> None:
    await split(scene, written={"mk1": b"a", "mk2": b"b"})
    volume = await scene.until("DrbdVolume", VOLUME, lambda one: one.status.split_brain is not None)
    await scene.kill_controller()
    await scene.start_controller()
    volume = await scene.until("DrbdVolume", VOLUME, found)
    choice = {"id": volume.status.split_brain.id, "survivor": "mk1"}
    await scene.patch("DrbdVolume", VOLUME, {"spec": {"splitBrain": choice}})
    await scene.until("DrbdVolume", VOLUME, lambda one: getattr(one.status.split_brain, "survivor", "mk1") == "mk1")
    await scene.kill_controller()
    await scene.start_controller()
    await scene.until("DrbdVolume", VOLUME, lambda one: one.status.split_brain is None and is_ready(one))
    await scene.until_true(lambda: scene.simulation.truth.replicas_identical(RESOURCE), "replicas that are the same")
