"""A guest on simulated DRBD over simulated LVM, by the agent's own drivers: moved there and back, one Primary only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import NAME, UUID, Listener, config, create, domain, quick, start_move, until, until_records, xl

from agent.drivers.drbd import Drbd
from agent.drivers.errors import DriverError
from agent.drivers.lvm import Lvm, owner_tag
from agent.drivers.xen import Xen as XenDriver
from agent.host import Completed
from agent.protocol import Member, VolumeDesired
from agent.simulation.cluster import Simulation
from agent.simulation.guest import Guest
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import StreamFault, Xen
from agent.simulation.process import failed

RESOURCE = "vm_shaolin"
VOLUME = VolumeDesired(
    term=1,
    uid=UUID,
    namespace="default",
    name="vm-shaolin",
    resource=RESOURCE,
    minor=1,
    port=7789,
    group="vg0",
    logical_volume=RESOURCE,
    size=16 << 20,
    members=(Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82")),
)


async def peer_is_fenced(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    """A fence-peer handler that knows the peer to be off (exit 7, drbd.conf(5))."""
    return failed(argv, 7, "")


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    """Both hosts with the volume UpToDate, Secondary on both."""
    async with Simulation(tmp_path) as simulation:
        quick(simulation)
        for host in simulation.hosts.values():
            drbd = Drbd(host, "8.4")
            await Lvm(host).create("vg0", RESOURCE, VOLUME.size, [owner_tag(UUID)])
            host.add_command("fenced", peer_is_fenced)
            await drbd.install(VOLUME, fence_handler="/usr/lib/fenced")
            await drbd.create_metadata(RESOURCE)
            await drbd.up(RESOURCE)
        mk1 = Drbd(simulation.hosts["mk1"], "8.4")
        await connected(simulation)
        await mk1.force_primary(RESOURCE)
        await up_to_date(simulation)
        await mk1.secondary(RESOURCE, 1)
        yield simulation
        simulation.truth.check()


def proc(host: SimulatedHost) -> str:
    return host.files.read("/proc/drbd")


async def connected(simulation: Simulation) -> None:
    await until(simulation, lambda: all("cs:Connected" in proc(host) for host in simulation.hosts.values()))


async def up_to_date(simulation: Simulation) -> None:
    await until(
        simulation,
        lambda: all(
            "cs:Connected" in proc(host) and "ds:UpToDate/UpToDate" in proc(host) for host in simulation.hosts.values()
        ),
    )


def guest(host: SimulatedHost) -> Guest:
    found = domain(host).guest
    assert found is not None
    return found


async def hand_over(simulation: Simulation, source: SimulatedHost, target: SimulatedHost) -> None:
    await Drbd(source, "8.4").secondary(RESOURCE, 1)
    await Drbd(target, "8.4").primary(RESOURCE, 1)
    driver = XenDriver(target)
    domid = domain(target).domid
    assert not await driver.disk_attached(domid, "xvda", 1)
    await driver.attach_disk(domid, "xvda", 1)
    assert await driver.disk_attached(domid, "xvda", 1)
    await driver.unpause(domid)
    await until_records(simulation)


async def test_there_and_back(simulation: Simulation, tmp_path: Path) -> None:
    hosts = tuple(simulation.hosts.values())
    await Drbd(hosts[0], "8.4").primary(RESOURCE, 1)
    assert (await create(hosts[0])).exit == 0
    await until_records(simulation)
    for turn, (source, target) in enumerate([hosts, hosts[::-1]]):
        with pytest.raises(DriverError) as refused:
            await Drbd(source, "8.4").secondary(RESOURCE, 1, patience=0.05)
        assert refused.value.reason == "DeviceOpen"
        async with Listener(simulation, tmp_path / f"s{turn}", "-p", "-e", host=target.name) as listener:
            job = await start_move(source, listener, "-p", "-e", scope=f"move{turn}")
            assert await job.wait() == 0
            await until(simulation, lambda listener=listener: listener.exit == 0)  # type: ignore[misc]
        last = simulation.truth.records(UUID).acknowledged
        await hand_over(simulation, source, target)
        assert guest(target).found in (last, last + 1)
    assert simulation.truth.records(UUID).hosts == ["mk1", "mk2", "mk1"]
    await xl(hosts[0], "destroy", NAME)
    await Drbd(hosts[0], "8.4").secondary(RESOURCE, 1)
    assert simulation.truth.two_primaries_seconds.get(RESOURCE, 0.0) == 0.0


async def test_created_on_a_secondary_it_writes_nothing(simulation: Simulation) -> None:
    mk2 = simulation.hosts["mk2"]
    assert (await create(mk2, config(disk="format=raw,vdev=xvda,access=rw,target=/dev/drbd1"))).exit == 0
    await until(simulation, lambda: guest(mk2).disk == "bad")
    assert "could not be opened" in "".join(mk2.dmesg)
    await xl(mk2, "destroy", NAME)
    assert (await create(mk2)).exit == 0
    assert not await XenDriver(mk2).disk_attached(2, "xvda")
    with pytest.raises(DriverError):
        await XenDriver(mk2).attach_disk(2, "xvda", 1, limit=0.1)
    assert simulation.truth.records(UUID).issued == 0


async def test_a_power_loss_loses_no_acknowledged_record(simulation: Simulation) -> None:
    """The replica starts where the guest was: what was acknowledged on the lost host is on the other one."""
    mk1, mk2 = simulation.hosts.values()
    await Drbd(mk1, "8.4").primary(RESOURCE, 1)
    await create(mk1)
    await until_records(simulation)
    simulation.power_off("mk1")
    last = simulation.truth.records(UUID).acknowledged
    await until(simulation, lambda: "cs:WFConnection" in proc(mk2))
    await Drbd(mk2, "8.4").primary(RESOURCE, 1)
    assert (await create(mk2)).exit == 0
    await until_records(simulation)
    assert guest(mk2).found in (last, last + 1)


async def test_a_move_whose_report_is_lost_goes_back(simulation: Simulation, tmp_path: Path) -> None:
    mk1, mk2 = simulation.hosts.values()
    await Drbd(mk1, "8.4").primary(RESOURCE, 1)
    await create(mk1)
    await until_records(simulation)
    Xen.of(mk1).stream_fault = StreamFault("report")
    async with Listener(simulation, tmp_path / "socket", "-p", "-e") as listener:
        job = await start_move(mk1, listener, "-p", "-e")
        assert await job.wait() == 1
        await until(simulation, lambda: listener.exit is not None)
    driver = XenDriver(mk1)
    await XenDriver(mk2).destroy(NAME)
    (left,) = await driver.domains()
    assert (left.name, left.state, left.kind) == (f"{NAME}--migratedaway", "suspended", "migratedaway")
    await driver.rename(left.domid, NAME)
    await driver.resume(left.domid)
    await until_records(simulation)
    assert simulation.truth.records(UUID).hosts == ["mk1"]
