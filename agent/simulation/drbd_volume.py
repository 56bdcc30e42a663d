"""One DRBD resource in one host's kernel: its state, its disk and what is written to it.

A resource has one volume and one connection, as Xentandem uses it. The connection itself is in `drbd_link`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.simulation import drbd_events, drbd_options
from agent.simulation import drbd_metadata as md
from agent.simulation.devices import os_error
from agent.simulation.drbd_activity import ActivityLog
from agent.simulation.drbd_generation import JUST_CREATED, Generation
from agent.simulation.drbd_state import (
    PRIMARY,
    Failure,
    State,
    connected,
    disk_rank,
    lost_contact,
)

if TYPE_CHECKING:
    from agent.simulation.drbd_kernel import Kernel
    from agent.simulation.drbd_link import Session
    from agent.simulation.lvm import LogicalVolume

EMEDIUMTYPE = 124
KIB = 1024


@dataclass
class Net:
    """A configured connection: its options and both ends."""

    options: dict[str, str]
    local: tuple[str, int]
    remote: tuple[str, int]
    discard_my_data: bool = False

    def value(self, name: str) -> str:
        return drbd_options.value(self.options, drbd_options.NET, name)


@dataclass
class Counters:
    """Sectors of 512 bytes since the device was attached or connected; /proc/drbd and drbdsetup show KiB."""

    sent: int = 0
    received: int = 0
    written: int = 0
    read: int = 0
    al_writes: int = 0


class Volume:
    """The device /dev/drbdN of one host. Implements `devices.BlockDevice`."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.host = kernel.host
        self.name = name
        self.minor: int | None = None
        self.state = State()
        self.net: Net | None = None
        self.disk_options: dict[str, str] = {}
        self.resource_options: dict[str, str] = {}
        self.backing: LogicalVolume | None = None
        self.metadata: md.Metadata | None = None
        self.block = md.SuperBlock()
        self.bitmap: md.Bitmap | None = None
        self.session: Session | None = None
        self.counters = Counters()
        self.dumped: tuple[tuple[object, ...], str] | None = None  # `drbd_events.dump`, with what it was made of
        self.listed: tuple[tuple[object, ...], str] | None = None  # the same of /proc/drbd
        self.known_size = 0  # bytes; also what the peer said while there is no disk here
        self.opens = {"r": 0, "w": 0}
        self.writing: list[tuple[int, int]] = []  # (offset, length) of what is not acknowledged yet
        self.attached_as = "Diskless"  # the disk's own claim while it is Negotiating
        self.exposed = 0  # identifier of the data that was last shown to whoever has the device open
        self.new_uuid_due = False
        self.peer_known = Generation()  # the peer's identifiers when it told of them last
        self.transient = False  # a state change with the peer is under way
        self.log_of_activity = ActivityLog(self)

    # --- state ----------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        return f"/dev/drbd{self.minor}"

    @property
    def size(self) -> int:
        return self.known_size

    @property
    def fencing(self) -> str:
        return drbd_options.value(self.disk_options, drbd_options.DISK, "fencing")

    @property
    def disk(self) -> str:
        """The disk's state, or what it claims to be while the peers negotiate."""
        return self.attached_as if self.state.disk == "Negotiating" else self.state.disk

    @property
    def primary(self) -> bool:
        return self.state.role == PRIMARY

    def log(self, text: str) -> None:
        self.host.log(f"block drbd{self.minor}: {text}")

    def tell(self, event: drbd_events.Event) -> None:
        self.kernel.tell(event, self.name)

    def change(self, **values: str | bool) -> None:
        """Change the state: events, metadata flags, the monitor, whoever waits."""
        before = replace(self.state)
        different = self.state.changed(**values) | self._data_lost_or_found(before)
        if not different:
            return
        state = self.state
        assert self.backing is not None or state.disk in {"Diskless", "Failed"}, f"{self.path}: {state} without a disk"
        if {"role", "suspended_fencing", "suspended_user", "suspended_no_data"} & different:
            self.tell(drbd_events.resource(self, "change"))
        if self.net is not None and (before.connection != state.connection or "peer_role" in different):
            self.tell(drbd_events.connection(self, "change"))
        if "disk" in different:
            self.tell(drbd_events.device(self, "change"))
        peer_device = (before.replication, before.peer_disk, before.resync_suspended)
        if self.net is not None and peer_device != (state.replication, state.peer_disk, state.resync_suspended):
            self.tell(drbd_events.peer_device(self, "change"))
        if "role" in different:
            self.host.truth.role(self.name, self.host.name, self.primary)
        if disk_rank(state.disk) >= disk_rank("Consistent"):
            self.exposed = self.block.generation.masked.current
        if lost_contact(before.peer_disk, state.peer_disk):
            self._peer_data_lost()
        self._flags_to_disk()
        self.kernel.host.simulation.changed.notify()

    def _data_lost_or_found(self, before: State) -> set[str]:
        """on-no-data-accessible suspend-io: IO waits from the moment in which no data is left. What thaws it is a
        connection (`peer_back`), or a disk that turns out to be good."""
        policy = self.resource_options.get("on-no-data-accessible")
        if policy == "suspend-io" and self.state.no_data and not before.no_data:
            return self.state.changed(suspended_no_data=True)
        attached = before.disk in {"Attaching", "Negotiating"} and self.state.disk == "UpToDate"
        return self.state.changed(suspended_no_data=False) if attached else set()

    def _flags_to_disk(self) -> None:
        state = self.state
        flags = self.block.flags & (md.CRASHED_PRIMARY | md.FULL_SYNC)
        for flag, on in (
            (md.PRIMARY, self.primary),
            (md.CONNECTED, connected(state.cs)),
            (md.CONSISTENT, disk_rank(state.disk) > disk_rank("Inconsistent")),
            (md.WAS_UP_TO_DATE, disk_rank(state.disk) > disk_rank("Outdated")),
            (md.PEER_OUTDATED, state.peer_disk in {"Inconsistent", "Outdated"}),
        ):
            flags |= flag if on else 0
        if connected(state.cs) and state.disk == state.peer_disk == "UpToDate":
            flags &= ~md.CRASHED_PRIMARY
        if self.metadata is not None and disk_rank(state.disk) >= disk_rank("Inconsistent"):
            self.save(flags=flags)

    def save(self, *, flags: int | None = None, generation: Generation | None = None, agreed_size: int = -1) -> None:
        """Change the super block, on disk when something is different."""
        block = self.block
        new = replace(
            block,
            flags=block.flags if flags is None else flags,
            generation=block.generation if generation is None else generation,
            agreed_size=block.agreed_size if agreed_size < 0 else agreed_size,
            peer_bio=md.PEER_BIO if connected(self.state.cs) else block.peer_bio,
        )
        if new != block:
            self.block = new
            if self.metadata is not None:
                self.guarded(lambda metadata: metadata.write(new))

    def new_current_uuid(self) -> None:
        """Data of a new generation is about to be written here without the peer."""
        bit = 1 if self.primary else 0
        uuid = self.kernel.random_uuid() & ~1 | bit
        self.save(generation=self.block.generation.with_new_current(uuid))
        self.exposed = uuid & ~1
        self.log(f"new current UUID {uuid:016X}:{self.block.generation.bitmap:016X}")

    def _peer_data_lost(self) -> None:
        """What is written from now on, here or by a diskless peer, the peer's disk will lack."""
        used = PRIMARY in {self.state.role, self.state.peer_role}
        if used and self.state.disk == "UpToDate" and self.block.generation.bitmap == 0:
            if self.state.suspended_fencing:
                self.new_uuid_due = True  # nothing is written until the fence handler has answered
            else:
                self.new_current_uuid()

    def thaw(self) -> None:
        """The peer is known to be outdated, or there is nothing to fence it for: IO goes on, if there is data."""
        self.new_uuid_due = False
        self.change(suspended_fencing=False)

    def peer_back(self) -> None:
        """A connection: whatever waited for one goes on."""
        self.thaw()
        self.change(suspended_no_data=False)

    def set_role_bit(self, primary: bool) -> None:
        generation = self.block.generation
        self.save(generation=replace(generation, current=generation.current & ~1 | primary))

    # --- disk -----------------------------------------------------------------------------------------------------

    def attach(self, backing: LogicalVolume, metadata: md.Metadata, options: dict[str, str]) -> None:
        """drbdsetup attach. Raises Failure."""
        if self.state.disk != "Diskless":
            raise Failure(124)
        if backing.claimed_by is not None:
            raise Failure(114)
        try:
            block = metadata.read().taken_up()
            if not block.flag(md.AL_CLEAN) or block.magic != md.MAGIC_08:
                raise Failure(165)
            bitmap = metadata.read_bitmap()
        except md.NoMetadata:
            raise Failure(119) from None
        except OSError:
            raise Failure(118) from None
        if block.agreed_size > metadata.usable:
            raise Failure(111)
        if self.primary and not connected(self.state.cs) and self.exposed != block.generation.masked.current:
            raise Failure(150)
        backing.claim(self.name)
        if metadata.volume is not backing:
            metadata.volume.claim(self.name)
        self.backing, self.metadata, self.block, self.bitmap = backing, metadata, block, bitmap
        self.disk_options = dict(options)
        self.counters = Counters()
        self.known_size = block.agreed_size or metadata.usable
        if connected(self.state.cs) and self.session is not None and (peer := self.session.peer(self)).known_size:
            self.known_size = min(self.known_size, peer.known_size)
        self.change(disk="Attaching")
        if block.flag(md.PRIMARY):
            self.block = replace(block, flags=block.flags | md.CRASHED_PRIMARY)
        if not block.agreed_size:
            self.counters.al_writes = 8  # the activity log is made for the new size
            bitmap.set(0, self.known_size // md.BLOCK)
            self.guarded(lambda area: area.write_bitmap(bitmap))
            self.save(agreed_size=self.known_size)
        if self.backing is None:
            raise Failure(118)  # an error at the first access
        self.bitmap.blocks = min(bitmap.blocks, self.known_size // md.BLOCK)
        self.state.al_suspended = bitmap.count == bitmap.blocks and not connected(self.state.cs)
        self.attached_as = self._disk_after_attach(block)
        # With a peer there, the handshake says what the disk is worth
        self.change(disk="Negotiating" if connected(self.state.cs) else self.attached_as)

    def _disk_after_attach(self, block: md.SuperBlock) -> str:
        if not block.flag(md.CONSISTENT):
            return "Inconsistent"
        if not block.flag(md.WAS_UP_TO_DATE):
            return "Outdated"
        return "UpToDate" if self.fencing == "dont-care" or block.flag(md.PEER_OUTDATED) else "Consistent"

    def detach(self) -> None:
        """Let go of the disk, its metadata clean."""
        if self.state.disk == "Diskless":
            return
        if self.metadata is not None:
            self.log_of_activity.clear()
            self.save(flags=self.block.flags & ~md.PRIMARY)
        self.change(disk="Failed")
        self._release_disk()
        self.change(disk="Diskless")

    def _release_disk(self) -> None:
        for volume in {self.backing, self.metadata.volume if self.metadata else None}:
            if volume is not None:
                volume.release()
        self.backing = self.metadata = self.bitmap = None

    def disk_failed(self) -> None:
        """on-io-error: detach (the default) or pass_on."""
        if self.state.disk in {"Diskless", "Failed"}:
            return
        self.log(f"disk( {self.state.disk} -> Failed ) ")
        self.host.truth.note(self.host.name, f"{self.name}: disk error")
        if drbd_options.value(self.disk_options, drbd_options.DISK, "on-io-error") == "pass_on":
            self.change(disk="Inconsistent")
            return
        self.change(disk="Failed")
        self._release_disk()
        self.change(disk="Diskless")
        if self.session is not None:
            self.session.disk_lost(self)

    def guarded(self, action: Callable[[md.Metadata], None]) -> None:
        """Write metadata; an error of the disk is handled as the kernel does."""
        try:
            if self.metadata is not None:
                action(self.metadata)
        except OSError:
            self.disk_failed()

    def mark(self, offset: int, length: int, *, out_of_sync: bool) -> None:
        """Set the bits of every block that is touched, or clear those of blocks that are covered whole."""
        if self.bitmap is None or self.metadata is None:
            return
        first, last = offset // md.BLOCK, -(-(offset + length) // md.BLOCK)
        if not out_of_sync:
            first, last = -(-offset // md.BLOCK), (offset + length) // md.BLOCK
        self.mark_blocks(first, last, out_of_sync=out_of_sync)

    def mark_blocks(self, first: int, last: int, *, out_of_sync: bool) -> None:
        bitmap = self.bitmap
        if bitmap is not None and (parts := bitmap.set(first, last, out_of_sync)):
            self.guarded(lambda area: area.write_bitmap(bitmap, parts))

    def grow(self, size: int, *, clean: bool) -> None:
        """Take a new size: the metadata moves to the new end of the backing device."""
        assert self.backing is not None
        assert self.metadata is not None
        assert self.bitmap is not None
        old, bits = self.bitmap.blocks, self.bitmap.dump()
        metadata = md.Metadata(self.metadata.volume, self.backing.size, internal=self.metadata.internal)
        bitmap = md.Bitmap(size // md.BLOCK)
        bitmap.load(bits.ljust(-(-bitmap.blocks // 8), b"\0"))
        if not clean:
            bitmap.set(old, bitmap.blocks)
        self.metadata, self.bitmap, self.known_size = metadata, bitmap, size
        self.block = replace(self.block, agreed_size=size)
        self.log_of_activity.write()
        self.guarded(lambda area: area.write(self.block))
        self.write_bitmap()
        self.tell(drbd_events.device(self, "change"))

    def write_bitmap(self) -> None:
        bitmap = self.bitmap
        if bitmap is not None:
            self.guarded(lambda area: area.write_bitmap(bitmap))

    @property
    def out_of_sync(self) -> int:
        """KiB."""
        return self.bitmap.count * (md.BLOCK // KIB) if self.bitmap is not None else 0

    # --- as a block device ----------------------------------------------------------------------------------------

    def opened(self, mode: str) -> None:
        """The kernel's drbd_open(): only a Primary can be opened."""
        if not self.primary:
            raise os_error(errno.EROFS if mode == "w" else EMEDIUMTYPE, self.path)
        self.opens[mode] += 1

    def closed(self, mode: str) -> None:
        self.opens[mode] -= 1
        self.host.simulation.changed.notify()

    @property
    def in_use(self) -> bool:
        return any(self.opens.values())

    async def read(self, offset: int, length: int) -> bytes:
        from agent.simulation import drbd_io

        return await drbd_io.read(self, offset, length)

    async def write(self, offset: int, data: bytes) -> None:
        from agent.simulation import drbd_io

        await drbd_io.write(self, offset, data)

    # --- power ----------------------------------------------------------------------------------------------------

    def power_lost(self) -> None:
        """Memory is gone. What the disk holds stays as it is, also "Primary" in the super block."""
        if self.primary:
            self.host.truth.role(self.name, self.host.name, False)
        for volume in {self.backing, self.metadata.volume if self.metadata else None}:
            if volume is not None:
                volume.claimed_by = None

    @property
    def fresh(self) -> bool:
        return self.block.generation.masked.current == JUST_CREATED
