"""Piped processes of the real host, with real and harmless commands."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from agent import real_jobs
from agent.real_host import RealHost

PYTHON = sys.executable


@pytest.fixture
def host(tmp_path: Path) -> RealHost:
    return RealHost(tmp_path / "state")


def alive(pid: int) -> bool:
    return real_jobs.started_at(pid) is not None


async def test_pipe_carries_bytes_both_ways(host: RealHost) -> None:
    code = """if True:
        import sys
        data = sys.stdin.buffer.read()
        sys.stdout.buffer.write(data[::-1])
        print("got", len(data), file=sys.stderr)"""
    process = await host.pipe([PYTHON, "-c", code])
    await process.stdio.write(b"\x00\xffabc")
    await process.stdio.close_write()
    received = b""
    while chunk := await process.stdio.read(2):
        received += chunk
    assert received == b"cba\xff\x00"
    assert await process.wait() == 0
    assert [line async for line in process.stderr()] == ["got 5"]
    assert [line async for line in process.stderr()] == ["got 5"], "a second reader begins at the beginning"


async def test_a_pipe_that_is_full_is_waited_for_and_nothing_of_a_long_piece_is_lost(host: RealHost) -> None:
    code = """if True:
        import hashlib, sys, time
        time.sleep(0.3)
        print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), flush=True)"""
    process = await host.pipe([PYTHON, "-c", code])
    data = os.urandom(9 << 20)
    await process.stdio.write(memoryview(data))
    await process.stdio.close_write()
    assert (await process.stdio.read(100)).decode().strip() == hashlib.sha256(data).hexdigest()
    assert await process.wait() == 0


async def test_writing_to_a_piped_process_that_ended_or_was_closed_is_an_error_at_once(host: RealHost) -> None:
    ended = await host.pipe([PYTHON, "-c", "import time; time.sleep(0.3)"])
    with pytest.raises(BrokenPipeError):  # also for one that waits when it ends
        await asyncio.wait_for(ended.stdio.write(bytes(9 << 20)), 20.0)
    await ended.stdio.close_write()
    closed = await host.pipe([PYTHON, "-c", "import time; time.sleep(600)"])
    writing = asyncio.ensure_future(closed.stdio.write(bytes(9 << 20)))
    await asyncio.sleep(0.1)
    await closed.stdio.close_write()
    await closed.stdio.close_write()
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(writing, 20.0)
    await closed.kill()


async def test_pipe_kill_ends_helpers_in_sessions_of_their_own(host: RealHost) -> None:
    code = """if True:
        import subprocess, sys, time
        print(subprocess.Popen(["sleep", "600"], start_new_session=True).pid, file=sys.stderr, flush=True)
        time.sleep(600)"""
    process = await host.pipe([PYTHON, "-c", code])
    helper = int(await anext(process.stderr().__aiter__()))
    await process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert not alive(helper)
