"""The bytes of a live migration: xl's messages and header, libxl's stream version 2, libxc's image version 3.

Layout as in Xen's docs/specs/libxl-migration-stream.pandoc and libxc-migration-stream.pandoc. Headers tell the truth
(every page of the guest is counted, round by round); a page whose contents the simulation does not keep has the type
XALLOC, which carries no bytes, so that a guest of gigabytes moves as kilobytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BANNER = b"xl migration receiver ready, send binary domain data.\n"
READY = b"domain received, ready to unpause\0"
GO = b"domain is yours, you are cleared to unpause\0"
REPORT = b"my copy unpause results are as follows\0"

XL_MAGIC = b"Xen saved domain, xl format\n \0 \r"
XL_BYTE_ORDER = 0x01020304
XL_JSON, XL_STREAM_V2 = 1, 2
LIBXL_IDENT, LIBXL_VERSION = 0x4C6962786C466D74, 2
LIBXL_END, LIBXL_LIBXC_CONTEXT = 0, 1
LIBXC_ID, LIBXC_VERSION = 0x58454E46, 3

END, PAGE_DATA, PV_INFO, PV_P2M_FRAMES, PV_VCPU_BASIC, PV_VCPU_EXTENDED = 0, 1, 2, 3, 4, 5
SHARED_INFO, TSC_INFO, HVM_CONTEXT, HVM_PARAMS, STATIC_DATA_END = 7, 8, 9, 0xA, 0x10
CPUID_POLICY, MSR_POLICY = 0x11, 0x12
RECORD_NAMES = {PAGE_DATA: "Page data"}

PAGE = 4096
PAGES_PER_MIB = 256
BATCH = 1024  # pages in one PAGE_DATA record at most
NOTAB, XALLOC = 0x0, 0xE  # page types: with contents, and allocated without
PFN_MASK = (1 << 52) - 1
STATE_MAGIC = b"XTGUEST\0"


class StreamError(Exception):
    """Bytes that are not what the format asks for; the text is libxc's or xl's."""


@dataclass(frozen=True, slots=True)
class GuestState:
    """What the simulated guest has in memory: it must arrive whole, or the guest's records show it.

    counter: the last record the guest knows to be on its disk; pending: the one it was writing when it was
    suspended, 0 = none; ticks: how often it ran; boot: the start it belongs to (16 bytes).
    """

    counter: int
    pending: int
    ticks: int
    boot: bytes

    def page(self) -> bytes:
        body = STATE_MAGIC + struct.pack("<QQQ16s", self.counter, self.pending, self.ticks, self.boot)
        return body.ljust(PAGE, b"\0")

    @classmethod
    def from_page(cls, page: bytes) -> GuestState:
        if not page.startswith(STATE_MAGIC):
            raise StreamError("the guest's memory did not arrive")
        return cls(*struct.unpack_from("<QQQ16s", page, len(STATE_MAGIC)))


def xl_header(config: bytes) -> bytes:
    """xl's save file header with the domain's configuration as JSON (with its trailing NUL) as optional data."""
    optional = struct.pack("<I", len(config)) + config
    return XL_MAGIC + struct.pack("<IIII", XL_BYTE_ORDER, XL_JSON | XL_STREAM_V2, 0, len(optional)) + optional


def parse_xl_header(header: bytes) -> tuple[int, int, int]:
    """(mandatory flags, optional flags, length of the optional data) of the first 48 bytes."""
    if header[:32] != XL_MAGIC:
        raise StreamError("File has wrong magic number - corrupt or for a different tool?")
    order, mandatory, optional, length = struct.unpack("<IIII", header[32:48])
    if order != XL_BYTE_ORDER:
        raise StreamError("File has wrong byte order")
    return mandatory, optional, length


def libxl_header() -> bytes:
    return struct.pack(">QII", LIBXL_IDENT, LIBXL_VERSION, 0)


def record(kind: int, body: bytes = b"") -> bytes:
    """A record of either stream: type, length, body, padding to eight bytes."""
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def image_header(paravirtual: bool, xen_minor: int) -> bytes:
    """libxc's image header and domain header; a PVH guest is of the type HVM here."""
    return struct.pack(">QIIHxxxxxx", (1 << 64) - 1, LIBXC_ID, LIBXC_VERSION, 0) + struct.pack(
        "<IHxxII", 1 if paravirtual else 2, 12, 4, xen_minor
    )


def parse_image_header(header: bytes) -> tuple[bool, str]:
    """(paravirtual, "4.17") of the 40 bytes of both headers."""
    marker, identity, version, _ = struct.unpack(">QIIHxxxxxx", header[:24])
    if (marker, identity) != ((1 << 64) - 1, LIBXC_ID):
        raise StreamError("Invalid marker: not a domain image")
    if version not in (2, LIBXC_VERSION):
        raise StreamError(f"Invalid Version: Expected 2 or 3, Got {version}")
    kind, _, major, minor = struct.unpack("<IHxxII", header[24:40])
    return kind == 1, f"{major}.{minor}"


def static_records(paravirtual: bool) -> bytes:
    head = record(PV_INFO, bytes([8, 4, 0, 0, 0, 0, 0, 0])) if paravirtual else b""
    return head + record(CPUID_POLICY, bytes(648)) + record(MSR_POLICY, bytes(32)) + record(STATIC_DATA_END)


def p2m_frames(pages: int) -> bytes:
    frames = -(-pages * 8 // PAGE)
    body = struct.pack("<II", 0, pages - 1) + struct.pack(f"<{frames}Q", *range(frames))
    return record(PV_P2M_FRAMES, body)


def page_data(pfns: Sequence[int], contents: Mapping[int, bytes]) -> bytes:
    """One PAGE_DATA record of at most `BATCH` pages; pages that are not in `contents` go as XALLOC."""
    entries = [(XALLOC << 60 | pfn) if pfn not in contents else pfn for pfn in pfns]
    body = struct.pack("<II", len(pfns), 0) + struct.pack(f"<{len(pfns)}Q", *entries)
    return record(PAGE_DATA, body + b"".join(contents[pfn] for pfn in pfns if pfn in contents))


def parse_page_data(body: bytes) -> tuple[list[int], dict[int, bytes]]:
    """(page numbers, contents of those that carry any)."""
    (count,) = struct.unpack_from("<I", body)
    if count == 0 or len(body) < 8 + 8 * count:
        raise StreamError(f"PAGE_DATA record truncated: length {len(body)}, min {8 + 8 * max(1, count)}")
    entries = struct.unpack_from(f"<{count}Q", body, 8)
    contents, position = {}, 8 + 8 * count
    for entry in entries:
        kind = entry >> 60
        if kind in (0xD, XALLOC, 0xF):
            continue
        if position + PAGE > len(body):
            raise StreamError("PAGE_DATA record wrong size")
        contents[entry & PFN_MASK] = body[position : position + PAGE]
        position += PAGE
    return [entry & PFN_MASK for entry in entries], contents


def tail_records(paravirtual: bool) -> bytes:
    """What follows the memory: time, processors, and the end of libxc's image."""
    if paravirtual:
        processors = record(PV_VCPU_BASIC, bytes(5176)) + record(PV_VCPU_EXTENDED, bytes(72))
        return record(TSC_INFO, bytes(24)) + record(SHARED_INFO, bytes(PAGE)) + processors + record(END)
    parameters = struct.pack("<II", 1, 0) + struct.pack("<QQ", 1, 0xFEFFC)
    return record(TSC_INFO, bytes(24)) + record(HVM_PARAMS, parameters) + record(HVM_CONTEXT, bytes(4096)) + record(END)
