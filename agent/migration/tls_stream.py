"""TLS over a socket of the event loop, for bulk: a guest's memory passes here.

asyncio's own TLS copies every record several times and takes three times the processor time for the same stream; a
dom0 often has one or two processors, and they also serve the guests' disks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

BUFFER = 256 << 10


class TlsStream:
    """One connection. One task may read while another writes. `abort` ends both at once; `close` after they ended.

    Raises OSError (ssl.SSLError is one) when the connection breaks.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self._received = memoryview(bytearray(BUFFER))
        self._clear = memoryview(bytearray(BUFFER))
        self._line = b""  # read beyond the first line's end
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._receive():
                    raise ConnectionResetError("closed in the TLS handshake") from None
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's, as ssl.SSLSocket.getpeercert gives it."""
        return self._tls.getpeercert()

    async def read(self) -> memoryview:
        """What is there, at least one byte and at most BUFFER; nothing at the end. Good until the next read."""
        if self._line:
            data, self._line = self._line, b""
            return memoryview(data)
        count = 0
        while True:
            try:
                while count < BUFFER and (got := self._tls.read(BUFFER - count, self._clear[count:])):
                    count += int(got)
                return self._clear[:count]
            except ssl.SSLWantReadError:
                if count:
                    return self._clear[:count]
            except ssl.SSLEOFError:  # closed without TLS's own goodbye, as a process does that is killed
                return self._clear[:count]
            # What TLS has to say by itself (new keys) goes with the next write: a reader that waited for a writer
            # could wait for ever, when the other side's reader does the same.
            if not await self._receive():
                self._in.write_eof()

    async def read_line(self, limit: int) -> bytes:
        """Up to the first line's end; what follows is kept for `read`. Raises ValueError when it is too long."""
        line = bytearray()
        while b"\n" not in line:
            if len(line) > limit:
                raise ValueError(f"no end of the line within {limit} bytes")
            if not (data := await self.read()):
                raise ConnectionResetError(f"closed in the first line, after {bytes(line[:80])!r}")
            line += data
        first, _, self._line = bytes(line).partition(b"\n")
        return first

    async def write(self, data: bytes) -> None:
        """On its way when this returns."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        await self._flush()

    def abort(self) -> None:
        """End it now: whoever reads or writes is woken."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket; what was written still arrives. Nobody may read or write any more."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()  # the goodbye, as far as it goes at once
        with contextlib.suppress(OSError):
            self.socket.send(self._out.read())
        self.socket.close()

    async def _receive(self) -> bool:
        count = await self._loop.sock_recv_into(self.socket, self._received)
        if count:
            self._in.write(self._received[:count])
        return bool(count)

    async def _flush(self) -> None:
        async with self._sending:
            if self._out.pending:
                await self._loop.sock_sendall(self.socket, self._out.read())
