"""One run of a program with lines on its standard input: no shell, nothing in argv, a time limit, killed as a group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.api.fencing import AGENT

OUTPUT_LIMIT = 64 * 1024
END_SECONDS = 5.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C", "HOME": "/tmp"}  # noqa: S108
"""All that the program gets: nothing of the controller's own, which may hold a login."""


class NoProgram(Exception):
    """There is no such program to run; the message says where it was looked for."""


@dataclass(frozen=True, slots=True)
class Completed:
    """`exit` None: it was killed at its time limit. `stdout`, `stderr`: their first 64 KiB."""

    exit: int | None
    stdout: str
    stderr: str


def find(directory: Path, name: str) -> Path:
    """The fence agent of that name in the folder. Raises NoProgram."""
    if re.fullmatch(AGENT, name) is None:
        raise NoProgram(f"{name!r} is no name of a fence agent: write one such as fence_ipmilan")
    path = directory / name
    if not path.is_file() or not os.access(path, os.X_OK):
        raise NoProgram(f"there is no program {name} in {directory}: install its package (fence-agents) there")
    return path


async def run(path: Path, lines: Sequence[str], seconds: float) -> Completed:
    """Run it to its end, or to the end of its time. Raises NoProgram when it cannot be started.

    Nothing that it started outlives this call, also when the call is cancelled, unless it left the process group.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            str(path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise NoProgram(f"{path.name} cannot be started: {error.strerror}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.gather(_read(process.stdout), _read(process.stderr))
    ended = False
    try:
        async with asyncio.timeout(seconds):
            await _tell(process.stdin, lines)
            stdout, stderr = await asyncio.shield(reading)
            code = await process.wait()
            ended = True
            return Completed(code, stdout, stderr)
    except TimeoutError:
        return Completed(None, "", "")
    finally:
        if not ended:
            reading.cancel()
        _kill(process.pid)
        if not ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.wait()), END_SECONDS)
            await asyncio.gather(reading, return_exceptions=True)


async def _tell(stdin: asyncio.StreamWriter, lines: Sequence[str]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it did not want to hear all: its exit tells
        stdin.write("".join(f"{line}\n" for line in lines).encode())
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _read(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while chunk := await stream.read(4096):
        if len(kept) < OUTPUT_LIMIT:
            kept += chunk[: OUTPUT_LIMIT - len(kept)]
    return kept.decode(errors="replace")


def _kill(group: int) -> None:
    """What is left of the process group, which start_new_session gave the program's own number."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
