"""Pages of zeros are told, not carried: the frames of a stream between the source's relay and the target's agent.

A guest has many pages that it never wrote, and xl sends each of them. Where both sides said in the first line and its
answer that they know it, both directions are cut into frames:

    length:u32be    how many bytes, 1 to 256 KiB; the highest bit has a meaning of its own
    bytes           so many, unless that bit is set

To the target that bit means pages of zeros, whole ones, at most 256 KiB. To the source it means that so many bytes of
the stream were written to the receiver, below 2 GiB: a few bytes may stand for much memory, and without that word the
source would stop its guest while the target still writes what was told long before. The relay is at most `WINDOW`
ahead.

The relay imports this module and must start at once: few imports here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PAGE = 4096
LONGEST = 256 << 10
WINDOW = 8 << 20  # bytes of the stream: more than is under way on 10 Gbit/s, and written in 50 ms by a slow receiver
TELL_EVERY = 1 << 20
_TOGETHER = 1024  # parts in one piece: frames may be of one byte

_BIT = 1 << 31
_Length = struct.Struct(">I")
_page = bytes(PAGE)
_many = memoryview(bytes(LONGEST))


class Misframed(ValueError):
    """The bytes are not frames."""


def pack(data: bytes, first: int) -> bytes:
    """All of `data`, at most LONGEST, in frames. `first`: where a page begins, 0..4095; none before is looked for."""
    parts: list[bytes | memoryview] = []
    view, done, at, last = memoryview(data), 0, first, len(data) - PAGE
    while at <= last:
        begin = at
        while at <= last and not data[at] and data[at : at + PAGE] == _page:
            at += PAGE
        if at > begin:
            if begin > done:
                parts += (_Length.pack(begin - done), view[done:begin])
            parts.append(_Length.pack(_BIT | (at - begin)))
            done = at
        at += PAGE  # the one that is not zeros
    if len(data) > done:
        parts += (_Length.pack(len(data) - done), view[done:])
    return b"".join(parts)


def words(data: bytes) -> bytes:
    """What the receiver says, at most LONGEST bytes, as a frame to the source."""
    return _Length.pack(len(data)) + data


def taken(count: int) -> bytes:
    """That so many more bytes were written to the receiver, at most 2**31 - 1, as a frame to the source."""
    return _Length.pack(_BIT | count)


class Frames:
    """Frames in pieces of any size: `(length, None)` for one with the highest bit, else its bytes as they come."""

    __slots__ = ("_carried", "_header")

    def __init__(self) -> None:
        self._header = b""
        self._carried = 0  # bytes of the present frame that are still to come

    @property
    def whole(self) -> bool:
        """No frame has begun that has not ended."""
        return not self._header and not self._carried

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, memoryview | None]]:
        """Views of `data`. Raises Misframed."""
        view = memoryview(data)
        while view:
            if self._carried:
                part = view[: self._carried]
                self._carried -= len(part)
                view = view[len(part) :]
                yield len(part), part
                continue
            missing = _Length.size - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) < _Length.size:
                return
            (value,) = _Length.unpack(self._header)
            length, self._header = value & ~_BIT, b""
            if not 0 < length <= LONGEST and not (value & _BIT and length):
                raise Misframed(f"a frame of {length} bytes: {value:#010x}")
            if value & _BIT:
                yield length, None
            else:
                self._carried = length


class Unpacker:
    """The stream again, of the frames to the target."""

    __slots__ = ("frames",)

    def __init__(self) -> None:
        self.frames = Frames()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """What `data` stands for, in pieces that are good until the next one is taken. Raises Misframed."""
        parts: list[memoryview] = []
        size = 0
        for length, part in self.frames.feed(data):
            if part is None and (length > LONGEST or length % PAGE):
                raise Misframed(f"{length} bytes of zeros, which are not pages")
            parts.append(_many[:length] if part is None else part)
            size += length
            if size >= LONGEST or len(parts) >= _TOGETHER:
                yield _joined(parts)
                parts, size = [], 0
        if parts:
            yield _joined(parts)


def _joined(parts: list[memoryview]) -> bytes | memoryview:
    return parts[0] if len(parts) == 1 else b"".join(parts)
