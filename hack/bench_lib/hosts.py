"""The simulated hosts, each with its real agent, all in this one process: `python -m bench_lib.hosts PLAN.json`

Until SIGTERM; then the monitor that saw every host at once says whether anything went wrong on them meanwhile. A
measurement during which a VM ran twice would be worth nothing. Exit status 0 only if nothing did.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import logs, pki
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.simulation.cluster import Hardware, Simulation
from agent.simulation.hypervisor import Xen

MEMORY_MIB = 1 << 20
GROUP_BYTES = 1 << 42
STARTED_TOGETHER = 8


@dataclass(frozen=True)
class HostsPlan:
    """`api_ports`, `relocation_ports`: on loopback, by host. `records_per_second`: of all guests together."""

    directory: str
    pki: str
    api_ports: dict[str, int]
    relocation_ports: dict[str, int]
    records_per_second: float

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> HostsPlan:
        return cls(**json.loads(path.read_text()))

    @property
    def ready(self) -> Path:
        """Written when every agent serves: the hosts' replication addresses by name."""
        return Path(self.directory) / "ready.json"


def certificates(folder: Path, names: list[str]) -> Path:
    """A CA with a certificate for every agent and one for the controller, whose folder is returned."""
    authority = pki.create_authority(folder)
    for name in names:
        pki.issue_agent(authority, name, folder / name)
    return pki.issue_controller(authority, folder / "controller").certificate.parent


def _tls(folder: Path) -> TlsFiles:
    return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key", authority=folder / "ca.crt")


async def _run(plan: HostsPlan) -> int:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    hardware = Hardware(memory_mib=MEMORY_MIB, cpus=64, volume_groups=(("vg0", GROUP_BYTES),))
    folder = Path(plan.directory)
    async with Simulation(folder / "hosts", tuple(plan.api_ports), hardware=hardware) as simulation:
        for host in simulation.hosts.values():
            Xen.of(host).configure(records_per_second=plan.records_per_second)
        agents = {
            name: Agent(
                simulation.hosts[name],
                folder / "agents" / name,
                name,
                api=("127.0.0.1", port),
                relocation=("127.0.0.1", plan.relocation_ports[name]),
                tls=_tls(Path(plan.pki) / name),
            )
            for name, port in plan.api_ports.items()
        }
        gate = asyncio.Semaphore(STARTED_TOGETHER)

        async def start(agent: Agent) -> None:
            async with gate:
                await agent.start()

        await asyncio.gather(*(start(agent) for agent in agents.values()))
        partial = plan.ready.with_suffix(".new")
        partial.write_text(json.dumps({name: host.address for name, host in simulation.hosts.items()}))
        partial.rename(plan.ready)
        await ended.wait()
        try:
            simulation.truth.check()
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            for agent in agents.values():
                await agent.kill()
    return 0


def main(arguments: list[str]) -> int:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o077)
    logs.configure("console", "warning")
    gc.set_threshold(100_000, 20, 100)  # a hundred hosts' objects in one process are too many to look through often
    return asyncio.run(_run(HostsPlan.read(Path(arguments[0]))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
