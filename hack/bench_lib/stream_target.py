"""On the target's host: the agent's own receiving code takes the stream of stream_source.py, with TLS or without.

    python stream_target.py tls|plain PORT SOURCE PKI-FOLDER

Prints "listening", and at the end the cpu-seconds of this process.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from pathlib import Path
from typing import Any

from agent.core import TlsFiles
from agent.migration import transfer
from agent.migration.relay_line import require_node, tune
from agent.migration.tls_stream import BUFFER, TlsStream
from agent.real_host import RealHost
from agent.tls import server_context


class PlainStream:
    """TlsStream's words without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._loop = sock, asyncio.get_running_loop()
        self._received = memoryview(bytearray(BUFFER))

    async def read(self) -> bytes:
        count = await self._loop.sock_recv_into(self._socket, self._received)
        return bytes(self._received[:count])

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)


class NoMeter:
    def take(self, *_: Any, **__: Any) -> None:
        pass


async def run(mode: str, port: int, source: str, pki: Path) -> None:
    listener = socket.create_server(("", port))
    listener.setblocking(False)
    print("listening", flush=True)
    sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    tune(sock, 60.0)
    sock.setblocking(False)
    stream: Any
    if mode == "tls":
        files = TlsFiles(certificate=pki / "tls.crt", key=pki / "tls.key", authority=pki / "ca.crt")
        stream = TlsStream(sock, server_context(files), server_side=True)
        await stream.handshake()
        require_node(stream.certificate, source)
    else:
        stream = PlainStream(sock)
    process: Any = await RealHost(Path("/run/stream-bench")).pipe(["sh", "-c", "exec cat >/dev/null"])
    await stream.write(b"1")
    before = resource.getrusage(resource.RUSAGE_SELF)
    meter: Any = NoMeter()
    await transfer.inbound(transfer.Connection(stream, zeros=True), process, meter)
    after = resource.getrusage(resource.RUSAGE_SELF)
    sock.close()
    print(f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.4f}", flush=True)
    await process.wait()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
