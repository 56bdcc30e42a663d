"""`drbdsetup events2` while the simulation goes the ways that were recorded on real hosts: line by line the same."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drbd_helpers import DEVICE, RESOURCE, SAMPLES, config, pair, until_quiet, without_numbers

from agent.simulation.drbd_events import timestamp
from agent.simulation.host import SimulatedHost

TWO = "allow-two-primaries yes;"


def normalised(lines: list[str]) -> list[str]:
    """Without times and counters."""
    found = []
    for line in lines:
        text = re.sub(r"^\d{4}-\d\d-\d\dT\S+ ", "", line)
        found.append(re.sub(r"\b(out-of-sync|lower-pending):\d+", r"\1:N", without_numbers(text)))
    return found


def recorded(name: str) -> list[str]:
    return normalised([line for line in (SAMPLES / name).read_text().splitlines() if line.startswith("2026-")])


@asynccontextmanager
async def watched(host: SimulatedHost) -> AsyncIterator[list[str]]:
    """Lines of `events2 --timestamps --statistics` as they come."""
    lines: list[str] = []

    async def follow() -> None:
        async with host.follow(["drbdsetup", "events2", "--timestamps", "--statistics"]) as stream:
            async for line in stream:
                lines.append(line)

    task = asyncio.create_task(follow())
    await host.clock.sleep(1)
    yield lines
    await until_quiet()
    task.cancel()
    await asyncio.wait({task})


def test_a_line_begins_with_its_time() -> None:
    first = (SAMPLES / "events2-stream.run1.mk1.txt").read_text().split(" ", 1)[0]
    assert timestamp(1795341177.1361) == first


async def test_first_sync_and_invalidation(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        async with watched(one.mk1) as first, watched(one.mk2) as second:
            await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
            await one.settled()
            await one.ok(one.mk1, "drbdadm", "invalidate-remote", RESOURCE)
            await one.settled()
            one.simulation.truth.allow_two_primaries = True
            for host in one.both:
                await one.ok(host, "drbdadm", "net-options", "--allow-two-primaries=yes", RESOURCE)
            await one.ok(one.mk2, "drbdadm", "primary", RESOURCE)
        assert normalised(first) == recorded("events2-stream.run1.mk1.txt")
        assert normalised(second) == recorded("events2-stream.run1.mk2.txt")


async def test_up_and_changing_roles(tmp_path: Path) -> None:
    """mk1 promotes and demotes; every promotion of mk2 is with two Primaries allowed."""
    async with pair(tmp_path) as one:
        one.simulation.truth.allow_two_primaries = True
        await one.configure(config(net=TWO))
        for host in one.both:
            await one.ok(host, "lvcreate", "-L", "64M", "-n", RESOURCE, "vg0")
            await one.ok(host, "drbdadm", "create-md", "--force", RESOURCE)
        async with watched(one.mk1) as first, watched(one.mk2) as second:
            await one.ok(one.mk1, "drbdadm", "up", RESOURCE)
            await one.simulation.clock.sleep(1)
            await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
            await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
            await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
            await one.settled()
            for host, role in (
                (one.mk2, "primary"),
                (one.mk1, "secondary"),
                (one.mk1, "primary"),
                (one.mk2, "secondary"),
                (one.mk2, "primary"),
                (one.mk2, "secondary"),
                (one.mk2, "primary"),
                (one.mk2, "secondary"),
            ):
                await one.ok(host, "drbdadm", role, RESOURCE)
        assert normalised(first) == recorded("events2-stream.run2.mk1.txt")
        assert normalised(second) == recorded("events2-stream.run2.mk2.txt")


async def test_disconnection_cut_link_split_brain_and_power_loss(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await one.ok(one.mk1, "drbdadm", "primary", RESOURCE)
        guest = one.mk1.open_device(DEVICE, "w")
        await guest.write(0, b"0" * 4096)
        async with watched(one.mk1) as lines:
            await one.ok(one.mk2, "drbdadm", "disconnect", RESOURCE)
            await one.apart()
            await guest.write(0, b"1" * 4096)
            await one.ok(one.mk2, "drbdadm", "connect", RESOURCE)
            await one.settled()
            one.simulation.cut_link("mk1", "mk2")
            await guest.write(0, b"2" * 4096)
            await one.apart()
            one.simulation.restore_link("mk1", "mk2")
            await one.settled()
            one.simulation.cut_link("mk1", "mk2")
            await guest.write(0, b"3" * 4096)
            await one.apart()
            await one.ok(one.mk2, "drbdadm", "primary", RESOURCE)
            await one.write(one.mk2, 9)
            await one.ok(one.mk2, "drbdadm", "secondary", RESOURCE)
            one.simulation.restore_link("mk1", "mk2")
            await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
            await one.ok(one.mk1, "drbdadm", "connect", RESOURCE)
            await one.ok(one.mk2, "drbdadm", "connect", "--discard-my-data", RESOURCE)
            await one.settled()
            one.simulation.power_off("mk2")
            await guest.write(0, b"4" * 4096)
            await one.apart(one.mk1)
            one.simulation.power_on("mk2")
            await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
            await one.settled()
        guest.close()
        one.simulation.truth.violations.clear()  # both were Primary, to make the split brain
        assert normalised(lines) == recorded("events2-stream.run3.mk1.txt")


async def test_split_brain_in_the_kernels_log(tmp_path: Path) -> None:
    """The lines that the sample hosts logged from the handshake on, without their times."""
    async with pair(tmp_path) as one:
        await one.in_sync()
        await one.ok(one.mk1, "drbdadm", "primary", RESOURCE)
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        await one.ok(one.mk2, "drbdadm", "primary", RESOURCE)
        one.simulation.truth.violations.clear()
        one.simulation.restore_link("mk1", "mk2")
        await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
        for host in one.both:
            wanted = (SAMPLES / f"14-split-brain.dmesg.{host.name}.txt").read_text().splitlines()[-6:]
            said = (await one.ok(host, "dmesg")).splitlines()[-6:]
            assert [line.split("] ", 1)[1] for line in said] == [line.split("] ", 1)[1] for line in wanted]
