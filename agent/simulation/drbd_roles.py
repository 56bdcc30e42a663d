"""Who may be Primary: the 8.4 kernel's is_valid_state() and drbd_set_role() for one volume."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.simulation.drbd_state import PRIMARY, SECONDARY, Failure, StateError, connected, disk_rank, resyncing

if TYPE_CHECKING:
    from agent.simulation.drbd_link import Session
    from agent.simulation.drbd_volume import Volume

TRIES = 4


def refusal_as_primary(volume: Volume, disk: str, peer_disk: str) -> int | None:
    """Number of the reason why this volume can't be Primary with these disk states, or None."""
    state = volume.state
    rank, peer_rank = disk_rank(disk), disk_rank(peer_disk)
    two = volume.net is not None and volume.net.value("allow-two-primaries") == "yes"
    if volume.net is not None and not two and state.peer_role == PRIMARY:
        return -1
    if not connected(state.cs) and rank < disk_rank("UpToDate"):
        return -2
    if volume.fencing != "dont-care" and not connected(state.cs) and peer_rank >= disk_rank("DUnknown"):
        return -7
    if disk == "Outdated" and state.cs in {"Connected", "WFBitMapS", "SyncSource", "PausedSyncS"}:
        return -6
    if rank <= disk_rank("Inconsistent") and peer_rank <= disk_rank("Inconsistent"):
        return -2
    return None


async def promote(volume: Volume, *, force: bool) -> None:
    """drbdsetup primary [--force]. Raises StateError."""
    if volume.primary:
        return
    peer_disk, forced, refusal = "", False, None
    for _ in range(TRIES):
        disk = "UpToDate" if forced else volume.state.disk
        refusal = refusal_as_primary(volume, disk, peer_disk or volume.state.peer_disk)
        if refusal is None:
            if await _agreed(volume, disk, peer_disk, forced):
                return
            if volume.session is not None:
                raise StateError(-10)
        elif refusal == -2 and force and disk_rank("Inconsistent") <= disk_rank(disk) < disk_rank("UpToDate"):
            forced = True
        elif refusal == -2 and disk == "Consistent" and not connected(volume.state.cs):
            if not await volume.kernel.fence_peer(volume):
                raise StateError(-2)
            volume.change(disk="UpToDate")
        elif refusal == -7 and not peer_disk:
            if not await volume.kernel.fence_peer(volume):
                if not force:
                    raise StateError(-7)
                volume.log("Forced into split brain situation!")
                peer_disk = "Outdated"
        else:
            raise StateError(refusal)
    raise StateError(-18 if refusal is None else refusal)


async def _agreed(volume: Volume, disk: str, peer_disk: str, forced: bool) -> bool:
    """Become Primary, with the peer's agreement when there is one. False when it refused or got lost meanwhile."""
    session = volume.session
    if session is not None and not await _peer_agrees(volume, session):
        return False
    if refusal_as_primary(volume, disk, peer_disk or volume.state.peer_disk) is not None:
        return False  # something changed while we asked
    values: dict[str, str | bool] = {"role": PRIMARY, "disk": disk}
    if peer_disk:
        values["peer_disk"] = peer_disk
    if volume.net is not None:
        volume.net.discard_my_data = False
    alone = not connected(volume.state.cs) or disk_rank(volume.state.peer_disk) <= disk_rank("Failed")
    volume.change(**values)
    if forced:
        volume.log("Forced to consider local data as UpToDate!")
    if volume.backing is not None:
        if (alone and volume.block.generation.bitmap == 0) or forced:
            volume.new_current_uuid()
        volume.set_role_bit(True)
    if session is not None and session.alive:
        peer = session.peer(volume)
        peer.change(peer_role=PRIMARY, peer_disk=volume.state.disk)
        if forced:
            volume.host.simulation.tasks.start(_resync_after_force(volume), f"{volume.path} forced")
    return True


async def _peer_agrees(volume: Volume, session: Session) -> bool:
    """The peer must not be Primary itself, unless two are allowed there. One such question at a time."""
    peer = session.peer(volume)
    if volume.transient or peer.transient:
        raise StateError(-18)
    volume.transient = True
    try:
        if not await session.reach(volume):
            return False
    finally:
        volume.transient = False
    return not peer.primary or (peer.net is not None and peer.net.value("allow-two-primaries") == "yes")


async def _resync_after_force(volume: Volume) -> None:
    """The peer learns of the new identifiers, and that it has to be overwritten."""
    from agent.simulation.drbd_handshake import settle

    session = volume.session
    if session is not None and session.resync is None and await session.reach(volume):
        await settle(session)


async def demote(volume: Volume) -> None:
    """drbdsetup secondary. Raises StateError (-12 while something has the device open)."""
    if not volume.primary:
        return
    if volume.in_use:
        volume.log("State change failed: Device is held open by someone")
        raise StateError(-12)
    volume.change(role=SECONDARY)
    volume.set_role_bit(False)
    volume.log_of_activity.clear()
    session = volume.session
    if session is not None and await session.reach(volume):
        session.tell_role(volume)


def new_current_uuid(volume: Volume, *, clear_bitmap: bool) -> None:
    """drbdsetup new-current-uuid [--clear-bitmap]: skips the first sync of two fresh replicas."""
    if volume.backing is None:
        raise StateError(-11)
    session = volume.session
    fresh = volume.fresh and volume.state.disk == "Inconsistent"
    skip = clear_bitmap and volume.state.cs == "Connected" and session is not None and fresh
    if volume.state.cs not in {"StandAlone", "Connected"} or (volume.state.cs == "Connected" and not skip):
        raise Failure(151)
    volume.save(generation=volume.block.generation.with_bitmap(0))
    volume.new_current_uuid()
    if clear_bitmap:
        volume.save(generation=replace(volume.block.generation, bitmap=0))  # what was there does not become history
        if volume.bitmap is not None:
            volume.mark_blocks(0, volume.bitmap.blocks, out_of_sync=False)
    if skip and session is not None:
        peer = session.peer(volume)
        if peer.bitmap is not None:
            peer.save(generation=volume.block.generation)
            peer.peer_known = volume.block.generation  # the other way nothing is told
            peer.mark_blocks(0, peer.bitmap.blocks, out_of_sync=False)
            volume.change(disk="UpToDate", peer_disk="UpToDate")
            peer.change(disk="UpToDate", peer_disk="UpToDate")


def can_resync(volume: Volume) -> int | None:
    if not connected(volume.state.cs):
        return -15
    if resyncing(volume.state.cs) or volume.state.cs != "Connected":
        return -8
    return None
