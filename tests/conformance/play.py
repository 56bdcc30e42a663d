"""Playing a scenario on either kind of host."""

from __future__ import annotations

from pathlib import Path

from lab_lib.lab import Lab

from tests.conformance.agents import Agents
from tests.conformance.lab_place import LabPlace
from tests.conformance.scenario import Scenario, Seen
from tests.conformance.simulated import simulated
from tests.conformance.simulated_agents import simulated_agents
from tests.conformance.tools import Tools
from tests.lab.hosts import Hosts


async def on_simulated(scenario: Scenario, directory: Path) -> list[Seen]:
    if scenario.level == "tools":
        async with simulated(directory) as place:
            tools = Tools(place)
            await scenario.play(tools)
            return tools.seen
    async with simulated_agents(directory) as (hosts, place):
        if scenario.start != "clean":
            await hosts.make_volume()
        if scenario.start == "running":
            await hosts.run_vm()
        agents = Agents(hosts, place, hosts.slow)
        await scenario.play(agents)
        return agents.seen


async def on_lab_tools(scenario: Scenario, lab: Lab) -> list[Seen]:
    place = LabPlace(lab)
    try:
        await place.prepare()
        tools = Tools(place)
        await scenario.play(tools)
        return tools.seen
    finally:
        await place.close()


async def on_lab_agents(scenario: Scenario, hosts: Hosts) -> list[Seen]:
    """Hosts are as `scenario.start` says."""
    place = LabPlace(hosts.lab)
    try:
        agents = Agents(hosts, place, lambda slowly: None)
        await scenario.play(agents)
        return agents.seen
    finally:
        await place.close()
