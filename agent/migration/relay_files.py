"""The files between the source's agent and its relay: settings one way, what passed the other way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core import Refused
from agent.migration.relay import BELL, Settings
from agent.protocol import Refusal

RELAY = Path(__file__).with_name("relay_start.py")
_PHASE_OF_STAGE = {
    "header": "Starting",
    "precopy": "Precopy",
    "tail": "StopAndCopy",
    "sent": "StopAndCopy",
    "go": "HandOver",
}
SAFE_WORD = re.compile(r"[A-Za-z0-9_./+:@%=,-]+")  # xl gives the relay's command to a shell


@dataclass(frozen=True, slots=True)
class Passed:
    """What the relay saw so far; the defaults are those of a relay that has not begun."""

    stage: str = "header"  # see stream.SenderStream
    round: int = 0
    round_pages: int = 0
    pages: int = 0
    pages_total: int = 0
    bytes: int = 0
    ready: bool = False
    go: bool = False
    report: int | None = None
    refused: Refusal | None = None  # the target's word on the first line
    ended: str | None = None

    @property
    def phase(self) -> str:
        """Of the source's operation (see source.PHASES)."""
        return "HandOver" if self.ready or self.report is not None else _PHASE_OF_STAGE[self.stage]


class RelayFiles:
    """One folder of 0700; per operation `<id>.json` (0600), `<id>.progress` and its FIFO. Calls are short and local."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings_path(self, operation: str) -> Path:
        return self._folder / f"{operation}.json"

    def progress_path(self, operation: str) -> Path:
        return self._folder / f"{operation}.progress"

    def command(self, operation: str) -> list[str]:
        """-I: the folder in which xl happens to run is no place to import from, nor is PYTHONPATH."""
        return [sys.executable, "-I", "-S", str(RELAY), str(self.settings_path(operation))]

    def check(self, operation: str) -> None:
        """Raises Refused("UnsafePath") when a word of the command would mean something else to a shell."""
        for word in self.command(operation):
            if not SAFE_WORD.fullmatch(word):
                raise Refused(
                    "UnsafePath", f"{word!r} cannot be given to xl; keep the agent's files under a plain path"
                )

    def write(self, operation: str, settings: Settings) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.progress_path(operation).unlink(missing_ok=True)
        path = self.settings_path(operation)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(settings, file)

    def progress(self, operation: str) -> Passed:
        """The relay replaces the file whole: it is there and right, or not there yet."""
        try:
            value = json.loads(self.progress_path(operation).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Passed()
        refused = value.pop("refused")
        for unused in ("banner", "problem"):
            value.pop(unused)
        return Passed(**value, refused=Refusal(**refused) if refused else None)

    @contextlib.contextmanager
    def bell(self, operation: str) -> Iterator[asyncio.Event]:
        """Set whenever the relay saw something of weight. Of little use alone: one that cannot be made never rings."""
        rung, path = asyncio.Event(), str(self.progress_path(operation)) + BELL
        loop = asyncio.get_running_loop()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # of an agent before this one; the relay knows it
                os.mkfifo(path, 0o600)
            # For writing, too: a FIFO without a writer would be readable all the time
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            yield rung
            return

        def heard() -> None:
            with contextlib.suppress(BlockingIOError):
                os.read(descriptor, 4096)
            rung.set()

        loop.add_reader(descriptor, heard)
        try:
            yield rung
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def remove(self, operation: str) -> None:
        progress = self.progress_path(operation)
        for path in (self.settings_path(operation), progress, Path(str(progress) + BELL)):
            path.unlink(missing_ok=True)
