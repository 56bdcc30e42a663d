"""Ports of 127.0.0.1 that a program is told before it listens, and has again after it was killed."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_FIRST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_taken: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all different, and never given twice by one process.

    They lie below the range from which the kernel chooses: bind(0) and outgoing connections of anyone on this machine
    cannot take one between this call and its use (ip(7), ip_local_port_range).
    """
    chosen: list[int] = []
    while len(chosen) < count:
        port = _FIRST + secrets.randbelow(_end() - _FIRST)
        if port not in _taken and _is_free(port):
            _taken.add(port)
            chosen.append(port)
    return chosen


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def _end() -> int:
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32_768
    return first if first > _FIRST + 1_000 else 65_536


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
