"""What passes through the pipe between `xl migrate` and `xl migrate-receive`, read from its headers only.

Towards the receiver: xl's header and configuration, a libxl stream, inside it a libxc stream with the guest's memory,
then xl's permission to go. Towards the sender: a banner and two fixed messages (tools/xl/xl_migrate.c; the layouts
are in Xen's docs/specs/libxl-migration-stream.pandoc and libxc-migration-stream.pandoc).

    xl      magic of 32 bytes, byteorder:u32 mandatory:u32 optional:u32 length:u32, then length bytes
    libxl   "LibxlFmt" version:u32be options:u32be, records of type:u32 length:u32 body, padded to 8:
            END = 0, LIBXC_CONTEXT = 1 (a libxc stream follows), ...
    libxc   ff*8 "XENF" version:u32be options:u16be ..., domain header of 16, records as libxl's:
            END = 0, PAGE_DATA = 1 (count:u32 reserved:u32 pfn:u64 * count, pages),
            X86_PV_P2M_FRAMES = 3 (start_pfn:u32 end_pfn:u32 ...), ...

Precopy rounds have no marker. Within a round the page frame numbers only grow: a smaller one begins the next round.

The relay imports this module and must start at once: no dataclasses, no pydantic here.
"""

from __future__ import annotations

import struct
from collections.abc import Generator

BANNER = b"xl migration receiver ready, send binary domain data.\n"
READY = b"domain received, ready to unpause\0"
GO = b"domain is yours, you are cleared to unpause\0"
REPORT = b"my copy unpause results are as follows\0"

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
LIBXL_MAGIC = b"LibxlFmt"
LIBXC_MARKER = b"\xff" * 8
LIBXC_ID = 0x58454E46  # "XENF"

PAGE = 4096
LIBXL_END, LIBXL_LIBXC_CONTEXT = 0, 1
LIBXC_END, LIBXC_PAGE_DATA, LIBXC_PV_P2M_FRAMES = 0, 1, 3
# Records that come before the memory or between its rounds; any other one after a page: the guest stands still.
_NOT_TAIL = frozenset({LIBXC_PAGE_DATA, LIBXC_PV_P2M_FRAMES, 0x02, 0x0D, 0x10, 0x11, 0x12})
_PFN_MASK = (1 << 52) - 1  # the upper bits are the page's type
_CONFIG_LIMIT = 64 << 20  # a longer configuration means that the header was misread

_RECORD_LIMIT = 128 << 20  # libxc's own (REC_LENGTH_MAX)

_U32x2 = struct.Struct("<II")
_PFN = struct.Struct("<Q")


class Misread(ValueError):
    """The bytes are not what the layout says."""


