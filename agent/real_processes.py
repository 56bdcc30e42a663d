"""Who runs on the real host: /proc, read by one thread in one go."""

from __future__ import annotations

import errno
import os
import posixpath
from pathlib import Path

from agent.host import HostProcess
from agent.real_jobs import MARK

_ENDED = (errno.ENOENT, errno.ESRCH)  # while it was being read


def find_processes(programs: frozenset[str], proc: Path = Path("/proc")) -> tuple[HostProcess, ...]:
    """`agent.host.Host.find_processes`. Raises OSError."""
    pids = sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit())
    if 1 not in pids:  # hidepid, or not the host's own /proc: what is not seen may run all the same
        raise OSError(errno.EACCES, "not every process can be seen", str(proc))
    found = (_process(proc / str(pid), pid, programs) for pid in pids)
    return tuple(process for process in found if process is not None)


def _process(folder: Path, pid: int, programs: frozenset[str]) -> HostProcess | None:
    try:
        words = (folder / "cmdline").read_bytes().rstrip(b"\0")
        if not words:  # a kernel thread, or one that ended and was not waited for
            return None
        argv = tuple(os.fsdecode(word) for word in words.split(b"\0"))
        if posixpath.basename(argv[0]) not in programs:
            return None
        environment = (folder / "environ").read_bytes().split(b"\0")
    except OSError as error:
        if error.errno in _ENDED:
            return None
        raise
    ours = any(value.startswith(f"{MARK}=".encode()) for value in environment)
    return HostProcess(pid, argv, _stdin(folder), ours)


def _stdin(folder: Path) -> str:
    try:
        return os.readlink(folder / "fd" / "0")
    except OSError:
        return ""
