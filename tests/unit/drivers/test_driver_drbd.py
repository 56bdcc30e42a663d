"""DRBD's driver: what it says to the tools, and what it makes of what they answer."""

from __future__ import annotations

import pytest
from recorded import pieces
from scripted import Answer, ScriptedHost

from agent.drivers.drbd import Drbd, detect_dialect, kernel_version
from agent.drivers.drbd_config import Dialect, render
from agent.drivers.drbd_files import ResConfig, parse_config
from agent.drivers.drbd_parse import DrbdEvent, parse_dump, parse_generations
from agent.drivers.errors import DriverError, Unreadable
from agent.protocol import Member, VolumeDesired

OK: Answer = (0, "", "")
UID = "11111111-2222-3333-4444-555555555555"
SHAOLIN = VolumeDesired(
    term=1,
    uid=UID,
    namespace="default",
    name="vm-shaolin",
    resource="vm_shaolin",
    minor=1,
    port=7789,
    group="vg0",
    logical_volume="vm_shaolin",
    size=512 << 20,
    members=(Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82")),
)
RES = "/etc/drbd.d/vm_shaolin.res"

# --- configuration --------------------------------------------------------------------------------------------------

EXPECTED_84 = """\
# xentandem-uid: 11111111-2222-3333-4444-555555555555
# DrbdVolume default/vm-shaolin: written by xentandem-agent, changes are overwritten
resource vm_shaolin {
  net {
    protocol C;
    allow-two-primaries no;
    after-sb-0pri discard-zero-changes;
    after-sb-1pri consensus;
    after-sb-2pri disconnect;
    rr-conflict disconnect;
    verify-alg sha1;
  }
  disk {
    on-io-error detach;
    resync-rate 500M;
    c-plan-ahead 20;
    c-fill-target 1M;
    c-max-rate 512000k;
    c-min-rate 10240k;
    fencing resource-only;
  }
  on mk1 {
    address ipv4 10.0.0.81:7789;
    volume 0 {
      device minor 1;
      disk /dev/vg0/vm_shaolin;
      meta-disk internal;
    }
  }
  on mk2 {
    address ipv4 10.0.0.82:7789;
    volume 0 {
      device minor 1;
      disk /dev/vg0/vm_shaolin;
      meta-disk internal;
    }
  }
}
"""
# What drbd.conf(5) of DRBD 9 has elsewhere or besides; drbdadm 9.22 accepts this one and its 8.4 part accepts that one
EXPECTED_9 = (
    EXPECTED_84.replace("    fencing resource-only;\n", "")
    .replace("    verify-alg sha1;\n", "    verify-alg sha1;\n    fencing resource-only;\n")
    .replace("  on mk1 {\n", "  options {\n    auto-promote no;\n  }\n  on mk1 {\n    node-id 0;\n")
    .replace("  on mk2 {\n", "  on mk2 {\n    node-id 1;\n")
)


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


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"members": (Member(node="a", address="mk1.example"), SHAOLIN.members[1])}, {}, "no host names"),
        ({"members": (Member(node="a", address="10.0.0.1; }"), SHAOLIN.members[1])}, {}, "IP address"),
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


# --- the files under /etc/drbd.d -------------------------------------------------------------------------------------

HOWTO = """\
common { protocol C; }
resource vm_shaolin {
  disk /dev/vg0/vm_shaolin; device /dev/drbd1; meta-disk internal;
  syncer { rate 500M; verify-alg sha1; }   # the howto's form
  on mk1 { address 10.0.0.81:7789; }
  on mk2 { address 10.0.0.82:7789; }
}
"""


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


# --- metadata (drbdmeta 9.22 on a real block device said so) ----------------------------------------------------------

SILENT = (1, "", "Command 'drbdmeta 1 v08 /dev/vg0/vm_shaolin internal get-gi' terminated with exit code 1\n")
NONE = (1, "", "No valid meta data found\nCommand 'drbdmeta 1 v08 ... dump-md' terminated with exit code 1\n")
FRESH = "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:0:0:0:0\n"


async def test_fresh_metadata() -> None:
    found = await Drbd(ScriptedHost({"drbdadm get-gi": (0, FRESH, "")}), "8.4").metadata("vm_shaolin")
    assert found is not None
    assert found.fresh
    assert found.history == ()


def test_nines_identifiers_have_more_flags() -> None:
    found = parse_generations(FRESH.strip() + ":1:0:0:0:0\n")
    assert found.fresh


