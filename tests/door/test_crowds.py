"""Connections that want nothing, or take for ever to say what: bounded in number and time; the controller gets in."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rig import NAME, SECONDS, Rig

from agent import bodies, entrance
from agent.migration import relocation
from agent.tls import client_context

OPEN = Path("/proc/self/fd")


@contextlib.contextmanager
def crowd(rig: Rig, count: int, port: int) -> Iterator[list[socket.socket]]:
    """So many who connect and say nothing."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)) for _ in range(count)
        ]


def closed_at(connection: socket.socket) -> float:
    """When the other side closed it; fails when it does not."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while connection.recv(1 << 16):
            pass
    return time.monotonic()


def test_who_says_nothing_keeps_nobody_out(rig: Rig) -> None:
    before = len(os.listdir(OPEN))
    with rig.unchanged(), crowd(rig, 3 * entrance.HANDSHAKES, rig.ports["mk1"][0]) as waiting:
        for _ in range(5):
            with rig.dial() as controller:  # a new connection, among all of those
                controller.sendall(b"GET /healthz HTTP/1.1\r\nHost: mk1\r\n\r\n")
                assert controller.recv(12) == b"HTTP/1.1 200"
        served = len(os.listdir(OPEN)) - before - len(waiting)
        assert served <= entrance.HANDSHAKES + 5, "files of the agent that they hold"


def test_who_says_nothing_holds_up_no_move(rig: Rig) -> None:
    before = len(os.listdir(OPEN))
    with rig.unchanged(), crowd(rig, 3 * relocation.CONNECTIONS, rig.ports["mk1"][1]) as waiting:
        for _ in range(5):
            answer = relocate(rig, b'{"version": 1, "kind": "stream", "operation": "move"}\n')
            assert answer["reason"] == "NotExpected"
        served = len(os.listdir(OPEN)) - before - len(waiting)
        assert served <= relocation.CONNECTIONS + 5


def relocate(rig: Rig, line: bytes) -> dict[str, Any]:
    """What mk1's relocation endpoint says to mk2's agent."""
    plain = socket.create_connection(("127.0.0.1", rig.ports["mk1"][1]), timeout=SECONDS)
    with client_context(rig.tls["mk2"]).wrap_socket(plain) as source:
        source.sendall(line)
        answer: dict[str, Any] = json.loads(source.makefile("rb").readline())
        return answer


def test_other_certificates_keep_nobody_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that was broken into has one."""
    monkeypatch.setattr(entrance, "STRANGER_SECONDS", 0.5)
    with rig.unchanged(), contextlib.ExitStack() as stack:
        context = client_context(rig.tls["mk2"])
        held = [stack.enter_context(rig.dial(context)) for _ in range(2 * entrance.STRANGERS)]
        begun = time.monotonic()
        with rig.dial() as controller:
            controller.sendall(b"GET /healthz HTTP/1.1\r\nHost: mk1\r\n\r\n")
            assert controller.recv(12) == b"HTTP/1.1 200"
        assert closed_at(held[0]) - begun < entrance.STRANGER_SECONDS + 5


def test_the_controllers_own_connections_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "CONNECTIONS", 20)
    with rig.unchanged(), contextlib.ExitStack() as stack:
        held = [stack.enter_context(rig.dial()) for _ in range(24)]
        begun = time.monotonic()
        assert closed_at(held[-1]) - begun < 5
    with rig.dial() as again:
        again.sendall(b"GET /healthz HTTP/1.1\r\nHost: mk1\r\n\r\n")
        assert again.recv(12) == b"HTTP/1.1 200"


def test_half_a_body_is_waited_for_so_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)
    body = json.dumps(rig.domain(state="Stopped")).encode()
    head = f"PUT /v1/domains/{NAME} HTTP/1.1\r\nHost: mk1\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with rig.unchanged(), rig.dial() as slow:
        slow.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
        answer = slow.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"did not come within" in answer
        with contextlib.suppress(OSError):
            slow.sendall(body[-1:])  # too late: nobody takes it for the rest of that request


def test_who_goes_away_in_the_middle_of_a_body_has_asked_for_nothing(rig: Rig) -> None:
    body = json.dumps(rig.domain(state="Stopped")).encode()
    head = f"PUT /v1/domains/{NAME} HTTP/1.1\r\nHost: mk1\r\nContent-Type: application/json\r\n"
    with rig.unchanged():
        for cut in (0, 1, len(body) // 2, len(body) - 1):
            with rig.dial() as leaver:
                leaver.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:cut])


def test_headers_that_trickle_in_are_waited_for_so_long(rig: Rig) -> None:
    """The limit counts from the connection's beginning, not from the last byte."""
    handlers = rig.agents["mk1"]._server
    assert handlers is not None
    assert handlers._runner is not None
    patient = handlers._runner.server
    assert patient is not None
    kept = patient._kwargs["keepalive_timeout"]
    assert kept == entrance.IDLE_SECONDS < 120
    patient._kwargs["keepalive_timeout"] = 0.5
    try:
        with rig.unchanged(), rig.dial() as slow:
            begun = time.monotonic()
            slow.sendall(b"GET /v1/state HTTP/1.1\r\n")
            slow.settimeout(0.1)
            while time.monotonic() - begun < SECONDS:
                try:
                    slow.sendall(b"X: y\r\n")
                    if not slow.recv(1):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert time.monotonic() - begun < 5
    finally:
        patient._kwargs["keepalive_timeout"] = kept
