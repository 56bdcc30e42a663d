"""What the tests of the simulated Xen share: a pair of hosts, a device both have, and words of real hosts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from agent.drivers.xen_parse import parse_list
from agent.host import Completed, Job, PipedProcess
from agent.simulation.cluster import Simulation
from agent.simulation.guest import Guest
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Domain, Xen

SAMPLES = Path(__file__).parent.parent / "samples"
UUID = "f27b9dda-56c0-4573-87da-a4b07ed4f2fc"
NAME = "shaolin"
SIZE = 8 << 20
# How the lines of xl and of its libraries begin that a recorded migration is compared by
SAYS = ("migration", "Saving", "Loading", " Savefile", "Parsing", "xc:", "libxl", "Migration")
RELAY = f"{sys.executable} {Path(__file__).parent / 'stream_relay.py'}"


class SharedDisk:
    """A device of all hosts with one content, as a replicated one whose peers never lag; Primary on at most one."""

    def __init__(self, simulation: Simulation, path: str = "/dev/drbd1", primary: str = "mk1") -> None:
        self.data = bytearray(SIZE)
        self.primary = primary
        self.opened: dict[str, int] = {}
        self.gate = asyncio.Event()  # cleared: writes hang, as while DRBD's IO is frozen
        self.gate.set()
        self.failing = False
        for host in simulation.hosts.values():
            host.devices.add_driver(
                lambda asked, host=host: _Side(self, host.name) if asked == path else None  # type: ignore[misc]
            )

    def demote(self) -> bool:
        if self.opened.get(self.primary, 0):
            return False
        self.primary = ""
        return True


class _Side:
    def __init__(self, disk: SharedDisk, host: str) -> None:
        self._disk, self._host = disk, host
        self.size = SIZE

    def opened(self, mode: str) -> None:
        if self._disk.primary != self._host:
            raise OSError(errno.EMEDIUMTYPE, os.strerror(errno.EMEDIUMTYPE))
        self._disk.opened[self._host] = self._disk.opened.get(self._host, 0) + 1

    def closed(self, mode: str) -> None:
        self._disk.opened[self._host] -= 1

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self._disk.data[offset : offset + length])

    async def write(self, offset: int, data: bytes) -> None:
        await self._disk.gate.wait()
        if self._disk.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._disk.data[offset : offset + len(data)] = data


def config(
    name: str = NAME,
    *,
    uuid: str = UUID,
    memory: int = 128,
    disk: str = "format=raw,vdev=xvda,access=rw,script=block-xentandem,target=/dev/drbd1",
    kernel: str = "/boot/vmlinuz",
    bridge: str = "xenbr0",
    kind: str = "pv",
) -> str:
    return (
        f'name = "{name}"\nuuid = "{uuid}"\ntype = "{kind}"\nmemory = {memory}\nvcpus = 1\nkernel = "{kernel}"\n'
        f'disk = ["{disk}"]\nvif = ["mac=a0:00:00:01:00:01,bridge={bridge}"]\n'
    )


async def create(host: SimulatedHost, text: str = "", *flags: str) -> Completed:
    await host.write_text("/etc/xen/shaolin.cfg", text or config())
    return await host.run(["xl", "create", "-e", *flags, "/etc/xen/shaolin.cfg"])


async def xl(host: SimulatedHost, *words: str) -> Completed:
    return await host.run(["xl", *words])


def domain(host: SimulatedHost, name: str = NAME) -> Domain:
    found = Xen.of(host).find(name)
    assert found is not None, f"no domain {name} on {host.name}: {[d.name for d in Xen.of(host)]}"
    return found


def guest(host: SimulatedHost, name: str = NAME) -> Guest:
    found = domain(host, name).guest
    assert found is not None
    return found


async def names(host: SimulatedHost) -> dict[str, str]:
    """Name -> the six columns, as `xl list` shows them."""
    lines = (await xl(host, "list")).stdout.splitlines()[2:]
    return {line[:40].rstrip(): line.split()[-2] for line in lines}


async def states(host: SimulatedHost) -> dict[str, str]:
    """Name -> the six columns, as the agent's own parser reads them."""
    return {state.name: state.flags for state in parse_list((await xl(host, "list", "-v")).stdout)}


