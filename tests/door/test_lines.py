"""The doors that take one line: other agents' relocation endpoint, and the socket of DRBD's fence-peer handler."""

from __future__ import annotations

import contextlib
import json
import os
import socket

import pytest
from rig import SECONDS, Rig

from agent.fence_door import SOCKET
from agent.tls import client_context

LINES = {
    "deep": b"[" * 4000 + b"\n",
    "deep objects": b'{"version":' * 350 + b"\n",
    "too long": b'{"version": 1, "kind": "' + b"x" * 10_000 + b'"}\n',
    "NUL": b"\0\0\0\n",
    "not UTF-8": b'{"version": 1, "kind": "\xff\xfe", "operation": "a"}\n',
    "a path": b'{"version": 1, "kind": "stream", "operation": "../../journal", "resource": "../x", "peer": "-f"}\n',
    "option": b'{"version": 1, "kind": "released", "operation": "-f", "epoch": 2, "resource": "-f", "peer": "mk2"}\n',
    "a huge epoch": b'{"version": 1, "kind": "released", "operation": "sync", "epoch": ' + b"9" * 4000 + b"}\n",
    "a list for a name": b'{"version": 1, "kind": "stream", "operation": ["a"], "resource": ["a"], "peer": {}}\n',
}


@pytest.mark.parametrize("name", LINES)
def test_the_relocation_endpoint_refuses_in_words(rig: Rig, name: str) -> None:
    with rig.unchanged():
        plain = socket.create_connection(("127.0.0.1", rig.ports["mk1"][1]), timeout=SECONDS)
        with client_context(rig.tls["mk2"]).wrap_socket(plain) as source:
            source.sendall(LINES[name])
            answer = json.loads(source.makefile("rb").readline())
        assert answer["accepted"] is False
        assert answer["reason"] in ("NotUnderstood", "NotExpected")


@pytest.mark.parametrize("name", LINES)
def test_the_fence_handlers_socket_tells_nobody_to_go_on(rig: Rig, name: str) -> None:
    with rig.unchanged(), socket.socket(socket.AF_UNIX) as handler:
        handler.settimeout(SECONDS)
        folder = os.open(rig.directory / "state" / "mk1", os.O_PATH | os.O_DIRECTORY)
        handler.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        os.close(folder)
        handler.sendall(LINES[name])
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = handler.makefile("rb").readline()
        # drbd.conf(5), fence-peer: 3 to 5 and 7 let the volume go on
        assert not answer or json.loads(answer)["exit"] not in (3, 4, 5, 7)
