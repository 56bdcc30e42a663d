"""Pages of zeros told instead of carried: whatever is packed comes out again, pages of zeros cost nearly nothing."""

from __future__ import annotations

import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.migration import stream
from agent.migration.zeros import LONGEST, PAGE, Frames, Misframed, Unpacker, pack, taken, words

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=100),
        st.integers(1, 5).map(lambda pages: bytes(pages * PAGE)),
        st.integers(1, 3 * PAGE).map(bytes),
        st.integers(0, 255).map(lambda byte: bytes([byte]) * PAGE),
    ),
    max_size=12,
)


def unpacked(frames: bytes, cut: int) -> bytes:
    unpacker, out = Unpacker(), b""
    for at in range(0, len(frames), cut):
        for piece in unpacker.feed(memoryview(frames)[at : at + cut]):
            out += piece
    return out


@settings(deadline=None)
@given(PIECES, st.integers(0, PAGE - 1), st.integers(1, 10_000))
def test_what_is_packed_comes_out_again(pieces: list[bytes], first: int, cut: int) -> None:
    data = b"".join(pieces)[:LONGEST]
    assert unpacked(pack(data, first), cut) == data


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_are_unpacked_or_refused(frames: bytes, cut: int) -> None:
    unpacker, out = Unpacker(), 0
    with suppress(Misframed):
        for at in range(0, len(frames), cut):
            out += sum(len(piece) for piece in unpacker.feed(frames[at : at + cut]))
    assert out <= len(frames) // 4 * LONGEST


@pytest.mark.parametrize(
    "frame", [0, LONGEST + 1, 1 << 31, 1 << 31 | 1, 1 << 31 | PAGE - 1, 1 << 31 | LONGEST + PAGE, (1 << 32) - 1]
)
def test_a_frame_that_pack_never_makes_is_refused(frame: int) -> None:
    with pytest.raises(Misframed):
        list(Unpacker().feed(struct.pack(">I", frame)))


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=100), st.integers(1, (1 << 31) - 1))), st.integers(1, 50))
def test_what_the_target_says_is_told_from_what_it_took(said: list[bytes | int], cut: int) -> None:
    data = b"".join(taken(one) if isinstance(one, int) else words(one) for one in said)
    frames, spoken, took = Frames(), b"", 0
    for at in range(0, len(data), cut):
        for length, part in frames.feed(data[at : at + cut]):
            if part is None:
                took += length
            else:
                spoken += part
    assert frames.whole
    assert spoken == b"".join(one for one in said if isinstance(one, bytes))
    assert took == sum(one for one in said if isinstance(one, int))


def test_the_guests_memory_in_a_stream_is_found_wherever_the_pieces_end() -> None:
    """As `xl migrate` writes it: a header of its own before the pages of each record."""
    chance = random.Random(1)
    pages = [chance.choice((bytes(PAGE), chance.randbytes(PAGE))) for _ in range(3072)]
    written = bytearray(stream.XL_MAGIC + struct.pack("<IIII", 0x01020304, 3, 0, 8) + b"{}      ")
    written += stream.LIBXL_MAGIC + struct.pack(">II", 2, 0) + struct.pack("<II", stream.LIBXL_LIBXC_CONTEXT, 0)
    written += stream.LIBXC_MARKER + struct.pack(">II", stream.LIBXC_ID, 3) + bytes(8)
    written += struct.pack("<IHHII", 1, 12, 0, 4, 17)
    for begin in range(0, len(pages), 1024):
        length = 8 + 1024 * (8 + PAGE)
        written += struct.pack("<IIII", stream.LIBXC_PAGE_DATA, length, 1024, 0)
        written += struct.pack("<1024Q", *range(begin, begin + 1024)) + b"".join(pages[begin : begin + 1024])
    data, sender, frames = bytes(written), stream.SenderStream(), b""
    at = 0
    while at < len(data):
        piece = data[at : at + chance.randrange(1, 256 << 10)]
        at += len(piece)
        sender.feed(piece)
        frames += pack(piece, sender.page_in(len(piece)))
    assert (sender.problem, sender.pages) == (None, len(pages))
    assert unpacked(frames, 100_000) == data
    zeros = sum(page == bytes(PAGE) for page in pages)
    assert len(data) - len(frames) > 0.8 * zeros * PAGE