@pytest.mark.parametrize(
    "text", ["", "0000000000000004", FRESH + FRESH, FRESH.replace("0:0:0:0:0:0:0", "0:0:x:0:0:0:0"), "# nothing\n"]
)
def test_anything_else_is_no_identifier(text: str) -> None:
    with pytest.raises(Unreadable):
        parse_generations(text)


async def test_no_metadata_is_believed_only_in_words() -> None:
    host = ScriptedHost({"drbdadm get-gi": SILENT, "drbdadm dump-md": NONE})
    assert await Drbd(host, "8.4").metadata("vm_shaolin") is None


@pytest.mark.parametrize(
    "dump",
    [
        (1, "", 'Found meta data is "unclean", please apply-al first\n'),
        (20, "", "open(/dev/vg0/vm_shaolin) failed: No such file or directory\n"),
        (0, '# DRBD meta data dump\nversion "v08";\n', ""),
        (1, "", ""),
    ],
)
async def test_a_doubt_about_metadata_is_unreadable_and_nothing_is_created(dump: tuple[int, str, str]) -> None:
    host = ScriptedHost({"drbdadm get-gi": SILENT, "drbdadm dump-md": dump, "drbdadm create-md": OK})
    with pytest.raises(Unreadable):
        await Drbd(host, "8.4").create_metadata("vm_shaolin")
    assert not any("create-md" in command for command in host.commands)


async def test_metadata_that_is_there_is_never_overwritten() -> None:
    host = ScriptedHost({"drbdadm get-gi": (0, FRESH, ""), "drbdadm create-md": OK})
    with pytest.raises(DriverError) as caught:
        await Drbd(host, "8.4").create_metadata("vm_shaolin")
    assert caught.value.reason == "MetadataExists"
    assert host.commands == ["drbdadm get-gi vm_shaolin"]


async def test_metadata_is_created_where_none_is() -> None:
    host = ScriptedHost({"drbdadm get-gi": SILENT, "drbdadm dump-md": NONE, "drbdadm create-md": OK})
    await Drbd(host, "8.4").create_metadata("vm_shaolin")
    assert host.commands[-1] == "drbdadm create-md --force vm_shaolin"


# --- versions -------------------------------------------------------------------------------------------------------

VERSION = "DRBDADM_BUILDTAG=GIT-hash:\\ 1\nDRBD_KERNEL_VERSION_CODE=0x{}\nDRBDADM_VERSION=9.22.0\n"


@pytest.mark.parametrize(
    ("proc", "code", "version", "dialect"),
    [
        ("version: 8.4.11 (api:1/proto:86-101)\n", "000000", "8.4.11", "8.4"),
        ("version: 9.1.23 (api:2/proto:86-121)\n", "000000", "9.1.23", "9"),
        (None, "090117", "9.1.23", "9"),
        (None, "08040b", "8.4.11", "8.4"),
    ],
)
async def test_the_dialect_is_the_kernels(proc: str | None, code: str, version: str, dialect: str) -> None:
    host = ScriptedHost({"drbdadm --version": (0, VERSION.format(code), "")}, {"/proc/drbd": proc} if proc else {})
    assert await kernel_version(host) == version
    assert await detect_dialect(host) == dialect


@pytest.mark.parametrize("answer", [(0, VERSION.format("000000"), ""), (1, "", ""), (0, "", "")])
async def test_without_the_module_there_is_no_dialect(answer: tuple[int, str, str]) -> None:
    with pytest.raises(Unreadable):
        await detect_dialect(ScriptedHost({"drbdadm --version": answer}))


async def test_an_old_kernel_module_is_named() -> None:
    with pytest.raises(Unreadable, match=r"8\.3\.13 is neither"):
        await detect_dialect(ScriptedHost(files={"/proc/drbd": "version: 8.3.13 (api:88/proto:86-96)\n"}))


# --- the kernel's state ---------------------------------------------------------------------------------------------


def recorded(name: str, kind: str) -> str:
    return next(piece.text for piece in pieces(name) if piece.kind == kind)


async def test_a_resync_has_percent_and_speed_from_proc_on_84() -> None:
    name = "03-SyncSource-progress.mk1.txt"
    host = ScriptedHost(
        {"drbdsetup events2 --now": (0, recorded(name, "dump"), "")}, {"/proc/drbd": recorded(name, "proc")}
    )
    resource = (await Drbd(host, "8.4").snapshot())["vm_shaolin"]
    assert resource.peer is not None
    assert (resource.peer.replication, resource.peer.done_percent, resource.peer.speed_kib_s) == (
        "SyncSource",
        18.8,
        2996,
    )
    assert host.commands == ["drbdsetup events2 --now --statistics"]


