"""A VM's disks on this host: may they be written here, are they attached, is the other side whole. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.protocol import DiskConfig, Refusal

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

Seen = Mapping[str, "DrbdResource"]


def _words(seen: DrbdResource | None) -> str:
    if seen is None:
        return "not up"
    peer = f"{seen.peer.connection}, {seen.peer.role}/{seen.peer.disk} there" if seen.peer else "no peer"
    frozen = f", IO suspended ({seen.suspended})" if seen.suspended != "no" else ""
    return f"{seen.role}/{seen.disk} here, {peer}{frozen}"


def usable(disks: Sequence[DiskConfig], seen: Seen, node: str) -> list[Refusal]:
    """Why a domain with these disks must not run on `node` now: each Primary, UpToDate and not suspended here."""
    found = []
    for disk in disks:
        one = seen.get(disk.resource)
        text = f"{disk.resource} ({disk.vdev}) is {_words(one)} on {node}"
        if one is not None and one.minor != disk.minor:
            found.append(
                Refusal(reason="MinorMismatch", message=f"{disk.resource} is /dev/drbd{one.minor}, not {disk.minor}")
            )
        elif one is None or one.role != "Primary":
            found.append(Refusal(reason="DiskNotPrimary", message=f"{text}; it must be Primary here first"))
        elif one.disk != "UpToDate":
            found.append(Refusal(reason="DiskNotUpToDate", message=f"{text}; it must be UpToDate here"))
        elif one.suspended != "no":
            found.append(Refusal(reason="DiskSuspended", message=text))
    return found


def both_sides_whole(disks: Sequence[DiskConfig], seen: Seen, node: str, *, role: str, peer_role: str) -> list[Refusal]:
    """Why these disks cannot be handed over now: Connected, UpToDate on both sides, in sync, the roles as said."""
    found = []
    for disk in disks:
        one = seen.get(disk.resource)
        text = f"{disk.resource} ({disk.vdev}) is {_words(one)}, seen on {node}"
        if one is None or one.minor != disk.minor:
            found.append(Refusal(reason="DiskNotUp", message=f"{text}; it must be /dev/drbd{disk.minor} there"))
            continue
        if one.suspended != "no":
            found.append(Refusal(reason="DiskSuspended", message=text))
        if one.peer is None or one.peer.connection != "Connected":
            found.append(Refusal(reason="DiskNotConnected", message=f"{text}; a move needs both replicas"))
            continue
        if (one.disk, one.peer.disk) != ("UpToDate", "UpToDate") or one.peer.replication != "Established":
            left = f", {one.peer.out_of_sync_kib} KiB to go" if one.peer.out_of_sync_kib else ""
            message = f"{text}, {one.peer.replication}{left}; a move needs UpToDate on both sides"
            found.append(Refusal(reason="DiskNotUpToDate", message=message))
        if (one.role, one.peer.role) != (role, peer_role):
            reason = "DiskNotPrimary" if role == "Primary" else "DiskNotSecondary"
            found.append(Refusal(reason=reason, message=f"{text}; expected {role} here and {peer_role} there"))
    return found


def joined(refusals: Sequence[Refusal]) -> Refusal:
    """Several reasons as one: the first one's reason, everybody's message."""
    return Refusal(reason=refusals[0].reason, message="; ".join(refusal.message for refusal in refusals))
