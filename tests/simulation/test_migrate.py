"""Live migration between simulated hosts through a real relay process.

What is said, and what is left on both hosts, is held to what real hosts said and left.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xen_helpers import (
    NAME,
    SAYS,
    UUID,
    Listener,
    SharedDisk,
    config,
    domain,
    guest,
    lines_of,
    names,
    said_by,
    sample,
    start_move,
    started,
    take_over,
    until,
    words,
    xl,
)

from agent.migration.stream import SenderStream
from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen
from agent.simulation.process import Pipe


@pytest.mark.parametrize("kind", ["pv", "pvh"])
async def test_a_guest_moves_with_one_primary_and_without_a_gap(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk, listener: Listener, kind: str
) -> None:
    source, target = hosts
    await started(simulation, source, config(kind=kind))
    boot = guest(source).state.boot
    job = await start_move(source, listener, "-p", "-e")
    assert await job.wait() == 0
    await until(simulation, lambda: listener.exit == 0)
    real = sample("xl-migrate-socat.ok.mk2-to-mk1.txt") if kind == "pv" else sample("pvh-on-emulated-svm.norctscp.txt")
    said, heard = (await said_by(job)).splitlines(), listener.said.splitlines()
    assert sorted(map(words, said if kind == "pv" else said + heard)) == sorted(lines_of(real, *SAYS))
    assert await names(source) == {}
    assert await names(target) == {NAME: "--p---"}
    arrived = domain(target)
    assert (arrived.cpu_seconds, arrived.memory_kib, arrived.vbds[51712].connected) == (0.0, 131072, False)
    last = simulation.truth.records(UUID).acknowledged
    await take_over(simulation, disk, target)
    assert simulation.truth.records(UUID).hosts == ["mk1", "mk2"]
    assert guest(target).found in (last, last + 1)
    assert guest(target).state.boot == boot


async def test_without_p_the_target_runs_by_itself(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk
) -> None:
    """Plain xl over ssh, as the howto has it: the target's disk is dead when nobody promoted it (exit status 0)."""
    source, target = hosts
    plain = config(disk="format=raw,vdev=xvda,access=rw,target=/dev/drbd1")
    await started(simulation, source, plain)
    moved = await xl(source, "migrate", NAME, "mk2")
    assert moved.exit == 0
    real = lines_of(sample("xl-migrate-ssh.ok.mk1-to-mk2.txt"), *SAYS)
    assert sorted(words(line) for line in moved.stderr.splitlines()) == sorted(real)
    assert simulation.truth.running(UUID) == ("mk2",)
    await until(simulation, lambda: guest(target).disk == "bad")
    assert disk.demote()


async def test_the_target_shows_incoming_with_growing_memory(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(400e6)
    job = await start_move(source, listener, "-p", "-e")
    seen: list[int] = []
    while listener.exit is None:
        lines = (await xl(target, "list")).stdout.splitlines()[2:]
        if lines and lines[0].startswith(f"{NAME}--incoming"):
            assert lines[0].split()[3:] in (["0", "--p---", "0.0"], ["1", "--p---", "0.0"])
            seen.append(int(lines[0].split()[2]))
    assert await job.wait() == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


async def test_the_stream_has_true_headers(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], tmp_path: Path
) -> None:
    """Recorded by a transport of this test, read by the agent's own reader of headers."""
    source, target = hosts
    Xen.of(source).configure(dirty_pages_per_second=3000.0)
    simulation.slow_link(800e6)
    await started(simulation, source)
    stream = SenderStream()
    rounds: set[object] = set()
    original = Pipe.write

    async def write(self: Pipe, data: bytes | str) -> None:
        if isinstance(data, bytes) and self is recorded:
            stream.feed(data)
            rounds.add((stream.round, stream.stage))
        await original(self, data)

    recorded = Pipe()
    process = source.processes.start(["xl", "migrate", "-p", NAME, "mk2"])
    await until(simulation, lambda: len(process.session) > 1)
    recorded = process.session[1].stdin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipe, "write", write)
        assert await process.wait() == 0
    assert (stream.problem, stream.stage) == (None, "go")
    assert stream.pages_total == 32768
    assert stream.pages > stream.pages_total
    assert 2 <= stream.round <= 5
    assert (0, "precopy") in rounds
    assert stream.bytes > 128 * 4096  # a page of every MiB travels whole
    assert domain(target).memory_kib == 131072


async def test_what_a_guest_wrote_last_is_written_once(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk, listener: Listener
) -> None:
    """Suspended in the middle of a write: the target writes that record again, and counts it once."""
    source, target = hosts
    await started(simulation, source)
    disk.gate.clear()
    ticks = guest(source).state.ticks
    await until(simulation, lambda: guest(source).state.ticks > ticks + 3)
    last = simulation.truth.records(UUID).acknowledged
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: listener.exit == 0)
    assert NAME in await names(target)
    assert not disk.demote()  # the write is still under way in blkback
    disk.gate.set()
    assert await job.wait() == 0
    assert guest(target).state.pending == last + 1
    assert simulation.truth.records(UUID).acknowledged == last
    await take_over(simulation, disk, target)


async def test_the_disk_can_be_demoted_before_xl_ends(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk, listener: Listener
) -> None:
    source, _ = hosts
    Xen.of(source).configure(teardown=1.0)
    await started(simulation, source)
    job = await start_move(source, listener, "-p", "-e")
    async for line in job.stderr():
        if "Target reports successful startup" in line:
            break
    await until(simulation, disk.demote)
    leader = next(process for process in source.processes.running.values() if process.argv[1] == "migrate")
    assert leader.status is None
    assert await job.wait() == 0


async def test_there_and_back(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk, tmp_path: Path
) -> None:
    await started(simulation, hosts[0])
    for turn, (source, target) in enumerate([hosts, hosts[::-1], hosts]):
        async with Listener(simulation, tmp_path / f"s{turn}", "-p", "-e", host=target.name) as listener:
            job = await start_move(source, listener, "-p", "-e", scope=f"move{turn}")
            assert await job.wait() == 0
            await until(simulation, lambda listener=listener: listener.exit == 0)  # type: ignore[misc]
        await take_over(simulation, disk, target)
    assert simulation.truth.records(UUID).hosts == ["mk1", "mk2", "mk1", "mk2"]
