"""The relay whose target takes frames: pages of zeros are told, and it is never far ahead."""

from __future__ import annotations

import asyncio

from agent.core import TlsFiles
from agent.migration.stream import BANNER, GO, READY, REPORT
from agent.migration.zeros import LONGEST, WINDOW, Unpacker, taken, words
from tests.agent_migration.relay_rig import (
    Reader,
    Rig,
    Writer,
    endpoint,
    feed,
)
from tests.agent_migration.streams import stream

MANY_ZEROS = stream([[list(range(n, n + 64)) for n in range(0, 1024, 64)]], total=1024, fill=b"\0")
FAR = stream([[list(range(n, n + 1024)) for n in range(0, 6144, 1024)]], total=6144, fill=b"\0")  # 24 MiB


async def accept_frames(reader: Reader, writer: Writer) -> None:
    await reader.readline()
    writer.write(b'{"accepted": true, "zeros": true}\n' + words(BANNER))


async def test_a_target_that_takes_frames_gets_the_same_stream_with_fewer_bytes(
    rig: Rig, certificates: dict[str, TlsFiles]
) -> None:
    got, carried = bytearray(), 0

    async def behave(reader: Reader, writer: Writer) -> None:
        nonlocal carried
        await accept_frames(reader, writer)
        unpacker = Unpacker()
        for count, say in ((len(MANY_ZEROS) - len(GO), READY), (len(MANY_ZEROS), REPORT + b"\0")):
            while len(got) < count:
                frames = await reader.read(1 << 16)
                carried += len(frames)
                for piece in unpacker.feed(frames):
                    got.extend(piece)
            writer.write(words(say))
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(MANY_ZEROS)
        assert await rig.xl_out.readexactly(len(BANNER + READY + REPORT) + 1) == BANNER + READY + REPORT + b"\0"
        rig.xl_in.close()
        assert await rig.end() == (0, "")
    assert got == MANY_ZEROS
    assert (rig.passed.go, rig.passed.bytes) == (True, len(MANY_ZEROS))
    assert carried < len(MANY_ZEROS) / 2


async def test_the_source_is_never_far_ahead_of_what_the_target_has_written(
    rig: Rig, certificates: dict[str, TlsFiles]
) -> None:
    """Else its guest would be stopped while the target still writes zeros that were told long before."""
    ahead: list[int] = []

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept_frames(reader, writer)
        unpacker, wrote = Unpacker(), 0
        while wrote < len(FAR):
            await asyncio.sleep(0.2 if len(ahead) < 5 else 0.0)
            ahead.append(rig.passed.bytes - wrote)
            count = sum(len(piece) for piece in unpacker.feed(await reader.read(256)))
            wrote += count
            if count:
                writer.write(taken(count))
        writer.write(words(READY + REPORT + b"\0"))
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(FAR)
        await rig.xl_out.readexactly(len(BANNER + READY + REPORT) + 1)
        rig.xl_in.close()
        assert await rig.end() == (0, "")
    assert WINDOW / 2 < max(ahead) < WINDOW + LONGEST


async def test_a_target_that_takes_nothing_more_is_given_up_with_all_of_it_sent(
    rig: Rig, certificates: dict[str, TlsFiles]
) -> None:
    leave = asyncio.Event()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept_frames(reader, writer)
        while not leave.is_set() and await reader.read(1 << 16):
            pass

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"], limit=3.0)
        feeding = asyncio.ensure_future(feed(rig, bytes(16 << 20)))
        status, said = await rig.end()
        feeding.cancel()
        leave.set()
    assert (status, "nothing moved for 3 s" in said) == (1, True)
