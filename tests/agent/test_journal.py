"""The journal: what was acknowledged is there again, whatever byte the crash came at; damage is never believed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import journal as journal_module
from agent.journal import Journal, JournalCorrupt, JournalError, Section
from agent.journal_mirror import Mirror


def reopened(directory: Path, node: str = "mk1") -> dict[tuple[str, str], dict[str, object]]:
    journal = Journal.open(directory, node)
    try:
        sections: tuple[Section, ...] = ("host", "volumes", "vms", "operations")
        return {(section, key): value for section in sections for key, value in journal.items(section)}
    finally:
        journal.close()


def test_values_are_there_again(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "mk1")
    journal.put("volumes", "a", {"level": "Up", "n": 1})
    journal.put("volumes", "b", {"level": "Reserved"})
    journal.put("host", "term", {"term": 3})
    journal.put("volumes", "a", {"level": "Up", "n": 2})
    journal.delete("volumes", "b")
    journal.close()
    assert reopened(tmp_path) == {("volumes", "a"): {"level": "Up", "n": 2}, ("host", "term"): {"term": 3}}


def test_values_are_copies(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "mk1")
    value = {"list": [1]}
    journal.put("vms", "x", value)
    value["list"].append(2)
    found = journal.get("vms", "x")
    assert found == {"list": [1]}
    found["list"].append(3)
    assert journal.get("vms", "x") == {"list": [1]}
    journal.close()


Step = tuple[str, dict[str, int] | None]
steps = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.none() | st.dictionaries(st.text(max_size=3), st.integers(0, 9))),
    max_size=12,
)


def applied(done: list[Step]) -> dict[tuple[str, str], dict[str, int]]:
    values: dict[tuple[str, str], dict[str, int]] = {}
    for key, value in done:
        if value is None:
            values.pop(("vms", key), None)
        else:
            values["vms", key] = value
    return values


@settings(max_examples=30, deadline=None)
@given(steps=steps, torn=st.integers(0, 10_000))
def test_cut_at_any_byte_leaves_the_state_after_one_of_the_last_two_steps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], torn: int
) -> None:
    """The file cut anywhere in its last record reads as before that record; cut at its end, as after it."""
    directory = tmp_path_factory.mktemp("journal")
    path = directory / "journal.log"
    journal = Journal.open(directory, "mk1")
    start = previous = path.stat().st_size
    done: list[Step] = []
    before: list[Step] = []
    for key, value in steps:
        size = path.stat().st_size
        if value is None:
            journal.delete("vms", key)
        else:
            journal.put("vms", key, value)
        if path.stat().st_size != size:
            start, before = size, list(done)
        done.append((key, value))
    journal.close()
    end = path.stat().st_size
    if end == previous:
        return  # nothing was written
    cut = start + torn % (end - start)
    os.truncate(path, cut)
    assert reopened(directory) == applied(before)
    journal = Journal.open(directory, "mk1")  # and goes on from there
    journal.put("vms", "z", {"after": 1})
    journal.close()
    assert reopened(directory) == {**applied(before), ("vms", "z"): {"after": 1}}


def filled(directory: Path) -> Path:
    journal = Journal.open(directory, "mk1")
    for number in range(5):
        journal.put("vms", f"vm{number}", {"epoch": number})
    journal.close()
    return directory / "journal.log"


def test_every_damaged_byte_before_the_last_record_refuses_the_start(tmp_path: Path) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, len(data) - 1) + 1  # begins where the record before it has ended
    for position in range(last):
        damaged = bytearray(data)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(JournalCorrupt) as caught:
            Journal.open(tmp_path, "mk1")
        assert str(path) in str(caught.value)
        assert "put none back" in str(caught.value)


def test_a_damaged_last_record_is_a_torn_one(tmp_path: Path) -> None:
    path = filled(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:-10] + bytes(9) + b"\n")
    assert ("vms", "vm4") not in reopened(tmp_path)
    assert reopened(tmp_path)["vms", "vm3"] == {"epoch": 3}


def test_a_missing_record_in_the_middle_refuses_the_start(tmp_path: Path) -> None:
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(JournalCorrupt, match="record 4 is missing"):
        Journal.open(tmp_path, "mk1")


def test_a_missing_beginning_refuses_the_start(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(JournalCorrupt):
        Journal.open(tmp_path, "mk1")


@pytest.mark.parametrize("left", [b"", bytes(4096)])
def test_an_emptied_file_refuses_the_start(tmp_path: Path, left: bytes) -> None:
    filled(tmp_path).write_bytes(left)
    with pytest.raises(JournalCorrupt, match="first record is damaged"):
        Journal.open(tmp_path, "mk1")


def test_a_journal_of_another_host_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(JournalError, match="belongs to mk1, this host is mk2"):
        Journal.open(tmp_path, "mk2")


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "mk1")
    with pytest.raises(JournalError, match="in use by another"):
        Journal.open(tmp_path, "mk1")
    journal.kill()
    Journal.open(tmp_path, "mk1").close()


def test_it_is_compacted_and_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_ABOVE", 4000)
    journal = Journal.open(tmp_path, "mk1")
    journal.put("host", "term", {"term": 7})
    for number in range(500):
        journal.put("vms", f"vm{number % 3}", {"epoch": number})
    journal.close()
    assert (tmp_path / "journal.log").stat().st_size < 5000
    assert reopened(tmp_path) == {
        ("host", "term"): {"term": 7},
        ("vms", "vm0"): {"epoch": 498},
        ("vms", "vm1"): {"epoch": 499},
        ("vms", "vm2"): {"epoch": 497},
    }


def test_a_crash_in_compaction_leaves_the_old_file(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.with_suffix(".new").write_bytes(b"half a file")
    assert len(reopened(tmp_path)) == 5


def test_after_a_failed_write_nothing_is_accepted_until_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path, "mk1")
    journal.put("vms", "a", {"epoch": 1})
    real = os.fdatasync

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.put("vms", "a", {"epoch": 2})
    assert journal.get("vms", "a") == {"epoch": 1}
    monkeypatch.setattr(os, "fdatasync", real)
    for value in ({"epoch": 2}, {"epoch": 1}):
        with pytest.raises(JournalError, match="restart the agent"):
            journal.put("vms", "a", value)
    journal.close()
    # The record may or may not have reached the disk; both are a whole journal.
    assert reopened(tmp_path)["vms", "a"] in ({"epoch": 1}, {"epoch": 2})


def test_a_killed_journal_writes_nothing_more(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "mk1")
    journal.put("vms", "a", {"epoch": 1})
    before = (tmp_path / "journal.log").read_bytes()
    journal.kill()
    with pytest.raises(asyncio.CancelledError):
        journal.put("vms", "a", {"epoch": 1})
    with pytest.raises(asyncio.CancelledError):
        journal.delete("vms", "a")
    assert (tmp_path / "journal.log").read_bytes() == before


def test_put_is_synced_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path, "mk1")
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append((tmp_path / "journal.log").stat().st_size))
    journal.put("vms", "a", {"epoch": 1})
    assert synced == [(tmp_path / "journal.log").stat().st_size]
    journal.close()


def again(directory: Path, run: Path) -> int:
    """Opened as after kill -9; how many records it has written so far is the VM's epoch."""
    journal = Journal.open(directory, "mk1", run)
    found = journal.get("vms", "a") or {"epoch": 0}
    journal.put("vms", "a", {"epoch": found["epoch"] + 1})
    journal.kill()
    return int(found["epoch"])


