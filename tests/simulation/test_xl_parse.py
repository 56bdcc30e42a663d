"""xl.cfg(5) as the simulated xl reads it, the JSON of libxl, and the bytes of a stream: there and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xen_helpers import UUID, sample

from agent.drivers.xen_parse import device_number as driver_device_number
from agent.drivers.xl_config import render
from agent.protocol import DiskConfig, DomainConfig, DomainDesired, NetworkConfig
from agent.simulation import save_format
from agent.simulation.xl_json import from_json, render_json, to_json
from agent.simulation.xl_parse import (
    ConfigError,
    DiskSpec,
    DomainSpec,
    VifSpec,
    device_number,
    parse_config,
    parse_disk,
    parse_file,
)


def test_the_howtos_own_domain() -> None:
    text = """
# shaolin
kernel = "/boot/xenU/vmlinuz-2.6.16.49-xenU-r1"; memory = 512
maxmem = 4096
name = 'shaolin'
vif = [ 'mac=a0:00:00:01:00:01, bridge=xenbr0',
      ]
disk = [ "phy:/dev/drbd1,hda1,w", ]
root = "/dev/hda1 ro"
extra = "console=hvc0"
on_crash = "restart"
"""
    assert parse_config("shaolin", text) == DomainSpec(
        name="shaolin",
        target_kib=512 * 1024,
        max_kib=4096 * 1024,
        kernel="/boot/xenU/vmlinuz-2.6.16.49-xenU-r1",
        cmdline="root=/dev/hda1 ro console=hvc0",
        disks=(DiskSpec("/dev/drbd1", "hda1"),),
        vifs=(VifSpec("a0:00:00:01:00:01", "xenbr0"),),
        on_crash="restart",
    )


def test_what_the_agent_renders_is_what_xl_reads() -> None:
    desired = DomainDesired(
        term=1,
        epoch=1,
        uid=UUID,
        namespace="default",
        name="shaolin",
        state="Running",
        config=DomainConfig(
            type="pvh",
            memory_mib=512,
            max_memory_mib=4096,
            vcpus=2,
            kernel="/boot/vmlinuz",
            cmdline="root=/dev/hda1 ro",
            disks=(DiskConfig(resource="vm_shaolin", minor=1, vdev="hda1"),),
            networks=(NetworkConfig(bridge="xenbr0", mac="a0:00:00:01:00:01"),),
        ),
    )
    spec = parse_config("shaolin", render(desired))
    assert (spec.name, spec.uuid, spec.type, spec.vcpus) == ("shaolin", UUID, "pvh", 2)
    assert (spec.target_kib, spec.max_kib) == (512 * 1024, 4096 * 1024)
    assert spec.disks == (DiskSpec("/dev/drbd1", "hda1", "w", "block-xentandem"),)
    assert spec.vifs == (VifSpec("a0:00:00:01:00:01", "xenbr0", "vif-xentandem"),)
    assert (spec.on_poweroff, spec.on_reboot, spec.on_crash) == ("preserve", "preserve", "preserve")


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        ("/dev/drbd1,raw,xvda,rw", DiskSpec("/dev/drbd1", "xvda")),
        ("/dev/drbd1,,xvda,r", DiskSpec("/dev/drbd1", "xvda", "r")),
        ("vdev=xvda, access=ro, target=/dev/a,b=c", DiskSpec("/dev/a,b=c", "xvda", "r")),
        ("drbd:vm_shaolin,hda1,w", DiskSpec("vm_shaolin", "hda1", "w", "block-drbd")),
        ("backendtype=phy,vdev=hda,script=block-x,target=/dev/x", DiskSpec("/dev/x", "hda", "w", "block-x", "phy")),
    ],
)
def test_disks(text: str, disk: DiskSpec) -> None:
    assert parse_disk(text) == disk


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x', "shaolin:1: config parsing error near `\"': lexical error"),
        ("name = ", "config parsing error near end of line"),
        ("\n\nname 3", "shaolin:3: config parsing error near `3'"),
        ("disk = ['a' 'b']", "config parsing error near `'b''"),
        ("name = 'x'\ntype='xen'", "Invalid domain type xen."),
        ("name = 'x'\non_crash='explode'", 'Unknown on_crash action "explode" specified'),
        ("name = 'x'\ndisk=['vdev=xvda']", "no target specified"),
        ("name = 'x'\ndisk=['/dev/a,raw,zz9,w']", "Invalid virtual disk identifier zz9"),
        ("name = 'x'\nmemory='much'", "config parameter `memory' is not a valid number"),
        ("memory = 12", "Domain name must be specified."),
    ],
)
def test_what_xl_cannot_read(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config("shaolin", text)
    assert said in str(refused.value)


def test_appending() -> None:
    assert parse_file("x", "a = ['1']\na += ['2']\nb = 'x'\nb += 'y'") == {"a": ["1", "2"], "b": "xy"}


@pytest.mark.parametrize(
    ("vdev", "number"),
    [("xvda", 51712), ("xvda1", 51713), ("xvdb", 51728), ("hda", 768), ("hda1", 769), ("hdb", 832), ("hdc", 5632),
     ("sda", 2048), ("sdb1", 2065), ("xvdaa", (1 << 28) | (26 << 8))],
)  # fmt: skip
def test_numbers_of_disks(vdev: str, number: int) -> None:
    assert device_number(vdev) == number == driver_device_number(vdev)


def test_json_as_a_real_host_has_it() -> None:
    real = json.loads(sample("xl-list-l.running-on-mk1.mk1.json"))[1]["config"]
    spec = from_json(real)
    assert (spec.name, spec.uuid, spec.kernel) == ("shaolin", real["c_info"]["uuid"], "/lab/vmlinuz")
    assert to_json(spec) == real
    with pytest.raises(ConfigError):
        from_json({"c_info": {}})


names = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)


@given(
    st.builds(
        DomainSpec,
        name=names,
        uuid=st.uuids().map(str),
        type=st.sampled_from(["pv", "pvh", "hvm"]),
        target_kib=st.integers(1, 1 << 24),
        max_kib=st.integers(1, 1 << 24),
        vcpus=st.integers(1, 64),
        kernel=st.none() | names.map(lambda name: f"/boot/{name}"),
        cmdline=st.just("") | names,
        disks=st.lists(
            st.builds(DiskSpec, names.map(lambda name: f"/dev/{name}"), st.just("xvda"), st.sampled_from("rw"),
                      st.none() | names), max_size=2,
        ).map(tuple),
        vifs=st.lists(st.builds(VifSpec, st.none() | names, names, names), max_size=2).map(tuple),
        on_crash=st.sampled_from(["destroy", "restart", "preserve", "rename-restart"]),
    )
)  # fmt: skip
def test_json_there_and_back(spec: DomainSpec) -> None:
    assert from_json(json.loads(render_json(to_json(spec)))) == spec


@given(st.lists(st.integers(0, (1 << 52) - 1), min_size=1, max_size=50, unique=True), st.data())
def test_pages_there_and_back(pfns: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.sets(st.sampled_from(pfns)))
    contents = {pfn: pfn.to_bytes(8, "little") * 512 for pfn in kept}
    whole = save_format.page_data(pfns, contents)
    assert len(whole) % 8 == 0
    assert save_format.parse_page_data(whole[8:]) == (pfns, contents)
    with pytest.raises(save_format.StreamError):
        save_format.parse_page_data(whole[8 : 8 + 8 * len(pfns)])


def test_a_guests_memory_there_and_back() -> None:
    state = save_format.GuestState(7, 8, 99, b"0123456789abcdef")
    assert len(state.page()) == save_format.PAGE
    assert save_format.GuestState.from_page(state.page()) == state
    with pytest.raises(save_format.StreamError):
        save_format.GuestState.from_page(bytes(4096))
