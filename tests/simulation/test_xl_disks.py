"""Disks of a simulated host's domains: who opens them, when, and what a Secondary does to them; held to real hosts."""

from __future__ import annotations

from xen_helpers import (
    NAME,
    UUID,
    SharedDisk,
    config,
    create,
    domain,
    lines_of,
    sample,
    states,
    until,
    until_records,
    words,
    xl,
)

from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen

PLAIN = "format=raw,vdev=xvda,access=rw,target=/dev/drbd1"
PHYSICAL = "/sys/bus/xen-backend/devices/vbd-1-51712/physical_device"


async def test_a_plain_disk_on_a_secondary_is_dead_behind_exit_0(simulation: Simulation, disk: SharedDisk) -> None:
    host = simulation.hosts["mk2"]
    created = await create(host, config(disk=PLAIN))
    assert (created.exit, created.stderr) == (0, "Parsing config from /etc/xen/shaolin.cfg\n")
    guest = domain(host).guest
    assert guest is not None
    await until(simulation, lambda: guest.disk == "bad")
    real = sample("err-xl-create-on-secondary-drbd.aftermath.txt")
    listed = (await xl(host, "block-list", NAME)).stdout.splitlines()
    assert [line.replace("/vbd/1/", "/vbd/2/").replace(" 1      6", " 2      6").rstrip() for line in listed] == [
        line.rstrip() for line in real.splitlines()[-2:]
    ]
    log = [line.split("] ", 1)[1] for line in host.dmesg]
    assert "xen-blkback: xen_vbd_create: device 09300001 could not be opened" in log
    assert "vbd vbd-1-51712: 2 creating vbd structure" in log
    assert not await host.exists(PHYSICAL)
    entries = set((await host.run(["xenstore-ls", "/local/domain/0/backend/vbd/1/51712"])).stdout.splitlines())
    for line in real.splitlines():
        if line.startswith("  ") and "multi-queue" not in line and "max-ring" not in line:
            assert line.strip().replace("/domain/2/", "/domain/1/").replace('id = "2"', 'id = "1"') in entries
    assert simulation.truth.records(UUID).issued == 0


async def test_our_script_leaves_a_secondary_alone_until_physical_device_is_written(
    simulation: Simulation, disk: SharedDisk
) -> None:
    host = simulation.hosts["mk2"]
    assert (await create(host)).exit == 0
    vbd, guest = domain(host).vbds[51712], domain(host).guest
    assert guest is not None
    await until(simulation, lambda: guest.state.ticks > 1)
    assert (vbd.connected, vbd.dead, guest.disk_errors) == (False, False, 0)
    assert not await host.exists(PHYSICAL)
    assert "could not be opened" not in "".join(host.dmesg)
    assert " 1     " in (await xl(host, "block-list", NAME)).stdout
    disk.primary = "mk2"
    backend = "/local/domain/0/backend/vbd/1/51712"
    await host.run(["xenstore-write", f"{backend}/physical-device-path", "/dev/drbd1"])
    await host.run(["xenstore-write", f"{backend}/physical-device", "93:1"])
    assert await host.read_text(PHYSICAL) == "93:1\n"
    await until_records(simulation)
    assert (await xl(host, "block-list", NAME)).stdout.splitlines()[1].split()[3] == "4"


async def test_physical_device_written_on_a_secondary_kills_the_disk(simulation: Simulation, disk: SharedDisk) -> None:
    host = simulation.hosts["mk2"]
    await create(host, config(), "-p")
    backend = "/local/domain/0/backend/vbd/1/51712"
    wrote = await host.run(["xenstore-write", f"{backend}/physical-device", "93:1"])
    assert wrote.exit == 0
    assert domain(host).vbds[51712].dead
    assert (await host.run(["xenstore-read", f"{backend}/state"])).stdout == "6\n"
    disk.primary = "mk2"
    await host.run(["xenstore-write", f"{backend}/physical-device", "93:1"])
    assert not await host.exists(PHYSICAL)


async def test_a_device_that_another_guest_has_is_refused_but_not_to_the_same_uuid(mk1: SimulatedHost) -> None:
    await create(mk1, config(disk=PLAIN), "-p")
    other = await create(mk1, config("other", uuid="00000000-0000-4000-8000-000000000001", disk=PLAIN), "-p")
    assert other.exit == 3
    assert "Device /dev/drbd1 is mounted in a guest domain" in other.stderr
    assert (await create(mk1, config("twin", disk=PLAIN), "-p")).exit == 0


async def test_backends_while_paused(mk1: SimulatedHost) -> None:
    """Attached, but not connected: state 2 and 1, and sysfs already has the device."""
    await create(mk1, config(), "-p")
    real = sample("handover/01-first-migrate-p.txt")
    assert await mk1.list_dir("/sys/bus/xen-backend/devices") == ["console-1-0", "vbd-1-51712", "vif-1-0"]
    assert (await xl(mk1, "block-list", NAME)).stdout in real
    shown = (await mk1.run(["xenstore-ls", "/local/domain/0/backend/vbd/1/51712"])).stdout
    for line in ('state = "2"', 'physical-device = "93:1"', 'hotplug-status = "connected"'):
        assert line in shown
        assert line in real
    await xl(mk1, "unpause", NAME)
    assert (await xl(mk1, "block-list", NAME)).stdout.rstrip() in real


async def test_a_zombie_holds_its_disk_until_the_host_restarts(
    simulation: Simulation, mk1: SimulatedHost, disk: SharedDisk
) -> None:
    Xen.of(mk1).configure(destroy_timeout=0.1)
    await create(mk1)
    await until_records(simulation)
    Xen.of(mk1).zombies = True
    destroyed = await xl(mk1, "destroy", NAME)
    assert destroyed.exit == 0
    real = sample("handover/03-p-after-dst.mk2-to-mk1.txt")
    assert [words(destroyed.stderr.rstrip())] == lines_of(real, "libxl: error: libxl_domain.c:1530")[:1]
    line = (await xl(mk1, "list")).stdout.splitlines()[2]
    assert words(line).split()[:4] == ["(null)", "N", "N", "N"]
    assert line[:40].rstrip() == "(null)"
    assert "--p--d" in line
    assert not disk.demote()
    failed = await create(mk1)
    assert failed.exit == 3
    assert "unable to add device with path" in failed.stderr
    simulation.power_off("mk1")
    simulation.power_on("mk1")
    assert await states(mk1) == {}


async def test_hvm_opens_its_disks_at_its_start(simulation: Simulation, mk1: SimulatedHost) -> None:
    refused = await create(simulation.hosts["mk2"], config(kind="hvm"))
    assert refused.exit == 3
    assert "device model did not start: -3" in refused.stderr
    assert await states(simulation.hosts["mk2"]) == {}
    assert (await create(mk1, config(kind="hvm"))).exit == 0
    await until_records(simulation)