NINE = """\
exists resource name:a role:Primary suspended:fencing write-ordering:flush
exists resource name:b role:Secondary suspended:no
exists connection name:a peer-node-id:1 conn-name:mk2 connection:Connected role:Secondary congested:no
exists device name:a volume:0 minor:1 backing_dev:/dev/vg0/a disk:UpToDate client:no quorum:yes size:524236
exists path name:a peer-node-id:1 conn-name:mk2 local:ipv4:10.0.0.81:7789 peer:ipv4:10.0.0.82:7789 established:yes
exists peer-device name:a peer-node-id:1 conn-name:mk2 volume:0 replication:SyncSource peer-disk:Inconsistent \
peer-client:no resync-suspended:no done:4.25 received:0 sent:22528 out-of-sync:501708
exists -
"""


async def test_nines_dump() -> None:
    found = await Drbd(ScriptedHost({"drbdsetup events2": (0, NINE, "")}), "9").snapshot()
    assert found["a"].peer is not None
    assert found["a"].peer.done_percent == 4.25
    assert found["a"].peer.out_of_sync_kib == 501708
    assert (found["a"].suspended, found["a"].size_kib, found["a"].minor) == ("fencing", 524236, 1)
    assert (found["b"].minor, found["b"].disk, found["b"].peer) == (None, "Diskless", None)


def test_a_zero_that_nine_leaves_out_is_a_zero() -> None:
    found = parse_dump(NINE.replace(" out-of-sync:501708", ""))["a"]
    assert found.peer is not None
    assert found.peer.out_of_sync_kib == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        NINE.replace("exists -\n", ""),
        NINE.replace("role:Primary", "role:Boss"),
        NINE.replace("disk:UpToDate", "disk:Fine"),
        NINE.replace("minor:1", "minor:one"),
        NINE.replace("connection:Connected", "connection:Maybe"),
        NINE.replace("exists resource name:a role", "exists resource name:c role"),
        NINE.replace("exists connection", "change connection"),
    ],
)
async def test_a_dump_that_is_cut_or_strange_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        await Drbd(ScriptedHost({"drbdsetup events2": (0, text, "")}), "9").snapshot()


async def test_a_failing_dump_is_unreadable() -> None:
    host = ScriptedHost({"drbdsetup events2": (20, "", "Could not connect to 'drbd' generic netlink family\n")})
    with pytest.raises(Unreadable, match="netlink"):
        await Drbd(host, "8.4").snapshot()


async def test_proc_that_can_not_be_read_during_a_resync_is_unreadable() -> None:
    dump = recorded("03-SyncSource-progress.mk1.txt", "dump")
    with pytest.raises(Unreadable, match="/proc/drbd"):
        await Drbd(ScriptedHost({"drbdsetup events2": (0, dump, "")}), "8.4").snapshot()


async def test_one_resource_alone_is_asked_by_its_name() -> None:
    dump = recorded("03-SyncSource-progress.mk1.txt", "dump")
    proc = recorded("03-SyncSource-progress.mk1.txt", "proc")
    host = ScriptedHost({"drbdsetup events2": (0, dump, "")}, {"/proc/drbd": proc})
    drbd = Drbd(host, "8.4")
    assert await drbd.resource("vm_shaolin") == (await drbd.snapshot())["vm_shaolin"]
    assert await drbd.resource("another") is None
    assert host.commands[0] == "drbdsetup events2 --now --statistics vm_shaolin"


async def test_what_did_not_change_is_the_same_object_and_what_changed_is_another() -> None:
    answers: dict[str, Answer] = {"drbdsetup events2": (0, NINE, "")}
    drbd = Drbd(ScriptedHost(answers), "9")
    first = await drbd.snapshot()
    answers["drbdsetup events2"] = (0, NINE.replace("disk:UpToDate", "disk:Outdated"), "")
    second = await drbd.snapshot()
    assert second["b"] is first["b"]
    assert (first["a"].disk, second["a"].disk) == ("UpToDate", "Outdated")


