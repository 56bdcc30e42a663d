"""Fixtures: two simulated hosts with an agent each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fleet import Fleet

from agent.simulation.cluster import Simulation


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """mk1 and mk2, no volume yet. What the simulation saw must be without a violation at the end."""
    async with Simulation(tmp_path / "simulation") as simulation:
        fleet = Fleet(simulation, tmp_path)
        try:
            for name in fleet.hosts:
                await fleet.start(name)
            yield fleet
            simulation.truth.check()
        finally:
            await fleet.close()
