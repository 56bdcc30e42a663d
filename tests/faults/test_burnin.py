"""A short burn-in, and every seed that once ended badly again."""

from __future__ import annotations

import time
from pathlib import Path

import devcluster
import pytest
from burnin_lib.main import Burnin
from burnin_lib.story import story

SEEDS = [line.split()[:4] for line in (Path(__file__).parent / "seeds").read_text().splitlines() if line[:1] != "#"]
SECONDS = 20.0
pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.timeout(300)
async def test_random_stories_end_well(cluster: devcluster.Cluster) -> None:
    burnin, seed, end = Burnin(cluster, hosts=2, vms=3, steps=15), 1, time.monotonic() + SECONDS
    while time.monotonic() < end:
        steps = burnin.story(seed)
        wrong = await burnin.round(seed, steps)
        assert not wrong, f"hack/burnin --seed {seed} --hosts 2 --vms 3 --steps 15\n{wrong}\n" + "\n".join(
            map(str, steps)
        )
        seed += 1


@pytest.mark.parametrize("numbers", SEEDS, ids="-".join)
@pytest.mark.timeout(300)
async def test_a_story_that_ended_badly_once(cluster: devcluster.Cluster, numbers: list[str]) -> None:
    seed, hosts, vms, steps = map(int, numbers)
    burnin = Burnin(cluster, hosts=hosts, vms=vms, steps=steps)
    assert await burnin.round(seed, burnin.story(seed)) == ""


def test_a_seed_is_a_story() -> None:
    names = ("mk1", "mk2", "mk3")
    assert story(5, names, 4, 30) == story(5, names, 4, 30)
    assert story(5, names, 4, 30) != story(6, names, 4, 30)
    assert {step.what for seed in range(30) for step in story(seed, names, 4, 30)} >= {
        "move", "power off", "cut", "fail the disk of",
    }  # fmt: skip
