"""The pipe between `xl migrate` and the target's agent: a process of its own, started by xl, that survives the agent.

    python -I -S agent/migration/relay_start.py SETTINGS

SETTINGS is a file of mode 0600 (see `Settings`). The relay connects with mutual TLS 1.3, names the operation in one
line of JSON, gets one line back, and then carries bytes both ways until one side ends. It reads the stream's headers on
the way and keeps what it saw in a progress file, replaced atomically: it is also there for an agent that starts again
in the middle. A FIFO beside it wakes the agent when something of weight passed.

Two orders matter. The permission to go is in the progress file before it is on the wire: a relay that ended with
`go: false` never let the target own the guest. The receiver's report is in the file before xl can read it.

Exit status: 0 the report passed; 1 the stream ended before; 2 the target could not be reached; 3 it refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import sys
import time
from typing import TypedDict

from agent.migration.relay_line import Line, client_context, connect
from agent.migration.stream import ReceiverStream, SenderStream
from agent.migration.zeros import LONGEST, WINDOW, Frames, Misframed, pack

CHUNK = LONGEST
_PIPE_SIZE = 1 << 20
_KEPT = 16 << 20
_WRITE_EVERY = 0.2  # seconds between progress files while nothing of weight happens
BELL = ".bell"  # after the progress file's name: the FIFO at which the agent listens


class Settings(TypedDict):
    """What the source's agent writes for one relay."""

    operation: str
    address: str
    port: int
    target: str  # node name; the server's certificate must be this node's
    certificate: str  # paths of PEM files
    key: str
    authority: str
    progress: str  # path
    limit: float  # seconds without a byte, with bytes waiting, after which the stream is given up


class Progress:
    """What passed so far, kept in a file."""

    def __init__(self, path: str) -> None:
        self.sender = SenderStream()
        self.receiver = ReceiverStream()
        self.refused: dict[str, str] | None = None
        self.ended: str | None = None
        self._path = path
        self._weighty: tuple[object, ...] = ()
        self._written_at = 0.0

    def write(self, *, now: bool = False) -> None:
        """Write if something of weight changed, or it is time, or `now`. Raises OSError."""
        sender, receiver = self.sender, self.receiver
        weighty = (
            sender.stage,
            sender.round,
            receiver.banner,
            receiver.ready,
            receiver.report,
            self.refused,
            self.ended,
        )
        clock, changed = time.monotonic(), weighty != self._weighty
        if not now and not changed and clock - self._written_at < _WRITE_EVERY:
            return
        self._weighty, self._written_at = weighty, clock
        state = {
            "stage": sender.stage,
            "round": sender.round,
            "round_pages": sender.round_pages,
            "pages": sender.pages,
            "pages_total": sender.pages_total,
            "bytes": sender.bytes,
            "banner": receiver.banner,
            "ready": receiver.ready,
            "go": sender.go,
            "report": receiver.report,
            "problem": sender.problem or receiver.problem,
            "refused": self.refused,
            "ended": self.ended,
        }
        temporary = self._path + ".new"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(state, file)
        os.replace(temporary, self._path)
        if changed or now:
            ring(self._path + BELL)


def ring(fifo: str) -> None:
    """Wake the agent. Without one, or when it is awake already, nothing is lost: it will look."""
    with contextlib.suppress(OSError):
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b"\0")
        finally:
            os.close(descriptor)


class Stalled(Exception):
    pass


