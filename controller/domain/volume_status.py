"""What a DrbdVolume's status shows of both hosts, quantised so that a settled volume causes no write."""

from __future__ import annotations

from agent.protocol import PeerState, VolumeState
from controller.api.common import bytes_quantity
from controller.api.drbdvolume import DrbdVolumeStatus, Replica, SyncStatus
from controller.domain.actions import STEP_SECONDS
from controller.domain.conditions import seconds, timestamp
from controller.domain.volume_case import VolumeCase

SYNC_STEP_PERCENT = 5
"""A running sync is written only when it crossed a step."""

FREEZES = {"fencing", "no-data"}
"""DRBD's own words for IO that waits, not a person's (drbdsetup(8), suspend-io)."""

COPYING = ("SyncSource", "SyncTarget", "PausedSyncS", "PausedSyncT")


def observed(case: VolumeCase) -> DrbdVolumeStatus:
    """The status with the fields that are facts of the hosts; what cannot be seen now keeps its last value."""
    status = case.volume.status
    first = _as_first_member_sees(case)
    update: dict[str, object] = {
        "replicas": tuple(_replica(case, node) for node in case.nodes),
        "used_by": tuple(vm.metadata.name for vm in case.consumers)[:64],
        "sync": _sync(case),
        "frozen": next((n for n in case.nodes if (v := case.view(n)) and FREEZES & {*v.suspended.split(",")}), ""),
    }
    if first is not None:
        disk, peer = first
        update["disk_state"] = f"{disk}/{peer.disk}"
        update["connection"] = peer.replication if peer.replication in COPYING else peer.connection
    if case.known:
        primaries = case.primaries()
        update["primary"] = primaries[0] if primaries else _primary_by_peer(case)
        update["size"] = next((view.size for view in case.known if view.size), status.size)
    return status.model_copy(update=update)


def _as_first_member_sees(case: VolumeCase) -> tuple[str, PeerState] | None:
    for index, node in enumerate(case.nodes):
        view = case.view(node)
        if view is None or view.peer is None:
            continue
        if index == 0:
            return view.disk, view.peer
        return view.peer.disk, view.peer.model_copy(update={"disk": view.disk})
    return None


def _primary_by_peer(case: VolumeCase) -> str:
    """A silent member's role as the other member's DRBD tells it."""
    for node in case.nodes:
        view = case.view(node)
        if view and view.peer and view.peer.role == "Primary":
            return next((other for other in case.nodes if other != node), "")
    return ""


def _replica(case: VolumeCase, node: str) -> Replica:
    view = case.view(node)
    if view is not None:
        behind = view.peer.out_of_sync_kib if view.peer else None
        return Replica(
            node=node,
            disk=view.disk,
            role=view.role,
            connection=view.peer.connection if view.peer else "",
            out_of_sync=bytes_quantity(behind * 1024) if behind and not _copying(view) else None,
        )
    other = next((case.view(name) for name in case.nodes if name != node), None)
    if other is not None and other.peer is not None:
        return Replica(node=node, disk=other.peer.disk, role=other.peer.role, connection="")
    return Replica(node=node)


def _copying(view: VolumeState) -> bool:
    return view.peer is not None and view.peer.replication in COPYING


def _sync(case: VolumeCase) -> SyncStatus | None:
    view = next((v for v in case.known if _copying(v)), None)
    if view is None or view.peer is None:
        return None
    old, now = case.volume.status.sync, case.world.now
    percent = float(int(view.peer.done_percent or 0.0))
    if old is not None and old.observed_at is not None:
        small = int(percent) // SYNC_STEP_PERCENT == int(old.percent) // SYNC_STEP_PERCENT
        if small or now - seconds(old.observed_at) < STEP_SECONDS:
            return old
    speed, left = view.peer.speed_kib_s, view.peer.out_of_sync_kib
    return SyncStatus(
        percent=percent,
        rate=f"{speed / 1024:.0f} MiB/s" if speed else "",
        time_left=_clock(left / speed) if speed and left else "",
        observed_at=timestamp(now),
    )


def _clock(duration: float) -> str:
    """h:mm:ss, as /proc/drbd writes it."""
    whole = int(duration + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
