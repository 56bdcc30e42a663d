"""Who runs on the real host, by /proc: this machine's own, and made-up ones that cannot be read."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.real_host import RealHost
from agent.real_processes import find_processes

SLEEP = "xl"  # a program of that name, which does nothing


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "bin" / SLEEP
    path.parent.mkdir()
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, path)
    return str(path)


@pytest.fixture
def process(program: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([program, "60"], stdin=subprocess.DEVNULL, env={}) as running:
        try:
            while not Path(f"/proc/{running.pid}/cmdline").read_bytes():  # Popen returns before execve(2) has put it
                time.sleep(0.001)
            yield running
        finally:
            running.kill()


def test_a_process_is_found_by_its_programs_name(process: subprocess.Popen[bytes], program: str) -> None:
    (found,) = (one for one in find_processes(frozenset({SLEEP})) if one.pid == process.pid)
    assert (found.argv, found.program, found.stdin, found.ours) == ((program, "60"), SLEEP, "/dev/null", False)
    assert process.pid not in [one.pid for one in find_processes(frozenset({"socat"}))]


def test_one_that_ended_is_not_found(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not waited for yet: /proc still has it
    assert process.pid not in [one.pid for one in find_processes(frozenset({SLEEP}))]


async def test_what_the_agent_itself_started_carries_its_mark(tmp_path: Path, program: str) -> None:
    host = RealHost(tmp_path / "state")
    piped = await host.pipe([program, "60"])
    try:
        for _ in range(1000):  # from fork to exec it has its parent's command line
            found = [one for one in await host.find_processes([SLEEP]) if one.argv[0] == program]
            if found:
                break
            await asyncio.sleep(0.01)
        assert [one.ours for one in found] == [True]
        assert found[0].stdin.startswith(("pipe:", "socket:"))
    finally:
        await piped.kill()


def made_up(proc: Path, pid: int, cmdline: bytes, environ: bytes = b"") -> Path:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_bytes(cmdline)
    (folder / "environ").write_bytes(environ)
    return folder


RECEIVER = b"/usr/lib/xen-4.17/bin/xl\0migrate-receive\0-p\0-e\0"


def test_as_proc_has_it(tmp_path: Path) -> None:
    made_up(tmp_path, 1, b"/sbin/init\0")
    made_up(tmp_path, 2, b"")  # a kernel thread
    folder = made_up(tmp_path, 199, RECEIVER, b"PATH=/bin\0XENTANDEM_SCOPE=pipe-1\0")
    (folder / "fd" / "0").symlink_to("pipe:[4711]")
    (tmp_path / "300").mkdir()  # it ended while it was being read
    (tmp_path / "self").mkdir()
    (found,) = find_processes(frozenset({"xl"}), tmp_path)
    assert (found.pid, found.argv[1:], found.stdin, found.ours) == (
        199,
        ("migrate-receive", "-p", "-e"),
        "pipe:[4711]",
        True,
    )


def test_without_the_first_process_not_everybody_is_seen(tmp_path: Path) -> None:
    made_up(tmp_path, 199, RECEIVER)
    with pytest.raises(PermissionError):
        find_processes(frozenset({"xl"}), tmp_path)


def test_one_that_cannot_be_read_makes_all_of_it_unreadable(tmp_path: Path) -> None:
    made_up(tmp_path, 1, b"/sbin/init\0")
    folder = made_up(tmp_path, 199, RECEIVER)
    (folder / "environ").unlink()
    (folder / "environ").mkdir()  # EISDIR: any error but that it ended
    with pytest.raises(OSError, match="directory"):
        find_processes(frozenset({"xl"}), tmp_path)
