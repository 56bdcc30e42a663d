"""LVM's words, numbers and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from drbd_helpers import SAMPLES

from agent.simulation.cluster import Hardware, Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.lvm_report import size_text

MIB = 1 << 20


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SimulatedHost]:
    """With the sample hosts' volume group: 1020 MiB."""
    hardware = Hardware(volume_groups=(("vg0", 1020 * MIB),))
    async with Simulation(tmp_path, ("mk1",), clock="virtual", hardware=hardware) as simulation:
        yield simulation.hosts["mk1"]
        simulation.truth.check()


async def run(host: SimulatedHost, line: str) -> tuple[int, str]:
    """(exit status, everything said)."""
    completed = await host.run(line.split())
    return completed.exit, completed.stdout + completed.stderr


async def test_the_reports_of_the_sample_hosts(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 64M -n vm_shaolin vg0")
    device = host.open_device("/dev/vg0/vm_shaolin", "r")
    fields = "lv_name,vg_name,lv_size,lv_attr,lv_uuid,lv_path,lv_active,lv_device_open"
    said = ""
    for line in (
        "lvs --reportformat json",
        "vgs --reportformat json",
        "pvs --reportformat json",
        f"lvs --reportformat json --units b --nosuffix -o {fields}",
    ):
        said += (await host.run(line.split())).stdout
    device.close()
    uuid = r"[0-9A-Za-z]{6}(-[0-9A-Za-z]{4}){5}-[0-9A-Za-z]{6}"
    recorded = (SAMPLES / "lvm-json.mk1.txt").read_text()
    assert re.search(uuid, said)
    assert re.sub(uuid, "UUID", said) == re.sub(uuid, "UUID", recorded)


async def test_sizes_are_rounded_up_to_the_extent(host: SimulatedHost) -> None:
    assert await run(host, f"lvcreate -L {5 * MIB}b -n a vg0") == (
        0,
        '  Rounding up size to full physical extent 8.00 MiB\n  Logical volume "a" created.\n',
    )
    assert host.device_size("/dev/vg0/a") == 8 * MIB
    assert host.device_size("/dev/mapper/vg0-a") == 8 * MIB


async def test_refusals(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 64M -n a vg0")
    for line, status, words in (
        ("lvcreate -L 4M -n a vg0", 5, 'Logical Volume "a" already exists in volume group "vg0"'),
        ("lvcreate -L 2G -n b vg0", 5, "has insufficient free space (239 extents): 512 required"),
        ("lvcreate -L 4M -n b vgx", 5, 'Volume group "vgx" not found'),
        ("lvcreate -n b vg0", 3, "No command with matching syntax recognised"),
        ("lvcreate -L 4Q -n b vg0", 3, "Invalid argument for --size: 4Q"),
        ("lvcreate -L 4M -n b/c vg0", 3, "Inconsistent volume group names given"),
        ("lvcreate --frobnicate vg0", 3, "Error during parsing of command line"),
        ("lvextend -L 64M vg0/a", 5, "New size (16 extents) matches existing size (16 extents)"),
        ("lvextend -L 32M vg0/a", 5, "not larger than existing size"),
        ("lvextend -L 2G vg0/a", 5, "Insufficient free space: 496 extents needed, but only 239 available"),
        ("lvextend -L 128M vg0/x", 5, "Logical volume x not found in volume group vg0"),
        ("lvremove vg0/a", 5, "Do you really want to remove active logical volume vg0/a? [y/n]: [n]"),
        ("lvremove -y vg0/x", 5, 'Failed to find logical volume "vg0/x"'),
        ("lvrename vg0 x y", 5, 'Existing logical volume "x" not found'),
        ("lvrename vg0 a a", 3, "must differ"),
        ("lvchange vg0/a", 3, "Need 1 or more of"),
        ("lvs -o lv_frob", 5, "Unrecognised field: lv_frob"),
        ("lvs vg0/x", 5, 'Failed to find logical volume "vg0/x"'),
        ("vgs vgx", 5, 'Volume group "vgx" not found'),
    ):
        said = await run(host, line)
        assert said[0] == status, (line, said)
        assert words in said[1], (line, said)
    assert [lv.name for lv in host.volume_groups.groups["vg0"].volumes.values()] == ["a"]


async def test_a_volume_in_use_is_not_removed(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 64M -n a vg0")
    device = host.open_device("/dev/vg0/a", "w")
    assert await run(host, "lvremove -f vg0/a") == (5, "  Logical volume vg0/a in use.\n")
    device.close()
    assert await run(host, "lvremove -f vg0/a") == (0, '  Logical volume "a" successfully removed.\n')
    assert not await host.exists("/dev/vg0/a")


async def test_tags_and_names(host: SimulatedHost) -> None:
    await run(host, "lvcreate -y -L 64M -n a --addtag one --addtag two=2 vg0")
    await run(host, "lvchange --addtag three --deltag one vg0/a")
    assert await run(host, "lvrename vg0 a b") == (0, '  Renamed "a" to "b" in volume group "vg0"\n')
    report = json.loads((await host.run(["lvs", "--reportformat", "json", "-o", "lv_name,lv_tags"])).stdout)
    assert report["report"][0]["lv"] == [{"lv_name": "b", "lv_tags": "three,two=2"}]
    await run(host, "lvcreate -y -L 64M -n c vg0")
    assert await run(host, "lvs --noheadings -o lv_name @three") == (0, "  b   \n")
    assert await run(host, "lvs --noheadings -o lv_name @four") == (0, "")


async def test_growing_keeps_what_is_there(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 8M -n a vg0")
    device = host.open_device("/dev/vg0/a", "w")
    await device.write(8 * MIB - 4, b"last")
    device.close()
    assert (await run(host, "lvextend -L 16M vg0/a"))[0] == 0
    device = host.open_device("/dev/vg0/a", "r")
    assert await device.read(8 * MIB - 4, 8) == b"last" + bytes(4)
    assert device.size == 16 * MIB
    device.close()


async def test_a_new_volume_begins_with_what_another_left_but_for_signatures(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 64M -n a vg0")
    await run(host, "mkfs.ext4 -q /dev/vg0/a")
    device = host.open_device("/dev/vg0/a", "w")
    await device.write(MIB, b"another tenant's secret")
    device.close()
    await run(host, "lvremove -y vg0/a")
    refused = await run(host, "lvcreate -W y -Z y -L 64M -n b vg0")
    assert refused[0] == 5
    assert "ext4 signature detected on /dev/vg0/b" in refused[1]
    assert not await host.exists("/dev/vg0/b")
    made = await run(host, "lvcreate -y -W y -Z y -L 64M -n b vg0")
    assert made == (0, '  Wiping ext4 signature on /dev/vg0/b.\n  Logical volume "b" created.\n')
    assert await run(host, "blkid -p /dev/vg0/b") == (2, "")
    device = host.open_device("/dev/vg0/b", "r")
    assert await device.read(MIB, 7) == b"another"
    device.close()


async def test_disks_that_fail(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 8M -n a vg0")
    host.simulation.fail_disk("mk1", "/dev/vg0/a")
    device = host.open_device("/dev/vg0/a", "w")
    for access in (device.read(0, 1), device.write(0, b"x")):
        with pytest.raises(OSError, match="Input/output error"):
            await access
    host.simulation.repair_disk("mk1", "/dev/vg0/a")
    await device.write(0, b"x")
    device.close()
    with pytest.raises(KeyError):
        host.simulation.fail_disk("mk1", "/dev/vg0/b")


async def test_tables(host: SimulatedHost) -> None:
    await run(host, "lvcreate -L 512M -n vm_shaolin vg0")
    assert await run(host, "lvs") == (
        0,
        "  LV         VG  Attr       LSize   Pool Origin Data%  Meta%  Move Log Cpy%Sync Convert\n"
        "  vm_shaolin vg0 -wi-a----- 512.00m                                                    \n",
    )
    assert (await run(host, "vgs --noheadings -o vg_name,vg_free --units m"))[1] == "  vg0 508.00m\n"


def test_sizes_in_words() -> None:
    assert [size_text(size) for size in (4096, 4 * MIB, 3 << 30, 5 << 40)] == [
        "4.00 KiB",
        "4.00 MiB",
        "3.00 GiB",
        "5.00 TiB",
    ]
