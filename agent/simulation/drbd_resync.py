"""A resync: blocks that differ are copied from source to target, at the configured rate and no faster than the link."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md
from agent.simulation import drbd_options
from agent.simulation.drbd_generation import begin_resync, end_resync
from agent.simulation.drbd_state import disk_rank, resyncing
from agent.simulation.sparse import copy

if TYPE_CHECKING:
    from agent.simulation.drbd_link import Session
    from agent.simulation.drbd_volume import Volume

MARKS = 8  # the kernel's DRBD_SYNC_MARKS
MARK_STEP = 3.0  # seconds
KIB_PER_BLOCK = md.BLOCK // 1024


class Progress:
    """What /proc/drbd shows of a resync, with the kernel's rolling marks for the present speed."""

    def __init__(self, total: int, now: float) -> None:
        self.total = total  # blocks
        self.left = total
        self.started = now
        self._marks: deque[tuple[float, int]] = deque([(now, total)], maxlen=MARKS)

    def update(self, left: int, now: float) -> None:
        self.left = left
        if now - self._marks[-1][0] >= MARK_STEP:
            self._marks.append((now, left))

    @property
    def per_mille(self) -> int:
        """As coarse as the kernel's: in units of 1024 blocks."""
        shift = 16 if self.total > 0xFFFFFFFF else 10
        return 1000 - (self.left >> shift) * 1000 // (1 + (self.total >> shift))

    def speeds(self, now: float) -> tuple[int, int, int]:
        """(seconds left, KiB/s of late, KiB/s since the beginning), in the kernel's integers."""
        at, left = self._marks[1] if len(self._marks) == MARKS else self._marks[0]
        seconds = max(1, int(now - at))
        done = left - self.left
        remaining = seconds * (self.left // (done // 100 + 1)) // 100
        average = (self.total - self.left) // max(1, int(now - self.started))
        return remaining, done // seconds * KIB_PER_BLOCK, average * KIB_PER_BLOCK


class Resync:
    """One resync of a session, from the exchange of bitmaps to the end."""

    def __init__(
        self, session: Session, source: Volume, target: Volume, *, full: bool, commanded: bool = False
    ) -> None:
        """`commanded`: by invalidate, not by a handshake; everything is copied."""
        self.session = session
        self.source, self.target = source, target
        self.progress: Progress | None = None
        self.rate = 0  # KiB/s that the target wants
        self._full = full
        self._commanded = commanded
        self._stopped = False
        self._simulation = source.host.simulation

    def start(self) -> None:
        self._simulation.tasks.start(self._run(), f"{self.source.path} resync")

    def interrupted(self, volume: Volume) -> None:
        """An end is gone: the target stays Inconsistent, the bitmap says what is left."""
        self._stopped = True
        if self.session.resync is self:
            self.session.resync = None

    @property
    def _going(self) -> bool:
        return not self._stopped and len(self.session.ends) == 2

    async def _pause(self) -> bool:
        """Time for a message to go there and back; False when the resync is over."""
        await self._simulation.clock.sleep(2 * self._simulation.timing.latency)
        if self._going and not self.session.alive:
            await self._simulation.changed.wait_until(lambda: not self._going or self.session.alive)
        return self._going

    async def _run(self) -> None:
        """A disk may fail at any change of state, because its super block is written then."""
        if not self._going:
            return
        self._prepare()
        if not await self._pause():
            return
        source, target = self.source, self.target
        target.change(cs="WFSyncUUID")
        await source.kernel.helper(source, "before-resync-source")
        if not await self._pause():
            return
        await target.kernel.helper(target, "before-resync-target")
        if self._going and self._begin():
            await self._copy()

    def _prepare(self) -> None:
        """Both know their part; bitmaps are about to be exchanged."""
        source, target = self.source, self.target
        source_role, target_role = source.state.role, target.state.role
        consistent = disk_rank(target.disk) > disk_rank("Inconsistent")
        target_disk = "Outdated" if disk_rank(target.disk) > disk_rank("Outdated") else target.disk
        source_disk = "UpToDate" if disk_rank(source.disk) >= disk_rank("Outdated") else source.disk
        for end in (source, target):
            end.state.al_suspended = False
            end.peer_back()
        known = source.state.cs == target.state.cs == "Connected"
        if known:  # the peer was told of our new state before
            target.change(peer_role=source_role, peer_disk=source_disk)
        begin = ("StartingSyncS", "StartingSyncT") if self._commanded else ("WFBitMapS", "WFBitMapT")
        # The target first: whatever becomes of the source's disk now, the target knows that it is not current
        target.change(cs=begin[1], peer_role=source_role, disk=target_disk, peer_disk=source_disk)
        if self._going:
            source.change(disk=source_disk)
        if self._going:
            source.change(cs=begin[0], peer_role=target_role, peer_disk="Consistent" if consistent else target_disk)

    def _begin(self) -> bool:
        """From here on the target is Inconsistent. Bitmaps and identifiers change in the same instant.

        False when a disk fails at that.
        """
        source, target = self.source, self.target
        assert source.bitmap is not None
        assert target.bitmap is not None
        blocks = source.known_size // md.BLOCK
        if self._full:
            source.bitmap.set(0, blocks)
        else:
            source.bitmap.merge(target.bitmap)
        target.bitmap.merge(source.bitmap)
        for end in (source, target):
            end.write_bitmap()
        if not self._going:
            return False
        ours, theirs = begin_resync(source.block.generation, target.block.generation, source.kernel.random_uuid())
        source.save(generation=ours)
        if not self._going:
            return False
        target.save(generation=theirs)
        if not self._going:
            return False
        self.progress = Progress(source.bitmap.count, self._simulation.clock.now())
        source.change(cs="SyncSource", peer_disk="Inconsistent")
        if self._going:
            target.change(cs="SyncTarget", disk="Inconsistent", peer_disk=source.state.disk)
        return self._going

    def _bytes_per_second(self) -> float:
        """The target's resync-rate, or c-max-rate with the dynamic controller, within what the link gives."""
        options = self.target.disk_options
        table = drbd_options.DISK
        dynamic = drbd_options.value(options, table, "c-plan-ahead") != "0"
        name = "c-max-rate" if dynamic else "resync-rate"
        wanted = drbd_options.number(drbd_options.value(options, table, name), 1024)
        self.rate = wanted // 1024
        return min(wanted, self._simulation.link_rate(self.source.host.name, self.target.host.name))

    async def _copy(self) -> None:
        source, target = self.source, self.target
        step = self._simulation.timing.resync_step
        position, budget = 0, 0.0
        while self._going and source.bitmap is not None and target.bitmap is not None and source.bitmap.count:
            rate = self._bytes_per_second()
            left = source.bitmap.count * md.BLOCK
            seconds = min(step, left / rate)
            await self._simulation.clock.sleep(seconds)
            if not self._going or not self.session.alive:
                if not await self._pause():
                    return
                continue
            if self._paused():
                await self._simulation.changed.wait_until(lambda: not self._going or not self._paused())
                continue
            budget += rate * seconds
            blocks = max(1, round(budget / md.BLOCK))
            budget -= blocks * md.BLOCK
            position = self._copy_blocks(position, blocks)
        if self._going and source.bitmap is not None and source.bitmap.count == 0:
            await self._finish()

    def _paused(self) -> bool:
        paused = any(end.state.paused_user for end in (self.source, self.target))
        for end, word in ((self.source, "S"), (self.target, "T")):
            if resyncing(end.state.cs):
                wanted = f"PausedSync{word}" if paused else ("SyncSource" if word == "S" else "SyncTarget")
                end.change(cs=wanted, paused_peer=self.session.peer(end).state.paused_user)
        return paused

    def _copy_blocks(self, position: int, blocks: int) -> int:
        """Copy up to `blocks` blocks from `position` on, wrapping around; returns where to go on."""
        source = self.source
        end = source.known_size // md.BLOCK
        while blocks > 0 and source.bitmap is not None and source.bitmap.count:
            run = next(source.bitmap.runs(position, end), None)
            if run is None:
                position = 0
                continue
            first, last = run[0], min(run[1], run[0] + blocks)
            if not self._copy_run(first, last):
                return position
            blocks -= last - first
            position = last
        if source.bitmap is not None and self.progress is not None:
            self.progress.update(source.bitmap.count, self._simulation.clock.now())
        return position

    def _copy_run(self, first: int, last: int) -> bool:
        source, target = self.source, self.target
        assert source.backing is not None
        assert target.backing is not None
        for end, backing in ((source, source.backing), (target, target.backing)):
            try:
                backing.check()
            except OSError:
                end.disk_failed()
                return False
        copy(source.backing.file, target.backing.file, first * md.BLOCK, last * md.BLOCK)
        amount = (last - first) * (md.BLOCK // 512)
        source.counters.read += amount
        source.counters.sent += amount
        target.counters.received += amount
        target.counters.written += amount
        source.mark_blocks(first, last, out_of_sync=False)
        target.mark_blocks(first, last, out_of_sync=False)
        return True

    async def _finish(self) -> None:
        """The target becomes UpToDate and takes over the source's identifiers."""
        source, target = self.source, self.target
        await target.kernel.helper(target, "after-resync-target")
        while self._going and not self.session.alive:
            await self._pause()
        if not self._going or source.bitmap is None or target.bitmap is None:
            return
        if source.bitmap.count:
            await self._copy()
            return
        ours, theirs = end_resync(source.block.generation, target.block.generation, target.peer_known)
        target.save(generation=theirs, flags=target.block.flags & ~md.FULL_SYNC)
        source.save(generation=ours)
        source.peer_known = target.peer_known = target.block.generation
        if not self._going:
            return
        self.session.resync = None
        for end in (source, target):
            if end.net is not None:
                end.net.discard_my_data = False
        source.change(cs="Connected", peer_disk="UpToDate")
        target.change(cs="Connected", disk="UpToDate", peer_disk=source.state.disk)
        source.host.truth.note(source.host.name, f"{source.name} is in sync with {target.host.name}")
        if source.fencing != "dont-care":
            await source.kernel.helper(source, "unfence-peer", whole=True)