async def test_events_are_followed() -> None:
    host = ScriptedHost({"drbdsetup events2": (0, "exists -\nchange resource name:a role:Primary\n", "")})
    async with Drbd(host, "8.4").events() as events:
        seen = [event async for event in events]
    assert seen == [DrbdEvent("exists", "-"), DrbdEvent("change", "resource", {"name": "a", "role": "Primary"})]
    assert seen[1].resource == "a"


async def test_events_without_the_tool_are_said_so() -> None:
    with pytest.raises(DriverError) as caught:
        async with Drbd(ScriptedHost(), "8.4").events():
            pass
    assert caught.value.reason == "ToolMissing"


# --- changes --------------------------------------------------------------------------------------------------------


def refused(number: int, exit_status: int = 11) -> tuple[int, str, str]:
    return exit_status, "", f"1: State change failed: ({number}) words of the kernel\n"


@pytest.mark.parametrize(("dialect", "target"), [("8.4", "1"), ("9", "vm_shaolin")])
async def test_roles_are_changed_by_drbdsetup(dialect: Dialect, target: str) -> None:
    host = ScriptedHost({"drbdsetup": OK})
    await Drbd(host, dialect).primary("vm_shaolin", 1)
    await Drbd(host, dialect).secondary("vm_shaolin", 1)
    assert host.commands == [f"drbdsetup primary {target}", f"drbdsetup secondary {target}"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (-1, "MultiplePrimaries"),
        (-2, "NeedUpToDate"),
        (-7, "PeerNotOutdated"),
        (-10, "RefusedByPeer"),
        (-99, "StateChangeFailed"),
    ],
)
async def test_a_refused_promotion_says_why_at_once(number: int, reason: str) -> None:
    host = ScriptedHost({"drbdsetup": refused(number)})
    with pytest.raises(DriverError) as caught:
        await Drbd(host, "8.4").primary("vm_shaolin", 1)
    assert caught.value.reason == reason
    assert caught.value.completed is not None
    assert len(host.commands) == 1


async def test_demotion_waits_for_a_probe_to_close_the_device() -> None:
    host = ScriptedHost({"drbdsetup": refused(-12)})

    def closed() -> None:
        if host.time >= 1.0:
            host.answers["drbdsetup"] = OK

    host.on_sleep = closed
    await Drbd(host, "8.4").secondary("vm_shaolin", 1)
    assert 1.0 <= host.time < 1.5


async def test_demotion_of_a_device_that_stays_open_is_given_up() -> None:
    host = ScriptedHost({"drbdsetup": refused(-12)})
    with pytest.raises(DriverError) as caught:
        await Drbd(host, "8.4").secondary("vm_shaolin", 1, patience=2.0)
    assert caught.value.reason == "DeviceOpen"
    assert 2.0 <= host.time < 2.5


async def test_promotion_tries_again_while_another_change_is_under_way_but_never_when_refused() -> None:
    host = ScriptedHost({"drbdsetup": refused(-18)})
    host.on_sleep = lambda: host.answers.update(drbdsetup=refused(-12))
    with pytest.raises(DriverError) as caught:
        await Drbd(host, "8.4").primary("vm_shaolin", 1)
    assert caught.value.reason == "DeviceOpen"
    assert len(host.commands) == 2


async def test_the_other_changes() -> None:
    host = ScriptedHost({"drbdadm": OK})
    drbd = Drbd(host, "8.4")
    for change in (drbd.up, drbd.down, drbd.adjust, drbd.connect, drbd.disconnect, drbd.force_primary):
        await change("vm_shaolin")
    verbs = ["up", "down", "adjust", "connect", "disconnect", "primary --force"]
    assert host.commands == [f"drbdadm {verb} vm_shaolin" for verb in verbs]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("1: Failure: (119) No valid meta-data signature found.", "NoValidMetadata"),
        ("1: Failure: (127) Device minor not allocated", "MinorNotAllocated"),
        ("no resources defined!", "CommandFailed"),
    ],
)
async def test_a_failure_has_a_reason(words: str, reason: str) -> None:
    with pytest.raises(DriverError) as caught:
        await Drbd(ScriptedHost({"drbdadm": (10, "", words)}), "8.4").up("vm_shaolin")
    assert caught.value.reason == reason
    assert words in caught.value.message


async def test_a_missing_tool_is_said() -> None:
    with pytest.raises(DriverError) as caught:
        await Drbd(ScriptedHost(), "8.4").up("vm_shaolin")
    assert caught.value.reason == "ToolMissing"
