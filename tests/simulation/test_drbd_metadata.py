"""Metadata on disk: sizes of the man page, the bitmap under arbitrary changes, generations as real kernels compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from drbd_helpers import SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from agent.simulation import drbd_generation as gi
from agent.simulation.cluster import Simulation
from agent.simulation.drbd_generation import Generation
from agent.simulation.drbd_metadata import (
    AL_CLEAN,
    AL_EXTENT,
    BLOCK,
    Bitmap,
    Metadata,
    NoMetadata,
    SuperBlock,
    metadata_bytes,
    usable_bytes,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("device", "usable_kib"), [(64 * MIB, 65496), (512 * MIB, 524236), (1024 * MIB, 1048508), (1 << 40, 1073709020)]
)
def test_sizes_of_internal_metadata(device: int, usable_kib: int) -> None:
    assert usable_bytes(device) == usable_kib * 1024
    assert metadata_bytes(device) == device - usable_kib * 1024


async def test_create_read_and_log(tmp_path: Path) -> None:
    async with Simulation(tmp_path, clock="virtual") as simulation:
        group = simulation.hosts["mk1"].volume_groups.groups["vg0"]
        volume = simulation.hosts["mk1"].volume_groups.create(group, "a", 16, [])
        area = Metadata(volume, volume.size, internal=True)
        with pytest.raises(NoMetadata):
            area.read()
        area.create(7)
        assert area.read().get_gi() == "0000000000000004:" + "0000000000000000:" * 3 + "0:0:0:0:0:0:0"
        changed = SuperBlock(Generation(9, 8, (7, 6)), flags=0, agreed_size=area.usable, device_uuid=7)
        area.write(changed)
        assert Metadata(volume, volume.size, internal=True).read() == changed
        # What was in flight when the host died counts as different, in whole extents, and only once
        area.write_log((1, 3))
        area.apply_log()
        per_extent = AL_EXTENT // BLOCK
        bitmap = area.read_bitmap()
        assert list(bitmap.runs(0, bitmap.blocks)) == [(per_extent, 2 * per_extent), (3 * per_extent, 4 * per_extent)]
        assert area.read().flag(AL_CLEAN)
        assert area.read_log() == []
        area.wipe()
        with pytest.raises(NoMetadata):
            area.read()


ranges = st.tuples(st.integers(0, 70), st.integers(0, 70), st.booleans())


@given(st.lists(ranges, max_size=20), st.integers(0, 70), st.integers(0, 70))
def test_the_bitmap_is_a_set_of_blocks(changes: list[tuple[int, int, bool]], start: int, end: int) -> None:
    bitmap, model = Bitmap(70), set[int]()
    for first, last, value in changes:
        before = bitmap.dump()
        parts = bitmap.set(first, last, value)
        model = model | set(range(first, last)) if value else model - set(range(first, last))
        after = bitmap.dump()
        changed = {i for i in range(len(after)) if before[i] != after[i]}
        assert changed <= {i for part in parts for i in range(*part)}
        assert bitmap.count == len(model)
    assert {block for block in range(70) if bitmap.get(block)} == model
    assert [block for run in bitmap.runs(start, end) for block in range(*run)] == sorted(model & set(range(start, end)))
    assert all(first < last for first, last in bitmap.runs(start, end))
    assert bitmap.any(start, end) == bool(model & set(range(start, end)))
    other = Bitmap(70)
    other.load(bitmap.dump())
    assert other.count == bitmap.count


def handshakes() -> list[tuple[str, str, int, int, int]]:
    """(self, peer, flags of self, flags of peer, result) of every handshake that the sample hosts logged."""
    found = []
    for path in sorted(SAMPLES.glob("handover/*.txt")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if result := re.search(r"uuid_compare\(\)=(-?\d+) by rule", line):
                sides = [
                    re.search(r"(?:self|peer) ([0-9A-F:]{67}) bits:\d+ flags:(\d+)", lines[number - n]) for n in (2, 1)
                ]
                if sides[0] and sides[1]:
                    found.append((sides[0][1], sides[1][1], int(sides[0][2]), int(sides[1][2]), int(result[1])))
    return sorted(set(found))


def generation(text: str) -> Generation:
    current, bitmap, first, second = (int(word, 16) for word in text.split(":"))
    return Generation(current, bitmap, (first, second))


@pytest.mark.parametrize(("mine", "theirs", "my_flags", "their_flags", "result"), handshakes())
def test_real_handshakes_are_decided_alike(
    mine: str, theirs: str, my_flags: int, their_flags: int, result: int
) -> None:
    crashed = 2  # drbd_sync_handshake: flag of a crashed Primary
    decided = gi.compare(
        generation(mine),
        generation(theirs),
        own_crashed=bool(my_flags & crashed),
        peer_crashed=bool(their_flags & crashed),
    )
    assert decided == result


def test_real_handshakes_were_found() -> None:
    results = {result for *_, result in handshakes()}
    assert {gi.SAME, gi.SPLIT_BRAIN} <= results
    assert len(handshakes()) >= 10


@given(st.lists(st.sampled_from(["here", "there", "resync", "interrupted"]), max_size=25))
def test_whatever_happens_both_sides_decide_the_same(events: list[str]) -> None:
    """A life of two replicas: data is written on one alone, they connect, a resync ends or does not.

    They never both want to be the source, and who has what the other lacks is never overwritten silently.
    """
    numbers = iter(range(0x10, 0x10000, 0x10))
    sides = [Generation(next(numbers)), Generation()]
    news = [set[int](), set[int]()]  # what each has that the other lacks
    unfinished: int | None = 0  # source of a resync that did not end; at first nothing was ever copied
    for event in events:
        if event in {"here", "there"}:
            alone = 0 if event == "here" else 1
            if unfinished not in {None, alone}:
                continue  # the target of an unfinished resync is never used
            if sides[alone].bitmap == 0:
                sides[alone] = sides[alone].with_new_current(next(numbers))
            news[alone].add(sides[alone].current)
            continue
        verdict, other = gi.compare(*sides), gi.compare(*reversed(sides))
        if verdict in {gi.SAME, gi.SPLIT_BRAIN, gi.SPLIT_BRAIN_FULL, gi.UNRELATED}:
            assert other == verdict
            assert verdict == gi.SAME or (news[0] and news[1])
            continue
        assert (verdict > 0) != (other > 0)
        source = 0 if verdict > 0 else 1
        assert not news[1 - source]
        told = sides[source]
        ours, theirs = gi.begin_resync(sides[source], sides[1 - source], next(numbers))
        unfinished = source
        if event == "resync":
            ours, theirs = gi.end_resync(ours, theirs, told)
            assert ours == theirs
            news, unfinished = [set(), set()], None
        sides[source], sides[1 - source] = ours, theirs
