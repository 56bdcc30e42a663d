"""DRBD's states and refusals: 8.4's words, DRBD 9's for the same, numbers and texts (drbdsetup(8), drbd_strings.c)."""

from __future__ import annotations

from dataclasses import dataclass

PRIMARY, SECONDARY, UNKNOWN = "Primary", "Secondary", "Unknown"

DISKS = (
    "Diskless",
    "Attaching",
    "Failed",
    "Negotiating",
    "Inconsistent",
    "Outdated",
    "DUnknown",
    "Consistent",
    "UpToDate",
)
"""In the kernel's order: what is further right is better."""

CONNECTIONS = (
    "StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError",
    "TearDown", "WFConnection", "WFReportParams", "Connected", "StartingSyncS", "StartingSyncT", "WFBitMapS",
    "WFBitMapT", "WFSyncUUID", "SyncSource", "SyncTarget", "VerifyS", "VerifyT", "PausedSyncS", "PausedSyncT",
)  # fmt: skip
_RANK = {name: rank for rank, name in enumerate(CONNECTIONS)}
_DISK_RANK = {name: rank for rank, name in enumerate(DISKS)}


def disk_rank(disk: str) -> int:
    return _DISK_RANK[disk]


def connected(cs: str) -> bool:
    """The peers talk about the device (C_CONNECTED or more)."""
    return _RANK[cs] >= _RANK["Connected"]


def resyncing(cs: str) -> bool:
    return cs in {"SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT"}


@dataclass
class State:
    """What the kernel keeps of one resource with one volume."""

    role: str = SECONDARY
    peer_role: str = UNKNOWN
    disk: str = "Diskless"
    peer_disk: str = "DUnknown"
    cs: str = "StandAlone"
    suspended_fencing: bool = False
    suspended_user: bool = False
    suspended_no_data: bool = False
    al_suspended: bool = False
    paused_user: bool = False  # pause-sync here
    paused_peer: bool = False

    @property
    def connection(self) -> str:
        """DRBD 9's word."""
        if self.cs == "WFConnection":
            return "Connecting"
        return self.cs if _RANK[self.cs] < _RANK["WFReportParams"] else "Connected"

    @property
    def replication(self) -> str:
        if not connected(self.cs):
            return "Off"
        return "Established" if self.cs == "Connected" else self.cs

    @property
    def suspended(self) -> str:
        reasons = (
            ("user", self.suspended_user),
            ("no-data", self.suspended_no_data),
            ("fencing", self.suspended_fencing),
        )
        return ",".join(word for word, on in reasons if on) or "no"

    @property
    def no_data(self) -> bool:
        """A Primary without good data here or there."""
        best = max(disk_rank(self.disk), disk_rank(self.peer_disk))
        return self.role == PRIMARY and best < disk_rank("UpToDate")

    @property
    def resync_suspended(self) -> str:
        words = [word for word, on in (("user", self.paused_user), ("peer", self.paused_peer)) if on]
        return ",".join(words) or "no"

    def changed(self, **values: str | bool) -> set[str]:
        """Set; returns the names of what is different now."""
        different = {name for name, value in values.items() if getattr(self, name) != value}
        for name in different:
            setattr(self, name, values[name])
        return different


def lost_contact(before: str, after: str) -> bool:
    """Whether the peer's data went out of reach, by its disk's state (the kernel's lost_contact_to_peer_data())."""
    gone = {"Diskless", "Attaching", "Failed", "Negotiating"}
    had = before in {"Inconsistent", "Consistent", "UpToDate"}
    return (had and after in gone | {"DUnknown", "Outdated"}) or (
        before == "DUnknown" and after in {"Diskless", "Failed", "Outdated"}
    )


STATE_ERRORS = {
    -1: "Multiple primaries not allowed by config",
    -2: "Need access to UpToDate data",
    -4: "Can not resync without local disk",
    -5: "Can not resync without remote disk",
    -6: "Refusing to be Outdated while Connected",
    -7: "Refusing to be Primary while peer is not outdated",
    -8: "Can not start OV/resync since it is already active",
    -9: "Can not disconnect a StandAlone device",
    -10: "State change was refused by peer node",
    -11: "Device is diskless, the requested operation requires a disk",
    -12: "Device is held open by someone",
    -13: "Have no net/connection configuration",
    -14: "Need a verify algorithm to start online verify",
    -15: "Need a connection to start verify or resync",
    -16: "Disk state is lower than outdated",
    -18: "In transient state, retry after next state change",
    -19: "Concurrent state changes detected and aborted",
}
FAILURES = {
    102: "Local address(port) already in use.",
    103: "Remote address(port) already in use.",
    104: "Can not open backing device.",
    105: "Can not open meta device.",
    111: "Low.dev. smaller than requested DRBD-dev. size.",
    114: "Lower device is already claimed. This usually means it is mounted.",
    118: "IO error(s) occurred during initial access to meta-data.\n",
    119: "No valid meta-data signature found.\n\n\t==> Use 'drbdadm create-md res' to initialize meta-data area. <==\n",
    123: "--discard-my-data not allowed when primary.",
    124: "Device is attached to a disk (use detach first)",
    125: "Device has a net-config (use disconnect first)",
    127: "Device minor not allocated",
    130: "Resize not allowed during resync.",
    131: "Need one Primary node to resize.",
    135: "Sync-pause flag is already cleared",
    138: "Device does not have a disk-config",
    139: "Protocol C required",
    150: "Can only attach to the data we lost last (see kernel log).",
    151: "Need to be StandAlone",
    158: "Unknown resource",
    159: "Resource still in use (delete all minors first)",
    160: "Minor still configured (down it first)",
    161: "Minor or volume exists already (delete it first)",
    162: "Invalid configuration request",
    164: "Can not clear allow_two_primaries as long as\nthere a primaries on both sides",
    165: "Unclean meta-data found.\nYou need to 'drbdadm apply-al res'\n",
}


class StateError(Exception):
    """A state change that DRBD refused. `exit` is drbdsetup's status."""

    def __init__(self, code: int, info: str = "") -> None:
        super().__init__(f"State change failed: ({code}) {STATE_ERRORS[code]}")
        self.code, self.info = code, info
        self.exit = {-2: 17, -16: 5, -4: 16}.get(code, 11)


class Failure(Exception):
    """A configuration change that DRBD refused."""

    def __init__(self, code: int, info: str = "") -> None:
        super().__init__(f"Failure: ({code}) {FAILURES[code]}")
        self.code, self.info, self.exit = code, info, 10
