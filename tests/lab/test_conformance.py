"""tests/conformance on real hosts: they answer as recorded, so that what the simulation is held to stays true."""

from __future__ import annotations

import os

import pytest
from lab_lib.lab import Lab

from tests.conformance.every import names
from tests.conformance.lab_place import LabPlace
from tests.conformance.play import on_lab_agents, on_lab_tools
from tests.conformance.scenario import SCENARIOS, Level, Recording, Seen, Start, differences, record
from tests.lab.hosts import Hosts

RECORDING = bool(os.environ.get("XENTANDEM_RECORD"))
"""Keep what they answer now instead."""


def chosen(level: Level, *starts: Start) -> list[str]:
    """Those of which something is recorded; or, to record, all."""
    return [name for name in names(level, *starts) if RECORDING or Recording.load(name) is not None]


@pytest.fixture(scope="module")
def tools_lab(lab: Lab) -> Lab:
    """Clean once: each scenario tidies up what was left before."""
    lab.restore("clean")
    return lab


@pytest.mark.parametrize("name", chosen("tools"))
async def test_tools(tools_lab: Lab, name: str) -> None:
    await _compare(tools_lab, name, await on_lab_tools(SCENARIOS[name], tools_lab))


@pytest.mark.parametrize("name", chosen("agents", "clean"))
async def test_agents_of_clean_hosts(clean: Hosts, name: str) -> None:
    await _compare(clean.lab, name, await on_lab_agents(SCENARIOS[name], clean))


@pytest.mark.parametrize("name", chosen("agents", "synced"))
async def test_agents_with_a_volume(synced: Hosts, name: str) -> None:
    await _compare(synced.lab, name, await on_lab_agents(SCENARIOS[name], synced))


@pytest.mark.parametrize("name", chosen("agents", "running"))
async def test_agents_with_a_vm(running: Hosts, name: str) -> None:
    await _compare(running.lab, name, await on_lab_agents(SCENARIOS[name], running))


async def _compare(lab: Lab, name: str, seen: list[Seen]) -> None:
    if RECORDING:
        record(name, seen, await LabPlace(lab).versions())
        return
    recorded = Recording.load(name)
    assert recorded is not None
    told = differences(seen, recorded.seen, simulated=False)
    assert not told, "\n\n".join(told)
