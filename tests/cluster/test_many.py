"""Many objects at the same time."""

from __future__ import annotations

import copy
from pathlib import Path

import devcluster
from api_objects import Manifest, howto
from harness import Scene


def volumes(count: int) -> list[Manifest]:
    """Copies of the howto's volume that leave minor and port to the controller."""
    made = []
    for number in range(count):
        one = copy.deepcopy(howto("DrbdVolume", f"many-{number}"))
        one["spec"] |= {"size": "8Mi", "resource": f"many_{number}"}
        one["spec"]["logicalVolume"]["name"] = f"many_{number}"
        del one["spec"]["device"], one["spec"]["content"]
        made.append(one)
    return made


async def test_volumes_applied_at_once_get_different_minors(
    cluster: devcluster.Cluster, tmp_path: Path, namespace: str
) -> None:
    """And no agent has to refuse one: the decisions of one controller see each other's."""
    async with Scene(cluster, tmp_path, namespace) as scene:
        await scene.start()
        manifests = volumes(8)
        await scene.apply(*manifests)
        found = [await scene.until_ready("DrbdVolume", one["metadata"]["name"]) for one in manifests]
        minors = [one.status.device.minor for one in found]
        assert len(set(minors)) == len(minors)
        refused = [
            sample
            for metric in scene.controllers[0].metrics.requests.collect()
            for sample in metric.samples
            if sample.labels.get("outcome") == "refused" and sample.value
        ]
        assert refused == []