@pytest.mark.parametrize("compact_above", [1, 1 << 20])
def test_an_older_journal_of_the_same_boot_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact_above: int
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_ABOVE", compact_above)
    state, run = tmp_path / "state", tmp_path / "run"
    copies: list[bytes] = []
    for number in range(20):
        assert again(state, run) == number
        copies.append((state / "journal.log").read_bytes())
    for copy in copies[:-1]:
        (state / "journal.log").write_bytes(copy)
        with pytest.raises(JournalCorrupt, match="not the newest"):
            Journal.open(state, "mk1", run)
    (state / "journal.log").write_bytes(copies[-1])
    assert again(state, run) == 20
    (state / "journal.log").write_bytes(copies[3])
    for file in run.iterdir():  # the host boots: the agent starts nothing by its journal alone
        file.unlink()
    assert again(state, run) == 4


def test_another_journal_is_not_believed_and_an_empty_one_is_a_beginning(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    again(state, run)
    before = (state / "journal.log").read_bytes()
    (state / "journal.log").unlink()  # moved away, as the message says
    for number in range(3):
        assert again(state, run) == number
    (state / "journal.log").write_bytes(before)
    with pytest.raises(JournalCorrupt, match="not the newest"):
        Journal.open(state, "mk1", run)


@pytest.mark.parametrize("compact_above", [1, 1 << 20])
def test_a_crash_between_the_journal_and_its_mirror_makes_nothing_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compact_above: int
) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_ABOVE", compact_above)
    state, run = tmp_path / "state", tmp_path / "run"
    for number in range(6):
        assert again(state, run) == 2 * number
        with monkeypatch.context() as crash:
            crash.setattr(Mirror, "write", lambda self, mark: None)
            assert again(state, run) == 2 * number + 1


@pytest.mark.parametrize("left", [b"", b"00000000 [", bytes(200)])
def test_a_mirror_that_cannot_be_read_stops_nobody(tmp_path: Path, left: bytes) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    again(state, run)
    (mirror,) = run.iterdir()
    mirror.write_bytes(left)
    assert again(state, run) == 1
    mirror.unlink()
    run.rmdir()
    run.write_text("no folder")
    assert again(state, run) == 2


def test_a_journal_of_before_there_were_ids_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    header = journal_module._encode(1, "journal", "header", {"format": 1, "node": "mk1"})
    (state / "journal.log").write_bytes(header)
    for number in range(2):
        assert again(state, run) == number
    monkeypatch.setattr(journal_module, "COMPACT_ABOVE", 1)
    for number in range(2, 12):
        assert again(state, run) == number
