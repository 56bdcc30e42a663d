"""What DRBD's driver makes of what the kernel tells: version, resources, events."""

from __future__ import annotations

import pytest
from drbd_facts import NINE
from recorded import pieces
from scripted import Answer, ScriptedHost

from agent.drivers.drbd import Drbd, detect_dialect, kernel_version
from agent.drivers.drbd_parse import DrbdEvent, parse_dump
from agent.drivers.errors import DriverError, Unreadable

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
