"""What DRBD's tools and /proc/drbd say, as typed values. Pure: no I/O.

Sources: drbdsetup(8) (events2), drbdmeta(8) (get-gi), the 8.4 kernel's /proc/drbd. Everything here raises Unreadable
and nothing else for text it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from agent.drivers.errors import Unreadable
from agent.drivers.parsed import Parsed
from agent.protocol import Connection, Disk, GenerationIds, PeerState, Role

EventKind = Literal["exists", "change", "create", "destroy", "rename", "call", "response"]

_CONNECTIONS = set(get_args(Connection))
# 8.4 has one state machine where 9 has two: connection states below Connected, replication states above
_CONNECTING_84 = {"WFConnection", "WFReportParams", "Connecting"}
_REPLICATION = {
    "Off", "Established", "StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID", "SyncSource",
    "SyncTarget", "PausedSyncS", "PausedSyncT", "VerifyS", "VerifyT", "Ahead", "Behind",
}  # fmt: skip
_RESYNCING = ("Sync", "Verify", "WFBitMap", "WFSync", "Starting", "Paused")


@dataclass(frozen=True, slots=True)
class DrbdResource:
    """One resource as the kernel has it, seen from this host.

    `minor`, `disk`, `size_kib` and `peer` are those of the first volume and the first connection; `volumes` and `peers`
    say how many there are (ours: one of each).
    """

    name: str
    minor: int | None
    role: Role
    disk: Disk
    suspended: str  # "no", "fencing", "user", "quorum", ... (drbdsetup(8))
    size_kib: int | None
    peer: PeerState | None  # None: no connection configured
    volumes: int = 1
    peers: int = 1

    @property
    def resyncing(self) -> bool:
        """A resync or a verify runs, is about to, or is paused."""
        return self.peer is not None and self.peer.replication.startswith(_RESYNCING)


@dataclass(frozen=True, slots=True)
class DrbdEvent:
    """One line of `drbdsetup events2`. `object` is "-" for the end of the first dump."""

    kind: EventKind
    object: str  # resource, connection, device, peer-device, path, helper, -
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def resource(self) -> str | None:
        return self.fields.get("name")


@dataclass(frozen=True, slots=True)
class ProcDevice:
    """One minor of the 8.4 kernel's /proc/drbd."""

    minor: int
    connection: Connection
    replication: str
    role: Role
    peer_role: Role
    disk: Disk
    peer_disk: Disk
    flags: str  # six characters, "r-----"; the first is "s" while IO is suspended
    out_of_sync_kib: int | None
    done_percent: float | None
    speed_kib_s: int | None

    @property
    def suspended(self) -> bool:
        return self.flags[:1] == "s"


_KINDS = frozenset(get_args(EventKind))


def parse_event(line: str) -> DrbdEvent:
    """One line of events2, with or without --timestamps, --statistics. Raises Unreadable."""
    words = line.split()
    if words and words[0][0].isdigit() and re.match(r"\d{4}-\d\d-\d\dT", words[0]):
        words = words[1:]
    if len(words) < 2 or words[0] not in _KINDS:
        raise Unreadable(f"not an event of DRBD: {line[:200]!r}")
    fields: dict[str, str] = {}
    for word in words[2:]:
        key, colon, value = word.partition(":")
        if not colon:
            raise Unreadable(f"not an event of DRBD: {line[:200]!r}")
        fields[key] = value
    kind: Any = words[0]
    return DrbdEvent(kind, words[1], fields)


def parse_dump(text: str, parsed: DumpParser | None = None) -> dict[str, DrbdResource]:
    """Output of `drbdsetup events2 --now [--statistics]`. Raises Unreadable, also when its last line is missing."""
    lines = [line for line in text.splitlines() if line.strip()]
    last = parse_event(lines.pop()) if lines else None
    if last is None or (last.kind, last.object) != ("exists", "-"):
        raise Unreadable("DRBD's state was cut off: the dump has no end mark")
    found: dict[str, list[str]] = {}
    for line in lines:
        words = line.split(" ", 3)
        usual = words[0] == "exists" and len(words) > 2 and words[2].startswith("name:")
        found.setdefault(words[2][5:] if usual else _subject(line), []).append(line)
    parse = parsed or dump_parser()
    return dict(zip(found, parse((name, *its) for name, its in found.items()), strict=True))


DumpParser = Parsed[tuple[str, ...], DrbdResource]
"""Takes the name and the lines of each resource."""


def dump_parser() -> DumpParser:
    return Parsed(_resource)


