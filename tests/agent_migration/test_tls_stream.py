"""TLS for bulk: the bytes arrive whole in both directions at once, and every way to end is felt on the other side."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import pki
from agent.migration.tls_stream import TlsStream
from agent.tls import client_context, peer_node, server_context

LIMIT = 20.0
Two = tuple[TlsStream, TlsStream]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    authority = pki.create_authority(tmp_path / "ca")
    contexts = (
        client_context(pki.issue_agent(authority, "mk1", tmp_path / "mk1")),
        server_context(pki.issue_agent(authority, "mk2", tmp_path / "mk2")),
    )
    ends = socket.socketpair()
    streams = (TlsStream(ends[0], contexts[0], server_side=False), TlsStream(ends[1], contexts[1], server_side=True))
    await asyncio.wait_for(asyncio.gather(*(stream.handshake() for stream in streams)), LIMIT)
    yield streams
    for stream in streams:
        stream.close()


async def take(stream: TlsStream, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := await asyncio.wait_for(stream.read(), LIMIT)):
        data += bytes(piece)
    return data


async def test_each_side_knows_the_other(two: Two) -> None:
    client, server = two
    assert (peer_node(client.certificate), peer_node(server.certificate)) == ("mk2", "mk1")


async def test_much_passes_in_both_directions_at_once(two: Two) -> None:
    client, server = two
    sent = {client: os.urandom(3 << 20), server: os.urandom(2 << 20)}

    async def pour(stream: TlsStream) -> None:
        data = sent[stream]
        for offset in range(0, len(data), 100_000):
            await stream.write(data[offset : offset + 100_000])

    got_by_server, got_by_client, *_ = await asyncio.wait_for(
        asyncio.gather(
            take(server, len(sent[client])), take(client, len(sent[server])), *(pour(stream) for stream in two)
        ),
        LIMIT,
    )
    assert hashlib.sha256(got_by_server).digest() == hashlib.sha256(sent[client]).digest()
    assert hashlib.sha256(got_by_client).digest() == hashlib.sha256(sent[server]).digest()


async def test_what_follows_the_first_line_is_not_lost(two: Two) -> None:
    client, server = two
    await client.write(b'{"version": 1}\nXen saved domain')
    assert await server.read_line(100) == b'{"version": 1}'
    assert await take(server, 16) == b"Xen saved domain"


@pytest.mark.parametrize(("sent", "error"), [(b"x" * 5000, ValueError), (b"half a line", ConnectionError)])
async def test_a_first_line_that_is_none(two: Two, sent: bytes, error: type[Exception]) -> None:
    client, server = two
    await client.write(sent)
    if error is ConnectionError:
        client.abort()
    with pytest.raises(error):
        await asyncio.wait_for(server.read_line(4096), LIMIT)


@pytest.mark.parametrize("politely", [True, False], ids=["with TLS's goodbye", "as a killed process"])
async def test_the_end_comes_after_everything_that_was_written(two: Two, politely: bool) -> None:
    client, server = two
    await server.write(b"go on")
    assert await take(client, 5) == b"go on"
    await client.write(b"the last words")
    if politely:
        client.close()
    else:
        client.socket.close()
    assert await take(server, 14) == b"the last words"
    assert await asyncio.wait_for(server.read(), LIMIT) == b""


async def test_abort_wakes_who_reads_on_either_side(two: Two) -> None:
    reading = [asyncio.ensure_future(stream.read()) for stream in two]
    await asyncio.sleep(0)
    two[0].abort()
    assert await asyncio.wait_for(asyncio.gather(*reading), LIMIT) == [b"", b""]


async def test_writing_to_who_is_gone_is_an_error(two: Two) -> None:
    client, server = two
    server.socket.close()
    with pytest.raises(ConnectionError):
        await client.write(b"\0" * (8 << 20))


async def test_a_write_waits_for_the_reader(two: Two) -> None:
    client, server = two
    writing = asyncio.ensure_future(client.write(b"\xa5" * (8 << 20)))
    done, _ = await asyncio.wait({writing}, timeout=0.2)
    assert not done, "8 MiB do not fit between two ends"
    assert len(await take(server, 8 << 20)) == 8 << 20
    await asyncio.wait_for(writing, LIMIT)


async def test_a_handshake_that_is_none(tmp_path: Path) -> None:
    authority = pki.create_authority(tmp_path / "ca")
    files = pki.issue_agent(authority, "mk2", tmp_path / "mk2")
    for first in (b"GET / HTTP/1.1\r\n\r\n", b""):
        here, there = socket.socketpair()
        stream = TlsStream(there, server_context(files), server_side=True)
        here.sendall(first)
        here.shutdown(socket.SHUT_WR)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.wait_for(stream.handshake(), LIMIT)
        stream.close()
        here.close()
