"""DRBD's configuration: what the driver writes, reads back, and installs."""

from __future__ import annotations

import pytest
from drbd_facts import EXPECTED_9, EXPECTED_84, HOWTO, OK, SHAOLIN, UID
from scripted import ScriptedHost

from agent.drivers.drbd import Drbd
from agent.drivers.drbd_config import Dialect, render
from agent.drivers.drbd_files import ResConfig, parse_config
from agent.drivers.errors import DriverError, Unreadable
from agent.protocol import Member

RES = "/etc/drbd.d/vm_shaolin.res"

# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "expected"), [("8.4", EXPECTED_84), ("9", EXPECTED_9)])
def test_the_howtos_volume(dialect: Dialect, expected: str) -> None:
    assert render(SHAOLIN, dialect) == expected


def test_external_metadata_ipv6_fencing_and_secret() -> None:
    members = (Member(node="mk1", address="fd00::81"), Member(node="mk2", address="fd00::82"))
    desired = SHAOLIN.model_copy(update={"metadata_group": "vgm", "members": members})
    text = render(desired, "9", fence_handler="/usr/lib/fence peer", shared_secret="s3cr#et")
    assert "    meta-disk /dev/vgm/vm_shaolin_meta;\n" in text
    assert "    address ipv6 [fd00::81]:7789;\n" in text
    assert '  handlers {\n    fence-peer "/usr/lib/fence peer";\n  }\n' in text
    assert '    cram-hmac-alg sha256;\n    shared-secret "s3cr#et";\n    fencing resource-and-stonith;\n' in text


@pytest.mark.parametrize("dialect", ["8.4", "9"])
def test_two_primaries_are_never_allowed(dialect: Dialect) -> None:
    for handler in (None, "/usr/lib/fence"):
        text = render(SHAOLIN, dialect, fence_handler=handler)
        assert text.count("allow-two-primaries") == text.count("allow-two-primaries no;") == 1
        assert "become-primary-on" not in text
        assert "dont-care" not in text


@pytest.mark.parametrize(("rate", "limits"), [("100", (250, 100)), ("3M", (3072, 3072)), ("1G", (1 << 20, 10240))])
def test_rates_stay_within_what_the_parser_takes(rate: str, limits: tuple[int, int]) -> None:
    text = render(SHAOLIN.model_copy(update={"resync_rate": rate}), "8.4")
    assert f"    resync-rate {rate};\n" in text
    assert f"    c-max-rate {limits[0]}k;\n    c-min-rate {limits[1]}k;\n" in text


def unchecked(address: str) -> Member:
    """What the protocol would have refused."""
    return Member.model_construct(node="a", address=address)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"members": (unchecked("mk1.example"), SHAOLIN.members[1])}, {}, "no host names"),
        ({"members": (unchecked("10.0.0.1; }"), SHAOLIN.members[1])}, {}, "IP address"),
        ({}, {"shared_secret": "x" * 65}, "64 characters"),
        ({}, {"shared_secret": 'x"; }'}, "quote"),
        ({}, {"fence_handler": "a\nb"}, "control character"),
    ],
)  # fmt: skip
def test_what_the_file_cannot_carry_is_refused(
    change: dict[str, object], options: dict[str, str], message: str
) -> None:
    with pytest.raises(DriverError, match=message) as caught:
        render(SHAOLIN.model_copy(update=change), "8.4", **options)
    assert caught.value.reason == "InvalidConfiguration"


# --- the files under /etc/drbd.d ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["8.4", "9"])
def test_our_own_file_is_read_back(dialect: Dialect) -> None:
    desired = SHAOLIN.model_copy(update={"metadata_group": "vgm"})
    ((config,), includes) = parse_config(RES, render(desired, dialect))
    disks = frozenset({"/dev/vg0/vm_shaolin", "/dev/vgm/vm_shaolin_meta"})
    assert config == ResConfig("vm_shaolin", RES, UID, frozenset({1}), frozenset({7789}), disks, ("mk1", "mk2"))
    assert includes == ()


def test_the_howtos_own_file_is_read_as_foreign() -> None:
    ((config,), _) = parse_config("/etc/drbd.conf", HOWTO)
    assert config.owner_uid is None
    assert (set(config.minors), set(config.ports)) == ({1}, {7789})
    assert config.disks == {"/dev/vg0/vm_shaolin"}


