"""The stream's reader: any cutting into pieces gives the same answer, and the permission to go is never missed."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.migration.stream import (
    BANNER,
    GO,
    LIBXC_PAGE_DATA,
    READY,
    REPORT,
    ReceiverStream,
    SenderStream,
    percent,
)
from tests.agent_migration.streams import pages, record, stream

ROUNDS = [[list(range(0, 8)), list(range(8, 16))], [[1, 5, 9]], [[2, 3]], [[2]], [[0, 15]]]
WHOLE = stream(ROUNDS, total=16)
EXPECTED = {"stage": "go", "round": 4, "pages": 24, "pages_total": 16, "round_pages": 2, "problem": None}


def seen(reader: SenderStream) -> dict[str, object]:
    return {name: getattr(reader, name) for name in EXPECTED}


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % len(data) for place in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.integers(min_value=0), max_size=30))
def test_any_cutting_reads_the_same(at: list[int]) -> None:
    reader = SenderStream()
    for piece in cut(WHOLE, at):
        reader.feed(piece)
    assert seen(reader) == EXPECTED
    assert reader.bytes == len(WHOLE)


@given(st.integers(min_value=1, max_value=len(GO)))
def test_go_is_seen_with_its_last_byte_and_not_before(missing: int) -> None:
    reader = SenderStream()
    reader.feed(WHOLE[:-missing])
    assert not reader.go
    assert reader.stage == "sent"
    reader.feed(WHOLE[-missing:])
    assert reader.go


def test_stages_in_their_order() -> None:
    reader, stages = SenderStream(), ["header"]
    for offset in range(0, len(WHOLE), 8):
        reader.feed(WHOLE[offset : offset + 8])
        if reader.stage != stages[-1]:
            stages.append(reader.stage)
    assert stages == ["header", "precopy", "tail", "sent", "go"]


def test_rounds_and_pages_while_they_pass() -> None:
    reader = SenderStream()
    end = WHOLE.index(pages([1, 5, 9])) + 8 + 8 + 24
    reader.feed(WHOLE[:end])
    assert (reader.round, reader.round_pages, reader.pages, reader.stage) == (1, 3, 19, "precopy")


def test_pages_without_data_count_and_do_not_shift_the_reading() -> None:
    body = pages(list(range(10)), empty=frozenset({3, 4}))
    data = stream([], total=16).replace(record(8, b"\0" * 24), body + record(8, b"\0" * 24))
    reader = SenderStream()
    reader.feed(data)
    assert (reader.pages, reader.stage, reader.problem) == (10, "go", None)


def test_a_guest_page_that_holds_the_permission_is_not_the_permission() -> None:
    fill = (GO * 100)[:4096]
    data = stream([[[0, 1, 2]]], total=16, go=False)
    data = data.replace(b"\xa5" * 4096, fill)
    reader = SenderStream()
    reader.feed(data)
    assert (reader.stage, reader.problem) == ("sent", None)


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 64,
        WHOLE.replace(b"LibxlFmt", b"Elsewise"),
        WHOLE.replace(b"\xff" * 8 + b"XENF", b"\xff" * 8 + b"FNEX"),
        WHOLE.replace(pages([2, 3])[:16], record(1)[:4] + b"\x08\0\0\0" + b"\xff" * 8),
        WHOLE[: -len(GO)] + b"?" * len(GO),
    ],
    ids=["no xl header", "no libxl header", "no libxc header", "absurd page count", "something else instead of go"],
)
@given(at=st.lists(st.integers(min_value=0), max_size=6), window=st.integers(min_value=1, max_value=100))
def test_a_stream_not_understood_still_shows_the_permission(data: bytes, at: list[int], window: int) -> None:
    reader = SenderStream()
    for piece in cut(data.removesuffix(GO), at):
        reader.feed(piece)
    assert reader.problem
    assert not reader.go
    for offset in range(0, len(GO), window):
        reader.feed(GO[offset : offset + window])
    assert reader.go


@given(st.binary(max_size=400), st.lists(st.integers(min_value=0), max_size=6))
def test_no_bytes_break_the_reader(data: bytes, at: list[int]) -> None:
    reader = SenderStream()
    for piece in cut(data, at) if data else [data]:
        reader.feed(piece)
    assert reader.bytes == len(data)


TALK = BANNER + READY + REPORT + b"\0"


@given(st.lists(st.integers(min_value=0), max_size=12), st.integers(min_value=0, max_value=255))
def test_the_receivers_messages_in_any_pieces(at: list[int], result: int) -> None:
    reader = ReceiverStream()
    for piece in cut(TALK[:-1] + bytes([result]), at):
        reader.feed(piece)
    assert (reader.banner, reader.ready, reader.report, reader.problem) == (True, True, result, None)


@given(st.integers(min_value=1, max_value=len(REPORT) + 1))
def test_a_report_counts_only_with_its_result(missing: int) -> None:
    reader = ReceiverStream()
    reader.feed(TALK[:-missing])
    assert reader.report is None
    assert reader.ready


def test_a_bad_report_and_the_word_that_the_copy_is_destroyed() -> None:
    reader = ReceiverStream()
    reader.feed(TALK[:-1] + b"\3" + GO[:10])
    assert (reader.report, reader.cleaned) == (3, False)
    reader.feed(GO[10:])
    assert (reader.report, reader.cleaned, reader.problem) == (3, True, None)


@pytest.mark.parametrize("talk", [b"sh: xl: not found\n", BANNER + b"oops", BANNER + REPORT, TALK + b"more"])
def test_other_words_of_the_receiver_are_kept_for_a_person(talk: bytes) -> None:
    reader = ReceiverStream()
    reader.feed(talk)
    assert reader.problem is not None


def test_percent_grows_along_a_real_course() -> None:
    """The course of samples/handover/06-progproxy-stream-progress: 32768 pages, rounds of 424, 299, 294, 40, 232."""
    course = [("precopy", 0, pages_) for pages_ in range(0, 32769, 1024)]
    course += [("precopy", n + 1, pages_) for n, pages_ in enumerate([424, 299, 294, 40, 232])]
    course += [("tail", 5, 232), ("sent", 5, 232), ("go", 5, 232)]
    values = [percent(stage, round_, pages_, 32768) for stage, round_, pages_ in course]
    assert values == sorted(values)
    assert values[0] == 0.0
    assert values[32] == 90.0
    assert values[-1] == 100.0


def test_percent_without_the_guests_size_stays_low() -> None:
    assert percent("precopy", 0, 5000, 0) == 0.0


def test_a_stream_that_claims_much_memory_gets_none() -> None:
    """Zeros are told, not carried: a few bytes would otherwise have the reader keep as much as they claim."""
    begin = WHOLE[: WHOLE.index(pages([0, 1, 2, 3, 4, 5, 6, 7]))]
    claim = struct.pack("<IIII", LIBXC_PAGE_DATA, 128 << 20, (128 << 20) // 8 - 1, 0)
    piece, reader, gone = bytes(256 << 10), SenderStream(), SenderStream()
    reader.feed(begin + claim)
    gone.feed(WHOLE)
    tracemalloc.start()
    for _ in range(256):  # 64 MiB
        reader.feed(piece)
        gone.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (reader.problem, gone.problem) == (None, None)
    assert peak < 1 << 20


def test_a_record_longer_than_libxc_ever_writes_is_a_misread_stream() -> None:
    reader = SenderStream()
    reader.feed(WHOLE[: WHOLE.index(pages([0, 1, 2, 3, 4, 5, 6, 7]))])
    reader.feed(struct.pack("<IIII", LIBXC_PAGE_DATA, (128 << 20) + 8, 1, 0) + bytes(8))
    assert reader.problem == f"1 pages in a record of {(128 << 20) + 8} bytes"
