"""A live migration that is cut, at every place: transport, xl, power, cable, guest.

What is said, and what is left on both hosts, is held to what real hosts said and left.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from xen_helpers import (
    NAME,
    UUID,
    Listener,
    SharedDisk,
    guest,
    lines_of,
    names,
    said_by,
    sample,
    start_move,
    started,
    take_over,
    until,
    until_records,
    words,
    xl,
)

from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import StreamFault, Xen


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
