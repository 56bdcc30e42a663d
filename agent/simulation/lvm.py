"""LVM of a simulated dom0: volume groups of fixed size, thick logical volumes that are sparse files.

State and device here, commands in `lvm_commands`. Groups and volumes are on disk: they outlive the power.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.simulation.devices import os_error
from agent.simulation.sparse import SparseFile, copy

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

EXTENT = 4 << 20
CHUNK = 4096  # of a snapshot
UUID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class LogicalVolume:
    """A block device backed by a sparse file."""

    def __init__(self, group: VolumeGroup, name: str, extents: int, uuid: str, host: SimulatedHost) -> None:
        self.group = group
        self.name = name
        self.uuid = uuid
        self.tags: list[str] = []
        self.opens = 0
        self.failed = False  # every access ends in EIO
        self.snapshots: list[Snapshot] = []  # of this volume
        self.claimed_by: str | None = None  # a DRBD resource has it exclusively
        self._host = host
        self.file = SparseFile(host.directory / group.name / uuid, extents * EXTENT)
        self.file.create(group.remains.pop() if group.remains else None)

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def extents(self) -> int:
        return self.size // EXTENT

    @property
    def path(self) -> str:
        return f"/dev/{self.group.name}/{self.name}"

    def opened(self, mode: str) -> None:
        self.opens += 1

    def closed(self, mode: str) -> None:
        self.opens -= 1

    def claim(self, owner: str) -> None:
        self.claimed_by = owner
        self.opened("w")

    def release(self) -> None:
        if self.claimed_by is not None:
            self.claimed_by = None
            self.closed("w")

    def check(self) -> None:
        """Raises OSError (EIO) when the disk is broken."""
        if self.failed or self.group.failed:
            raise os_error(errno.EIO, self.path)

    def read_now(self, offset: int, length: int) -> bytes:
        self.check()
        return self.file.read(offset, length)

    def write_now(self, offset: int, data: bytes) -> None:
        self.check()
        self.file.write(offset, data)
        for snapshot in self.snapshots:
            snapshot.keep(offset, len(data))

    async def read(self, offset: int, length: int) -> bytes:
        return self.read_now(offset, length)

    async def write(self, offset: int, data: bytes) -> None:
        self.write_now(offset, data)


class Snapshot(LogicalVolume):
    """A thick copy-on-write snapshot (lvmcreate(8), -s): as big as its origin, with room for so many changes.

    Its contents are copied at once, for that is cheap here; what a real one would have to keep is counted. What a
    resync of DRBD writes to the origin is not.
    """

    def __init__(self, origin: LogicalVolume, name: str, extents: int, uuid: str, host: SimulatedHost) -> None:
        super().__init__(origin.group, name, origin.extents, uuid, host)
        copy(origin.file, self.file, 0, origin.size)
        self.origin: LogicalVolume = origin
        self.room = extents
        self._kept: set[int] = set()
        origin.snapshots.append(self)

    @property
    def extents(self) -> int:
        return self.room

    @property
    def used(self) -> float:
        """Of its room, 0..1: a header, a block of exceptions for each 256 chunks, the chunks (dm-snap-persistent.c)."""
        if not self._kept:
            return 0.0
        areas = len(self._kept) // (CHUNK // 16) + 1
        return min(1.0, (1 + areas + len(self._kept)) * CHUNK / (self.room * EXTENT))

    @property
    def full(self) -> bool:
        """It is of no use any more; the origin is unharmed."""
        return self.used >= 1.0

    def keep(self, offset: int, length: int) -> None:
        if not self.full:
            self._kept.update(range(offset // CHUNK, -(-(offset + length) // CHUNK)))

    def check(self) -> None:
        super().check()
        if self.full:
            raise os_error(errno.EIO, self.path)

    def write_now(self, offset: int, data: bytes) -> None:
        super().write_now(offset, data)
        self.keep(offset, len(data))


@dataclass
class VolumeGroup:
    name: str
    extents: int
    uuid: str
    physical: str  # name of its one physical volume
    volumes: dict[str, LogicalVolume] = field(default_factory=dict)
    failed: bool = False  # the physical disk
    remains: list[Path] = field(default_factory=list)
    """What removed volumes leave on the disk: a thick volume made on the same extents begins with it."""

    @property
    def free(self) -> int:
        return self.extents - sum(volume.extents for volume in self.volumes.values())


class VolumeGroups:
    """All of a host's LVM."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self.groups: dict[str, VolumeGroup] = {}
        for number, (name, size) in enumerate(host.simulation.hardware.volume_groups):
            # One extent of the disk holds LVM's own metadata, as on a disk of whole MiB
            self.groups[name] = VolumeGroup(name, size // EXTENT, self._uuid(), f"/dev/vd{chr(ord('b') + number)}")

    def find(self, path: str) -> LogicalVolume | None:
        """By /dev/GROUP/NAME or /dev/mapper/GROUP-NAME (dashes doubled, as device-mapper does)."""
        parts = path.split("/")
        if len(parts) != 4 or parts[1] != "dev":
            return None
        if parts[2] == "mapper":
            for group in self.groups.values():
                for volume in group.volumes.values():
                    if parts[3] == f"{group.name.replace('-', '--')}-{volume.name.replace('-', '--')}":
                        return volume
            return None
        found = self.groups.get(parts[2])
        return found.volumes.get(parts[3]) if found else None

    def create(self, group: VolumeGroup, name: str, extents: int, tags: list[str]) -> LogicalVolume:
        volume = LogicalVolume(group, name, extents, self._uuid(), self._host)
        volume.tags = tags
        group.volumes[name] = volume
        self._host.simulation.changed.notify()
        return volume

    def create_snapshot(self, origin: LogicalVolume, name: str, extents: int) -> Snapshot:
        snapshot = Snapshot(origin, name, extents, self._uuid(), self._host)
        origin.group.volumes[name] = snapshot
        self._host.simulation.changed.notify()
        return snapshot

    def remove(self, volume: LogicalVolume) -> None:
        if isinstance(volume, Snapshot):
            volume.origin.snapshots.remove(volume)
        del volume.group.volumes[volume.name]
        volume.group.remains.append(volume.file.path)

    def rename(self, volume: LogicalVolume, name: str) -> None:
        del volume.group.volumes[volume.name]
        volume.name = name
        volume.group.volumes[name] = volume

    def power_off(self) -> None:
        for group in self.groups.values():
            for volume in group.volumes.values():
                volume.opens, volume.claimed_by = 0, None

    def _uuid(self) -> str:
        letters = "".join(self._host.simulation.random.choices(UUID_ALPHABET, k=32))
        return "-".join((letters[:6], *(letters[i : i + 4] for i in range(6, 26, 4)), letters[26:]))


def extents_of(size: int) -> int:
    """Extents that hold `size` bytes: LVM rounds up."""
    return math.ceil(size / EXTENT)
