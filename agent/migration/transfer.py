"""The stream at the target: from its connection to `xl migrate-receive`, and what that says back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.host import PipedProcess
from agent.migration.handover import Meter
from agent.migration.stream import SenderStream
from agent.migration.tls_stream import TlsStream
from agent.migration.zeros import TELL_EVERY, Unpacker, taken, words

CHUNK = 256 << 10


@dataclass(slots=True)
class Connection:
    """The stream's connection, from the endpoint to the operation and back."""

    stream: TlsStream
    zeros: bool  # both directions are frames, see zeros.py
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def accept(self) -> None:
        await self.stream.write(json.dumps({"accepted": True, "zeros": self.zeros}).encode() + b"\n")

    async def say(self, data: bytes) -> None:
        """What the receiver says, to the source."""
        await self.stream.write(words(data) if self.zeros else data)


async def inbound(
    connection: Connection, process: PipedProcess, meter: Meter, stopped: Callable[[], None] = lambda: None
) -> None:
    """From the source to the receiver; the headers are read on the way. Backpressure: one piece at a time.

    `stopped`: the guest stands still from here on; called more than once.
    """
    stream, unpacker, untold = SenderStream(), Unpacker(), 0
    try:
        while data := await connection.stream.read():
            for piece in unpacker.feed(data) if connection.zeros else (data,):
                stream.feed(piece)
                meter.take(stream, now=stream.go)
                if stream.stage not in ("header", "precopy"):
                    stopped()
                await process.stdio.write(piece)
                untold += len(piece)
                if connection.zeros and untold >= TELL_EVERY:
                    with contextlib.suppress(OSError):  # what has come shall still reach the receiver
                        await connection.stream.write(taken(untold))
                    untold = 0
                await asyncio.sleep(0)  # a few bytes may stand for much work: the agent's other work has its turn
        if not unpacker.frames.whole:
            raise ConnectionResetError("it ended within a frame")
    finally:
        with contextlib.suppress(OSError):
            await process.stdio.close_write()


async def outbound(connection: Connection, process: PipedProcess) -> None:
    """From the receiver to the source. A broken connection does not stop the reading: the receiver must not block."""
    broken = False
    while data := await process.stdio.read(CHUNK):
        if broken:
            continue
        try:
            await connection.say(data)
        except OSError:
            broken = True


async def hear(process: PipedProcess, words: deque[str]) -> None:
    async for line in process.stderr():
        if line.strip():
            words.append(line.strip())