def carry(line: Line, progress: Progress, limit: float, *, zeros: bool) -> None:
    """Bytes both ways until a side ends. `zeros`: in frames, see zeros.py. Raises OSError, Misframed, Stalled."""
    bytes(_KEPT)  # freed at once: glibc keeps freed buffers from then on (mallopt(3)); faulting them in costs more
    sock = line.socket
    sock.setblocking(False)
    poll = select.poll()
    back = _Back(line, progress, Frames() if zeros else None)
    waiting = memoryview(b"")  # of what xl wrote, sealed, not yet sent
    moved_at = time.monotonic()
    if not back.receive():  # what came with the answer to the first line is in TLS's own buffer by now
        return
    while True:
        full = zeros and progress.sender.bytes - back.taken >= WINDOW
        poll.register(sock, select.POLLIN | (select.POLLOUT if waiting else 0))
        if waiting or full:
            _unregister(poll, 0)
        else:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll(_WRITE_EVERY * 1000))
        before = (progress.sender.bytes, progress.receiver.bytes, back.taken, len(waiting))
        try:
            if sock.fileno() in ready and not back.receive():
                return
        except TimeoutError:  # the kernel gave the connection up, see `tune`
            raise Stalled(f"nothing moved for {time.monotonic() - moved_at:.0f} s") from None
        if 0 in ready:
            data = os.read(0, CHUNK)
            if not data:
                return  # xl is through with it: it has the report, or it gave up
            progress.sender.feed(data)
            progress.write()  # before it is sent: the permission to go must not be on the wire unrecorded
            framed = pack(data, progress.sender.page_in(len(data))) if zeros else data
            waiting = memoryview(line.seal(framed))
        with contextlib.suppress(BlockingIOError):
            while waiting:
                waiting = waiting[sock.send(waiting) :]
        now = time.monotonic()
        if (progress.sender.bytes, progress.receiver.bytes, back.taken, len(waiting)) != before:
            moved_at = now
        elif now - moved_at > limit and (waiting or full or progress.sender.stage in ("sent", "go")):
            raise Stalled(f"nothing moved for {limit:g} s")
        progress.write()


class _Back:
    """What comes from the target: the receiver's words, and how much of the stream was written to it."""

    def __init__(self, line: Line, progress: Progress, frames: Frames | None) -> None:
        self.taken = 0  # bytes; only with frames
        self._line, self._progress, self._frames = line, progress, frames

    def receive(self) -> bool:
        """Pass on what is there; False when it ended. Raises OSError, Misframed."""
        while True:
            data = self._line.receive()
            if not data:
                return data is None
            if self._frames is None:
                self._pass_on(data)
                continue
            for length, part in self._frames.feed(data):
                if part is None:
                    self.taken += length
                else:
                    self._pass_on(bytes(part))

    def _pass_on(self, data: bytes) -> None:
        self._progress.receiver.feed(data)
        self._progress.write()  # before xl reads it
        while data:
            data = data[os.write(1, data) :]


def _unregister(poll: select.poll, fd: int) -> None:
    with contextlib.suppress(KeyError):
        poll.unregister(fd)


def main(argv: list[str]) -> int:
    """Carry one migration. `argv`: the settings' path."""
    with open(argv[0], encoding="utf-8") as file:
        settings: Settings = json.load(file)
    progress = Progress(settings["progress"])
    try:
        context = client_context(settings["certificate"], settings["key"], settings["authority"])
        line = connect(settings["address"], settings["port"], context, settings["target"], settings["limit"])
        answer = line.ask({"version": 1, "kind": "stream", "operation": settings["operation"], "zeros": True})
    except (OSError, ValueError) as error:
        progress.ended = f"cannot reach {settings['target']} at {settings['address']}:{settings['port']}: {error}"
        return _end(progress, 2)
    if not answer.get("accepted"):
        progress.refused = {
            "reason": str(answer.get("reason", "Refused")),
            "message": str(answer.get("message", "")) or "the target gave no reason",
        }
        progress.ended = f"{settings['target']} refused: {progress.refused['message']}"
        return _end(progress, 3)
    with contextlib.suppress(OSError):  # not a pipe, or above the user's limit: only slower
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    try:
        carry(line, progress, settings["limit"], zeros=answer.get("zeros") is True)
        progress.ended = "closed"
    except (OSError, Misframed, Stalled) as error:
        progress.ended = f"the stream to {settings['target']} broke: {error}"
    finally:
        line.socket.close()
    return _end(progress, 0 if progress.receiver.report is not None else 1)


def _end(progress: Progress, status: int) -> int:
    progress.write(now=True)
    if status:
        print(f"xentandem relay: {progress.ended}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
