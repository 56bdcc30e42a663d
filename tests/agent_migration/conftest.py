"""Fixtures: two simulated hosts with an agent each, the same with a VM that runs on mk1, and a relay by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core import TlsFiles
from agent.migration import target
from agent.pki import create_authority, issue_agent, issue_controller
from agent.simulation.cluster import Simulation
from tests.agent_migration.pair import Pair, relays
from tests.agent_migration.relay_rig import Rig


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


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsFiles]:
    folder = tmp_path_factory.mktemp("pki")
    ours, theirs = create_authority(folder / "ca"), create_authority(folder / "other")
    return {
        "mk1": issue_agent(ours, "mk1", folder / "mk1"),
        "mk2": issue_agent(ours, "mk2", folder / "mk2"),
        "controller": issue_controller(ours, folder / "controller"),
        "stranger": issue_agent(theirs, "mk2", folder / "stranger"),
    }


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    if rig.process.returncode is None:
        rig.process.kill()
    await rig.process.wait()
