"""The agent's memory: an append-only log, on disk before `put` returns, that a crash at any byte leaves readable.

Each line is `<crc32 of the JSON, 8 hex digits> <its length, 8 hex digits> <JSON>\\n`, the JSON being `{"n": sequence,
"s": section, "k": key, "v": value or null}`. The first record names format and node. What a crash can leave is one torn
record at the end: it was never acknowledged and is cut off. Anything else that does not check (a damaged record with
something behind it, a gap in the sequence, a file that is older than what was written in this boot) means that promises
are lost: `Journal.open` raises JournalCorrupt and the agent does not start.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from agent.journal_mirror import Mark, Mirror

Section = Literal["host", "volumes", "vms", "operations", "gone", "fences"]

FORMAT: Final = 1
COMPACT_ABOVE: Final = 1 << 20  # bytes of log; and more than four times what the live records need


class JournalError(Exception):
    """The journal cannot be opened or written; the agent must not act. The message says which file and why."""


class JournalCorrupt(JournalError):
    """Records that were acknowledged cannot be read any more: a person has to decide."""


class Journal:
    """`get`, `put`, `delete`, `items` by section and key; values are JSON objects.

    `put` and `delete` raise JournalError when the disk refuses; from then on nothing is accepted (after a failed fsync
    nobody knows what is on disk), and the agent's restart reads again what really is.
    """

    def __init__(self, path: Path, lock: int, mirror: Mirror) -> None:
        self._path = path
        self._lock = lock
        self._mirror = mirror
        self._id, self._rewrites = "", 0
        self._fd = -1
        self._end = 0  # offset after the last good record
        self._live = 0  # bytes that the live records take
        self._sequence = 0
        self._values: dict[tuple[str, str], tuple[dict[str, Any], int]] = {}
        self._broken: str | None = None
        self._killed = False

    # --- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, directory: Path, node: str, run_dir: Path | None = None) -> Journal:
        """Read `directory/journal.log` (made when missing). Raises JournalError, JournalCorrupt.

        `run_dir`: `agent.host.Host.run_dir`, where it is noticed that an older file was put in its place.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "journal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise JournalError(f"{directory} is in use by another xentandem-agent; stop it first") from None
        journal = cls(directory / "journal.log", lock, Mirror(run_dir, directory))
        try:
            journal._load(node)
        except BaseException:
            journal.close()
            raise
        return journal

    def close(self) -> None:
        """Release files and lock. Everything that `put` acknowledged is on disk already."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1
        self._mirror.close()

    def kill(self) -> None:
        """What kill -9 leaves: no write happens any more; whoever tries is cancelled."""
        self._killed = True
        self.close()

    # --- values -------------------------------------------------------------------------------------------------

    def get(self, section: Section, key: str) -> dict[str, Any] | None:
        """A copy of the value; None when there is none."""
        found = self._values.get((section, key))
        return None if found is None else json.loads(json.dumps(found[0]))

    def peek(self, section: Section, key: str) -> dict[str, Any] | None:
        """The value itself, which nobody may change; the same object as long as nothing else was put."""
        found = self._values.get((section, key))
        return None if found is None else found[0]

    def keys(self, section: Section) -> list[str]:
        """In the order of their first put."""
        return [key for one_section, key in self._values if one_section == section]

    def items(self, section: Section) -> Iterator[tuple[str, dict[str, Any]]]:
        """Copies of all values of a section, in the order of their first put."""
        for one_section, key in list(self._values):
            if one_section == section and (value := self.get(section, key)) is not None:
                yield key, value

    def put(self, section: Section, key: str, value: dict[str, Any]) -> None:
        """On disk when this returns. An equal value is not written again."""
        found = self._values.get((section, key))
        if found is not None and found[0] == value and self._broken is None and not self._killed:
            return
        size = self._append(section, key, value)
        self._live += size - (found[1] if found else 0)
        self._values[section, key] = (json.loads(json.dumps(value)), size)
        self._compact_if_worth_it()

    def delete(self, section: Section, key: str) -> None:
        """On disk when this returns; no error when there is none."""
        if (section, key) not in self._values:
            return
        self._append(section, key, None)
        self._live -= self._values.pop((section, key))[1]
        self._compact_if_worth_it()

    # --- the file -----------------------------------------------------------------------------------------------

    def _load(self, node: str) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._rewrite(node)
            return
        good = self._replay(data)
        header = self._values.pop(("journal", "header"), None)
        if header is None:  # the file is put in place whole: not even a crash leaves it without its first record
            raise JournalCorrupt(f"{self._path}: its first record is damaged. {_HELP}")
        if header[0].get("format") != FORMAT:
            raise JournalError(f"{self._path} has format {header[0].get('format')}; this agent reads {FORMAT}")
        if header[0].get("node") != node:
            raise JournalError(
                f"{self._path} belongs to {header[0].get('node')}, this host is {node}; never copy a journal"
            )
        self._values["journal", "header"] = header
        self._id, self._rewrites = str(header[0].get("id", "")), int(header[0].get("rewrites", 0))
        known = self._mirror.read()
        if known is not None and not known.reached_by(self._mark):
            raise JournalCorrupt(
                f"{self._path} is not the newest: since this host booted it had come to record {known.sequence}"
                f" (rewritten {known.rewrites} times, id {known.journal}), this file ends at record {self._sequence}"
                f" (rewritten {self._rewrites} times, id {self._id}). Was an older copy put in its place? {_HELP}"
            )
        self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._end = good
        if good != len(data):
            os.ftruncate(self._fd, good)
            os.fsync(self._fd)
        self._mirror.write(self._mark)

    @property
    def _mark(self) -> Mark:
        return Mark(self._id, self._rewrites, self._sequence)

    def _replay(self, data: bytes) -> int:
        """Apply every good record; the offset after the last one. Raises JournalCorrupt."""
        offset = 0
        while offset < len(data):
            record, end = _decode(data, offset)
            if record is None:
                if end >= len(data) and data.find(b"\n", offset, len(data) - 1) < 0:
                    return offset
                raise JournalCorrupt(
                    f"{self._path}: the record at byte {offset} is damaged and others follow it. {_HELP}"
                )
            if self._sequence and record["n"] != self._sequence + 1:
                raise JournalCorrupt(
                    f"{self._path}: record {self._sequence + 1} is missing before byte {offset}"
                    f" (found {record['n']}). {_HELP}"
                )
            self._sequence = record["n"]
            key, size = (record["s"], record["k"]), end - offset
            old = self._values.pop(key, None) if record["v"] is None else self._values.get(key)
            self._live -= old[1] if old else 0
            if record["v"] is not None:
                self._values[key] = (record["v"], size)
                self._live += size
            offset = end
        return offset

    def _append(self, section: str, key: str, value: dict[str, Any] | None) -> int:
        if self._killed:
            raise asyncio.CancelledError("the agent was killed")
        if self._broken is not None:
            raise JournalError(self._broken)
        line = _encode(self._sequence + 1, section, key, value)
        try:
            if (written := os.pwrite(self._fd, line, self._end)) != len(line):
                raise OSError(f"short write, {written} of {len(line)} bytes")
            os.fdatasync(self._fd)
        except OSError as error:
            self._broken = f"{self._path} cannot be written: {error}. Free or replace the disk, then restart the agent"
            raise JournalError(self._broken) from error
        self._sequence += 1
        self._end += len(line)
        self._mirror.write(self._mark)
        return len(line)

    def _compact_if_worth_it(self) -> None:
        if self._end > COMPACT_ABOVE and self._end > 4 * self._live:
            try:
                self._rewrite(str(self._values["journal", "header"][0]["node"]))
            except OSError as error:  # the old log is whole, or the new one is: which one shows at the next start
                self._broken = f"{self._path} cannot be rewritten: {error}. Restart the agent when the disk is well"
                raise JournalError(self._broken) from error

    def _rewrite(self, node: str) -> None:
        """A new log with the live records alone, put in place of the old one by rename."""
        again = self._values.pop(("journal", "header"), None) is not None
        identity, rewrites = (self._id, self._rewrites + 1) if again else (secrets.token_hex(8), 0)
        header = {"format": FORMAT, "node": node, "id": identity, "rewrites": rewrites}
        values: dict[tuple[str, str], dict[str, Any]] = {("journal", "header"): header}
        values |= {key: value for key, (value, _) in self._values.items()}
        self._values, self._live, self._sequence = {}, 0, 0
        temporary = self._path.with_suffix(".new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                for (section, key), value in values.items():
                    self._sequence += 1
                    line = _encode(self._sequence, section, key, value)
                    file.write(line)
                    self._live += len(line)
                    self._values[section, key] = (value, len(line))
            os.fsync(fd)
            os.rename(temporary, self._path)
            _sync_directory(self._path.parent)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._end = fd, self._live
        self._id, self._rewrites = identity, rewrites
        self._mirror.write(self._mark)


_HELP = (
    "Promises of this host (terms, epochs, what it may run) may be lost, so the agent does not start. An older copy"
    " lacks them, too, and would be believed: put none back. When no VM runs here and the controller is stopped, move"
    " the file away and start with an empty one"
)


_HEAD = 18  # bytes before the JSON


def _encode(sequence: int, section: str, key: str, value: dict[str, Any] | None) -> bytes:
    body = json.dumps({"n": sequence, "s": section, "k": key, "v": value}, separators=(",", ":")).encode()
    return b"%08x %08x %s\n" % (zlib.crc32(body), len(body), body)


def _decode(data: bytes, offset: int) -> tuple[dict[str, Any] | None, int]:
    """The record at `offset` and where the next one begins; None when it is damaged.

    Of a damaged one the end is where its length, if that can be read, says.
    """
    head = data[offset : offset + _HEAD]
    try:
        checksum, length = int(head[:8], 16), int(head[9:17], 16)
    except ValueError:
        return None, len(data)
    end = offset + _HEAD + length + 1
    body = data[offset + _HEAD : end - 1]
    if head[8:9] + head[17:18] + data[end - 1 : end] != b"  \n" or zlib.crc32(body) != checksum:
        return None, end
    record = json.loads(body)
    return record, end


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
