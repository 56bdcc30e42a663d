"""How far the journal has come in this boot, beside the host's memory: an older copy that is put in its place shows.

It is written after the journal is on disk and is never ahead of it, so that no crash makes a journal look old. It is
not synced: a boot empties its folder. After a boot the agent starts nothing by its journal alone.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Final, NamedTuple

import structlog

_SIZE: Final = 128  # bytes, all of them written at once: within one page, so that kill -9 tears nothing


class Mark(NamedTuple):
    """A point in a journal's life: it goes forward in `rewrites`, then `sequence`."""

    journal: str  # its id
    rewrites: int
    sequence: int

    def reached_by(self, other: Mark) -> bool:
        return other.journal == self.journal and other[1:] >= self[1:]


class Mirror:
    """Of the journal in `directory`. Without a folder for it, or without room there, nothing is kept."""

    def __init__(self, folder: Path | None, directory: Path) -> None:
        self._fd = -1
        if folder is None:
            return
        path = folder / f"journal-{zlib.crc32(str(directory.resolve()).encode()):08x}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            structlog.get_logger().warning("an older journal would not be noticed", problem=str(error))

    def read(self) -> Mark | None:
        """None: nothing was written in this boot, or it cannot be read."""
        try:
            data = os.pread(self._fd, _SIZE, 0) if self._fd >= 0 else b""
            checksum, text = int(data[:8], 16), data[9:].rstrip()
            if zlib.crc32(text) != checksum:
                return None
            journal, rewrites, sequence = json.loads(text)
        except (OSError, ValueError):
            return None
        return Mark(journal, rewrites, sequence)

    def write(self, mark: Mark) -> None:
        """A few microseconds: a hand-over waits for the journal."""
        if self._fd < 0:
            return
        text = json.dumps(mark, separators=(",", ":")).encode()
        try:
            os.pwrite(self._fd, (b"%08x %s" % (zlib.crc32(text), text)).ljust(_SIZE), 0)
        except OSError as error:  # what stays there is older, which is no harm
            structlog.get_logger().warning("an older journal would not be noticed", problem=str(error))
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
