"""Reads and writes of a DRBD device: local, on the peer, or both (protocol C: acknowledged when both have it)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md
from agent.simulation.devices import os_error
from agent.simulation.drbd_state import connected, disk_rank

if TYPE_CHECKING:
    from agent.simulation.drbd_volume import Volume


def sectors(length: int) -> int:
    return -(-length // 512)


def usable_disk(volume: Volume) -> bool:
    return volume.backing is not None and disk_rank(volume.state.disk) >= disk_rank("Inconsistent")


def replicates(volume: Volume) -> bool:
    """The kernel's drbd_should_do_remote(). What a source does not send before its resync begins, its bitmap notes."""
    state = volume.state
    if volume.session is None or not connected(state.cs):
        return False
    if state.peer_disk == "UpToDate":
        return True
    return disk_rank(state.peer_disk) >= disk_rank("Inconsistent") and state.cs not in {
        "Connected", "StartingSyncS", "StartingSyncT", "WFBitMapS",
    }  # fmt: skip


async def write(volume: Volume, offset: int, data: bytes) -> None:
    """Returns when the write is acknowledged. Raises OSError (EIO: no disk, here or there, took it)."""
    simulation = volume.host.simulation
    here_and_there = (offset, len(data))
    volume.writing.append(here_and_there)
    try:
        while True:
            await simulation.changed.wait_until(lambda: volume.state.suspended == "no")
            if not _data_accessible(volume):
                volume.log("IO ERROR: neither local nor remote data")
                raise os_error(errno.EIO, volume.path)
            here = _write_here(volume, offset, data)
            if volume.net is not None and volume.net.value("protocol") == "A" and replicates(volume):
                simulation.tasks.start(_replicate(volume, offset, data), f"{volume.path} protocol A")
                there = True
            else:
                there = await _replicate(volume, offset, data)
            if (here or there) and volume.host.on:
                return
            if not volume.host.on or not _data_accessible(volume):
                raise os_error(errno.EIO, volume.path)
    finally:
        volume.writing.remove(here_and_there)


def _data_accessible(volume: Volume) -> bool:
    """The kernel's may_do_writes(): without good data here or there IO fails, unless it is suspended for that."""
    return "UpToDate" in {volume.state.disk, volume.state.peer_disk}


async def _replicate(volume: Volume, offset: int, data: bytes) -> bool:
    """Whether the peer has it; if not, the bitmap says so before this returns.

    While IO is frozen (fencing resource-and-stonith) what was under way waits too, and is sent again when the peer
    comes back.
    """
    while True:
        session = volume.session
        if session is not None and replicates(volume) and await session.replicate(volume, offset, data):
            return True
        if volume.session is session or not replicates(volume):
            if volume.state.suspended == "no":
                volume.mark(offset, len(data), out_of_sync=True)
                return False
            await volume.host.simulation.changed.wait_until(lambda: volume.state.suspended == "no")


def _write_here(volume: Volume, offset: int, data: bytes) -> bool:
    if usable_disk(volume):
        volume.log_of_activity.note(offset, len(data))  # may be the first to find the disk broken
    if not usable_disk(volume) or volume.backing is None:
        return False
    try:
        volume.backing.write_now(offset, data)
    except OSError:
        volume.disk_failed()
        return False
    volume.counters.written += sectors(len(data))
    return True


def write_received(volume: Volume, offset: int, data: bytes) -> bool:
    """The peer's write arrives here; False when this side could not take it."""
    volume.counters.received += sectors(len(data))
    if usable_disk(volume) and disk_rank(volume.state.peer_disk) < disk_rank("Inconsistent"):
        # This is the only disk: what the peer's will lack when it is back is to be known here
        volume.log_of_activity.note(offset, len(data))
        volume.mark(offset, len(data), out_of_sync=True)
    if not usable_disk(volume) or volume.backing is None:
        return False
    try:
        volume.backing.write_now(offset, data)
    except OSError:
        volume.disk_failed()
        return False
    volume.counters.written += sectors(len(data))
    return True


async def read(volume: Volume, offset: int, length: int) -> bytes:
    """From here when the data here is good, else from the peer. Raises OSError (EIO)."""
    while True:
        await volume.host.simulation.changed.wait_until(lambda: volume.state.suspended == "no")
        found = await _found(volume, offset, length)
        if found is not None:
            return found
        if volume.state.suspended == "no":  # else it was lost meanwhile: asked again when there is data
            raise os_error(errno.EIO, volume.path)


async def _found(volume: Volume, offset: int, length: int) -> bytes | None:
    if _good_here(volume, offset, length) and volume.backing is not None:
        try:
            data = volume.backing.read_now(offset, length)
        except OSError:
            volume.disk_failed()
        else:
            volume.counters.read += sectors(length)
            return data
    session = volume.session
    if session is not None and volume.state.peer_disk == "UpToDate":
        return await session.fetch(volume, offset, length)
    return None


def _good_here(volume: Volume, offset: int, length: int) -> bool:
    """The kernel's drbd_may_do_local_read()."""
    if volume.state.disk == "UpToDate":
        return True
    if volume.state.disk != "Inconsistent" or volume.bitmap is None:
        return False
    return not volume.bitmap.any(offset // md.BLOCK, -(-(offset + length) // md.BLOCK))
