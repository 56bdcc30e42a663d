"""What the tests of the simulated DRBD share: the pair of hosts of the samples, and reading sample files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.host import Completed
from agent.simulation.cluster import REAL, Simulation, Timing
from agent.simulation.drbd_volume import Volume
from agent.simulation.host import SimulatedHost

SAMPLES = Path(__file__).parent.parent / "samples"
RESOURCE = "vm_shaolin"
CONFIG = "/etc/drbd.d/vm_shaolin.res"
DEVICE = "/dev/drbd1"
BLOCK = 4096


def config(*, rate: str = "100M", net: str = "", disk: str = "", handlers: str = "") -> str:
    """The configuration that the sample hosts had."""
    return f"""resource vm_shaolin {{
  net {{ protocol C; max-buffers 8000; {net} }}
  disk {{ resync-rate {rate}; c-plan-ahead 0; {disk} }}
  {handlers}
  on mk1 {{ volume 0 {{ device minor 1; disk /dev/vg0/vm_shaolin; meta-disk internal; }} address 10.0.0.81:7791; }}
  on mk2 {{ volume 0 {{ device minor 1; disk /dev/vg0/vm_shaolin; meta-disk internal; }} address 10.0.0.82:7791; }}
}}
"""


class Pair:
    """mk1 and mk2 of a simulation on a virtual clock."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.mk1 = simulation.hosts["mk1"]
        self.mk2 = simulation.hosts["mk2"]
        self.both = (self.mk1, self.mk2)

    async def run(self, host: SimulatedHost, *argv: str) -> Completed:
        return await host.run(argv, timeout=600)

    async def ok(self, host: SimulatedHost, *argv: str) -> str:
        completed = await self.run(host, *argv)
        assert completed.exit == 0, f"{host.name}: {' '.join(argv)}: {completed}"
        return completed.stdout

    async def configure(self, text: str) -> None:
        for host in self.both:
            await host.write_text(CONFIG, text)

    async def prepare(self, host: SimulatedHost, size: str = "64M") -> None:
        """Logical volume, metadata, up."""
        await self.ok(host, "lvcreate", "-L", size, "-n", RESOURCE, "vg0")
        await self.ok(host, "drbdadm", "create-md", "--force", RESOURCE)
        await self.ok(host, "drbdadm", "up", RESOURCE)

    async def in_sync(self, text: str | None = None, size: str = "64M") -> None:
        """Connected, UpToDate/UpToDate, both Secondary, everything copied from mk1."""
        await self.configure(text or config())
        for host in self.both:
            await self.prepare(host, size)
        await self.until(lambda: self.volume(self.mk1).state.cs == "Connected")
        await self.ok(self.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await self.settled()
        await self.ok(self.mk1, "drbdsetup", "secondary", "1")

    def volume(self, host: SimulatedHost) -> Volume:
        return host.drbd.resources[RESOURCE]

    async def until(self, condition: Callable[[], bool], seconds: float = 3600.0) -> None:
        """Wait on the simulation's clock."""
        await self.simulation.clock.wait_for(self.simulation.changed.wait_until(condition), seconds)

    async def settled(self) -> None:
        """Connected and both UpToDate."""
        await self.until(
            lambda: all(
                (state := self.volume(host).state).cs == "Connected" and state.disk == state.peer_disk == "UpToDate"
                for host in self.both
            )
        )

    async def apart(self, *hosts: SimulatedHost) -> None:
        await self.until(
            lambda: all(self.volume(host).state.cs in {"WFConnection", "StandAlone"} for host in hosts or self.both)
        )

    async def write(self, host: SimulatedHost, block: int, fill: bytes = b"x", blocks: int = 1) -> None:
        device = host.open_device(DEVICE, "w")
        try:
            await device.write(block * BLOCK, fill * BLOCK * blocks)
        finally:
            device.close()

    def on_disk(self, host: SimulatedHost, block: int) -> bytes:
        found = host.volume_groups.find("/dev/vg0/vm_shaolin")
        assert found is not None
        return found.read_now(block * BLOCK, BLOCK)

    async def word(self, host: SimulatedHost) -> str:
        """Connection, roles and disks of /proc/drbd."""
        line = next(line for line in host.files.read("/proc/drbd").splitlines() if line.startswith(" 1:"))
        match = re.search(r"cs:(\S+) ro:(\S+) ds:(\S+)", line)
        assert match is not None
        return " ".join(match.groups())


@asynccontextmanager
async def pair(directory: Path, *, timing: Timing = REAL, seed: int = 0) -> AsyncIterator[Pair]:
    """The monitor's verdict is asked at the end."""
    async with Simulation(directory, clock="virtual", timing=timing, seed=seed) as simulation:
        yield Pair(simulation)
        simulation.truth.check()


async def primary(one: Pair, host: SimulatedHost | None = None) -> None:
    await one.ok(host or one.mk1, "drbdsetup", "primary", "1")


@dataclass
class Shown:
    """One command of a sample file."""

    argv: list[str]
    output: str
    exit: int
    stderr: list[str] = field(default_factory=list)


def sample(name: str) -> list[Shown]:
    """The commands of a sample file with what they said."""
    text = (SAMPLES / name).read_text()
    found = []
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, rest = part.partition("\n")
        body, _, status = rest.rpartition("[exit ")
        lines = body.splitlines()
        stderr = [line.removeprefix("[stderr] ") for line in lines if line.startswith("[stderr] ")]
        output = "".join(f"{line}\n" for line in lines if not line.startswith("[stderr] "))
        found.append(Shown(command.split(), output, int(status.split("]")[0]), stderr))
    return found


COUNTERS = (
    r"\b(ns|nr|dw|dr|al|bm|ap|read|written|al-writes|upper-pending|lower-pending|received|sent|pending):\d+",
    r"\b(oos|out-of-sync):[1-9]\d*",  # none at all is more than a number
    r"\b(done):\d+\.\d\d",
)


def without_numbers(text: str) -> str:
    """Counters and progress differ from run to run; words, layout, sizes, names and rates don't."""
    for pattern in COUNTERS:
        text = re.sub(pattern, r"\1:N", text)
    text = re.sub(r"\[=*>\.*\] sync'ed: *\d+\.\d% \(\d+/", "[bar] sync'ed: N% (N/", text)
    return re.sub(r"finish: \d+:\d\d:\d\d speed: [\d,]+ \([\d,]+\)", "finish: N speed: N (N)", text)


async def until_quiet(tasks: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(tasks):
        await asyncio.sleep(0)