def _subject(line: str) -> str:
    """The resource of a line that is not laid out as usual. Raises Unreadable."""
    event = parse_event(line)
    if event.kind != "exists" or event.resource is None:
        raise Unreadable(f"DRBD's dump has a {event.kind} of {event.object} in it")
    return event.resource


def _resource(piece: tuple[str, ...]) -> DrbdResource:
    """One resource of a dump, from its name and lines. Raises Unreadable."""
    name, found = piece[0], None
    for event in map(parse_event, piece[1:]):
        if event.object == "resource":
            found = _Found(event.fields)
        elif found is None:
            raise Unreadable(f"DRBD's dump has a {event.object} before its resource {name}")
        else:
            found.add(event)
    assert found is not None  # there is at least one line
    return found.resource(name)


class _Found:
    """The lines of one resource, while they come."""

    def __init__(self, fields: dict[str, str]) -> None:
        self.fields = fields
        self.devices: list[dict[str, str]] = []
        self.connections: list[dict[str, str]] = []
        self.peer_devices: list[dict[str, str]] = []

    def add(self, event: DrbdEvent) -> None:
        lists = {"device": self.devices, "connection": self.connections, "peer-device": self.peer_devices}
        if event.object in lists:
            lists[event.object].append(event.fields)

    def resource(self, name: str) -> DrbdResource:
        device = self.devices[0] if self.devices else None
        return DrbdResource(
            name=name,
            minor=None if device is None else _int(device, "minor"),
            role=_role(_need(self.fields, "role")),
            disk="Diskless" if device is None else _disk(_need(device, "disk")),
            suspended=_need(self.fields, "suspended"),
            size_kib=_int(device, "size") if device and "size" in device else None,
            peer=self._peer() if self.connections else None,
            volumes=len(self.devices),
            peers=len(self.connections),
        )

    def _peer(self) -> PeerState:
        connection = self.connections[0]
        state, replication = connection_state(_need(connection, "connection"))
        peer = PeerState(connection=state, replication=replication, role=_role(_need(connection, "role")))
        node = connection.get("peer-node-id")
        ours = [fields for fields in self.peer_devices if fields.get("peer-node-id") == node]
        if not ours:
            return peer
        fields = ours[0]
        out_of_sync = _int(fields, "out-of-sync") if "out-of-sync" in fields else None
        if out_of_sync is None and "received" in fields:
            out_of_sync = 0  # with --statistics, DRBD 9 leaves a zero out
        return peer.model_copy(
            update={
                "replication": _replication(_need(fields, "replication")),
                "disk": _disk(_need(fields, "peer-disk")),
                "done_percent": _percent(fields["done"]) if "done" in fields else None,
                "out_of_sync_kib": out_of_sync,
            }
        )


def parse_received(text: str, resource: str) -> int | None:
    """KiB received from the peer, of the same output for one resource; None when it is not in it. Raises Unreadable."""
    for event in map(parse_event, filter(str.strip, text.splitlines())):
        if (event.object, event.resource) == ("peer-device", resource) and "received" in event.fields:
            return _int(event.fields, "received")
    return None


def parse_two_primaries(text: str) -> frozenset[str]:
    """Resources with `allow-two-primaries yes` in the output of `drbdsetup show`; 8.4's and 9's. Raises Unreadable."""
    found: set[str] = set()
    resource, depth = "", 0
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if depth == 0 and words:
            if len(words) != 3 or words[0] != "resource" or words[2] != "{":
                raise Unreadable(f"drbdsetup show: unknown line {line[:200]!r}")
            resource = words[1].strip('"')
        if words in (["allow-two-primaries", "yes;"], ["allow-two-primaries;"]):
            found.add(resource)
        depth += line.count("{") - line.count("}")
    if depth != 0:
        raise Unreadable("drbdsetup show was cut off")
    return frozenset(found)


def parse_proc(text: str, only: Collection[int] | None = None) -> dict[int, ProcDevice]:
    """The 8.4 kernel's /proc/drbd, by minor; unconfigured minors are left out. Raises Unreadable.

    `only`: what is said of other minors is passed over.
    """
    proc_version(text)
    devices: dict[int, ProcDevice] = {}
    minor: int | None = None
    passed = False
    for line in text.splitlines():
        head = _PROC_HEAD.match(line)
        if head:
            minor = int(head[1])
            passed = only is not None and minor not in only
            if passed or head[2] == "Unconfigured":
                minor = None
                continue
            devices[minor] = _proc_head(minor, head[2], head[3])
        elif minor is not None:
            devices[minor] = _proc_detail(devices[minor], line)
        elif not passed and re.search(r"\b(cs|ro|ds):", line):
            raise Unreadable(f"/proc/drbd: unknown line {line[:200]!r}")
    return devices


