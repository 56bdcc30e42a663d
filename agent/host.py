"""The seam between the agent and what it runs on: commands, files, long-lived jobs.

A driver builds argv lists and parses what comes back; who answers is a `Host`: the real dom0 (`agent.real_host`) or a
simulated one (`agent.simulation`). Nothing else in the agent touches subprocesses, /proc, /sys or /etc.
"""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A living process of the dom0, whoever started it. `argv` as /proc/PID/cmdline has it; never empty."""

    pid: int
    argv: tuple[str, ...]
    stdin: str  # what its standard input is: "/dev/null", "pipe:[4711]", "socket:[4712]"; "": not readable
    ours: bool  # this host's agent started it, or one before it: by the mark in its environment

    @property
    def program(self) -> str:
        return posixpath.basename(self.argv[0])


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended. `exit` is its status (negative: ended by that signal)."""

    argv: tuple[str, ...]
    exit: int
    stdout: str
    stderr: str


class CommandTimedOut(Exception):
    """The command did not end within its limit and was killed. What it did is unknown: observe again."""

    def __init__(self, argv: Sequence[str], seconds: float) -> None:
        super().__init__(f"{' '.join(argv)}: no answer within {seconds:g} s")
        self.argv, self.seconds = tuple(argv), seconds


class Job(Protocol):
    """A command in a scope of its own: it survives the agent, its output and exit are kept in files.

    `stderr()` yields all lines from the beginning, then follows until the job ends. `wait()` gives the exit status.
    """

    scope: str

    async def wait(self) -> int: ...
    def stderr(self) -> AsyncIterator[str]: ...
    async def kill(self) -> None:
        """End the whole scope (SIGKILL to every process in it; reference 6.6) and wait until it is empty."""
        ...


class ByteStream(Protocol):
    """Standard input and output of a piped process."""

    async def read(self, limit: int) -> bytes: ...
    async def write(self, data: bytes | memoryview) -> None:
        """All of it was taken when this returns; `data` may change then. Raises BrokenPipeError."""
        ...

    async def close_write(self) -> None: ...


class PipedProcess(Protocol):
    """A command whose standard input and output the agent carries (xl migrate-receive)."""

    stdio: ByteStream

    def stderr(self) -> AsyncIterator[str]: ...
    async def wait(self) -> int: ...
    async def kill(self) -> None: ...


class Host(Protocol):
    """What the drivers may ask of a dom0. Paths are absolute as on the dom0 (`/proc/drbd`, `/etc/drbd.d/x.res`)."""

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        """Run to the end with LC_ALL=C. Raises CommandTimedOut; FileNotFoundError when the program is not there."""
        ...

    def follow(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Lines of a command that goes on (drbdsetup events2); ended when the context closes."""
        ...

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        """Start in its own scope. A scope that already ran is an error (FileExistsError): join it with `find_job`."""
        ...

    async def find_job(self, scope: str) -> Job | None:
        """The job of that scope, running or ended, also one that an earlier agent process started."""
        ...

    async def forget_job(self, scope: str) -> None:
        """Remove the files of an ended job."""
        ...

    async def pipe(self, argv: Sequence[str]) -> PipedProcess: ...

    async def find_processes(self, programs: Collection[str]) -> tuple[HostProcess, ...]:
        """Every living process whose program has one of these names, by pid.

        Raises OSError when that cannot be told of all processes: nothing found is never the answer then.
        """
        ...

    async def read_text(self, path: str) -> str:
        """Raises FileNotFoundError, PermissionError."""
        ...

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        """Atomically: a temporary file beside it (its name ends otherwise), fsync, rename, fsync of the folder.

        A folder that is missing is made, but not one above it: FileNotFoundError.
        """
        ...

    async def remove(self, path: str) -> None:
        """No error when it is not there."""
        ...

    async def list_dir(self, path: str) -> list[str]:
        """Names, sorted; empty when the folder is not there."""
        ...

    async def exists(self, path: str) -> bool: ...

    async def fetch_image(self, url: str, path: str, limit: int, *, timeout: float) -> tuple[int, str]:
        """An image by https into a file of this dom0; returns (bytes, sha256 hex), at most `limit` bytes.

        Raises DownloadFailed, NotRaw, OSError; no file is left then, nor when the caller is cancelled.
        """
        ...

    async def copy_image(self, source_path: str, device: str) -> tuple[int, str]:
        """Write a file of this dom0 onto a block device; returns (bytes, sha256 hex of what was written).

        Raises NotRaw before anything is written, OSError.
        """
        ...

    @property
    def run_dir(self) -> Path | None:
        """A folder of this process's machine for small files, which the host's boot empties; None: there is none."""
        ...

    def now(self) -> float:
        """Unix time in seconds (the simulation's clock may be virtual). It may be set: do not measure with it."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment before this process: no clock that is set makes it jump."""
        ...

    async def sleep(self, seconds: float) -> None: ...
