"""The simulated DRBD driven into every state that was recorded on real hosts: it must say the same, word for word."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from drbd_helpers import CONFIG, DEVICE, RESOURCE, SAMPLES, Pair, config, pair, sample, without_numbers

from agent.simulation.drbd_resync import Progress

TWO = "allow-two-primaries yes;"
TOUR = [name.removesuffix(".mk1.txt") for name in sorted(path.name for path in SAMPLES.glob("[01][0-9]-*.mk1.txt"))]
TOUR = [name for name in TOUR if not name.endswith("dmesg")]


async def tour(one: Pair) -> AsyncIterator[str]:
    """The way of the sample hosts: yields each state's name when it is reached."""
    mk1, mk2 = one.both
    await one.configure(config(net=TWO))
    yield "00-drbd-unconfigured-no-lv"
    await one.prepare(mk1)
    yield "01-WFConnection-fresh-peer-not-up"
    await one.prepare(mk2)
    await one.until(lambda: one.volume(mk1).state.cs == "Connected")
    yield "02-Connected-Inconsistent-Inconsistent"
    await one.configure(config(rate="3M"))
    for host in one.both:
        await one.ok(host, "drbdadm", "adjust", RESOURCE)
    await one.ok(mk1, "drbdadm", "primary", "--force", RESOURCE)
    await one.simulation.clock.sleep(5)
    yield "03-SyncSource-progress"
    await one.configure(config())
    for host in one.both:
        await one.ok(host, "drbdadm", "adjust", RESOURCE)
    await one.settled()
    yield "04-UpToDate-UpToDate-Primary-Secondary"
    guest = mk1.open_device(DEVICE, "w")
    await guest.write(0, b"tick" * 1024)
    yield "05-domU-running-on-mk1-UpToDate"
    one.simulation.truth.allow_two_primaries = True
    for host in one.both:
        await one.ok(host, "drbdadm", "net-options", "--allow-two-primaries=yes", RESOURCE)
    await one.ok(mk2, "drbdadm", "primary", RESOURCE)
    yield "06-dual-primary-before-migration"
    moved = mk2.open_device(DEVICE, "w")
    await moved.read(0, 4096)
    guest.close()
    yield "07-after-migration-domU-on-mk2-still-dual-primary"
    await one.ok(mk1, "drbdadm", "secondary", RESOURCE)
    for host in one.both:
        await one.ok(host, "drbdadm", "net-options", "--allow-two-primaries=no", RESOURCE)
    yield "08-after-demote-domU-on-mk2-Secondary-Primary"
    moved.close()
    await one.ok(mk2, "drbdadm", "secondary", RESOURCE)
    await one.ok(mk1, "drbdadm", "primary", RESOURCE)
    guest = mk1.open_device(DEVICE, "w")
    await one.ok(mk2, "drbdadm", "disconnect", RESOURCE)
    await one.apart()
    await guest.write(0, b"more" * 1024)
    yield "10-mk2-disconnected-StandAlone-mk1-WFConnection"
    await one.ok(mk2, "drbdadm", "connect", RESOURCE)
    await one.settled()
    yield "11-reconnected"
    one.simulation.cut_link("mk1", "mk2")
    await guest.write(4096, b"word" * 1024)
    await one.apart()
    yield "12-link-cut-early"
    await one.simulation.clock.sleep(30)
    yield "13-link-cut-WFConnection-both"
    await one.ok(mk2, "drbdadm", "primary", RESOURCE)
    await one.write(mk2, 5, b"y", 3)
    await one.ok(mk2, "drbdadm", "secondary", RESOURCE)
    one.simulation.restore_link("mk1", "mk2")
    await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
    yield "14-split-brain"
    await one.ok(mk2, "drbdadm", "connect", "--discard-my-data", RESOURCE)
    await one.ok(mk1, "drbdadm", "connect", RESOURCE)
    await one.settled()
    yield "15-split-brain-resolved"
    one.simulation.power_off("mk2")
    await guest.write(8192, b"last" * 1024)
    await one.apart(mk1)
    yield "16-peer-killed"
    one.simulation.power_on("mk2")
    yield "17-mk2-rebooted-not-up"
    await one.ok(mk2, "drbdadm", "up", RESOURCE)
    await one.settled()
    yield "18-mk2-rejoined"


