"""The simulated hosts with their agents: real HTTPS servers on loopback, asked by the controller's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.protocol import MigrateReceive, MigrateSend
from agent.simulation.agents import LOOPBACK, Agents
from agent.simulation.cluster import Simulation
from controller.agents.client import AgentClient, ClientTls
from tests.conformance.simulated import LAB, SimulatedPlace
from tests.lab.hosts import UID, Hosts

SLOW, QUICK = 20e6, 1e9  # bytes a second


@dataclass(frozen=True)
class Machine:
    """What tests.lab.hosts asks of a lab's machine."""

    name: str
    index: int

    def on(self) -> bool:
        return True


class SimulatedHosts(Hosts):
    """tests.lab.hosts.Hosts, for what goes over the agents' API."""

    def __init__(self, agents: Agents) -> None:
        tls = agents.controller_tls
        client = ClientTls(tls.certificate, tls.key, tls.authority)
        self.agents = agents
        self.simulation = agents.simulation
        self.clients = {
            name: AgentClient(name, LOOPBACK, place.api_port, client) for name, place in agents.places.items()
        }
        machines = [Machine(name, index) for index, name in enumerate(agents.places, 1)]
        self.lab: Any = SimpleNamespace(machines=machines)
        self.times = []

    async def story(self) -> str:
        states = [str(await self.state(name)) for name in self.clients]
        return "\n".join([*states, self.simulation.truth.story()])

    async def writes(self, name: str) -> None:
        goal = self.simulation.truth.records(UID).acknowledged + 3

        async def more() -> bool:
            return self.simulation.truth.records(UID).acknowledged >= goal

        await self.until(more, f"records of the guest on {name}")

    async def move(self, operation: str = "move", *, to: str = "mk2", epoch: int = 1, **changes: Any) -> None:
        source = "mk1" if to == "mk2" else "mk2"
        await self.operate(to, operation, MigrateReceive(domain=self.wish(epoch=epoch + 1, **changes), source=source))
        body = MigrateSend(
            domain=self.wish(epoch=epoch, **changes),
            target=to,
            target_address=LOOPBACK,
            target_port=self.agents.places[to].relocation_port,
        )
        await self.operate(source, operation, body)

    def slow(self, slowly: bool) -> None:
        self.simulation.slow_link(SLOW if slowly else QUICK)


@asynccontextmanager
async def simulated_agents(directory: Path) -> AsyncIterator[tuple[SimulatedHosts, SimulatedPlace]]:
    async with Simulation(directory / "hosts", hardware=LAB) as simulation:
        place = SimulatedPlace(simulation)
        agents = Agents(simulation, directory)
        try:
            for name in simulation.hosts:
                await agents.start(name)
            hosts = SimulatedHosts(agents)
            yield hosts, place
            await hosts.close()
        finally:
            await agents.close()
        simulation.truth.check()
