"""Every recorded output of the real tools (tests/samples) goes through the parser that reads such output."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from recorded import FILES, SAMPLES, of_kind, pieces

from agent.drivers.drbd import reason_of
from agent.drivers.drbd_parse import parse_dump, parse_event, parse_generations, parse_proc
from agent.drivers.errors import Unreadable
from agent.drivers.lvm import parse_lvs, parse_vgs
from agent.drivers.xen_parse import parse_backends, parse_info, parse_list
from agent.host import Completed

_NO_STATE = "words of a migration: no state is ever taken from them, both hosts are observed instead"
NOT_PARSED = {
    "14-split-brain.dmesg.mk1.txt": "kernel log: the state comes from events2",
    "14-split-brain.dmesg.mk2.txt": "kernel log: the state comes from events2",
    "err-xl-migrate-no-shadow-paging-xen-4.17.7.txt": _NO_STATE,
    "handover/00-setup.txt": "times of the steps by hand",
    "handover/02-pause-p-versus-plain.txt": "times of the steps by hand",
    "handover/06-progproxy-stream-progress.txt": "progress of a stream, which the migration reads from its headers",
    "handover/06-xl-vvv-migrate.source.mk2.txt": _NO_STATE,
    "handover/06-xl-vvv-migrate.target.mk1.txt": _NO_STATE,
    "xl-list-l.running-on-mk1.mk1.json": "xl list -l has no state, and the configuration is our own",
    "xl-list-l.running-on-mk1.mk2.json": "xl list -l has no state, and the configuration is our own",
    "xl-migrate-socat.ok.mk2-to-mk1.txt": _NO_STATE,
    "xl-migrate-ssh.ok.mk1-to-mk2.txt": _NO_STATE,
}
READ_BY_A_TEST_OF_ITS_OWN = {
    "err-xl-create-too-little-memory.txt": "test_driver_xen.py",
    "events2-stream.run3.mk2.txt": "test_a_stream_lost_in_a_power_cut_is_unreadable",
}


def test_every_sample_is_read_by_a_parser_or_says_why_not() -> None:
    unread = {name for name in FILES if not pieces(name)}
    assert unread == NOT_PARSED.keys() | READ_BY_A_TEST_OF_ITS_OWN.keys()


def _lvm(text: str) -> None:
    row = json.loads(text)["report"][0]
    if "lv_device_open" in row.get("lv", [{}])[0]:
        row["lv"][0]["lv_tags"] = ""  # recorded without that column
        (volume,) = parse_lvs(json.dumps({"report": [row]}))
        assert (volume.group, volume.name, volume.size, volume.open) == ("vg0", "vm_shaolin", 64 << 20, True)
        return
    parse = parse_vgs if "vg" in row else parse_lvs
    with pytest.raises(Unreadable):  # recorded with LVM's own units ("64.00m"), which are rounded
        parse(text)


def _refusal(text: str) -> None:
    assert reason_of(Completed(("drbdsetup",), 11, "", text)) in {
        "MinorNotAllocated", "DeviceOpen", "NeedUpToDate", "MultiplePrimaries", "CommandFailed", "PeerNotOutdated",
    }  # fmt: skip


PARSERS: dict[str, Callable[[str], object]] = {
    "proc": parse_proc,
    "proc-line": lambda text: parse_proc(f"version: 8.4.11 (api:1/proto:86-101)\n {text}\n"),
    "dump": parse_dump,
    "event": parse_event,
    "list": parse_list,
    "generations": parse_generations,
    "info": parse_info,
    "lvm": _lvm,
    "refusal": _refusal,
}


@pytest.mark.parametrize("name", [name for name in FILES if pieces(name)])
def test_the_parser_reads(name: str) -> None:
    for piece in pieces(name):
        result = PARSERS[piece.kind](piece.text)
        if piece.kind == "proc-line":
            assert len(result) == 1  # type: ignore[arg-type]
        if piece.kind == "list":
            assert len(result) == len(piece.text.splitlines()) - 2  # type: ignore[arg-type]


def test_a_stream_lost_in_a_power_cut_is_unreadable() -> None:
    """The file system gave back zeros for a file that was not synced."""
    text = (SAMPLES / "events2-stream.run3.mk2.txt").read_text()
    assert set(text) == {"\0"}
    with pytest.raises(Unreadable):
        parse_event(text)
    with pytest.raises(Unreadable):
        parse_dump(text)


# --- the two ways in which 8.4 tells its state agree, and are as the sample's name says -----------------------------


def _both(name: str) -> str:
    kinds = {piece.kind: piece.text for piece in pieces(name)}
    (resource,) = parse_dump(kinds["dump"]).values()
    (device,) = parse_proc(kinds["proc"]).values()
    assert resource.peer is not None
    assert (resource.name, resource.minor, device.minor) == ("vm_shaolin", 1, 1)
    assert (resource.role, resource.disk) == (device.role, device.disk)
    assert (resource.peer.role, resource.peer.disk) == (device.peer_role, device.peer_disk)
    assert (resource.peer.connection, resource.peer.replication) == (device.connection, device.replication)
    assert (resource.suspended != "no") == device.suspended
    assert (resource.peer.connection == "Connected") == (resource.peer.replication != "Off")
    link = resource.peer.connection if resource.peer.replication == "Off" else resource.peer.replication
    return f"{link} {resource.role}/{resource.peer.role} {resource.disk}/{resource.peer.disk}"


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("01-WFConnection-fresh-peer-not-up.mk1.txt", "Connecting Secondary/Unknown Inconsistent/DUnknown"),
        ("02-Connected-Inconsistent-Inconsistent.mk1.txt", "Established Secondary/Secondary Inconsistent/Inconsistent"),
        ("02-Connected-Inconsistent-Inconsistent.mk2.txt", "Established Secondary/Secondary Inconsistent/Inconsistent"),
        ("03-SyncSource-progress.mk1.txt", "SyncSource Primary/Secondary UpToDate/Inconsistent"),
        ("03-SyncSource-progress.mk2.txt", "SyncTarget Secondary/Primary Inconsistent/UpToDate"),
        ("04-UpToDate-UpToDate-Primary-Secondary.mk1.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("04-UpToDate-UpToDate-Primary-Secondary.mk2.txt", "Established Secondary/Primary UpToDate/UpToDate"),
        ("05-domU-running-on-mk1-UpToDate.mk1.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("05-domU-running-on-mk1-UpToDate.mk2.txt", "Established Secondary/Primary UpToDate/UpToDate"),
        ("06-dual-primary-before-migration.mk1.txt", "Established Primary/Primary UpToDate/UpToDate"),
        ("06-dual-primary-before-migration.mk2.txt", "Established Primary/Primary UpToDate/UpToDate"),
        ("07-after-migration-domU-on-mk2-still-dual-primary.mk1.txt", "Established Primary/Primary UpToDate/UpToDate"),
        ("07-after-migration-domU-on-mk2-still-dual-primary.mk2.txt", "Established Primary/Primary UpToDate/UpToDate"),
        ("08-after-demote-domU-on-mk2-Secondary-Primary.mk1.txt", "Established Secondary/Primary UpToDate/UpToDate"),
        ("08-after-demote-domU-on-mk2-Secondary-Primary.mk2.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("10-mk2-disconnected-StandAlone-mk1-WFConnection.mk1.txt", "Connecting Primary/Unknown UpToDate/DUnknown"),
        ("10-mk2-disconnected-StandAlone-mk1-WFConnection.mk2.txt", "StandAlone Secondary/Unknown UpToDate/DUnknown"),
        ("11-reconnected.mk1.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("11-reconnected.mk2.txt", "Established Secondary/Primary UpToDate/UpToDate"),
        ("12-link-cut-early.mk1.txt", "Connecting Primary/Unknown UpToDate/DUnknown"),
        ("12-link-cut-early.mk2.txt", "Connecting Secondary/Unknown UpToDate/DUnknown"),
        ("13-link-cut-WFConnection-both.mk1.txt", "Connecting Primary/Unknown UpToDate/DUnknown"),
        ("13-link-cut-WFConnection-both.mk2.txt", "Connecting Secondary/Unknown UpToDate/DUnknown"),
        ("14-split-brain.mk1.txt", "StandAlone Primary/Unknown UpToDate/DUnknown"),
        ("14-split-brain.mk2.txt", "StandAlone Secondary/Unknown UpToDate/DUnknown"),
        ("15-split-brain-resolved.mk1.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("15-split-brain-resolved.mk2.txt", "Established Secondary/Primary UpToDate/UpToDate"),
        ("16-peer-killed.mk1.txt", "Connecting Primary/Unknown UpToDate/DUnknown"),
        ("17-mk2-rebooted-not-up.mk1.txt", "Connecting Primary/Unknown UpToDate/DUnknown"),
        ("18-mk2-rejoined.mk1.txt", "Established Primary/Secondary UpToDate/UpToDate"),
        ("18-mk2-rejoined.mk2.txt", "Established Secondary/Primary UpToDate/UpToDate"),
    ],
)  # fmt: skip
def test_state_of(name: str, state: str) -> None:
    assert _both(name) == state


@pytest.mark.parametrize(
    "name",
    ["00-drbd-unconfigured-no-lv.mk1.txt", "00-drbd-unconfigured-no-lv.mk2.txt", "17-mk2-rebooted-not-up.mk2.txt"],
)
def test_nothing_configured_is_empty_and_not_unreadable(name: str) -> None:
    kinds = {piece.kind: piece.text for piece in pieces(name)}
    assert parse_dump(kinds["dump"]) == {}
    assert parse_proc(kinds["proc"]) == {}


def test_progress_of_a_resync_with_thousands_separators() -> None:
    text = next(piece.text for piece in pieces("03-SyncSource-progress.mk1.txt") if piece.kind == "proc")
    device = parse_proc(text)[1]
    assert (device.done_percent, device.speed_kib_s, device.out_of_sync_kib) == (18.8, 2996, 53512)


def test_out_of_sync_while_the_peer_is_away() -> None:
    for name in ("12-link-cut-early.mk1.txt", "14-split-brain.mk1.txt"):
        text = next(piece.text for piece in pieces(name) if piece.kind == "proc")
        assert parse_proc(text)[1].out_of_sync_kib == 4


def test_frozen_io_shows_in_the_flags() -> None:
    flags = {text.split()[-1] for _, text in of_kind("proc-line")}
    assert flags == {"r-----", "s-----", "r----s"}, "the last one is a suspended activity log, not frozen IO"
    frozen = next(text for _, text in of_kind("proc-line") if "s-----" in text)
    (device,) = parse_proc(f"version: 8.4.11 (api:1/proto:86-101)\n {frozen}\n").values()
    assert device.suspended


def test_the_first_dump_of_a_stream_with_statistics_has_sizes() -> None:
    lines = [text for name, text in of_kind("event") if name == "events2-stream.run3.mk1.txt"]
    dump = lines[: next(number for number, line in enumerate(lines) if line.endswith("exists -")) + 1]
    (resource,) = parse_dump("\n".join(dump)).values()
    assert resource.size_kib == 65496
    assert resource.peer is not None
    assert resource.peer.out_of_sync_kib == 0


def test_generations_of_two_equal_sides_are_equal() -> None:
    """The Primary's number has bit 0 set, its peer's has not."""
    mk1 = parse_generations("1D712D64C97E29AB:0000000000000000:17ABBBC14DA199C4:0000000000000004:1:1:1:1:0:0:0")
    mk2 = parse_generations("1D712D64C97E29AA:0000000000000000:17ABBBC14DA199C4:0000000000000004:1:1:0:1:0:0:0")
    assert mk1 == mk2
    assert mk1.history == ("17ABBBC14DA199C4", "0000000000000004")
    assert not mk1.fresh
    assert mk1.current == "1D712D64C97E29AA"


# --- Xen ------------------------------------------------------------------------------------------------------------


def _seen(name: str) -> set[tuple[str, str, str, str]]:
    lists = [parse_list(piece.text) for piece in pieces(name) if piece.kind == "list"]
    return {(domain.name, domain.kind, domain.state, domain.flags) for domains in lists for domain in domains}


def test_domains_of_an_interrupted_migration() -> None:
    assert _seen("handover/03-p-cut-go.mk1-to-mk2.txt") >= {
        ("shaolin--migratedaway", "migratedaway", "suspended", "---ss-"),
        ("shaolin--incoming", "incoming", "paused", "--p---"),
    }


def test_a_zombie_has_no_name() -> None:
    assert ("(null)", "zombie", "dying", "--pssd") in _seen("handover/08-zombie-after-migrate.mk2.txt")


def test_domains_that_ended_say_why() -> None:
    header = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n"
    dom0 = "Domain-0                                     0   320     1     r-----      43.0\n"
    lines = re.findall(r"^g5 .{40,}[0-9a-f]{8}-.*$", (SAMPLES / "handover/07-states-no-monitor.txt").read_text(), re.M)
    ended = [parse_list(header + dom0 + line)[0] for line in lines]
    assert [domain.state for domain in ended] == ["poweroff", "reboot", "crashed", "poweroff"]
    assert ended[0].uuid == "331295f8-3ec1-4f1c-bc23-5f4fa29a86d5"


def test_the_verbose_list_has_uuids() -> None:
    text = next(text for name, text in of_kind("list") if name == "handover/01-first-migrate-p.txt" and "UUID" in text)
    (domain,) = parse_list(text)
    assert domain.uuid == "d8299091-f859-4ff4-8a69-56b9e0638acb"
    assert (domain.state, domain.cpu_seconds, domain.memory_mib, domain.vcpus) == ("paused", 0.0, 128, 1)


@pytest.mark.parametrize(
    ("name", "version", "caps"),
    [("xl-info.running-on-mk1.mk1.txt", "4.17.7", {"pv"}), ("xl-info.running-on-mk1.mk2.txt", "4.17.7", {"pv"})],
)
def test_info(name: str, version: str, caps: set[str]) -> None:
    info = parse_info((SAMPLES / name).read_text())
    assert info.version == version
    assert caps <= set(info.virt_caps)
    assert not {"hap", "shadow"} & set(info.virt_caps)
    assert (info.cpus, info.memory_total_mib) == (1, 1023)
    assert info.hw_caps.startswith("0fcbf3fd:f6d8320b:")


def test_the_backends_of_a_running_domain() -> None:
    tree = (SAMPLES / "xl-info.running-on-mk1.mk1.txt").read_text()
    (backend,) = parse_backends("\n".join(_full_paths(tree[tree.index('tool = ""') :])))
    assert (backend.domid, backend.devid, backend.vdev, backend.device) == (7, 51712, "xvda", "/dev/drbd1")


def _full_paths(tree: str) -> list[str]:
    """xenstore-ls's tree as `xenstore-ls -f /local/domain/0/backend/vbd` writes it: the same keys by full path."""
    path: list[str] = []
    lines = []
    for line in tree.splitlines():
        if match := re.match(r"( *)(\S+) = (.*)$", line):
            path = [*path[: len(match[1])], match[2]]
            lines.append(f"/{'/'.join(path)} = {match[3]}")
    return [line for line in lines if line.startswith("/local/domain/0/backend/vbd/")]
