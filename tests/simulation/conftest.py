"""Fixtures: two simulated hosts with guests that write often, one disk that both have, and the relay's end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import Listener, SharedDisk, quick

from agent.simulation.cluster import Hardware, Simulation
from agent.simulation.host import SimulatedHost


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path, hardware=Hardware(memory_mib=1023)) as simulation:
        quick(simulation)
        yield simulation
        simulation.truth.check()


@pytest.fixture
def disk(simulation: Simulation) -> SharedDisk:
    return SharedDisk(simulation)


@pytest.fixture
def mk1(simulation: Simulation, disk: SharedDisk) -> SimulatedHost:
    return simulation.hosts["mk1"]


@pytest.fixture
def hosts(simulation: Simulation, disk: SharedDisk) -> tuple[SimulatedHost, SimulatedHost]:
    return simulation.hosts["mk1"], simulation.hosts["mk2"]


@pytest.fixture
async def listener(simulation: Simulation, tmp_path: Path) -> AsyncIterator[Listener]:
    async with Listener(simulation, tmp_path / "socket", "-p", "-e") as listener:
        yield listener
