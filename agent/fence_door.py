"""The socket at which DRBD's fence-peer handler asks (agent/scripts/xentandem-fence): one line each way.

    {"version": 1, "resource": "vm_shaolin", "minor": "1", "peer": "mk2"}\\n
    {"exit": 4, "why": "verdict 3: ..."}\\n

It lies in the agent's state folder, which only root may enter, and takes root only. Handler and socket are beside each
other, so that the handler needs no configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.accepting import Accepting, close_unserved
from agent.core import Context
from agent.fence_records import FAILED, Answer

SCRIPT = Path(__file__).resolve().parent / "scripts" / "xentandem-fence"
SOCKET = "fence.sock"
LINE_LIMIT = 4096
LINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """What a handler asks."""

    resource: str
    peer: str


Ask = Callable[[Question], Awaitable[Answer]]


def handler_path(state_dir: Path) -> str:
    return str(state_dir / SCRIPT.name)


class Door:
    """`open`, then `close` (at once, as the kernel does after kill -9)."""

    def __init__(self, context: Context, ask: Ask) -> None:
        self._context, self._ask = context, ask
        self._accepting: Accepting | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def install(self) -> None:
        """The handler, where the volumes' configuration says it is; a newer one replaces an older. Raises OSError."""
        path, text = Path(handler_path(self._context.state_dir)), SCRIPT.read_bytes()
        if path.exists() and path.read_bytes() == text:
            return
        new = path.with_suffix(".new")
        new.write_bytes(text)
        new.chmod(0o700)
        new.rename(path)

    def open(self) -> None:
        """Listen. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self._context.state_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            # Through /proc: the path of a socket may have 107 bytes only (unix(7))
            path = f"/proc/self/fd/{folder}/{SOCKET}"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            listener.bind(path)
            os.chmod(path, 0o600)
        finally:
            os.close(folder)
        listener.listen(128)
        self._accepting = Accepting(listener, self._take, self._trouble)

    def close(self) -> None:
        if self._accepting is not None:
            self._accepting.close()
        for writer in list(self._open):
            writer.transport.abort()

    def _take(self, connection: socket.socket, _address: object) -> None:
        serving = self._context.tasks.spawn(self._serve(connection), name="fence: handler")
        serving.add_done_callback(partial(close_unserved, connection))

    def _trouble(self, error: OSError) -> None:
        self._context.log().warning("fence handler cannot be accepted", problem=str(error))

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LINE_LIMIT)
        self._open.add(writer)
        try:
            if (uid := _uid(connection)) not in (0, os.getuid()):
                answer = Answer(FAILED, f"this is for root alone, not for uid {uid}")
            else:
                async with asyncio.timeout(LINE_SECONDS):
                    question = _parse(await reader.readline())
                answer = await self._answered(question, reader)
            writer.write(json.dumps({"exit": answer.exit, "why": answer.why}).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError) as error:
            self._context.log().warning("fence handler not understood", problem=str(error) or type(error).__name__)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answered(self, question: Question, reader: asyncio.StreamReader) -> Answer:
        """The answer, or nothing any more when the handler went away."""
        asking = asyncio.ensure_future(self._ask(question))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise ConnectionError(f"the handler of {question.resource} went away before it was answered")
        finally:
            for task in (asking, leaving):
                task.cancel()
            await asyncio.wait({asking, leaving})


def _parse(line: bytes) -> Question:
    """Raises ValueError."""
    try:
        found = json.loads(line)
    except RecursionError:
        found = None
    if not isinstance(found, dict) or found.get("version") != 1:
        raise ValueError(f"not a question of version 1: {line[:80]!r}")
    resource, peer = found.get("resource"), found.get("peer")
    if not isinstance(resource, str) or not isinstance(peer, str):
        raise ValueError(f"resource and peer are no texts: {line[:80]!r}")
    return Question(resource, peer)


def _uid(connection: socket.socket) -> int:
    """Of the process at the other end (unix(7), SO_PEERCRED)."""
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
