"""Live migration between simulated hosts through a real relay process, whole and cut at every place.

What is said, and what is left on both hosts, is held to what real hosts said and left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
from xen_helpers import (
    NAME,
    UUID,
    Listener,
    SharedDisk,
    config,
    create,
    domain,
    lines_of,
    quick,
    said_by,
    sample,
    start_move,
    until,
    until_records,
    words,
    xl,
)

from agent.migration.stream import SenderStream
from agent.simulation.cluster import Hardware, Simulation
from agent.simulation.guest import Guest
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import StreamFault, Xen
from agent.simulation.process import Pipe

SAYS = ("migration", "Saving", "Loading", " Savefile", "Parsing", "xc:", "libxl", "Migration")


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path, hardware=Hardware(memory_mib=1023)) as simulation:
        quick(simulation)
        yield simulation
        simulation.truth.check()


@pytest.fixture
def disk(simulation: Simulation) -> SharedDisk:
    return SharedDisk(simulation)


@pytest.fixture
def hosts(simulation: Simulation, disk: SharedDisk) -> tuple[SimulatedHost, SimulatedHost]:
    return simulation.hosts["mk1"], simulation.hosts["mk2"]


@pytest.fixture
async def listener(simulation: Simulation, tmp_path: Path) -> AsyncIterator[Listener]:
    async with Listener(simulation, tmp_path / "socket", "-p", "-e") as listener:
        yield listener


def guest(host: SimulatedHost, name: str = NAME) -> Guest:
    found = domain(host, name).guest
    assert found is not None
    return found


async def started(simulation: Simulation, source: SimulatedHost, text: str = "") -> None:
    assert (await create(source, text)).exit == 0
    await until_records(simulation)


async def names(host: SimulatedHost) -> dict[str, str]:
    lines = (await xl(host, "list")).stdout.splitlines()[2:]
    return {line[:40].rstrip(): line.split()[-2] for line in lines}


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


# --- whole ----------------------------------------------------------------------------------------------------------


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


# --- cut ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "after", "file"),
    [
        ("bytes", 400_000, "interrupt-bytes-40000000.mk2-to-mk1.txt"),
        ("ready", 0, "interrupt-ready.mk2-to-mk1.txt"),
        ("go", 0, "interrupt-go.mk2-to-mk1.txt"),
        ("report", 0, "interrupt-report.mk2-to-mk1.txt"),
    ],
)
async def test_a_transport_that_dies(
    simulation: Simulation,
    hosts: tuple[SimulatedHost, SimulatedHost],
    disk: SharedDisk,
    listener: Listener,
    at: Literal["bytes", "ready", "go", "report"],
    after: int,
    file: str,
) -> None:
    source, target = hosts
    await started(simulation, source)
    Xen.of(source).stream_fault = StreamFault(at, after)
    job = await start_move(source, listener, "-p", "-e")
    assert await job.wait() == 1
    sender, receiver = sample(file).split("## sender output")[1].split("## receiver output")
    assert [words(line) for line in (await said_by(job)).splitlines()] == [
        words(line) for line in sender.split("## after")[0].splitlines() if line and not line.startswith("[xl")
    ]
    expected = [words(line) for line in receiver.splitlines() if line and "xl migrate-receive" not in line]
    assert listener.receiver is not None
    heard = listener.receiver
    seen: list[str] = []
    async with asyncio.timeout(10):
        async for line in heard.stderr():
            seen.append(words(line))
            if len(seen) == len(expected):
                break
    if at == "bytes":  # which record, and how much of it, is chance
        expected = [line.split("to read ")[0] for line in expected]
        seen = [line.split("to read ")[0] for line in seen]
    assert seen == expected
    if at in ("bytes", "ready"):
        assert simulation.truth.running(UUID) == ("mk1",)
        await until_records(simulation)
        assert list(await names(target)) == ([f"{NAME}--incoming"] if at == "ready" else [])
        return
    assert await names(source) == {f"{NAME}--migratedaway": "---ss-"}
    assert await names(target) == {NAME if at == "report" else f"{NAME}--incoming": "--p---"}
    assert simulation.truth.running(UUID) == ()
    await heard.kill()
    await xl(target, "destroy", str(next(iter(Xen.of(target).domains))))
    await xl(source, "rename", f"{NAME}--migratedaway", NAME)
    assert (await source.run(["xentandem-resume", (await xl(source, "domid", NAME)).stdout.strip()])).exit == 0
    await until_records(simulation)
    assert await names(target) == {}


async def test_killed_senders_and_receivers(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener, tmp_path: Path
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(100e6)
    # xl on the source: the guest runs on, the target destroys its copy
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: Xen.of(target).find(f"{NAME}--incoming") is not None)
    next(process for process in source.processes.running.values() if process.argv[0] == "xl").kill()
    assert await job.wait() == -9
    await until(simulation, lambda: listener.exit == 1)
    real = lines_of(sample("interrupt-sigkill-xl-on-source.txt"), "migration target:", "libxl: error: libxl_domain.c:1")
    assert [words(line) for line in listener.said.splitlines()][-4:] == real[-4:]
    assert await names(target) == {}
    assert simulation.truth.running(UUID) == ("mk1",)
    # the receiver: the guest runs on, --incoming stays
    async with Listener(simulation, tmp_path / "second", "-p", "-e") as second:
        job = await start_move(source, second, "-p", "-e", scope="second")
        await until(simulation, lambda: any(found.memory_kib for found in Xen.of(target)))
        assert second.receiver is not None
        await second.receiver.kill()
        assert await job.wait() == 1
    said = [words(line) for line in (await said_by(job)).splitlines()]
    recorded = sample("handover/03-p-sigkill-dst.mk2-to-mk1.txt")
    assert said[-2:] == lines_of(recorded, "xc: error: Dom", "libxl: error: libxl_dom_suspend")[:2]
    assert await names(target) == {f"{NAME}--incoming": "--p---"}
    assert simulation.truth.running(UUID) == ("mk1",)
    # a leftover makes every retry fail
    async with Listener(simulation, tmp_path / "third", "-p", "-e") as third:
        job = await start_move(source, third, "-p", "-e", scope="third")
        assert await job.wait() == 1
        await until(simulation, lambda: third.exit == 1)
    assert f'Domain with name "{NAME}--incoming" already exists' in third.said
    assert (await xl(target, "destroy", f"{NAME}--incoming")).exit == 0
    await until_records(simulation)


async def test_a_scope_that_is_ended_leaves_no_process(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(50e6)
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: Xen.of(target).find(f"{NAME}--incoming") is not None)
    await job.kill()
    assert await job.wait() == -9
    await until(simulation, lambda: not source.processes.running)
    await until(simulation, lambda: listener.exit == 1)
    assert await names(source) != {}
    assert await names(target) == {}


async def test_too_little_memory_at_the_target(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    hog = config("hog", uuid="00000000-0000-4000-8000-000000000001", memory=410)
    assert (await create(target, hog.replace("drbd1", "drbd2"), "-p")).exit == 0
    job = await start_move(source, listener, "-p", "-e")
    assert await job.wait() == 1
    await until(simulation, lambda: listener.exit == 1)
    real = lines_of(sample("err-xl-migrate-target-too-little-memory.txt"), *SAYS)
    heard = [words(line) for line in listener.said.splitlines()]
    said = [words(line) for line in (await said_by(job)).splitlines()]
    assert heard == [line for line in real if line in heard]
    assert "xc: error: Failed to populate physmap (N = Device or resource busy): Internal error" in heard
    assert "Migration failed, resuming at sender." in said
    # Which of xl and its helper saw the broken pipe, and how the transport ended, is chance.
    told = [line for line in said if "libxl_read_exactly" not in line and "transport process" not in line]
    assert [line for line in real if line not in heard and "transport process" not in line] == told
    assert await names(target) == {"hog": "--p---"}
    await until_records(simulation)


async def test_no_shadow_paging(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    Xen.of(source).configure(version=(4, 17, 7), virt_caps="pv hvm hap gnttab-v1 gnttab-v2")
    await started(simulation, source)
    job = await start_move(source, listener, "-p", "-e")
    assert await job.wait() == 1
    await until(simulation, lambda: listener.exit == 1)
    real = lines_of(sample("err-xl-migrate-no-shadow-paging-xen-4.17.7.txt"), *SAYS)
    heard = [words(line) for line in listener.said.splitlines()]
    said = [words(line) for line in (await said_by(job)).splitlines()]
    assert sorted(line for line in real if "transport" not in line) == sorted(
        line for line in [*heard, *said] if "transport" not in line
    )
    assert await names(target) == {}
    await until_records(simulation)


async def test_a_bridge_that_the_target_has_not(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    """Seen only when all memory was copied: the guest was suspended, and is resumed."""
    source, target = hosts
    Xen.of(target).remove_bridge("xenbr0")
    await started(simulation, source)
    job = await start_move(source, listener, "-p", "-e")
    assert await job.wait() == 1
    await until(simulation, lambda: listener.exit == 1)
    assert "Could not find bridge device xenbr0" in listener.said
    assert "Migration failed, resuming at sender." in await said_by(job)
    assert await names(target) == {}
    await until_records(simulation)


async def test_a_target_that_loses_power(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(50e6)
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: any(found.memory_kib for found in Xen.of(target)))
    simulation.power_off("mk2")
    assert await job.wait() == 1
    assert simulation.truth.running(UUID) == ("mk1",)
    simulation.power_on("mk2")
    assert await names(target) == {}
    await until_records(simulation)


async def test_a_source_that_loses_power(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(50e6)
    await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: any(found.memory_kib for found in Xen.of(target)))
    simulation.power_off("mk1")
    await until(simulation, lambda: listener.exit == 1)
    assert await names(target) == {}
    assert simulation.truth.running(UUID) == ()


async def test_a_cable_pulled_for_a_while_only_delays(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], disk: SharedDisk, listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(200e6)
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: any(found.memory_kib for found in Xen.of(target)))
    simulation.cut_link("mk1", "mk2")
    await until_records(simulation)
    held = sum(found.memory_kib for found in Xen.of(target))
    await until_records(simulation, 10)
    assert sum(found.memory_kib for found in Xen.of(target)) - held <= 8192
    simulation.restore_link("mk1", "mk2")
    assert await job.wait() == 0
    await until(simulation, lambda: listener.exit == 0)
    await take_over(simulation, disk, target)


async def test_a_guest_that_powers_off_in_the_middle(
    simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost], listener: Listener
) -> None:
    source, target = hosts
    await started(simulation, source)
    simulation.slow_link(200e6)
    job = await start_move(source, listener, "-p", "-e")
    await until(simulation, lambda: any(found.memory_kib for found in Xen.of(target)))
    guest(source).poweroff()
    assert await job.wait() == 1
    assert "Domain has not been suspended: shutdown 1, reason 0" in await said_by(job)
    await until(simulation, lambda: listener.exit == 1)
    assert await names(source) == {NAME: "---s--"}
    assert await names(target) == {}


async def test_a_command_that_is_not_there(simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost]) -> None:
    source, _ = hosts
    await started(simulation, source)
    moved = await xl(source, "migrate", "-s", "", "-p", "-e", NAME, "/nonexistent/relay settings")
    assert moved.exit == 1
    assert "file/stream truncated reading banner from migration receiver stream" in moved.stderr
    assert "exited with error status 127" in moved.stderr
    assert (await xl(source, "migrate", "-s", "", "nosuch", "x")).exit == 1
    await until_records(simulation)