class SenderStream:
    """Reads the bytes that `xl migrate` sends, in pieces of any size.

    `stage` goes on: "header" -> "precopy" -> "tail" (guest stopped, its registers follow) -> "sent" -> "go".
    What cannot be read never stops the stream: `problem` says why counting ended, and from then on `go` means that the
    permission's text passed somewhere, so it is never missed.
    """

    __slots__ = (
        "_buffer", "_last_pfn", "_reader", "_skip", "_window", "bytes", "pages", "pages_total", "problem", "round",
        "round_pages", "stage",
    )  # fmt: skip

    def __init__(self) -> None:
        self.stage = "header"
        self.bytes = 0
        self.round = 0
        self.round_pages = 0  # in this round
        self.pages = 0  # in all rounds
        self.pages_total = 0  # of the guest; 0 = the stream does not say (only PV has X86_PV_P2M_FRAMES)
        self.problem: str | None = None
        self._last_pfn = -1
        self._buffer = bytearray()
        self._skip = 0
        self._window = b""
        self._reader = self._read()
        next(self._reader)

    @property
    def go(self) -> bool:
        """The permission to go is among the bytes fed so far, or may be: then the target may own the guest."""
        return self.stage == "go"

    def page_in(self, count: int) -> int:
        """Where a page begins among the last `count` bytes fed, 0..4095: a record of pages ends with its last one."""
        return (count - len(self._buffer) + self._skip) % PAGE

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes, before they are passed on."""
        self.bytes += len(data)
        if self.problem is not None:
            self._search_go(bytes(data))
            return
        if self._skip:
            if len(data) <= self._skip:
                self._skip -= len(data)
                return
            data = memoryview(data)[self._skip :]
            self._skip = 0
        self._buffer += data
        try:
            self._reader.send(None)
        except (Misread, struct.error) as error:
            self.problem = str(error)
            self._search_go(bytes(self._buffer))
            self._buffer.clear()

    def _search_go(self, data: bytes) -> None:
        window = self._window + data
        if GO in window:
            self.stage = "go"
        self._window = window[-len(GO) + 1 :]

    # The reader is a generator: it takes what it needs from the buffer and yields when that is not there yet.

    def _take(self, count: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < count:
            yield
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _pass(self, count: int) -> Generator[None, None, None]:
        here = min(count, len(self._buffer))
        del self._buffer[:here]
        self._skip = count - here  # `feed` drops the rest without copying it
        if self._skip:
            yield

    def _read(self) -> Generator[None, None, None]:
        yield
        header = yield from self._take(48)
        if not header.startswith(XL_MAGIC):
            raise Misread(f"no xl header: {header[:32]!r}")
        (length,) = struct.unpack_from("<I", header, 44)
        if length > _CONFIG_LIMIT:
            raise Misread(f"a configuration of {length} bytes")
        yield from self._pass(length)
        header = yield from self._take(16)
        if not header.startswith(LIBXL_MAGIC):
            raise Misread(f"no libxl stream: {header[:8]!r}")
        while True:
            kind, length = _U32x2.unpack((yield from self._take(8)))
            if kind == LIBXL_LIBXC_CONTEXT:
                yield from self._read_libxc()
            elif kind == LIBXL_END:
                break
            else:
                yield from self._pass(_padded(length))
        self.stage = "sent"
        permission = yield from self._take(len(GO))
        if permission != GO:
            raise Misread(f"no permission to go after the stream: {permission!r}")
        self.stage = "go"
        while True:
            self._buffer.clear()
            yield

    def _read_libxc(self) -> Generator[None, None, None]:
        header = yield from self._take(24)
        if header[:8] != LIBXC_MARKER or struct.unpack_from(">I", header, 8)[0] != LIBXC_ID:
            raise Misread(f"no libxc stream: {header[:12]!r}")
        yield from self._take(16)
        while True:
            kind, length = _U32x2.unpack((yield from self._take(8)))
            if kind == LIBXC_PAGE_DATA:
                yield from self._read_pages(length)
            elif kind == LIBXC_PV_P2M_FRAMES and length >= 8:
                _, end = _U32x2.unpack((yield from self._take(8)))
                self.pages_total = end + 1
                yield from self._pass(_padded(length) - 8)
            else:
                if self.pages and kind not in _NOT_TAIL:
                    self.stage = "tail"
                yield from self._pass(_padded(length))
            if kind == LIBXC_END:
                return

    def _read_pages(self, length: int) -> Generator[None, None, None]:
        count, _ = _U32x2.unpack((yield from self._take(8)))
        if not count or 8 + 8 * count > length or length > _RECORD_LIMIT:
            raise Misread(f"{count} pages in a record of {length} bytes")
        first = last = _PFN.unpack((yield from self._take(8)))[0] & _PFN_MASK
        if count > 1:  # what is between them is never kept: it may be told in few bytes and be much
            yield from self._pass(8 * (count - 2))
            last = _PFN.unpack((yield from self._take(8)))[0] & _PFN_MASK
        if first <= self._last_pfn:
            self.round += 1
            self.round_pages = 0
        self._last_pfn = last
        self.round_pages += count
        self.pages += count
        self.stage = "precopy"
        yield from self._pass(_padded(length) - 8 - 8 * count)


class ReceiverStream:
    """Reads what `xl migrate-receive` sends back: banner, ready, report with its one byte of result.

    `report`: None until it passed; 0 = the target has the domain under its own name; else it could not, and says `GO`
    when its copy is destroyed. `problem`: text that is none of these, for a person.
    """

    __slots__ = ("_buffer", "banner", "bytes", "cleaned", "problem", "ready", "report")

    def __init__(self) -> None:
        self.banner = False
        self.ready = False
        self.report: int | None = None
        self.cleaned = False  # after a bad report: its copy is destroyed
        self.problem: str | None = None
        self.bytes = 0
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.bytes += len(data)
        self._buffer += data
        while self._buffer and self.problem is None and self._step():
            pass

    def _step(self) -> bool:
        expected = self._expected()
        if not expected or not expected.startswith(self._buffer[: len(expected)]):
            self.problem = repr(self._buffer[:200])
            return False
        length = len(expected) + (expected is REPORT)  # the report's result is a byte of its own
        if len(self._buffer) < length:
            return False
        if expected is BANNER:
            self.banner = True
        elif expected is READY:
            self.ready = True
        elif expected is REPORT:
            self.report = self._buffer[len(REPORT)]
        else:
            self.cleaned = True
        self._buffer = self._buffer[length:]
        return True

    def _expected(self) -> bytes:
        if not self.banner:
            return BANNER
        if not self.ready:
            return READY
        if self.report is None:
            return REPORT
        return b"" if self.report == 0 or self.cleaned else GO


def percent(stage: str, round_: int, round_pages: int, pages_total: int) -> float:
    """How far a transfer is, 0..100. The first round is nearly all of the work; each later one halves what is left."""
    if stage in ("sent", "go"):
        return 100.0
    if stage == "tail":
        return 99.0
    share = min(1.0, round_pages / pages_total) if pages_total else 0.0
    if round_ == 0:
        return round(90.0 * share, 1)
    return round(99.0 - 9.0 * 0.5**round_, 1)


def _padded(length: int) -> int:
    return (length + 7) & ~7
