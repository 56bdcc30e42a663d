"""Live migrations that a host cannot do: the guest runs on where it was, and the target keeps nothing."""

from __future__ import annotations

from xen_helpers import (
    NAME,
    SAYS,
    Listener,
    config,
    create,
    lines_of,
    names,
    said_by,
    sample,
    start_move,
    started,
    until,
    until_records,
    words,
    xl,
)

from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen


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


async def test_a_command_that_is_not_there(simulation: Simulation, hosts: tuple[SimulatedHost, SimulatedHost]) -> None:
    source, _ = hosts
    await started(simulation, source)
    moved = await xl(source, "migrate", "-s", "", "-p", "-e", NAME, "/nonexistent/relay settings")
    assert moved.exit == 1
    assert "file/stream truncated reading banner from migration receiver stream" in moved.stderr
    assert "exited with error status 127" in moved.stderr
    assert (await xl(source, "migrate", "-s", "", "nosuch", "x")).exit == 1
    await until_records(simulation)
