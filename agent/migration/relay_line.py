"""The relay's connection to the target: mutual TLS 1.3, and much of the stream in one call.

OpenSSL on a socket sends each record of 16 KiB by a call of its own, which costs a dom0 more than sealing it. The relay
imports this module and must start at once: few imports here.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from typing import Any

CHUNK = 256 << 10
_LINE_LIMIT = 4096


def tune(sock: socket.socket, limit: float) -> None:
    """A dead link ends the connection after `limit` seconds, a shorter cut does not; small messages go out at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, max(2, int(limit // 5)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limit * 1000))


def client_context(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """TLS 1.3, our certificate, theirs from our CA alone. Who they are is checked by `require_node`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name that counts is the URI of the certificate
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


def require_node(certificate: Any, node: str) -> None:
    """Raises PermissionError unless the certificate (as `getpeercert()` gives it) is that one node's agent's."""
    names = (certificate or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if uris != [f"xentandem:agent:{node}"]:
        raise PermissionError(f"the other side's certificate is of {', '.join(uris) or 'nobody'}, expected {node}")


class Line:
    """TLS over a connected socket, as its client. The handshake, and a question's answer, may take `patience` seconds
    each; then the socket is set not to wait by whoever carries the stream."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, patience: float) -> None:
        self.socket = sock
        self._patience = patience
        self._until = time.monotonic() + patience
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    def handshake(self) -> None:
        """Raises OSError (ssl.SSLError is one)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._out.read())
                if not (data := self._recv_in_time()):
                    raise ConnectionResetError("closed in the TLS handshake") from None
                self._in.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.socket.sendall(self._out.read())  # the alert that says why
                raise
            else:
                self.socket.sendall(self._out.read())
                return

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send one line of JSON, read one line of JSON. Raises OSError, ValueError."""
        self._until = time.monotonic() + self._patience
        self.socket.sendall(self.seal(json.dumps(question).encode() + b"\n"))
        line = b""
        while not line.endswith(b"\n"):
            # Byte by byte: what follows the line belongs to xl.
            if not (byte := self.receive(1)) or len(line) > _LINE_LIMIT:
                raise ConnectionError(f"no answer to the first line, only {line!r}")
            line += byte
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError(f"not an answer: {line!r}")
        return answer

    def receive(self, most: int = CHUNK) -> bytes | None:
        """At least one byte, none at the end; None: nothing is there now. Raises OSError."""
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLEOFError:  # closed without TLS's own goodbye, as a process does that is killed
                return b""
            try:
                data = self.socket.recv(CHUNK) if self.socket.gettimeout() == 0.0 else self._recv_in_time()
            except BlockingIOError:
                return None
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()

    def seal(self, data: bytes) -> bytes:
        """`data` as it has to be sent, after what TLS has to say by itself."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._out.read()

    def _recv_in_time(self) -> bytes:
        """Raises TimeoutError: bytes that come one by one do not make it longer."""
        if (left := self._until - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        self.socket.settimeout(left)
        return self.socket.recv(CHUNK)

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The peer's, as ssl.SSLSocket.getpeercert gives it."""
        return self._tls.getpeercert()


def connect(address: str, port: int, context: ssl.SSLContext, node: str, limit: float) -> Line:
    """To that node's agent and to nobody else. Raises OSError."""
    patience = min(20.0, limit)
    sock = socket.create_connection((address, port), timeout=patience)
    try:
        tune(sock, limit)
        line = Line(sock, context, patience)
        line.handshake()
        require_node(line.certificate, node)
    except BaseException:
        sock.close()
        raise
    return line
