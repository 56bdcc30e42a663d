"""The real agents of simulated hosts, in the simulation's process: each with its certificate, ports and state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import pki
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost

LOOPBACK = "127.0.0.1"


@dataclass
class Place:
    """Where one host's agent serves, or will serve again: ports stay when it is restarted. 0 = not chosen yet."""

    api_port: int = 0
    relocation_port: int = 0


class Agents:
    """Starts, kills and restarts the agents. A host that loses power takes its agent along."""

    def __init__(self, simulation: Simulation, directory: Path, places: dict[str, Place] | None = None) -> None:
        self.simulation = simulation
        self.directory = directory
        self.places = {name: (places or {}).get(name) or Place() for name in simulation.hosts}
        self.running: dict[str, Agent] = {}
        folder = directory / "pki"
        if (folder / "ca.crt").exists():
            self._authority = pki.Authority.load(folder)
        else:
            self._authority = pki.create_authority(folder)
        self.controller_tls = pki.issue_controller(self._authority, folder / "controller")
        self._tls: dict[str, TlsFiles] = {
            name: pki.issue_agent(self._authority, name, folder / name, addresses=(LOOPBACK,))
            for name in simulation.hosts
        }

    async def start(self, name: str) -> Agent:
        """Serving when this returns. Raises agent.daemon.StartError, OSError."""
        if name in self.running:
            return self.running[name]
        place = self.places[name]
        agent = Agent(
            self.simulation.hosts[name],
            self.directory / "state" / name,
            name,
            api=(LOOPBACK, place.api_port),
            relocation=(LOOPBACK, place.relocation_port),
            tls=self._tls[name],
        )
        await agent.start()
        place.api_port, place.relocation_port = agent.api_port, agent.relocation_port or place.relocation_port
        self.running[name] = agent
        self.simulation.truth.note(name, "agent started")
        return agent

    async def kill(self, name: str) -> None:
        """As kill -9."""
        if (agent := self.running.pop(name, None)) is not None:
            self.simulation.truth.note(name, "agent killed")
            await agent.kill()

    async def stop(self, name: str) -> None:
        if (agent := self.running.pop(name, None)) is not None:
            self.simulation.truth.note(name, "agent stopped")
            await agent.stop()

    async def power_off(self, name: str) -> None:
        """The host's memory is gone first: the agent can do nothing any more."""
        self.simulation.power_off(name)
        await self.kill(name)

    async def power_on(self, name: str) -> None:
        """The host boots and starts its agent."""
        self.simulation.power_on(name)
        await self.start(name)

    async def close(self) -> None:
        await asyncio.gather(*(self.kill(name) for name in list(self.running)))

    def manifest(self, name: str) -> dict[str, Any]:
        """The host as a XenNode, ready for kubectl apply. Its agent has been started."""
        host: SimulatedHost = self.simulation.hosts[name]
        place = self.places[name]
        return {
            "apiVersion": "xentandem.io/v1alpha1",
            "kind": "XenNode",
            "metadata": {"name": name},
            "spec": {
                "agent": {"address": LOOPBACK, "port": place.api_port},
                "replication": {"address": host.address},
                "relocation": {"enabled": True, "address": LOOPBACK, "port": place.relocation_port},
                "volumeGroups": [group for group, _ in self.simulation.hardware.volume_groups],
            },
        }
