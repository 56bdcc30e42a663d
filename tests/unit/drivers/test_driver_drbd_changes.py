"""What DRBD's driver has the tools change: metadata, roles, connections; and why they refuse."""

from __future__ import annotations

import pytest
from drbd_facts import OK
from scripted import ScriptedHost

from agent.drivers.drbd import Drbd
from agent.drivers.drbd_config import Dialect
from agent.drivers.drbd_parse import parse_generations
from agent.drivers.errors import DriverError, Unreadable

# --- metadata (drbdmeta 9.22 on a real block device said so) --------------------------------------------------------

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
        (0, "# md_size_sect 80\n#\n### Device seems to have been resized!\n", ""),
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


# --- roles and connections ------------------------------------------------------------------------------------------


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
