"""LVM's driver."""

from __future__ import annotations

import json

import pytest
from scripted import ScriptedHost

from agent.drivers.errors import DriverError, Unreadable
from agent.drivers.lvm import Lvm, checked_tag, owner_tag, path

UID = "11111111-2222-3333-4444-555555555555"


def report(kind: str, *rows: dict[str, str]) -> str:
    return json.dumps({"report": [{kind: list(rows)}]})


def row(**fields: str) -> dict[str, str]:
    base = {"vg_name": "vg0", "lv_name": "a", "lv_size": "4194304", "lv_attr": "-wi-a-----", "lv_tags": ""}
    return base | {"lv_device_open": ""} | fields


async def test_volumes_with_their_owners() -> None:
    text = report(
        "lv",
        row(lv_name="ours", lv_tags=f"xentandem.content=ext4,{owner_tag(UID)}", lv_device_open="open"),
        row(lv_name="kept", lv_tags=f"{owner_tag(UID)},xentandem.retained"),
        row(lv_name="foreign", lv_tags="backup", lv_device_open="unknown"),
    )
    ours, kept, foreign = await Lvm(ScriptedHost({"lvs": (0, text, "")})).logical_volumes()
    assert (ours.owner_uid, ours.retained, ours.open, ours.size) == (UID, False, True, 4194304)
    assert ours.tags == ("xentandem.content=ext4", f"xentandem.uid={UID}")
    assert (kept.owner_uid, kept.retained, kept.open) == (UID, True, False)
    assert (foreign.owner_uid, foreign.open) == (None, None)


async def test_groups() -> None:
    text = report("vg", {"vg_name": "vg0", "vg_size": "1069547520", "vg_free": "0", "vg_extent_size": "4194304"})
    host = ScriptedHost({"vgs": (0, text, "")})
    (group,) = await Lvm(host).volume_groups()
    assert (group.name, group.size, group.free, group.extent) == ("vg0", 1069547520, 0, 4194304)
    assert host.commands == ["vgs --reportformat json --units b --nosuffix -o vg_name,vg_size,vg_free,vg_extent_size"]


async def test_no_volumes_is_an_answer() -> None:
    assert await Lvm(ScriptedHost({"lvs": (0, report("lv"), "")})).logical_volumes() == ()


@pytest.mark.parametrize(
    "answer",
    [
        (5, report("lv"), "  WARNING: Couldn't find device with uuid"),
        (0, "", ""),
        (0, "{}", ""),
        (0, '{"report": 1}', ""),
        (0, '{"report": [{"lv": [{"lv_name": 1}]}]}', ""),
        (0, report("lv", row(lv_size="64.00m")), ""),
        (0, report("lv", {"lv_name": "a"}), ""),
        (0, report("lv", row(lv_tags="xentandem.uid=a,xentandem.uid=b")), ""),
    ],
)
async def test_what_is_not_a_report_is_unreadable(answer: tuple[int, str, str]) -> None:
    with pytest.raises(Unreadable):
        await Lvm(ScriptedHost({"lvs": answer})).logical_volumes()


async def test_commands() -> None:
    host = ScriptedHost(dict.fromkeys(("lvcreate", "lvextend", "lvremove", "lvrename", "lvchange"), (0, "", "")))
    lvm = Lvm(host)
    await lvm.create("vg0", "vm_shaolin", 512 << 20, [owner_tag(UID), "xentandem.forced"])
    await lvm.extend("vg0", "vm_shaolin", 1 << 30)
    await lvm.rename("vg0", "vm_shaolin", "kept-vm_shaolin")
    await lvm.add_tag("vg0", "a", "xentandem.retained")
    await lvm.del_tag("vg0", "a", "xentandem.retained")
    await lvm.remove("vg0", "a")
    assert host.commands == [
        f"lvcreate -y -W y -Z y -n vm_shaolin -L 536870912b --addtag xentandem.uid={UID} --addtag xentandem.forced vg0",
        "lvextend -L 1073741824b vg0/vm_shaolin",
        "lvrename vg0 vm_shaolin kept-vm_shaolin",
        "lvchange --addtag xentandem.retained vg0/a",
        "lvchange --deltag xentandem.retained vg0/a",
        "lvremove -y vg0/a",
    ]
    assert path("vg0", "vm_shaolin") == "/dev/vg0/vm_shaolin"


async def test_a_refusal_has_lvms_words() -> None:
    words = '  Volume group "vg0" has insufficient free space (10 extents): 128 required.\n'
    with pytest.raises(DriverError, match="insufficient free space") as caught:
        await Lvm(ScriptedHost({"lvcreate": (5, "", words)})).create("vg0", "a", 1, [])
    assert caught.value.reason == "CreateFailed"


@pytest.mark.parametrize("tag", ["", "-f", "a b", "a,b", "ä", "a" * 1025, "a\n", "a@b"])
async def test_a_tag_that_lvm_would_refuse_or_misread_is_never_passed_on(tag: str) -> None:
    host = ScriptedHost({"lvcreate": (0, "", ""), "lvchange": (0, "", "")})
    for change in (Lvm(host).create("vg0", "a", 1, [tag]), Lvm(host).add_tag("vg0", "a", tag)):
        with pytest.raises(DriverError) as caught:
            await change
        assert caught.value.reason == "InvalidTag"
    assert host.commands == []


def test_our_own_tags_are_allowed() -> None:
    for tag in (owner_tag(UID), "xentandem.retained", "xentandem.content=image.sha256:" + "0" * 64):
        assert checked_tag(tag) == tag
