"""Hosts that lose power in a migration, at every phase, and come back: one VM, one Primary, no record lost."""

from __future__ import annotations

import asyncio

import pytest

from agent.vm_store import VmStore
from tests.agent_migration.pair import LIMIT, RESOURCE, Pair
from tests.agent_migration.vm_facts import UID

PHASES = [
    ("mk1", ["Starting", "Precopy", "StopAndCopy", "HandOver", "Demoted"]),
    ("mk2", ["Listening", "Receiving", "Received", "Promoting", "Attaching", "Unpausing", "Done"]),
]


async def start_where_it_may_run(pair: Pair) -> str:
    """What a controller does with a VM that runs nowhere: the host that has the grant, else a new epoch."""
    records = {name: VmStore(pair.at(name)).get(UID) for name in pair.agents}
    owners = [name for name, record in records.items() if record is not None and record.granted]
    top = max(record.epoch for record in records.values() if record is not None)
    owners = [name for name in owners if (record := records[name]) is not None and record.epoch == top]
    where, epoch = (owners[0], top) if owners else ("mk1", top + 1)
    await pair.synced()
    for name in pair.agents:
        if name != where:
            await pair.at(name).volumes.put(RESOURCE, pair.volume("Secondary"))
    await pair.at(where).volumes.put(RESOURCE, pair.volume("Primary"))
    await pair.wish(where, epoch=epoch, run=2)
    await pair.becomes(where, "running")
    return where


@pytest.mark.parametrize(
    ("lost", "phase", "side"),
    [(lost, phase, side) for side, phases in PHASES for phase in phases for lost in ("mk1", "mk2")],
)
async def test_power_lost(running: Pair, lost: str, phase: str, side: str) -> None:
    running.simulation.slow_link(150e6)
    await running.move()
    await running.phase(side, phase)
    await running.reboot(lost)
    await running.resolve()
    if not running.running():
        await start_where_it_may_run(running)
    (where,) = running.running()
    await running.synced()
    await running.runs_only_on(where)
    running.simulation.slow_link(400e6)
    epoch = max(record.epoch for name in running.agents if (record := VmStore(running.at(name)).get(UID)))
    to = "mk2" if where == "mk1" else "mk1"
    await running.move("again", to=to, epoch=epoch)
    await running.ended(where, "again", "Succeeded")
    await running.ended(to, "again", "Succeeded")
    await running.runs_only_on(to)


async def test_power_lost_with_the_report_in_hand(running: Pair) -> None:
    """The report had passed, nothing was journalled: the copy on the target is whole, and nothing ran here since."""
    running.hosts["mk1"].die_at_journal(lambda section, key, value: section == "vms", "before")
    await running.move()
    await asyncio.wait_for(running.hosts["mk1"].dead.wait(), LIMIT)
    running.agents.pop("mk1")
    await running.reboot("mk1")
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")
