"""DRBD's metadata on disk: super block, activity log and bitmap, where drbdmeta(8) puts them (format v08).

Internal metadata ends the backing device: bitmap, 32 KiB of activity log, 4 KiB of super block. External (flexible)
metadata begins its device: super block, activity log, bitmap.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agent.simulation.drbd_generation import Generation
from agent.simulation.lvm import LogicalVolume

BLOCK = 4096  # one bit of the bitmap stands for one block
SECTOR = 512
AL_BYTES = 32 << 10
SUPER_BYTES = 4096
MAGIC_84_UNCLEAN = 0x8374026C
MAGIC_08 = 0x8374026B
AL_EXTENT = 4 << 20  # one entry of the activity log
AL_EXTENTS = 1237  # as many at most (drbd.conf(5), al-extents)
AL_EXTENTS_NEW = 257  # what drbdmeta writes; the kernel writes its own number
PEER_BIO_UNKNOWN, PEER_BIO = 4096, 1 << 20  # bytes of a request: to a peer that was never seen, to one of DRBD 8.4
LOG_BYTES = 8192  # holds them as plain numbers: simpler than the kernel's transactions, and no tool reads them
_SUPER = struct.Struct(">Q4QQQIIIiIiIIII")
_NOT_ZERO, _NOT_FULL = re.compile(rb"[^\x00]"), re.compile(rb"[^\xff]")

CONSISTENT, PRIMARY, CONNECTED, FULL_SYNC, WAS_UP_TO_DATE, PEER_OUTDATED, CRASHED_PRIMARY = (1 << n for n in range(7))
AL_CLEAN = 1 << 7


def bitmap_bytes(size: int) -> int:
    """Of the bitmap's area for a device of that many bytes: 64-bit words, then whole 4 KiB blocks."""
    bits = -(-size // BLOCK)
    words = -(-bits // 64) * 8
    return -(-words // BLOCK) * BLOCK


def metadata_bytes(size: int) -> int:
    """Of internal metadata on a device of `size` bytes."""
    return bitmap_bytes(size) + AL_BYTES + SUPER_BYTES


def usable_bytes(size: int) -> int:
    """What internal metadata leaves for data."""
    return size - metadata_bytes(size)


class NoMetadata(Exception):
    """No valid meta data found."""


@dataclass(frozen=True)
class SuperBlock:
    generation: Generation = field(default_factory=Generation)
    flags: int = AL_CLEAN
    agreed_size: int = 0  # bytes that both sides agreed on last ("la-size"), 0: never connected
    device_uuid: int = 0
    magic: int = MAGIC_08
    al_extents: int = AL_EXTENTS_NEW
    peer_bio: int = 0

    def flag(self, flag: int) -> bool:
        return bool(self.flags & flag)

    def taken_up(self) -> SuperBlock:
        """As the kernel writes it from now on."""
        return replace(self, al_extents=AL_EXTENTS, peer_bio=max(self.peer_bio, PEER_BIO_UNKNOWN))

    def get_gi(self) -> str:
        """As `drbdadm get-gi` prints it."""
        generation = self.generation
        words = [f"{uuid:016X}" for uuid in (generation.current, generation.bitmap, *generation.history)]
        bits = [CONSISTENT, WAS_UP_TO_DATE, PRIMARY, CONNECTED, FULL_SYNC, PEER_OUTDATED, CRASHED_PRIMARY]
        return ":".join([*words, *(str(int(self.flag(bit))) for bit in bits)])


def _ones(data: bytes | bytearray) -> int:
    return int.from_bytes(data, "little").bit_count()


def dump_words(data: bytes) -> str:
    """A bitmap as `drbdmeta dump-md` prints it: 64-bit words, four a line; longer runs of the same only counted."""
    words = [data[at : at + 4] for at in range(0, len(data), 4)]
    lines, at = [], 0
    while at < len(words):
        if at % 64 == 0:
            lines.append(f"   # at {128 * at}kB")
        end = at
        while end < len(words) and words[end] == words[at]:
            end += 1
        if (count := (end - at) // 8 * 8) > 8:
            word = words[at][::-1].hex().upper()
            lines.append(f"    {count // 2} times 0x{word}{word};")
        else:
            count = 8
            line = (data[byte : byte + 8][::-1].hex().upper() for byte in range(4 * at, 4 * (at + 8), 8))
            lines.append("    " + " ".join(f"0x{word};" for word in line))
        at += count
    return "".join(line + "\n" for line in lines)


class Bitmap:
    """Which blocks differ, or may differ, from the peer's. Nothing set takes no memory."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.count = 0
        self._bits: bytearray | None = None

    def load(self, data: bytes) -> None:
        self._bits = bytearray(data[: -(-self.blocks // 8)]) if any(data) else None
        self.count = _ones(self._bits) if self._bits else 0

    def dump(self) -> bytes:
        return bytes(self._bits) if self._bits is not None else bytes(-(-self.blocks // 8))

    def get(self, block: int) -> bool:
        return self._bits is not None and bool(self._bits[block >> 3] >> (block & 7) & 1)

    def any(self, first: int, last: int) -> bool:
        """Whether any of the blocks first..last (last excluded) is set."""
        return self._bits is not None and next(self.runs(first, last), None) is not None

    def set(self, first: int, last: int, value: bool = True) -> list[tuple[int, int]]:
        """Set or clear blocks; returns the bytes of the bitmap that changed: (first, last excluded)."""
        if first >= last or (self._bits is None and not value):
            return []
        if self._bits is None:
            self._bits = bytearray(-(-self.blocks // 8))
        bits, begin, end = self._bits, first >> 3, (last + 7) >> 3
        old = bits[begin:end]
        whole_first, whole_last = -(-first // 8), last // 8
        if whole_first < whole_last:
            bits[whole_first:whole_last] = (b"\xff" if value else b"\x00") * (whole_last - whole_first)
            ragged = [*range(first, whole_first * 8), *range(whole_last * 8, last)]
        else:
            ragged = list(range(first, last))
        for block in ragged:
            mask = 1 << (block & 7)
            bits[block >> 3] = bits[block >> 3] | mask if value else bits[block >> 3] & ~mask
        new = bits[begin:end]
        if new == old:
            return []
        self.count += _ones(new) - _ones(old)
        if self.count == 0:
            self._bits = None
        return [(begin, end)]

    def merge(self, other: Bitmap) -> None:
        """Blocks that either side knows to differ."""
        for first, last in list(other.runs(0, min(self.blocks, other.blocks))):
            self.set(first, last)

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Runs of set blocks in start..end: (first, last excluded), ascending."""
        while self._bits is not None and start < end:
            first = self._next(start, end, True)
            if first >= end:
                return
            last = self._next(first, end, False)
            yield first, last
            start = last

    def _next(self, start: int, end: int, value: bool) -> int:
        """First block at or after `start` whose bit is `value`, or `end`."""
        bits = self._bits
        if bits is None:
            return end if value else start
        while start < end and start & 7:
            if bool(bits[start >> 3] >> (start & 7) & 1) == value:
                return start
            start += 1
        if start >= end:
            return end
        found = (_NOT_ZERO if value else _NOT_FULL).search(bits, start >> 3)
        if found is None:
            return end
        start = found.start() << 3
        while start < end and bool(bits[start >> 3] >> (start & 7) & 1) != value:
            start += 1
        return min(start, end)


class Metadata:
    """Metadata on a device: where its parts are, and reading and writing them."""

    def __init__(self, volume: LogicalVolume, data_size: int, *, internal: bool) -> None:
        """`volume` holds the metadata; `data_size` is the backing device's size in bytes."""
        self.volume = volume
        self.internal = internal
        self.size = data_size if internal else volume.size
        if internal:
            self._super = (data_size // SUPER_BYTES - 1) * SUPER_BYTES
            self._log = self._super - AL_BYTES
            self._bits = self._log - bitmap_bytes(data_size)
            self.usable = self._bits
        else:
            self._super, self._log, self._bits = 0, SUPER_BYTES, SUPER_BYTES + AL_BYTES
            self.usable = data_size // BLOCK * BLOCK

    @property
    def places(self) -> str:
        """Where its parts begin, as drbdmeta says it."""
        return f"md_offset {self._super}\nal_offset {self._log}\nbm_offset {self._bits}\n"

    @property
    def begin(self) -> int:
        """Byte offset of the super block."""
        return self._super

    @property
    def sectors(self) -> int:
        """What the metadata takes: external (flexible) the whole device."""
        return (self.size - self._bits if self.internal else self.size) // SECTOR

    def read(self) -> SuperBlock:
        """Raises NoMetadata, OSError."""
        fields = _SUPER.unpack_from(self.volume.read_now(self._super, _SUPER.size))
        agreed, current, bitmap, first, second, device_uuid, _, flags, magic, _, _, extents = fields[:12]
        if magic not in {MAGIC_08, MAGIC_84_UNCLEAN}:
            raise NoMetadata
        generation = Generation(current, bitmap, (first, second))
        return SuperBlock(generation, flags, agreed * SECTOR, device_uuid, magic, extents, fields[14])

    def write(self, block: SuperBlock) -> None:
        generation = block.generation
        packed = _SUPER.pack(
            block.agreed_size // SECTOR,
            generation.current,
            generation.bitmap,
            *generation.history,
            block.device_uuid,
            0,
            block.flags,
            block.magic,
            (self.size - self._bits if self.internal else self._bits + bitmap_bytes(self.usable)) // SECTOR,
            (self._log - self._super) // SECTOR,
            block.al_extents,
            (self._bits - self._super) // SECTOR,
            BLOCK,
            block.peer_bio,
            1,
            8,
        )
        self.volume.write_now(self._super, packed.ljust(SUPER_BYTES, b"\0"))

    def create(self, device_uuid: int) -> None:
        """What create-md writes: a generation of its own, no bit set, an empty activity log."""
        self.volume.write_now(self._bits, bytes(bitmap_bytes(self.usable)))
        self.write_log(())
        self.write(SuperBlock(device_uuid=device_uuid))

    def move(self, to: Metadata) -> None:
        """To the end of a volume that has grown."""
        block, log = self.read(), self.read_log()
        bits = self.volume.read_now(self._bits, bitmap_bytes(self.size))
        to.write_log(tuple(log))
        to.volume.write_now(to._bits, bits)
        to.write(block)
        if self._super < to._bits:
            self.wipe()

    def wipe(self) -> None:
        self.volume.write_now(self._super, bytes(SUPER_BYTES))

    def read_bitmap(self) -> Bitmap:
        bitmap = Bitmap(self.usable // BLOCK)
        bitmap.load(self.volume.read_now(self._bits, -(-bitmap.blocks // 8)))
        return bitmap

    def write_bitmap(self, bitmap: Bitmap, parts: list[tuple[int, int]] | None = None) -> None:
        """Bytes first..last of the bitmap, or all of it."""
        data = bitmap.dump()
        for first, last in parts if parts is not None else [(0, len(data))]:
            self.volume.write_now(self._bits + first, data[first:last])

    def read_log(self) -> list[int]:
        """Extents of 4 MiB that were being written to."""
        count, *extents = struct.unpack(">2048I", self.volume.read_now(self._log, LOG_BYTES))
        return extents[:count]

    def write_log(self, extents: tuple[int, ...]) -> None:
        self.volume.write_now(
            self._log, struct.pack(f">{1 + len(extents)}I", len(extents), *extents).ljust(4096, b"\0")
        )

    def apply_log(self) -> None:
        """What `drbdmeta apply-al` does: blocks that may have been in flight at a crash count as different."""
        block = self.read()
        if (extents := self.read_log()) and not block.flag(AL_CLEAN):
            bitmap = self.read_bitmap()
            per_extent = AL_EXTENT // BLOCK
            for extent in extents:
                bitmap.set(extent * per_extent, min((extent + 1) * per_extent, bitmap.blocks))
            self.write_bitmap(bitmap)
            self.write_log(())
        self.write(replace(block, flags=block.flags | AL_CLEAN, magic=MAGIC_08))
