"""The relay as xl starts it: a process of its own, between two pipes and a TLS endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import ssl
import subprocess
import sys
import time

import pytest

from agent.core import TlsFiles
from agent.migration.stream import BANNER, GO, READY, REPORT
from agent.tls import peer_node
from tests.agent_migration.relay_rig import (
    LIMIT,
    OPERATION,
    WHOLE,
    Reader,
    Rig,
    Writer,
    accept,
    endpoint,
    feed,
    receive,
)
from tests.agent_migration.streams import stream


async def test_a_whole_migration_passes_unchanged_and_is_seen(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    taken: list[bytes] = []

    async def behave(reader: Reader, writer: Writer) -> None:
        assert peer_node(writer.get_extra_info("peercert")) == "mk1"
        taken.append(await receive(reader, writer))

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        assert await rig.xl_out.readexactly(len(BANNER)) == BANNER
        rig.xl_in.write(WHOLE[: -len(GO)])
        assert await rig.xl_out.readexactly(len(READY)) == READY
        before = rig.passed
        assert (before.stage, before.go, before.ready, before.report) == ("sent", False, True, None)
        rig.xl_in.write(GO)
        assert await rig.xl_out.readexactly(len(REPORT) + 1) == REPORT + b"\0"
        assert rig.passed.report == 0  # recorded before xl could read it
        rig.xl_in.close()
        assert await rig.end() == (0, "")
    assert taken == [WHOLE]
    last = rig.passed
    assert (last.pages, last.pages_total, last.round, last.bytes) == (1027, 1024, 1, len(WHOLE))
    assert last.go
    assert last.ended == "closed"
    assert rig.files.settings_path(OPERATION).stat().st_mode & 0o777 == 0o600


async def test_the_permission_is_recorded_before_it_is_on_the_wire(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    at_arrival: list[bool] = []

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        await reader.readexactly(len(WHOLE))
        at_arrival.append(rig.passed.go)
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(WHOLE)
        await rig.until(lambda passed: bool(at_arrival))
        rig.process.kill()
    assert at_arrival == [True]


async def test_a_permission_that_cannot_be_recorded_is_not_sent(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    got = bytearray()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        while data := await reader.read(1 << 16):
            got.extend(data)

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(WHOLE[: -len(GO)])
        await rig.until(lambda passed: passed.stage == "sent")
        temporary = rig.files.progress_path(OPERATION).with_name(f"{OPERATION}.progress.new")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.mkdir()  # what a full or broken disk does to the next write
        rig.xl_in.write(GO)
        assert (await rig.end())[0] != 0
    assert bytes(got) == WHOLE[: -len(GO)]
    assert not rig.passed.go


@pytest.mark.parametrize("result", [1, 255])
async def test_a_bad_report_is_passed_on_as_it_is(rig: Rig, certificates: dict[str, TlsFiles], result: int) -> None:
    async def behave(reader: Reader, writer: Writer) -> None:
        await receive(reader, writer, result=result)

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(WHOLE)
        talk = await rig.xl_out.readexactly(len(BANNER + READY + REPORT) + 1)
        rig.xl_in.close()
        await rig.end()
    assert talk[-1] == result
    assert rig.passed.report == result


async def test_a_refusal_of_the_target_is_told(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    async def behave(reader: Reader, writer: Writer) -> None:
        await reader.readline()
        writer.write(b'{"accepted": false, "reason": "NotExpected", "message": "mk2 expects nothing"}\n')
        await writer.drain()
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        status, words = await rig.end()
    assert status == 3
    assert "mk2 refused: mk2 expects nothing" in words
    assert rig.passed.refused is not None
    assert rig.passed.refused.reason == "NotExpected"
    assert not rig.passed.go


@pytest.mark.parametrize("who", ["mk1", "stranger"], ids=["another node of ours", "the right name of another CA"])
async def test_only_the_targets_own_certificate_is_trusted(
    rig: Rig, certificates: dict[str, TlsFiles], who: str
) -> None:
    lines: list[bytes] = []

    async def behave(reader: Reader, writer: Writer) -> None:
        lines.append(await reader.readline())

    async with endpoint(certificates[who], behave) as port:
        await rig.start(port, certificates["mk1"])
        status, words = await rig.end()
    assert status == 2
    assert "cannot reach mk2" in words
    assert not any(lines)  # not even the operation's id was said


async def test_nobody_there(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    async with endpoint(certificates["mk2"], accept) as port:
        pass
    await rig.start(port, certificates["mk1"])
    status, words = await rig.end()
    assert status == 2
    assert f"127.0.0.1:{port}" in words


async def one_by_one(writer: Writer, data: bytes) -> None:
    while not writer.is_closing():
        writer.write(data)
        await asyncio.sleep(0.2)


async def test_a_handshake_that_comes_byte_by_byte_is_no_longer_for_it(
    rig: Rig, certificates: dict[str, TlsFiles]
) -> None:
    async def behave(_: Reader, writer: Writer) -> None:
        writer.write(b"\x16\x03\x03\x40\x00")  # the header of a record of 16 KiB
        await one_by_one(writer, b"\0")

    async with await asyncio.start_server(behave, "127.0.0.1", 0) as server:
        await rig.start(server.sockets[0].getsockname()[1], certificates["mk1"], limit=2.0)
        status, words = await rig.end()
    assert (status, "timed out" in words) == (2, True), words


async def test_nor_is_an_answer_to_the_first_line(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    async with endpoint(certificates["mk2"], lambda _, writer: one_by_one(writer, b" ")) as port:
        await rig.start(port, certificates["mk1"], limit=2.0)
        status, words = await rig.end()
    assert (status, "timed out" in words) == (2, True), words


@pytest.mark.parametrize("cut_after", [0, 40, 100, 5000, 1_000_000, len(WHOLE) - len(GO) - 1])
async def test_a_target_that_goes_away_ends_the_relay(
    rig: Rig, certificates: dict[str, TlsFiles], cut_after: int
) -> None:
    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        await reader.readexactly(cut_after)

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        with contextlib.suppress(ConnectionError):
            rig.xl_in.write(WHOLE[: -len(GO)])
            await rig.xl_in.drain()
        status, _ = await rig.end()
    assert status == 1
    assert not rig.passed.go
    assert rig.passed.report is None


async def test_an_xl_that_goes_away_ends_the_relay_and_the_stream(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    ended = asyncio.Event()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await reader.read(1 << 16):
                pass
        ended.set()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(WHOLE[:100_000])
        await rig.until(lambda passed: passed.bytes == 100_000)
        rig.xl_in.close()
        assert (await rig.end())[0] == 1
        await asyncio.wait_for(ended.wait(), LIMIT)


async def test_a_target_that_reads_no_more_is_given_up_after_the_limit(
    rig: Rig, certificates: dict[str, TlsFiles]
) -> None:
    leave = asyncio.Event()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await leave.wait()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"], limit=3.0)
        began = time.monotonic()
        feeding = asyncio.ensure_future(feed(rig, b"\xa5" * (64 << 20)))
        status, words = await rig.end()
        feeding.cancel()
        leave.set()
    assert status == 1
    # By the relay's own clock, or by TCP_USER_TIMEOUT (tcp(7))
    assert any(one in words.lower() for one in ("nothing moved for 3 s", "timed out")), words
    assert time.monotonic() - began >= 3.0


async def test_a_pause_shorter_than_the_limit_is_survived(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    paused, taken = asyncio.Event(), bytearray()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1.5)  # the cut: longer than the relay's own writing interval, shorter than the limit
        paused.set()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        taken.extend(await reader.readexactly(len(WHOLE) - len(GO)))
        writer.write(READY)
        taken.extend(await reader.readexactly(len(GO)))
        writer.write(REPORT + b"\0")
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"], limit=15.0)
        rig.xl_in.write(WHOLE)
        await rig.until(lambda passed: passed.report == 0)
        rig.xl_in.close()
        assert (await rig.end())[0] == 0
    assert paused.is_set()
    assert bytes(taken) == WHOLE


async def test_large_streams_arrive_byte_for_byte(rig: Rig, certificates: dict[str, TlsFiles]) -> None:
    """64 MiB of random pages; the relay counts them from the headers and changes nothing."""
    noise = os.urandom(4096)
    batches = [list(range(n, n + 1024)) for n in range(0, 16384, 1024)]
    data = stream([batches], total=16384, fill=noise[:1], go=False).replace(noise[:1] * 4096, noise)
    digest = hashlib.sha256()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        left = len(data)
        while left and (piece := await reader.read(1 << 20)):
            digest.update(piece)
            left -= len(piece)
        writer.write(READY)
        await reader.read()

    async with endpoint(certificates["mk2"], behave) as port:
        await rig.start(port, certificates["mk1"])
        rig.xl_in.write(data)
        passed = await rig.until(lambda passed: passed.ready)
        rig.xl_in.close()
        await rig.end()
    assert digest.digest() == hashlib.sha256(data).digest()
    assert (passed.pages, passed.round, passed.stage) == (16384, 0, "sent")


def test_the_relay_starts_with_little() -> None:
    """xl waits for it while the operation runs: no framework may creep into its imports."""
    code = (
        "import agent.migration.relay, sys; print([m for m in ('asyncio', 'pydantic', 'inspect') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert said.stdout.strip() == "[]"
