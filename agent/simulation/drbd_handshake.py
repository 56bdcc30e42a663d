"""What two DRBD peers find out when they connect: who is newer, who gets a resync, or that they must part.

Pure decisions first (`decide`), then their effects. The rules are those of the 8.4 kernel's drbd_sync_handshake().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.simulation import drbd_generation as gi
from agent.simulation import drbd_metadata as md
from agent.simulation.drbd_resync import Resync
from agent.simulation.drbd_state import disk_rank

if TYPE_CHECKING:
    from agent.simulation.drbd_link import Session
    from agent.simulation.drbd_volume import Volume

COMPARED = ("protocol", "after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "allow-two-primaries", "data-integrity-alg")
"""Options that must be equal on both sides."""


class Parting(Exception):
    """The peers can't be connected: both drop it and stand alone. `args` are lines for the kernel's log."""


async def handshake(session: Session) -> None:
    """From WFReportParams to Connected or a resync, or to StandAlone on both sides."""
    first, second = session.first, session.second
    try:
        _check_options(first, second)
        _agree_on_size(first, second)
        await settle(session)
    except Parting as parting:
        for end in (first, second):
            for line in parting.args:
                end.log(line)
        await _part(session)


async def settle(session: Session) -> None:
    """Compare generations and begin what follows. Also used when a disk is attached to a live connection."""
    first, second = session.first, session.second
    first.peer_known, second.peer_known = second.block.generation, first.block.generation
    if not (_has_disk(first) and _has_disk(second)):
        _check_exposed(first, second)
        _check_exposed(second, first)
        _connected(session)
        return
    verdict = gi.compare(
        first.block.generation,
        second.block.generation,
        own_crashed=first.block.flag(md.CRASHED_PRIMARY),
        peer_crashed=second.block.flag(md.CRASHED_PRIMARY),
    )
    verdict = by_disk_states(verdict, first, second)
    if abs(verdict) == gi.SPLIT_BRAIN:
        for end in (first, second):
            await end.kernel.helper(end, "initial-split-brain")
        if not session.alive:
            return
        verdict = await _split_brain(session, verdict)
    if verdict == gi.UNRELATED:
        raise Parting("Unrelated data, aborting!")
    if verdict == gi.SAME:
        _connected(session)
        return
    source, target = (first, second) if verdict > 0 else (second, first)
    _check_direction(source, target)
    session.resync = Resync(session, source, target, full=abs(verdict) == gi.FULL_SOURCE)
    session.resync.start()


def _has_disk(volume: Volume) -> bool:
    return disk_rank(volume.state.disk) >= disk_rank("Negotiating")


def _check_exposed(volume: Volume, peer: Volume) -> None:
    """A Primary that lost its disk goes on only with the data that it showed last."""
    current = peer.block.generation.masked.current
    if volume.primary and not _has_disk(volume) and _has_disk(peer) and volume.exposed != current:
        raise Parting(f"Can only connect to data with current UUID={volume.exposed:016X}")


def _check_options(first: Volume, second: Volume) -> None:
    for end in (first, second):
        if end.net is None:
            raise Parting("no connection configured")
    assert first.net is not None
    assert second.net is not None
    if first.net.value("shared-secret") != second.net.value("shared-secret"):
        raise Parting("Authentication of peer failed")
    for name in COMPARED:
        if first.net.value(name) != second.net.value(name):
            raise Parting(f"incompatible {name} settings")
    if first.net.discard_my_data and second.net.discard_my_data:
        raise Parting("incompatible discard-my-data settings")


def _agree_on_size(first: Volume, second: Volume) -> None:
    """The smaller one counts; a device that was in use never shrinks by connecting."""
    sizes = [end.known_size for end in (first, second) if end.backing is not None]
    if not sizes:
        return
    size = min(sizes)
    for end in (first, second):
        if end.backing is None:
            end.known_size = size
        elif end.known_size > size:
            if disk_rank(end.disk) >= disk_rank("Outdated"):
                raise Parting("The peer's disk size is too small!")
            end.known_size = size
            end.save(agreed_size=size)
            if end.bitmap is not None:
                end.mark_blocks(size // md.BLOCK, end.bitmap.blocks, out_of_sync=False)
                end.bitmap.blocks = size // md.BLOCK


def by_disk_states(verdict: int, first: Volume, second: Volume) -> int:
    """A side that is not consistent never becomes the source of one that is."""
    mine, theirs = (disk_rank(end.disk) for end in (first, second))
    inconsistent = disk_rank("Inconsistent")
    if (mine == inconsistent) != (theirs == inconsistent):
        full = verdict == gi.SPLIT_BRAIN_FULL or abs(verdict) == gi.FULL_SOURCE
        direction = gi.SOURCE if mine > inconsistent else gi.TARGET
        return direction * (2 if full else 1)
    return verdict


def _check_direction(source: Volume, target: Volume) -> None:
    if disk_rank(source.disk) <= disk_rank("Inconsistent"):
        raise Parting("I shall become SyncSource, but I am inconsistent!")
    if target.primary and disk_rank(target.state.disk) >= disk_rank("Consistent"):
        raise Parting("I shall become SyncTarget, but I am primary!")


async def _split_brain(session: Session, verdict: int) -> int:
    """Resolve by --discard-my-data or the after-sb policies; raises Parting when nothing allows it."""
    first, second = session.first, session.second
    full = 2 if verdict == gi.SPLIT_BRAIN_FULL else 1
    assert first.net is not None
    assert second.net is not None
    for victim, direction in ((first, gi.TARGET), (second, gi.SOURCE)):
        if victim.net is not None and victim.net.discard_my_data:
            other = "this" if direction == gi.SOURCE else "peer"
            first.log(f"Split-Brain detected, manually solved. Sync from {other} node")
            return direction * full
    primaries = [end for end in (first, second) if end.primary]
    direction = _automatic(first, second, primaries)
    if direction:
        for end in (first, second):
            here = "this" if (direction > 0) == (end is first) else "peer"
            end.log(f"Split-Brain detected, {len(primaries)} primaries, automatically solved. Sync from {here} node")
        return direction * full
    for end in (first, second):
        end.log("Split-Brain detected but unresolved, dropping connection!")
        await end.kernel.helper(end, "split-brain")
    raise Parting


def _automatic(first: Volume, second: Volume, primaries: list[Volume]) -> int:
    """1: first is the source, -1: second is, 0: a person must decide (drbd.conf(5), after-sb-*)."""
    assert first.net is not None
    zero, one = first.net.value("after-sb-0pri"), first.net.value("after-sb-1pri")
    if len(primaries) == 2 or (len(primaries) == 1 and one in {"disconnect", "violently-as0p"}):
        return 0
    if len(primaries) == 1 and one == "discard-secondary":
        return 1 if primaries[0] is first else -1
    mine, theirs = first.out_of_sync, second.out_of_sync
    direction = 0
    if zero == "discard-zero-changes" and not (mine and theirs):
        direction = -1 if mine == 0 and theirs else 1  # neither wrote: either may win
    elif zero == "discard-least-changes" and mine != theirs:
        direction = -1 if mine < theirs else 1
    if len(primaries) == 1 and one == "consensus":
        secondary_loses = (direction > 0) == (primaries[0] is first)
        return direction if direction and secondary_loses else 0
    return direction


def _connected(session: Session) -> None:
    """Both talk, nothing to copy."""
    for end, peer in ((session.first, session.second), (session.second, session.first)):
        end.state.al_suspended = False
        disk, peer_disk = end.disk, peer.disk
        good = disk_rank("Outdated")
        if disk_rank(disk) >= good and disk_rank(peer_disk) >= good:
            disk = peer_disk = "UpToDate"
        end.peer_back()
        end.change(cs="Connected", peer_role=peer.state.role, disk=disk, peer_disk=peer_disk)
    for end, peer in ((session.first, session.second), (session.second, session.first)):
        if not _has_disk(end):
            end.exposed = peer.block.generation.masked.current


async def _part(session: Session) -> None:
    """Both ends drop the connection and stand alone."""
    for end in (session.first, session.second):
        if end in session.ends:
            other = session.peer(end)
            session.ends.discard(other)
            session.leave(end, "Disconnecting")
            session.ends.add(other)
            session.fabric.stand_alone(end)
    session.ends.clear()
    session.fabric.sessions.discard(session)
