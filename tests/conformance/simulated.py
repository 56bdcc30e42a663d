"""The simulated hosts as a place: on a virtual clock, made like the lab's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent.simulation.cluster import REAL, Hardware, Simulation
from agent.simulation.devices import Device
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen
from agent.simulation.process import Process
from tests.conformance.answers import Answer

MIB = 1 << 20
LAB = Hardware(memory_mib=1535, cpus=1, volume_groups=(("vg0", 2044 * MIB),))
LIMIT = 120.0


class SimulatedPlace:
    """Of one scenario."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._held: dict[tuple[str, str], Device] = {}
        self._followed: dict[str, Process] = {}
        for host in simulation.hosts.values():
            Xen.of(host).configure(dom0_mib=640)
            for path in ("/boot/xenU/vmlinux", "/boot/xenU/initrd.img"):
                host.files.write(path, "a file of the simulation\n")

    def _host(self, name: str) -> SimulatedHost:
        return self.simulation.hosts[name]

    async def run(self, host: str, commands: Sequence[Sequence[str]]) -> list[Answer]:
        answers = []
        for argv in commands:
            completed = await self._host(host).run(argv, timeout=LIMIT)
            answers.append(Answer(completed.exit, completed.stdout, completed.stderr))
        return answers

    async def write(self, host: str, path: str, text: str) -> None:
        await self._host(host).write_text(path, text)

    async def remove(self, host: str, path: str) -> None:
        await self._host(host).remove(path)

    async def handler(self, host: str, path: str, status: int) -> None:
        async def program(process: Process) -> int:
            told = sorted(f"{name}={value}\n" for name, value in process.environment.items())
            await process.host.write_text(f"{path}.env", "".join(told))
            return status

        self._host(host).add_program(Path(path).name, program)

    async def hold(self, host: str, device: str) -> None:
        self._held[host, device] = self._host(host).open_device(device, "w")

    async def release(self, host: str, device: str) -> None:
        self._held.pop((host, device)).close()

    async def fill(self, host: str, device: str, block: int, blocks: int, letter: str) -> None:
        opened = self._host(host).open_device(device, "w")
        try:
            await opened.write(block * 4096, letter.encode() * 4096 * blocks)
        finally:
            opened.close()

    async def follow(self, host: str, argv: Sequence[str]) -> None:
        self._followed[host] = self._host(host).processes.start(argv)

    async def followed(self, host: str) -> str:
        process = self._followed.pop(host)
        said = await process.stdout.read(1 << 20)
        process.kill_session()
        return said.decode()

    async def guest(self, host: str, name: str, does: str) -> None:
        domain = Xen.of(self._host(host)).find(name)
        assert domain is not None
        assert domain.guest is not None
        getattr(domain.guest, does)()

    async def set_link(self, *, up: bool) -> None:
        (self.simulation.restore_link if up else self.simulation.cut_link)("mk1", "mk2")

    async def power_off(self, host: str) -> None:
        self.simulation.power_off(host)

    async def power_on(self, host: str) -> None:
        self.simulation.power_on(host)

    async def sleep(self, seconds: float) -> None:
        await self.simulation.clock.sleep(seconds)

    def now(self) -> float:
        return self.simulation.clock.now()


@asynccontextmanager
async def simulated(directory: Path) -> AsyncIterator[SimulatedPlace]:
    async with Simulation(directory, clock="virtual", timing=REAL, hardware=LAB) as simulation:
        simulation.truth.allow_two_primaries = True  # DRBD's refusals are what is asked for here, not the agents' rule
        yield SimulatedPlace(simulation)
        assert not simulation.defects, simulation.defects
