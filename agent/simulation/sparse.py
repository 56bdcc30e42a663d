"""Sparse files as disks: what was never written takes no space, and copying it costs nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

CHUNK = 1 << 20
SECTOR = 512


class SparseFile:
    """A file of fixed size, opened for each access: thousands of volumes need no file descriptors."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def create(self, remains: Path | None = None) -> None:
        """All zeros, or what another file leaves behind (it is used up), with zeros after it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if remains is not None:
            remains.rename(self.path)
            os.truncate(self.path, self.size)
            return
        with open(self.path, "wb") as file:
            file.truncate(self.size)

    def resize(self, size: int) -> None:
        self.size = size
        os.truncate(self.path, size)

    def read(self, offset: int, length: int) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def write(self, offset: int, data: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Parts of start..end that were ever written: (start, end) in bytes, ascending."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            while start < end:
                try:
                    first = os.lseek(descriptor, start, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:  # a hole up to the end
                        return
                    raise
                if first >= end:
                    return
                last = min(end, os.lseek(descriptor, first, os.SEEK_HOLE))
                yield first, last
                start = last
        finally:
            os.close(descriptor)


def copy(source: SparseFile, target: SparseFile, start: int, end: int) -> None:
    """Make start..end of the target equal to the source's, touching only what was ever written on either."""
    position = start
    for first, last in source.data_ranges(start, end):
        _clear(target, position, first)
        for offset in range(first, last, CHUNK):
            target.write(offset, source.read(offset, min(CHUNK, last - offset)))
        position = last
    _clear(target, position, end)


def _clear(target: SparseFile, start: int, end: int) -> None:
    for first, last in list(target.data_ranges(start, end)):
        for offset in range(first, last, CHUNK):
            target.write(offset, bytes(min(CHUNK, last - offset)))


def first_difference(a: SparseFile, b: SparseFile, size: int, apart: Sequence[tuple[int, int]] = ()) -> int | None:
    """Offset of the first byte in 0..size that differs, or None.

    `apart`: ranges (offset, length) that may differ; a sector of 512 bytes that one touches is left out.
    """
    for first, last in sorted([*a.data_ranges(0, size), *b.data_ranges(0, size)]):
        for offset in range(first, last, CHUNK):
            length = min(CHUNK, last - offset)
            left, right = a.read(offset, length), b.read(offset, length)
            if left == right:
                continue
            for at in range(offset, offset + length, SECTOR):
                one, other = (part[at - offset : at - offset + SECTOR] for part in (left, right))
                if one != other and not any(at < begin + count and begin < at + SECTOR for begin, count in apart):
                    return at + next(i for i, (x, y) in enumerate(zip(one, other, strict=True)) if x != y)
    return None