async def until(simulation: Simulation, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition of the simulation with a limit of real time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # conditions of several parts, not all of which notify
            await asyncio.sleep(0.005)


async def until_records(simulation: Simulation, more: int = 3, uuid: str = UUID) -> None:
    goal = simulation.truth.records(uuid).acknowledged + more
    await until(simulation, lambda: simulation.truth.records(uuid).acknowledged >= goal)


async def started(simulation: Simulation, source: SimulatedHost, text: str = "") -> None:
    assert (await create(source, text)).exit == 0
    await until_records(simulation)


def words(text: str) -> str:
    """Text with the numbers that differ from run to run (domids, pids, sizes, mfns) made equal."""
    text = re.sub(r"0x[0-9a-f]{4,}", "0xN", text)
    return re.sub(r"\d+", "N", text)


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def lines_of(text: str, *beginnings: str) -> list[str]:
    """The lines of a sample that begin like one of these, numbers made equal."""
    return [words(line) for line in text.splitlines() if line.startswith(beginnings)]


def quick(simulation: Simulation) -> None:
    """Guests that write often, so that tests need not wait."""
    for host in simulation.hosts.values():
        Xen.of(host).configure(record_interval=0.02)


def pages_per_second(host: SimulatedHost, rate: float) -> None:
    Xen.of(host).configure(dirty_pages_per_second=rate)


class Listener:
    """The target's end of the relay: `xl migrate-receive` behind a Unix socket, as an agent does it."""

    def __init__(self, simulation: Simulation, path: Path, *flags: str, host: str = "mk2") -> None:
        self._simulation, self.path, self._flags, self._host = simulation, path, flags, host
        self.receiver: PipedProcess | None = None
        self.exit: int | None = None
        self.said = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_unix_server(self._carry, str(self.path))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        if self.receiver is not None:
            await self.receiver.kill()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = self._simulation.hosts[self._host]
        self.receiver = receiver = await host.pipe(["xl", "migrate-receive", *self._flags])

        async def forward() -> None:
            with contextlib.suppress(BrokenPipeError):
                while data := await reader.read(65536):
                    await receiver.stdio.write(data)
            await receiver.stdio.close_write()

        forwarding = asyncio.ensure_future(forward())
        with contextlib.suppress(ConnectionError):
            while data := await receiver.stdio.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        self.exit = await receiver.wait()
        self.said = "".join([line + "\n" async for line in receiver.stderr()])
        forwarding.cancel()


async def start_move(source: SimulatedHost, listener: Listener, *flags: str, scope: str = "move") -> Job:
    """`xl migrate` through the relay to that listener, in a scope of its own."""
    return await source.start_job(scope, ["xl", "migrate", "-s", "", *flags, NAME, f"{RELAY} {listener.path}"])


async def said_by(job: Job) -> str:
    return "".join([line + "\n" async for line in job.stderr()])


async def attach(host: SimulatedHost, domid: int, devid: int = 51712) -> None:
    backend = f"/local/domain/0/backend/vbd/{domid}/{devid}"
    await host.run(
        ["xenstore-write", f"{backend}/physical-device-path", "/dev/drbd1", f"{backend}/physical-device", "93:1"]
    )


async def take_over(simulation: Simulation, disk: SharedDisk, target: SimulatedHost) -> None:
    """What the agents do after the report: demote, promote, attach, unpause."""
    assert disk.demote()
    disk.primary = target.name
    arrived = domain(target)
    await attach(target, arrived.domid)
    assert arrived.vbds[51712].connected
    await xl(target, "unpause", NAME)
    await until_records(simulation)
