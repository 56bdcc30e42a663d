"""Online verify: both replicas are read and compared; what differs is marked in the bitmap (drbdsetup(8), verify)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md

if TYPE_CHECKING:
    from agent.simulation.drbd_link import Session
    from agent.simulation.drbd_volume import Volume

STEP_BYTES = 16 << 20


def start(session: Session, volume: Volume) -> None:
    session.peer(volume).change(cs="VerifyT")
    volume.change(cs="VerifyS")
    volume.host.simulation.tasks.start(_verify(session, volume), f"{volume.path} verify")


async def _verify(session: Session, volume: Volume) -> None:
    peer, position = session.peer(volume), 0
    simulation = volume.host.simulation
    while position < volume.known_size and session.alive and volume.state.cs == "VerifyS":
        size = min(STEP_BYTES, volume.known_size - position)
        await simulation.clock.sleep(size / simulation.link_rate(volume.host.name, peer.host.name))
        if not session.alive or volume.backing is None or peer.backing is None:
            break
        compare(volume, peer, position, position + size)
        position += size
    for end in (volume, peer):
        if end.state.cs in {"VerifyS", "VerifyT"}:
            end.log(f"Online verify done; {end.out_of_sync // 4} 4k blocks out of sync")
            end.change(cs="Connected")


def compare(volume: Volume, peer: Volume, start_at: int, end: int) -> None:
    """Mark every block that differs on both sides."""
    assert volume.backing is not None
    assert peer.backing is not None
    files = volume.backing.file, peer.backing.file
    for first, last in sorted({part for file in files for part in file.data_ranges(start_at, end)}):
        for offset in range(first // md.BLOCK * md.BLOCK, last, md.BLOCK):
            if files[0].read(offset, md.BLOCK) != files[1].read(offset, md.BLOCK):
                for side in (volume, peer):
                    side.mark(offset, md.BLOCK, out_of_sync=True)
