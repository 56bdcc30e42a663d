"""Fixtures: two simulated hosts with an agent each, and the same with a VM that runs on mk1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.migration import target
from agent.simulation.cluster import Simulation
from tests.agent_migration.pair import Pair, relays


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    """A volume, UpToDate on both, Primary on mk1; no VM. What the simulation saw must be without a violation."""
    monkeypatch.setattr(target, "ENDING_LIMIT", 1.0)  # a receiver without a transport hangs: not waited for so long
    async with Simulation(tmp_path / "simulation", link_rate=400e6) as simulation:
        pair = Pair(simulation, tmp_path)
        try:
            for name in simulation.hosts:
                await pair.start(name)
            await pair.make_volume()
            yield pair
            simulation.truth.check()
            assert simulation.truth.two_primaries_seconds == {}
        finally:
            await pair.close()
    assert relays() == set()


@pytest.fixture
async def running(pair: Pair) -> Pair:
    """... and the VM runs on mk1 at epoch 1."""
    await pair.run()
    return pair