@pytest.mark.parametrize("state", TOUR)
async def test_every_command_says_what_real_hosts_said(tmp_path: Path, state: str) -> None:
    async with pair(tmp_path) as one:
        async for reached in tour(one):
            if reached == state:
                break
        assert reached == state
        compared = 0
        for host in one.both:
            if not (SAMPLES / f"{state}.{host.name}.txt").exists() or not host.on:
                continue
            for shown in sample(f"{state}.{host.name}.txt"):
                if shown.argv[0] == "xl":
                    continue
                said = await one.run(host, *shown.argv)
                where = f"{state} {host.name}: {' '.join(shown.argv)}"
                assert without_numbers(said.stdout).strip("\n") == without_numbers(shown.output).strip("\n"), where
                assert said.stderr.splitlines() == shown.stderr, where
                assert said.exit == shown.exit, where
                compared += 1
        assert compared >= 9


async def test_the_tour_visits_every_sample(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        assert [reached async for reached in tour(one)] == TOUR


def refusals(name: str) -> list[tuple[str, int]]:
    """What each command of an err-* sample said, and its exit status."""
    text = (SAMPLES / name).read_text()
    return [(said, int(status)) for said, status in re.findall(r"(.*?)^\[(?:down )?exit (\d+)\]\n", text, re.M | re.S)]


async def test_refusals(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        said = await one.run(one.mk1, "drbdadm", "primary", RESOURCE)
        assert (said.stderr, said.exit) == refusals("err-promote-inconsistent-without-force.txt")[0]
        await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await one.settled()
        said = await one.run(one.mk2, "drbdadm", "primary", RESOURCE)
        assert (said.stderr, said.exit) == refusals("err-promote-second-primary-not-allowed.txt")[0]
        guest = one.mk1.open_device(DEVICE, "w")
        for number, command in enumerate(("secondary", "down")):
            said = await one.run(one.mk1, "drbdadm", command, RESOURCE)
            assert (said.stderr, said.exit) == refusals("err-demote-while-domU-running.txt")[number]
        guest.close()
        await one.ok(one.mk1, "drbdadm", "down", RESOURCE)


async def test_one_bad_file_breaks_every_call(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await one.mk1.write_text("/etc/drbd.d/other.res", "resource other { net { fencing resource-only; } }\n")
        for command in ("status", "role", "up", "down"):
            assert (await one.run(one.mk1, "drbdadm", command, RESOURCE)).exit == 10
        await one.mk1.remove("/etc/drbd.d/other.res")
        await one.mk1.write_text("/etc/drbd.d/twice.res", config().replace("vm_shaolin {", "vm_b {"))
        said = await one.run(one.mk1, "drbdadm", "status")
        assert said.exit == 10
        assert "conflicting use of device-minor 'device-minor:mk1:1'" in said.stderr
        assert CONFIG.removeprefix("/etc/") in said.stderr


@pytest.mark.parametrize(("host", "left", "seconds"), [("mk1", 53512, 4), ("mk2", 45832, 6)], ids=["source", "target"])
async def test_the_numbers_of_a_resync(tmp_path: Path, host: str, left: int, seconds: int) -> None:
    """Bar, percent, time and speeds are the kernel's integers: the recorded lines come out of the recorded numbers."""
    recorded = re.findall(r"^\t.*\n", (SAMPLES / f"03-SyncSource-progress.{host}.txt").read_text(), re.M)[:2]
    async with pair(tmp_path) as one:
        await one.configure(config(rate="3M"))
        for each in one.both:
            await one.prepare(each)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await one.until(lambda: one.volume(one.mk2).state.cs == "SyncTarget")
        await one.simulation.clock.sleep(0.5)
        session = one.volume(one.mk1).session
        assert session is not None
        assert session.resync is not None
        now = one.simulation.clock.now()
        session.resync.progress = Progress(65496 // 4, now - seconds)
        session.resync.progress.left = left // 4
        said = one.simulation.hosts[host].files.read("/proc/drbd")
        assert re.findall(r"^\t.*\n", said, re.M) == recorded
