"""A relay as xl starts it, between two pipes and a TLS endpoint, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.core import TlsFiles
from agent.migration.relay_files import RelayFiles
from agent.migration.stream import BANNER, GO, READY, REPORT
from agent.tls import server_context
from tests.agent_migration.streams import stream

OPERATION = "move-1"
WHOLE = stream([[list(range(n, n + 64)) for n in range(0, 1024, 64)], [[3, 4, 900]]], total=1024)
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Target = Callable[[Reader, Writer], Awaitable[None]]
LIMIT = 20.0


class Rig:
    """One relay, the pipes to it, and the folder with its files."""

    def __init__(self, folder: Path) -> None:
        self.files = RelayFiles(folder / "relay")
        self.settings: dict[str, Any] = {}

    async def start(self, port: int, files: TlsFiles, *, limit: float = LIMIT, target: str = "mk2") -> None:
        self.files.write(
            OPERATION,
            {
                "operation": OPERATION,
                "address": "127.0.0.1",
                "port": port,
                "target": target,
                "certificate": str(files.certificate),
                "key": str(files.key),
                "authority": str(files.authority),
                "progress": str(self.files.progress_path(OPERATION)),
                "limit": limit,
            },
        )
        pipe = asyncio.subprocess.PIPE
        command = self.files.command(OPERATION)
        self.process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.xl_in, self.xl_out = self.process.stdin, self.process.stdout

    async def end(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        words = await asyncio.wait_for(self.process.stderr.read(), LIMIT)
        return await asyncio.wait_for(self.process.wait(), LIMIT), words.decode()

    @property
    def passed(self) -> Any:
        return self.files.progress(OPERATION)

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        end = time.monotonic() + LIMIT
        while not condition(self.passed):
            assert time.monotonic() < end, f"not reached: {self.passed}"
            await asyncio.sleep(0.005)
        return self.passed


@contextlib.asynccontextmanager
async def endpoint(files: TlsFiles, behave: Target) -> AsyncIterator[int]:
    failures: list[BaseException] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(files))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
    assert not failures


async def accept(reader: Reader, writer: Writer) -> None:
    assert json.loads(await reader.readline()) == {
        "version": 1,
        "kind": "stream",
        "operation": OPERATION,
        "zeros": True,
    }
    writer.write(b'{"accepted": true}\n' + BANNER)


async def receive(reader: Reader, writer: Writer, *, result: int = 0) -> bytes:
    """A receiver that works: takes the stream, says ready, takes the permission, reports."""
    await accept(reader, writer)
    taken = await reader.readexactly(len(WHOLE) - len(GO))
    writer.write(READY)
    taken += await reader.readexactly(len(GO))
    writer.write(REPORT + bytes([result]))
    await writer.drain()
    await reader.read()  # until the relay ends
    return taken


async def feed(rig: Rig, data: bytes) -> None:
    head = WHOLE[: len(WHOLE) // 2]
    with contextlib.suppress(ConnectionError):
        rig.xl_in.write(head + data)
        await rig.xl_in.drain()
