"""Migration streams of the documented layout, for tests: xl header, libxl v2, libxc v3, permission to go."""

from __future__ import annotations

import struct

from agent.migration.stream import GO, XL_MAGIC

PAGE = 4096
NO_DATA = 0xD << 60  # page type XTAB: listed, but no page follows


def record(kind: int, body: bytes = b"") -> bytes:
    return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)


def pages(numbers: list[int], *, empty: frozenset[int] = frozenset(), fill: bytes = b"\xa5") -> bytes:
    listed = [number | (NO_DATA if number in empty else 0) for number in numbers]
    data = b"".join(fill * PAGE for number in numbers if number not in empty)
    return record(1, struct.pack("<II", len(numbers), 0) + struct.pack(f"<{len(numbers)}Q", *listed) + data)


def stream(
    rounds: list[list[list[int]]],
    *,
    total: int,
    config: bytes = b'{"c_info": {}}',
    fill: bytes = b"\xa5",
    go: bool = True,
) -> bytes:
    """A whole stream: `rounds` are lists of batches, a batch is the page numbers of one PAGE_DATA record."""
    parts = [
        XL_MAGIC,
        struct.pack("<IIII", 0x01020304, 3, 0, len(config)),
        config,
        b"LibxlFmt",
        struct.pack(">II", 2, 0),
        record(1),  # LIBXC_CONTEXT
        b"\xff" * 8,
        struct.pack(">IIHHI", 0x58454E46, 3, 0, 0, 0),
        struct.pack("<IHHII", 1, 12, 0, 4, 17),  # domain header: x86 PV, page shift, Xen 4.17
        record(2, b"\x08\x04" + b"\0" * 6),  # X86_PV_INFO
        record(0x11, b"\0" * 648),
        record(0x12, b"\0" * 32),
        record(0x10),  # STATIC_DATA_END
        record(3, struct.pack("<II", 0, total - 1) + b"\0" * 8 * ((total + 511) // 512)),
    ]
    parts += [pages(batch, fill=fill) for one_round in rounds for batch in one_round]
    parts += [
        record(8, b"\0" * 24),  # X86_TSC_INFO
        record(7, b"\0" * PAGE),  # SHARED_INFO
        record(4, b"\0" * 5176),  # X86_PV_VCPU_BASIC
        record(5, b"\0" * 72),
        record(0),  # libxc END
        record(0),  # libxl END
    ]
    return b"".join(parts) + (GO if go else b"")
