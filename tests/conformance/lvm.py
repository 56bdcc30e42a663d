"""Logical volumes: the commands of agent/drivers/lvm.py, and what LVM refuses."""

from __future__ import annotations

from tests.conformance.scenario import scenario
from tests.conformance.tools import Tools

JSON = "--reportformat json --units b --nosuffix"
LVS = f"lvs {JSON} -o vg_name,lv_name,lv_size,lv_attr,lv_tags,lv_device_open"
VGS = f"vgs {JSON} -o vg_name,vg_size,vg_free,vg_extent_size"
CREATE = "lvcreate -y -W y -Z y"
MIB = 1 << 20


@scenario("tools", "Logical volumes: sizes to the byte, tags, rename, grow, remove; every refusal")
async def lvm_volumes(hosts: Tools) -> None:
    await hosts.see("mk1", VGS, LVS, "lvs", where="empty")
    await hosts.see(
        "mk1",
        f"{CREATE} -n a -L {64 * MIB}b --addtag xentandem.uid=1-2 --addtag two vg0",
        f"{CREATE} -n odd -L {5 * MIB}b vg0",
        f"{CREATE} -n a -L {64 * MIB}b vg0",
        f"{CREATE} -n big -L {4096 * MIB}b vg0",
        f"{CREATE} -n b -L {MIB}b vgx",
        f"{CREATE} -n b vg0",
        f"{CREATE} -n b/c -L {MIB}b vg0",
        "lvcreate --frobnicate vg0",
        LVS,
        VGS,
        "lvs",
    )
    await hosts.see(
        "mk1",
        f"lvextend -L {128 * MIB}b vg0/a",
        f"lvextend -L {128 * MIB}b vg0/a",
        f"lvextend -L {64 * MIB}b vg0/a",
        f"lvextend -L {4096 * MIB}b vg0/a",
        f"lvextend -L {128 * MIB}b vg0/x",
        "lvchange --addtag three --deltag two vg0/a",
        "lvchange --addtag four vg0/x",
        "lvrename vg0 a b",
        "lvrename vg0 a c",
        "lvrename vg0 b odd",
        "lvs --noheadings -o lv_name @three",
        "lvs vg0/x",
        "vgs vgx",
        LVS,
        where="grown",
    )
    await hosts.see("mk1", "lvs --noheadings -o lv_frob", only="Unrecognised")
    await hosts.place.hold("mk1", "/dev/vg0/b")
    await hosts.see("mk1", LVS, "lvremove -y vg0/b", where="open")
    await hosts.place.release("mk1", "/dev/vg0/b")
    await hosts.see("mk1", "lvremove vg0/b", "lvremove -y vg0/b", "lvremove -y vg0/b", "lvremove -y vg0/odd", VGS)


@scenario("tools", "A snapshot: size, share used, overflow; the origin is unharmed")
async def lvm_snapshot(hosts: Tools) -> None:
    await hosts.do("mk1", f"{CREATE} -n a -L {64 * MIB}b vg0")
    await hosts.place.fill("mk1", "/dev/vg0/a", 0, 4, "a")
    fields = f"{LVS},origin,data_percent"
    await hosts.see("mk1", f"lvcreate -y -s -n s -L {8 * MIB}b vg0/a", fields, where="new")
    await hosts.place.fill("mk1", "/dev/vg0/a", 0, 512, "b")
    await hosts.see("mk1", fields, "lvs", VGS, where="2 MiB written")
    await hosts.place.fill("mk1", "/dev/vg0/a", 0, 4096, "c")
    await hosts.see("mk1", fields, "lvs", where="more written than it holds")
    await hosts.see(
        "mk1",
        f"lvextend -L {128 * MIB}b vg0/a",
        f"lvcreate -y -s -n s -L {8 * MIB}b vg0/a",
        f"lvcreate -y -s -n t -L {8 * MIB}b vg0/x",
        "lvremove -y vg0/s",
        f"lvcreate -y -s -n s -L {8 * MIB}b vg0/a",
        "lvremove -y vg0/a",
        LVS,
        where="removed",
    )