def test_the_lab_file_and_nine_s_connections_are_read() -> None:
    text = """
    resource "two volumes" { options { quorum majority; } net { max-buffers 8000; }
      volume 0 { device /dev/drbd_data minor 5; disk /dev/a/b; meta-disk /dev/a/m[0]; }
      volume 1 { device minor 6; disk none; }
      on a { node-id 0; address ipv6 [fd00::1]:7000; } on b { node-id 1; address 10.0.0.2:7001; }
      connection { host a address 10.9.9.9 port 7002; host b port 7003; } connection-mesh { hosts a b; }
      floating 10.0.0.7:7004 { } handlers { fence-peer "x { ; }"; } }
    include "more/*.res"; skip { resource not-this { } }"""
    ((config,), includes) = parse_config("/etc/x", text)
    assert config.name == "two volumes"
    assert config.minors == {5, 6}
    assert config.ports == {7000, 7001, 7002, 7003, 7004}
    assert config.disks == {"/dev/a/b", "/dev/a/m"}
    assert includes == ("more/*.res",)


@pytest.mark.parametrize(
    "text",
    [
        "resource a { device /dev/drbd/by-res/a; }",
        "resource a { device minor x; }",
        "resource a { on b { address 10.0.0.1; } }",
        "resource a { ",
        "resource a b { }",
        "resource { }",
        "{ }",
        "}",
        'resource "a { }',
        "surprise;",
        "resource a { on b { address 10.0.0.1:1 } }",
    ],
)
def test_a_file_that_cannot_be_understood_is_unreadable_not_empty(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_config("/etc/drbd.d/x.res", text)


async def test_configured_resources_follow_includes_and_see_foreign_ones() -> None:
    files = {
        "/etc/drbd.conf": 'include "drbd.d/global_common.conf";\ninclude "drbd.d/*.res";\n' + HOWTO,
        "/etc/drbd.d/global_common.conf": "global { usage-count no; }\ncommon { net { protocol C; } }",
        "/etc/drbd.d/b.res": render(SHAOLIN.model_copy(update={"resource": "b", "minor": 2, "port": 7790}), "8.4"),
        "/etc/drbd.d/b.res.new": "half a file {",
    }
    found = await Drbd(ScriptedHost(files=files), "8.4").configured_resources()
    assert {name: (config.owner_uid, set(config.minors)) for name, config in found.items()} == {
        "vm_shaolin": (None, {1}),
        "b": (UID, {2}),
    }


async def test_a_resource_in_two_files_is_unreadable() -> None:
    files = {"/etc/drbd.d/a.res": HOWTO, "/etc/drbd.d/b.res": HOWTO}
    with pytest.raises(Unreadable, match="both configure vm_shaolin"):
        await Drbd(ScriptedHost(files=files), "8.4").configured_resources()


# --- installing -----------------------------------------------------------------------------------------------------


async def test_a_new_file_is_checked_before_it_counts() -> None:
    host = ScriptedHost({"drbdadm": OK})
    await Drbd(host, "8.4").install(SHAOLIN)
    assert host.commands == [f"drbdadm -t {RES}.new sh-nop"]
    assert host.written == [f"{RES}.new", RES]
    assert host.files == {RES: EXPECTED_84}
    await Drbd(host, "8.4").install(SHAOLIN)
    assert len(host.commands) == 1, "as it shall be: nothing to do"


async def test_a_file_that_drbdadm_refuses_is_never_installed() -> None:
    refusal = (10, "", f"{RES}.new:24: conflicting use of IP '10.0.0.81:7789' ...\n")
    host = ScriptedHost({"drbdadm": refusal})
    with pytest.raises(DriverError, match="conflicting use of IP"):
        await Drbd(host, "8.4").install(SHAOLIN)
    assert host.files == {}


async def test_a_changed_file_is_checked_beside_all_the_others_but_its_old_self() -> None:
    """drbdadm -t with the usual configuration would find the resource twice (exit 10)."""
    others = {"/etc/drbd.d/global_common.conf": "", "/etc/drbd.d/z.res": ""}
    host = ScriptedHost({"drbdadm": OK}, {RES: EXPECTED_84, **others})
    seen: list[str] = []

    def look() -> tuple[int, str, str]:
        seen.append(host.files[f"{RES}.others"])
        return 0, "", ""

    host.answers["drbdadm"] = look
    await Drbd(host, "8.4").install(SHAOLIN.model_copy(update={"resync_rate": "100M"}))
    assert host.commands == [f"drbdadm -c {RES}.others -t {RES}.new sh-nop"]
    assert seen == ['include "/etc/drbd.d/global_common.conf";\ninclude "/etc/drbd.d/z.res";\n']
    assert host.files.keys() == {RES, *others}
    assert "resync-rate 100M" in host.files[RES]


@pytest.mark.parametrize("present", [HOWTO, EXPECTED_84.replace(UID, "22222222-2222-3333-4444-555555555555")])
async def test_somebody_elses_file_is_left_alone(present: str) -> None:
    host = ScriptedHost({"drbdadm": OK}, {RES: present})
    with pytest.raises(DriverError) as caught:
        await Drbd(host, "8.4").install(SHAOLIN)
    assert caught.value.reason == "ForeignConfiguration"
    assert host.files == {RES: present}