_PROC_HEAD = re.compile(r"\s*([0-9]{1,7}): cs:([A-Za-z]+)(.*)$")


def _proc_head(minor: int, state: str, rest: str) -> ProcDevice:
    # "st:" is 8.2's word for "ro:"; without a connection the protocol letter is a blank
    match = re.match(r" (?:ro|st):(\w+)/(\w+) ds:(\w+)/(\w+) +(?:[ABC] +)?([-\w]{4,6})\s*$", rest)
    if not match:
        raise Unreadable(f"/proc/drbd: unknown line for minor {minor}: {rest[:200]!r}")
    connection, replication = connection_state(state)
    return ProcDevice(
        minor=minor,
        connection=connection,
        replication=replication,
        role=_role(match[1]),
        peer_role=_role(match[2]),
        disk=_disk(match[3]),
        peer_disk=_disk(match[4]),
        flags=match[5],
        out_of_sync_kib=None,
        done_percent=None,
        speed_kib_s=None,
    )


def _proc_detail(device: ProcDevice, line: str) -> ProcDevice:
    if match := re.search(r"\boos:([0-9]{1,15})\b", line):
        device = replace(device, out_of_sync_kib=int(match[1]))
    if match := re.search(r"(?:sync'ed|verified):\s*([0-9]{1,3}(?:\.[0-9]+)?)%", line):
        device = replace(device, done_percent=_percent(match[1]))
    if match := re.search(r"\bspeed: ([0-9,]{1,20}) \(", line):
        device = replace(device, speed_kib_s=int(match[1].replace(",", "") or "0"))
    return device


def proc_version(text: str) -> str:
    """The kernel module's version, "8.4.11", from the first line of /proc/drbd. Raises Unreadable."""
    match = re.match(r"version: ([0-9]+(?:\.[0-9]+){1,3})\b", text)
    if not match:
        raise Unreadable(f"/proc/drbd does not begin with a version: {text[:80]!r}")
    return match[1]


def parse_generations(text: str) -> GenerationIds:
    """Output of get-gi. Bit 0 of each number (the role "Primary") is cleared, so equal generations compare equal.

    Unused places of the history (zero) are left out: zero is in common with everything. Raises Unreadable.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    numbers = lines[0].strip().split(":") if len(lines) == 1 else []
    uuids = []
    for number in numbers:
        if not re.fullmatch(r"[0-9A-Fa-f]{16}", number):
            break
        uuids.append(f"{int(number, 16) & ~1:016X}")
    flags = numbers[len(uuids) :]
    if len(uuids) < 3 or len(flags) < 6 or not all(flag in ("0", "1") for flag in flags):
        raise Unreadable(f"not DRBD's generation identifiers: {text[:200]!r}")
    return GenerationIds(
        current=uuids[0], bitmap=uuids[1], history=tuple(uuid for uuid in uuids[2:] if int(uuid, 16) != 0)
    )


def connection_state(word: str) -> tuple[Connection, str]:
    """(connection, replication) in DRBD 9's words from either dialect's. Raises Unreadable."""
    if word in _CONNECTING_84:
        return "Connecting", "Off"
    if word in _CONNECTIONS:
        known: Any = word
        return known, "Established" if word == "Connected" else "Off"
    if word in _REPLICATION:
        return "Connected", word
    raise Unreadable(f"DRBD says the connection is {word[:40]!r}, which is no state of it")


def _word(word: str, known: Any, what: str) -> Any:
    if word not in get_args(known):
        raise Unreadable(f"DRBD says {what} is {word[:40]!r}, which is no state of it")
    return word


def _role(word: str) -> Role:
    role: Role = _word(word, Role, "the role")
    return role


def _disk(word: str) -> Disk:
    disk: Disk = _word(word, Disk, "the disk")
    return disk


def _replication(word: str) -> str:
    if word not in _REPLICATION:
        raise Unreadable(f"DRBD says the replication is {word[:40]!r}, which is no state of it")
    return word


def _need(fields: dict[str, str], key: str) -> str:
    if key not in fields:
        raise Unreadable(f"DRBD's dump has no {key} in {fields}")
    return fields[key]


def _int(fields: dict[str, str], key: str) -> int:
    word = _need(fields, key)
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise Unreadable(f"DRBD says {key} is {word[:40]!r}, expected a number")
    return int(word)


def _percent(word: str) -> float:
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", word):
        raise Unreadable(f"DRBD says it is done by {word[:40]!r}, expected percent")
    return min(float(word), 100.0)
