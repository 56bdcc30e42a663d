"""The guest of the simulation: its records survive what must be survived, and show what must not happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import NAME, SIZE, UUID, SharedDisk, config, create, domain, quick, until, until_records, xl

from agent.simulation.cluster import Hardware, Simulation
from agent.simulation.guest import RECORD, SLOTS, Guest, last_record, pack_record, parse_record, ring_offset
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen

RING = ring_offset(SIZE)


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path, hardware=Hardware(memory_mib=4096)) as simulation:
        quick(simulation)
        yield simulation


@pytest.fixture
def disk(simulation: Simulation) -> SharedDisk:
    return SharedDisk(simulation)


@pytest.fixture
def mk1(simulation: Simulation, disk: SharedDisk) -> SimulatedHost:
    return simulation.hosts["mk1"]


def guest(host: SimulatedHost) -> Guest:
    found = domain(host).guest
    assert found is not None
    return found


def on_disk(disk: SharedDisk) -> int:
    return last_record(bytes(disk.data[RING : RING + SLOTS * RECORD]), UUID)


def test_a_record_is_whole_or_none() -> None:
    record = pack_record(UUID, bytes(16), 7, 9)
    assert (len(record), parse_record(record)) == (RECORD, (UUID, 7))
    for position in range(0, RECORD, 37):
        torn = bytearray(record)
        torn[position] ^= 1
        assert parse_record(bytes(torn)) is None
    assert parse_record(record[:-1]) is None


def test_the_ring_leaves_the_beginning_of_the_disk_alone() -> None:
    assert ring_offset(64 << 20) == 63 << 20
    assert ring_offset(65496 << 10) == (65496 << 10) - (1 << 20)
    assert ring_offset(1 << 20) == 768 << 10
    assert all(ring_offset(size) + SLOTS * RECORD <= size for size in (1 << 20, 5 << 20, 1 << 40))


async def test_records_are_on_the_disk_before_they_count(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    disk.data[: 1 << 20] = b"\x5a" * (1 << 20)
    await create(mk1)
    await until_records(simulation, SLOTS + 5)  # round the ring
    acknowledged = simulation.truth.records(UUID).acknowledged
    assert on_disk(disk) >= acknowledged
    assert disk.data[:RING].strip(b"\x5a\0") == b""
    simulation.truth.check()


async def test_the_sequence_goes_on_over_restarts(simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk) -> None:
    await create(mk1)
    await until_records(simulation)
    simulation.power_off("mk1")
    assert simulation.truth.running(UUID) == ()
    before = simulation.truth.records(UUID)
    last = before.acknowledged
    disk.opened["mk1"] = 0
    simulation.power_on("mk1")
    await create(mk1)
    await until_records(simulation)
    assert guest(mk1).found in (last, last + 1)
    simulation.truth.check()


@pytest.mark.parametrize("damage", ["lost", "torn"])
async def test_a_lost_or_torn_acknowledged_write_shows(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk, damage: str
) -> None:
    await create(mk1)
    await until_records(simulation)
    await xl(mk1, "destroy", NAME)
    last = simulation.truth.records(UUID).acknowledged
    place = RING + last % SLOTS * RECORD
    if damage == "lost":
        disk.data[place : place + RECORD] = bytes(RECORD)
    else:
        disk.data[place + RECORD // 2 : place + RECORD] = bytes(RECORD // 2)
    if on_disk(disk) > last:  # a write that was not acknowledged any more came through
        disk.data[RING : RING + SLOTS * RECORD] = bytes(SLOTS * RECORD)
    await create(mk1)
    await until(simulation, lambda: bool(simulation.truth.violations))
    assert "was acknowledged, but mk1's disk ends with" in simulation.truth.violations[0]


async def test_two_that_run_show_at_once(simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk) -> None:
    await create(mk1)
    disk.primary = "mk2"
    await create(simulation.hosts["mk2"])
    assert "runs on mk1 (id 1), mk2 (id 1)" in simulation.truth.violations[0]
    await until(simulation, lambda: any("again" in violation for violation in simulation.truth.violations))


async def test_a_disk_error_is_the_guests_error(simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk) -> None:
    await create(mk1)
    await until_records(simulation)
    disk.failing = True
    await until(simulation, lambda: guest(mk1).disk == "bad")
    assert guest(mk1).console.endswith("disk=FAIL")
    disk.failing = False
    await until_records(simulation)
    assert guest(mk1).console.endswith("disk=ok")
    simulation.truth.check()


async def test_frozen_writes_hold_the_guest_and_its_shutdown(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    await create(mk1)
    await until_records(simulation)
    disk.gate.clear()
    ticks = guest(mk1).state.ticks
    await until(simulation, lambda: guest(mk1).state.ticks > ticks + 3)
    frozen = simulation.truth.records(UUID).acknowledged
    await xl(mk1, "shutdown", NAME)
    ticks = guest(mk1).state.ticks
    await until(simulation, lambda: guest(mk1).state.ticks > ticks + 3)
    assert simulation.truth.records(UUID).acknowledged == frozen
    assert domain(mk1).shutdown is None
    disk.gate.set()
    await until(simulation, lambda: domain(mk1).shutdown == 0)
    assert simulation.truth.records(UUID).acknowledged == frozen + 1


async def test_a_domain_destroyed_in_the_middle_of_a_write_keeps_the_disk_until_it_is_through(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    Xen.of(mk1).configure(destroy_timeout=0.1)
    await create(mk1)
    await until_records(simulation)
    disk.gate.clear()
    ticks = guest(mk1).state.ticks
    await until(simulation, lambda: guest(mk1).state.ticks > ticks + 3)
    frozen = simulation.truth.records(UUID).acknowledged
    await xl(mk1, "destroy", NAME)
    assert "(null)" in (await xl(mk1, "list")).stdout
    assert not disk.demote()
    disk.gate.set()
    await until(simulation, lambda: not Xen.of(mk1).domains)
    assert simulation.truth.records(UUID).acknowledged == frozen
    assert on_disk(disk) == frozen + 1
    assert disk.demote()


async def test_a_paused_guest_learns_of_its_write_when_it_runs_again(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    await create(mk1)
    await until_records(simulation)
    disk.gate.clear()
    ticks = guest(mk1).state.ticks
    await until(simulation, lambda: guest(mk1).state.ticks > ticks + 3)
    await xl(mk1, "pause", NAME)
    disk.gate.set()
    paused = simulation.truth.records(UUID).acknowledged
    await until(simulation, lambda: on_disk(disk) == paused + 1)
    await asyncio.sleep(0)
    assert simulation.truth.records(UUID).acknowledged == paused
    await xl(mk1, "unpause", NAME)
    await until_records(simulation)
    simulation.truth.check()


async def test_a_deaf_guest_does_not_shut_down(simulation: Simulation, mk1: SimulatedHost) -> None:
    await create(mk1)
    guest(mk1).deaf = True
    await xl(mk1, "shutdown", NAME)
    await until_records(simulation)
    assert domain(mk1).shutdown is None
    guest(mk1).poweroff()
    await until(simulation, lambda: domain(mk1).shutdown == 0)


async def test_a_thousand_guests_share_one_rate(tmp_path: Path) -> None:
    """Many guests write more seldom each, so that all of them together cost as little as a few."""
    uuids = [f"00000000-0000-4000-8000-{number:012d}" for number in range(1000)]
    async with Simulation(tmp_path, hardware=Hardware(memory_mib=200_000)) as simulation:
        mk1 = simulation.hosts["mk1"]
        for number, uuid in enumerate(uuids):
            SharedDisk(simulation, f"/dev/drbd{number}").data = bytearray(1 << 16)
            disk = f"format=raw,vdev=xvda,script=block-xentandem,target=/dev/drbd{number}"
            await mk1.write_text(f"/etc/xen/vm{number}.cfg", config(f"vm{number}", uuid=uuid, disk=disk))
        started = await asyncio.gather(
            *(mk1.run(["xl", "create", "-e", f"/etc/xen/vm{number}.cfg"], timeout=100) for number in range(1000))
        )
        assert {completed.exit for completed in started} == {0}
        await until(simulation, lambda: all(simulation.truth.records(uuid).acknowledged for uuid in uuids), 60)
        settings = Xen.of(mk1).settings
        intervals = [found.guest.interval() for found in Xen.of(mk1) if found.guest is not None]
        assert 1000 / max(intervals) > 0.7 * settings.records_per_second
        assert 1000 / min(intervals) < 1.3 * settings.records_per_second
        simulation.truth.check()
