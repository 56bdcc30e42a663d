"""On the source's host: the agent's own relay carries a stream to stream_target.py, with TLS or without.

    python stream_source.py make FILE
    python stream_source.py tls|plain ADDRESS PORT TARGET PKI-FOLDER FILE

FILE is what `xl migrate` would write: its headers, and pages that cannot be compressed. Prints seconds, bytes,
processor seconds of the relay, and how far it understood the stream.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import struct
import sys
import threading
import time
from typing import Any

from agent.migration import relay_start

relay_start.choose_cipher()  # as the relay's own start does

from agent.migration import relay, relay_line, stream  # noqa: E402

PAGES, TOGETHER, PAGE = 12288, 1024, 4096  # 48 MiB


class PlainLine:
    """A relay_line.Line without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def seal(self, data: bytes) -> bytes:
        return data

    def receive(self, most: int = 4096) -> bytes | None:
        try:
            return self.socket.recv(most)
        except BlockingIOError:
            return None


def make(path: str) -> None:
    pages, pack = os.urandom(PAGE * TOGETHER), struct.pack
    with open(path, "wb") as file:
        file.write(stream.XL_MAGIC + pack("<IIII", 0x01020304, 3, 0, 8) + b"{}      ")
        file.write(stream.LIBXL_MAGIC + pack(">II", 2, 0) + pack("<II", stream.LIBXL_LIBXC_CONTEXT, 0))
        file.write(stream.LIBXC_MARKER + pack(">II", stream.LIBXC_ID, 3) + bytes(8))
        file.write(pack("<IHHII", 1, 12, 0, 4, 17))
        for first in range(0, PAGES, TOGETHER):
            length = 8 + TOGETHER * (8 + PAGE)
            file.write(pack("<IIII", stream.LIBXC_PAGE_DATA, length, TOGETHER, 0))
            file.write(pack(f"<{TOGETHER}Q", *range(first, first + TOGETHER)) + pages)
        file.write(pack("<II", stream.LIBXC_END, 0) + pack("<II", stream.LIBXL_END, 0))


def carry(argv: list[str]) -> None:
    mode, address, port, target, pki, path = argv
    line: Any
    if mode == "tls":
        context = relay_line.client_context(f"{pki}/tls.crt", f"{pki}/tls.key", f"{pki}/ca.crt")
        line = relay_line.connect(address, int(port), context, target, 60.0)
    else:
        line = PlainLine(socket.create_connection((address, int(port))))
        relay_line.tune(line.socket, 60.0)
    line.receive(1)  # ready
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, 1 << 20)

    feeder = os.fork()
    if feeder == 0:  # xl's part, in a process of its own: not counted
        os.close(0)
        with open(path, "rb") as file:
            while data := file.read(1 << 16):
                os.write(writing, data)
        os._exit(0)
    os.close(writing)
    outputs = os.pipe()
    threading.Thread(target=os.read, args=(outputs[0], 4096), daemon=True).start()
    kept = os.dup(1)
    os.dup2(outputs[1], 1)
    progress = relay.Progress("/run/stream.progress")
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    relay.carry(line, progress, 60.0, zeros=True)
    line.socket.shutdown(socket.SHUT_WR)
    line.socket.setblocking(True)
    with contextlib.suppress(OSError):  # the target ends the connection when it has taken it all; TLS complains
        while line.receive(4096):
            pass
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    os.dup2(kept, 1)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{seconds:.4f} {progress.sender.bytes} {cpu:.4f} {progress.sender.stage}")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        carry(sys.argv[1:])
