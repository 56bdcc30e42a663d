"""A VM's disks on this host: may they be written here, are they attached, is the other side whole. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from agent.protocol import DiskConfig, Refusal

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

Seen = Mapping[str, "DrbdResource"]
Side = Literal["source", "target"]
LEFT_FROM = ("UpToDate", "Diskless")
"""Disk states of a source that a VM may leave for an UpToDate peer: what both have, or the peer alone."""
AWAY_ALONE = "the source may have had writes that the target lacks, and the memory that arrived may know of them"
LOST_ALONE = (
    "the source's disk has failed, and may have had writes that the target lacks: what was written without the target"
    " is on the failed disk only"
)


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


def against_hand_over(
    disks: Sequence[DiskConfig],
    seen: Seen,
    node: str,
    *,
    side: Side,
    role: str,
    peer_role: str,
    alone: Collection[str] = (),
    held: Collection[str] = (),
) -> list[Refusal]:
    """Why these disks cannot be handed over now: Connected, UpToDate on the target, in sync, the roles as said.

    A source whose disk has failed (Diskless) writes on the target's alone: every write is there, and it may be left.
    Not if it may have written without its peer before (`alone`: those resources): that was on the failed disk only,
    and DRBD lets a Secondary without a disk connect to older data. `held`: resources that this host, the target, may go
    on with without the other by a verdict: what was not written alone is all here. `side`: what `node` is in the move.
    """
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
            if disk.resource not in held:
                found.append(Refusal(reason="DiskNotConnected", message=f"{text}; a move needs both replicas"))
            elif disk.resource in alone:
                found.append(Refusal(reason="WroteAlone", message=f"{text}; {AWAY_ALONE}"))
            elif (one.role, one.disk) != (role, "UpToDate"):
                found.append(Refusal(reason="DiskNotUpToDate", message=f"{text}; {needed('UpToDate', one.disk)}"))
            continue
        source, target = (one.disk, one.peer.disk) if side == "source" else (one.peer.disk, one.disk)
        if source == "Diskless" and disk.resource in alone:
            found.append(Refusal(reason="WroteAlone", message=f"{text}; {LOST_ALONE}"))
        elif target != "UpToDate" or source not in LEFT_FROM or one.peer.replication != "Established":
            left = f", {one.peer.out_of_sync_kib} KiB to go" if one.peer.out_of_sync_kib else ""
            message = f"{text}, {one.peer.replication}{left}; {needed(source, target)}"
            found.append(Refusal(reason="DiskNotUpToDate", message=message))
        if (one.role, one.peer.role) != (role, peer_role):
            reason = "DiskNotPrimary" if role == "Primary" else "DiskNotSecondary"
            found.append(Refusal(reason=reason, message=f"{text}; expected {role} here and {peer_role} there"))
    return found


def needed(source: str, target: str) -> str:
    """What a person may do about disk states in which nothing moves."""
    if target == "Diskless":
        return "the target's disk has failed: replace it there, and the move goes on when it is UpToDate again"
    if source in LEFT_FROM:
        return "a move needs UpToDate on the target"
    return "a move needs UpToDate on both sides"


def joined(refusals: Sequence[Refusal]) -> Refusal:
    """Several reasons as one: the first one's reason, everybody's message."""
    return Refusal(reason=refusals[0].reason, message="; ".join(refusal.message for refusal in refusals))
