"""A whole live migration between two simulated hosts: a real relay process, one Primary, contiguous records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import NAME, RELAY, UUID, SharedDisk, create, domain, until, until_records, xl

from agent.host import PipedProcess
from agent.simulation.cluster import Simulation


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path) as simulation:
        yield simulation
        simulation.truth.check()


@pytest.fixture
def disk(simulation: Simulation) -> SharedDisk:
    return SharedDisk(simulation)


class Listener:
    """The target's end of the relay: `xl migrate-receive` behind a Unix socket, as an agent does it."""

    def __init__(self, simulation: Simulation, path: Path, *flags: str) -> None:
        self._simulation, self.path, self._flags = simulation, path, flags
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
        self.receiver = receiver = await self._simulation.hosts["mk2"].pipe(["xl", "migrate-receive", *self._flags])

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


async def test_a_guest_moves_with_one_primary_and_without_a_gap(
    simulation: Simulation, disk: SharedDisk, tmp_path: Path
) -> None:
    source, target = simulation.hosts["mk1"], simulation.hosts["mk2"]
    assert (await create(source)).exit == 0
    await until_records(simulation)
    async with Listener(simulation, tmp_path / "socket", "-p", "-e") as listener:
        job = await source.start_job("move", ["xl", "migrate", "-s", "", "-p", "-e", NAME, f"{RELAY} {listener.path}"])
        assert await job.wait() == 0
        said = "".join([line + "\n" async for line in job.stderr()])
        await until(simulation, lambda: listener.exit is not None)
    print(said, listener.said)
    assert (await xl(source, "list")).stdout.count("\n") == 2
    arrived = domain(target)
    assert (arrived.flags, arrived.cpu_seconds) == ("--p---", 0.0)
    assert not arrived.vbds[51712].connected
    assert disk.demote()
    disk.primary = "mk2"
    backend = f"/local/domain/0/backend/vbd/{arrived.domid}/51712"
    await target.run(
        ["xenstore-write", f"{backend}/physical-device-path", "/dev/drbd1", f"{backend}/physical-device", "93:1"]
    )
    assert await target.read_text(f"/sys/bus/xen-backend/devices/vbd-{arrived.domid}-51712/physical_device") == "93:1\n"
    before = simulation.truth.records(UUID).acknowledged
    await xl(target, "unpause", NAME)
    await until_records(simulation)
    records = simulation.truth.records(UUID)
    assert records.hosts == ["mk1", "mk2"]
    assert records.acknowledged > before
    assert arrived.guest is not None
    assert arrived.guest.found == before
