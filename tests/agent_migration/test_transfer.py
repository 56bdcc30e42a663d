"""The stream at the target: the real relay sends it, a real process takes it, everything is written by the agent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from agent.core import TlsFiles
from agent.host import PipedProcess
from agent.migration import transfer
from agent.migration.handover import Meter
from agent.migration.stream import BANNER, GO, READY, REPORT
from agent.migration.tls_stream import TlsStream
from agent.migration.zeros import LONGEST, PAGE, WINDOW
from agent.pki import create_authority, issue_agent
from agent.real_host import RealHost
from agent.tls import server_context
from tests.agent_migration.relay_rig import Rig
from tests.agent_migration.streams import stream

RECEIVER = f"""if True:
    import hashlib, sys, time
    whole, rest, rate = map(int, sys.argv[1:])
    source, seen = sys.stdin.buffer, hashlib.sha256()
    def say(words):
        sys.stdout.buffer.write(words)
        sys.stdout.buffer.flush()
    def take(count):
        while count:
            piece = source.read(min(count, 1 << 18))
            if not piece:
                sys.exit("it ended early")
            seen.update(piece)
            count -= len(piece)
            time.sleep(len(piece) / rate if rate else 0)
    say({BANNER!r})
    take(whole - rest)
    say({READY!r})
    take(rest)
    say({REPORT + bytes(1)!r})
    sys.exit(seen.hexdigest())
"""


class Unmeasured:
    """A Meter whose operation nobody looks at."""

    def take(self, stream: object, *, now: bool) -> None:
        pass


METER = cast(Meter, Unmeasured())


def mixed() -> bytes:
    """22 MiB: a third of the pages zeros, a third of one byte, the others random; records of an odd number of pages."""
    chance, fill = random.Random(5), b"\xa5"
    batches = [list(range(first, first + 777)) for first in range(0, 7 * 777, 777)]
    data = bytearray(stream([batches], total=7 * 777, fill=fill))
    at = data.find(fill * PAGE)
    while at >= 0:
        data[at : at + PAGE] = chance.choice((bytes(PAGE), chance.randbytes(PAGE), b"\xa6" * PAGE))
        at = data.find(fill * PAGE, at + PAGE)
    return bytes(data)


ZEROS = stream([[list(range(n, n + 1024)) for n in range(0, 6144, 1024)]], total=6144, fill=b"\0")  # 24 MiB


@pytest.mark.parametrize("zeros", [True, False], ids=["frames", "plain"])
@pytest.mark.parametrize(
    ("data", "rate"),
    [(ZEROS, 0), (ZEROS, 10 << 20), (mixed(), 0), (bytes(WINDOW + 12_345) + GO, 0)],
    ids=["zeros", "a slow receiver", "mixed", "not a stream"],
)
async def test_the_receiver_gets_every_byte(tmp_path: Path, data: bytes, rate: int, zeros: bool) -> None:
    authority = create_authority(tmp_path / "ca")
    files: dict[str, TlsFiles] = {name: issue_agent(authority, name, tmp_path / name) for name in ("mk1", "mk2")}
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    host, rig = RealHost(tmp_path / "host"), Rig(tmp_path)
    receiver = await host.pipe([sys.executable, "-c", RECEIVER, str(len(data)), str(len(GO)), str(rate)])

    async def target() -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        tls = TlsStream(connection, server_context(files["mk2"]), server_side=True)
        await tls.handshake()
        asked = json.loads(await tls.read_line(4096))
        carried = transfer.Connection(tls, zeros=zeros and asked["zeros"])
        await carried.accept()
        await asyncio.gather(
            transfer.inbound(carried, receiver, METER),
            transfer.outbound(carried, receiver),
        )
        tls.close()

    serving = asyncio.ensure_future(target())
    await rig.start(listener.getsockname()[1], files["mk1"])
    rig.xl_in.write(data[: -len(GO)])
    assert await rig.xl_out.readexactly(len(BANNER + READY)) == BANNER + READY
    rig.xl_in.write(GO)
    assert await rig.xl_out.readexactly(len(REPORT) + 1) == REPORT + b"\0"
    rig.xl_in.close()
    assert await rig.end() == (0, "")
    await serving
    listener.close()
    await receiver.wait()
    assert [line async for line in receiver.stderr()] == [hashlib.sha256(data).hexdigest()]


class Given:
    """A connection of which these pieces are read, and then its end."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)

    async def read(self) -> memoryview:
        return memoryview(self._pieces.pop(0) if self._pieces else b"")

    async def write(self, data: bytes) -> None:
        pass


def frames(*pieces: bytes) -> transfer.Connection:
    return transfer.Connection(cast(TlsStream, Given(pieces)), zeros=True)


async def test_what_ends_within_a_frame_is_no_end(tmp_path: Path) -> None:
    receiver = await RealHost(tmp_path / "host").pipe(["cat"])
    with pytest.raises(ConnectionResetError, match="within a frame"):
        await transfer.inbound(frames(struct.pack(">I", 5) + b"ab"), receiver, METER)
    assert await receiver.stdio.read(100) == b"ab", "what has come still reaches it"
    assert await receiver.wait() == 0


class Quickest:
    """A receiver that is never waited for: as quick as the agent itself."""

    def __init__(self) -> None:
        self.stdio = self

    async def write(self, data: bytes) -> None:
        pass

    async def close_write(self) -> None:
        pass


@pytest.mark.parametrize(
    ("frame", "count", "turns"),
    [
        (struct.pack(">I", 1 << 31 | LONGEST), 512, 500),
        (struct.pack(">I", 1 << 31 | PAGE), 512, 7),
        (b"\0\0\0\1x", 5000, 4),
    ],
    ids=["long zeros", "pages", "bytes"],
)
async def test_few_bytes_that_stand_for_much_leave_the_agent_its_other_work(
    frame: bytes, count: int, turns: int
) -> None:
    """So many turns of the loop, at least, while one piece that was read is worked off."""
    seen = 0

    async def others() -> None:
        nonlocal seen
        while True:
            await asyncio.sleep(0)
            seen += 1

    working = asyncio.ensure_future(others())
    await transfer.inbound(frames(frame * count), cast(PipedProcess, Quickest()), METER)
    working.cancel()
    assert seen >= turns
