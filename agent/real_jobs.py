"""Long-lived jobs of the real host: commands that go on when the agent's process ends, and can be joined again.

A job is a folder of files that `agent/scripts/xentandem-job` writes. Every process of a job carries a mark in its
environment, inherited by whatever it starts, so that the whole scope can be found and ended: ending `xl migrate` alone
leaves its helpers alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Sequence, Set
from pathlib import Path

MARK = "XENTANDEM_SCOPE"
RUNNER = Path(__file__).resolve().parent / "scripts" / "xentandem-job"
SYSTEMD = Path("/run/systemd/system")
_FOLLOW_SECONDS = 0.01
_STARTING_SECONDS = 0.1
_SCOPE = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


def environment(mark: str | None = None) -> dict[str, str]:
    """What a command gets: messages in English, the system's programs, and nothing of the agent's own settings."""
    path = os.environ.get("PATH", "")
    extra = [folder for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin") if folder not in path.split(":")]
    values = {"LC_ALL": "C", "PATH": ":".join([path, *extra] if path else extra), "LVM_SUPPRESS_FD_WARNINGS": "1"}
    values |= {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    return values | ({MARK: mark} if mark else {})


def marked_processes(mark: str) -> set[int]:
    """Living processes that carry the mark. One that has ended but was not waited for has no environment any more."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                values = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            except OSError:  # it ended meanwhile, or is another user's and so not ours
                continue
            if wanted in values:
                found.add(int(entry))
    return found


async def end_marked(mark: str, spare: int | None = None) -> None:
    """SIGKILL to every process with the mark, until none is left. `spare` is left to end by itself for two seconds.

    A process in uninterruptible sleep can't end; it is waited for, as only then is the scope empty.
    """
    loop = asyncio.get_running_loop()
    patience = loop.time() + 2.0
    while processes := marked_processes(mark):
        for pid in processes - ({spare} if loop.time() < patience else set()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_FOLLOW_SECONDS)


def started_at(pid: int) -> str | None:
    """The kernel's start time of a living process (proc(5)), None when there is none: a pid alone may be reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


class RealJob:
    """`agent.host.Job` over a job's folder."""

    def __init__(self, scope: str, folder: Path, starting: Set[str]) -> None:
        self.scope = scope
        self._folder, self._mark = folder, str(folder)
        self._starting = starting

    def exit_status(self) -> int | None:
        """Of a job that ended; None while it runs. A job that was lost (host rebooted, runner killed) ended by -9."""
        if (status := self._recorded()) is not None:
            return status
        if self.scope in self._starting or self._runner() is not None or marked_processes(self._mark):
            return None
        if (status := self._recorded()) is not None:  # it was recorded between the two looks
            return status
        return -signal.SIGKILL

    async def wait(self) -> int:
        while True:
            if (status := self.exit_status()) is not None:
                return status
            await self._runner_moves_on()

    async def stderr(self) -> AsyncIterator[str]:
        """Lines from the beginning, without line ends, then as they come; ends with the job."""
        rest = b""
        at = 0
        while True:
            ended = self.exit_status() is not None  # asked before reading, so that nothing written earlier is missed
            data = self._output(at)
            at += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if data:
                continue
            if ended:
                if rest:
                    yield rest.decode(errors="replace")
                return
            await asyncio.sleep(_FOLLOW_SECONDS)

    async def kill(self) -> None:
        """The runner is left to record the status of what was killed under it."""
        await end_marked(self._mark, spare=self._runner())

    async def _runner_moves_on(self) -> None:
        """Until the runner has ended, told by the kernel (pidfd_open(2)): a migration's takes minutes; or a moment."""
        pid = self._runner()
        try:
            descriptor = os.pidfd_open(pid) if pid is not None else -1
        except OSError:
            descriptor = -1
        if descriptor < 0:
            await asyncio.sleep(_FOLLOW_SECONDS)
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            if self._runner() == pid:  # not another process that got its number meanwhile
                await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def _output(self, at: int) -> bytes:
        try:
            with (self._folder / "stderr").open("rb") as file:
                file.seek(at)
                return file.read(1 << 16)
        except FileNotFoundError:
            return b""

    def _recorded(self) -> int | None:
        try:
            return int((self._folder / "exit").read_text())
        except FileNotFoundError:
            return None

    def _runner(self) -> int | None:
        """The runner's pid while it lives."""
        try:
            pid, start = (self._folder / "pid").read_text().split()
        except FileNotFoundError:
            return None
        return int(pid) if started_at(int(pid)) == start else None


class Jobs:
    """The folder of all jobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starting: set[str] = set()  # made, but its process is not known on disk yet: not to be taken for lost

    async def start(self, scope: str, argv: Sequence[str]) -> RealJob:
        """Returns when the job's process is known on disk. Raises FileExistsError, FileNotFoundError."""
        folder = self._of(scope)
        if shutil.which(argv[0], path=environment()["PATH"]) is None:
            raise FileNotFoundError(2, "No such program", argv[0])
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
        sync_folder(self._folder)
        self._starting.add(scope)
        try:
            runner = await asyncio.create_subprocess_exec(
                *scope_prefix(scope), sys.executable, "-I", "-S", str(RUNNER), str(folder), *argv,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
                env=environment(str(folder)), start_new_session=True, cwd="/",
            )  # fmt: skip
            pause = _FOLLOW_SECONDS
            while not (folder / "pid").exists() and runner.returncode is None:
                await asyncio.sleep(pause)
                pause = min(1.5 * pause, _STARTING_SECONDS)  # a host on which starts take long has no time to spare
            return RealJob(scope, folder, self._starting)
        finally:
            self._starting.discard(scope)

    def find(self, scope: str) -> RealJob | None:
        folder = self._of(scope)
        return RealJob(scope, folder, self._starting) if folder.is_dir() else None

    def forget(self, scope: str) -> None:
        """Raises RuntimeError for a job that still runs."""
        job = self.find(scope)
        if job is None:
            return
        if job.exit_status() is None:
            raise RuntimeError(f"the job {scope} still runs: it can't be forgotten")
        shutil.rmtree(self._of(scope))
        sync_folder(self._folder)

    def _of(self, scope: str) -> Path:
        if not _SCOPE.fullmatch(scope):
            raise ValueError(f"{scope!r} is no name of a job: use lower-case letters, digits and -")
        return self._folder / scope


def scope_prefix(scope: str) -> list[str]:
    """Under systemd, a unit of its own: stopping the agent's unit ends every process in that unit's group."""
    if not SYSTEMD.is_dir() or os.geteuid() != 0:
        return []
    return ["systemd-run", "--scope", "--quiet", "--collect", f"--unit=xentandem-job-{scope}", "--"]


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in it last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
