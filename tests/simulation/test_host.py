"""The simulated host as agent.host.Host: commands, jobs, pipes, files, power, and both clocks."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.host import CommandTimedOut, Host
from agent.simulation.clock import RealClock, VirtualClock
from agent.simulation.cluster import Simulation
from agent.simulation.host import PoweredOff, SimulatedHost
from agent.simulation.process import Process


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path, clock="virtual") as made:
        yield made
        made.truth.check()


@pytest.fixture
def host(simulation: Simulation) -> SimulatedHost:
    found = simulation.hosts["mk1"]
    as_host: Host = found  # what the agent's drivers are given
    assert as_host is found
    return found


async def echo(process: Process) -> int:
    """Says its standard input, and lines about it."""
    while data := await process.stdin.read(4):
        await process.stdout.write(data)
        process.stderr.put(f"{len(data)} bytes\n")
    return 7


async def parent(process: Process) -> int:
    child = process.spawn(["sleep", "1000"])
    process.stderr.put(f"{child.pid}\n")
    return await child.wait()


# --- commands


async def test_a_command_runs_and_costs_time(host: SimulatedHost) -> None:
    before = host.now()
    completed = await host.run(["/usr/bin/uname", "-n"])
    assert (completed.exit, completed.stdout, completed.stderr) == (0, "mk1\n", "")
    assert completed.argv == ("/usr/bin/uname", "-n")
    assert host.now() - before == pytest.approx(host.simulation.timing.command, abs=1e-5)


async def test_an_unknown_program_is_not_found(host: SimulatedHost) -> None:
    with pytest.raises(FileNotFoundError):
        await host.run(["frobnicate"])


async def test_a_time_limit_counts_on_the_hosts_clock_and_ends_children_too(host: SimulatedHost) -> None:
    host.add_program("parent", parent)
    before = host.now()
    with pytest.raises(CommandTimedOut) as raised:
        await host.run(["parent"], timeout=100)
    assert raised.value.seconds == 100
    assert host.now() - before == pytest.approx(100, abs=1e-5)
    assert not host.processes.running


async def test_standard_input_and_status(host: SimulatedHost) -> None:
    host.add_program("echo", echo)
    completed = await host.run(["echo"], stdin=b"abcdef")
    assert (completed.exit, completed.stdout, completed.stderr) == (7, "abcdef", "4 bytes\n2 bytes\n")


async def test_a_hung_program_hangs_alone_until_it_is_released(host: SimulatedHost) -> None:
    host.hang("uname")
    with pytest.raises(CommandTimedOut):
        await host.run(["uname", "-n"], timeout=10)
    assert (await host.run(["true"])).exit == 0
    waiting = asyncio.ensure_future(host.run(["uname", "-n"], timeout=1000))
    await host.sleep(100)
    host.unhang("uname")
    assert (await waiting).stdout == "mk1\n"


async def test_a_defect_of_the_simulation_is_no_answer_of_a_tool(tmp_path: Path) -> None:
    async def broken(process: Process) -> int:
        raise ZeroDivisionError

    async with Simulation(tmp_path, clock="virtual") as simulation:
        host = simulation.hosts["mk1"]
        host.add_program("broken", broken)
        completed = await host.run(["broken"])
        assert completed.exit < 0
        with pytest.raises(AssertionError, match="the simulation itself failed"):
            simulation.truth.check()


# --- jobs and pipes


async def test_a_job_goes_on_and_is_found_again(host: SimulatedHost) -> None:
    host.add_program("parent", parent)
    job = await host.start_job("op-1", ["sleep", "50"])
    with pytest.raises(FileExistsError):
        await host.start_job("op-1", ["true"])
    again = await host.find_job("op-1")
    assert again is not None
    assert await again.wait() == 0 == await job.wait()
    await host.forget_job("op-1")
    assert await host.find_job("op-1") is None


async def test_everybody_reads_a_jobs_words_from_the_beginning(host: SimulatedHost) -> None:
    async def talker(process: Process) -> int:
        for number in range(3):
            process.stderr.put(f"line {number}\n")
            await process.host.clock.sleep(10)
        process.stderr.put("unfinished")
        return 0

    host.add_program("talker", talker)
    job = await host.start_job("talk", ["talker"])
    early = [line async for line in job.stderr()]
    late = [line async for line in job.stderr()]
    assert early == late == ["line 0", "line 1", "line 2", "unfinished"]


async def test_killing_a_job_ends_its_whole_scope(host: SimulatedHost) -> None:
    host.add_program("parent", parent)
    job = await host.start_job("op", ["parent"])
    await host.sleep(1)
    assert len(host.processes.running) == 2
    await job.kill()
    assert await job.wait() == -9
    assert not host.processes.running


async def test_a_piped_process(host: SimulatedHost) -> None:
    host.add_program("echo", echo)
    piped = await host.pipe(["echo"])
    await piped.stdio.write(b"abc")
    assert await piped.stdio.read(10) == b"abc"
    await piped.stdio.close_write()
    assert await piped.stdio.read(10) == b""
    assert await piped.wait() == 7
    assert [line async for line in piped.stderr()] == ["3 bytes"]
    with pytest.raises(BrokenPipeError):
        await piped.stdio.write(b"more")


async def test_a_full_pipe_makes_the_writer_wait(host: SimulatedHost) -> None:
    async def deaf(process: Process) -> int:
        await process.host.clock.sleep(100)
        return len(await process.stdin.read()) // 1000

    host.add_program("deaf", deaf)
    piped = await host.pipe(["deaf"])
    before = host.now()
    await piped.stdio.write(b"x" * 100_000)
    assert host.now() - before >= 100
    await piped.stdio.close_write()
    assert await piped.wait() == 100


# --- files


async def test_files_and_folders(host: SimulatedHost) -> None:
    await host.write_text("/etc/xen/shaolin.cfg", "name = 'shaolin'\n")
    assert await host.read_text("/etc/xen/shaolin.cfg") == "name = 'shaolin'\n"
    assert "shaolin.cfg" in await host.list_dir("/etc/xen")
    assert await host.exists("/etc/xen")
    await host.remove("/etc/xen/shaolin.cfg")
    await host.remove("/etc/xen/shaolin.cfg")
    assert not await host.exists("/etc/xen/shaolin.cfg")
    assert await host.list_dir("/nowhere") == []
    with pytest.raises(FileNotFoundError):
        await host.read_text("/nowhere")
    with pytest.raises(IsADirectoryError):
        await host.read_text("/etc")
    with pytest.raises(PermissionError):
        await host.write_text("/proc/drbd", "")


async def test_an_image_is_copied_and_measured(host: SimulatedHost) -> None:
    await host.run(["lvcreate", "-L", "8M", "-n", "a", "vg0"])
    image = os.urandom(3_000_000)
    (host.directory / "files" / "srv").mkdir(parents=True)
    (host.directory / "files" / "srv" / "image.raw").write_bytes(image)
    size, digest = await host.copy_image("/srv/image.raw", "/dev/vg0/a")
    assert (size, digest) == (len(image), hashlib.sha256(image).hexdigest())
    device = host.open_device("/dev/vg0/a")
    assert await device.read(0, len(image)) == image
    device.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        await host.copy_image("/srv/image.raw", "/dev/vg0/a") if await shrink(host) else None


async def shrink(host: SimulatedHost) -> bool:
    await host.run(["lvremove", "-y", "vg0/a"])
    await host.run(["lvcreate", "-y", "-L", "1M", "-n", "a", "vg0"])
    (host.directory / "files" / "srv" / "image.raw").write_bytes(bytes(5 << 20))
    return True


# --- power


async def test_what_a_power_loss_leaves(host: SimulatedHost) -> None:
    await host.run(["lvcreate", "-L", "8M", "-n", "a", "vg0"])
    await host.write_text("/etc/kept", "yes")
    device = host.open_device("/dev/vg0/a", "w")
    await device.write(0, b"kept")
    job = await host.start_job("op", ["sleep", "1000"])
    running = asyncio.ensure_future(host.run(["sleep", "1000"], timeout=5000))
    await host.sleep(1)
    boot = await host.read_text("/proc/sys/kernel/random/boot_id")
    host.power_off()
    with pytest.raises(PoweredOff):
        await running
    assert await job.wait() < 0
    for attempt in (host.run(["true"]), host.read_text("/etc/kept"), host.pipe(["true"]), host.list_dir("/etc")):
        with pytest.raises(PoweredOff):
            await attempt
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await device.write(0, b"lost")
    host.power_on()
    assert await host.read_text("/etc/kept") == "yes"
    assert await host.read_text("/proc/sys/kernel/random/boot_id") != boot
    device = host.open_device("/dev/vg0/a")
    assert await device.read(0, 4) == b"kept"
    found = await host.find_job("op")
    assert found is not None
    assert await found.wait() < 0


async def test_following_ends_with_the_context(host: SimulatedHost) -> None:
    async with host.follow(["drbdsetup", "events2"]) as lines:
        assert await anext(lines) == "exists -"
        assert len(host.processes.running) == 1
    await host.sleep(1)
    assert not host.processes.running
    assert not host.drbd.listeners


# --- links


async def test_bytes_take_time_and_wait_for_the_cable(simulation: Simulation) -> None:
    simulation.slow_link(1e6, "mk1", "mk2")
    before = simulation.clock.now()
    await simulation.transmit("mk1", "mk2", 2_000_000)
    assert simulation.clock.now() - before == pytest.approx(2, abs=0.01)
    simulation.cut_link("mk2", "mk1")
    moving = asyncio.ensure_future(simulation.transmit("mk1", "mk2", 1))
    await simulation.clock.sleep(50)
    assert not moving.done()
    simulation.restore_link("mk1", "mk2")
    await moving


# --- clocks


async def test_virtual_time_jumps_in_order_and_repeats(tmp_path: Path) -> None:
    async def story() -> list[tuple[str, float]]:
        clock = VirtualClock(0.0)
        seen: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float) -> None:
            for _ in range(3):
                await clock.sleep(seconds)
                seen.append((name, clock.now()))

        await asyncio.gather(sleeper("a", 3600), sleeper("b", 5400), sleeper("c", 3600))
        return seen

    first = await story()
    assert first == await story()
    assert first[:3] == [("a", 3600), ("c", 3600), ("b", 5400)]
    assert [at for _, at in first] == sorted(at for _, at in first)


async def test_virtual_time_stands_still_while_there_is_work() -> None:
    clock = VirtualClock(0.0)
    sleeping = asyncio.ensure_future(clock.sleep(10))
    for _ in range(1000):
        await asyncio.sleep(0)
        assert clock.now() == 0
        asyncio.get_running_loop().call_soon(lambda: None)
    await sleeping
    assert clock.now() == 10


@pytest.mark.parametrize("clock", [RealClock(), VirtualClock()])
async def test_waiting_with_a_limit(clock: RealClock | VirtualClock) -> None:
    await clock.wait_for(clock.sleep(0.001), 50)
    ended = []

    async def forever() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        await clock.wait_for(forever(), 0.01)
    assert ended == [True]
