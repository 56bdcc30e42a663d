"""Processes of a dom0 that move, save or restore a domain, and which of them nobody of ours started. Pure.

A person's own migration is `xl migrate` on one host and `xl migrate-receive` on the other, often behind a program that
listens (`socat TCP-LISTEN:9000 EXEC:"xl migrate-receive"`). Without `-e`, xl leaves a process behind that watches the
domain under the same command line for as long as the domain lives: its standard input is /dev/null, while a receiver
reads the guest from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.host import HostProcess
from agent.protocol import Refusal

HELPER = "libxl-save-helper"  # libxl's own process for a stream, whatever toolstack called it
LISTENERS = ("socat", "nc", "ncat", "netcat", "nc.openbsd", "nc.traditional")
PROGRAMS = ("xl", HELPER, *LISTENERS)
"""What `Host.find_processes` is asked for."""
RECEIVE, SEND = "migrate-receive", "migrate"
_STREAMS = (RECEIVE, SEND, "save", "restore", "remus")


def working(processes: Sequence[HostProcess]) -> tuple[HostProcess, ...]:
    """Those that may be in the middle of moving, saving or restoring some domain, ours too."""
    return tuple(
        one
        for one in processes
        if one.program == HELPER or _listens(one) or (_command(one) in _STREAMS and not _watches(one))
    )


def receivers(processes: Sequence[HostProcess]) -> tuple[HostProcess, ...]:
    """Those that receive a domain, or wait for one, and that no agent started."""
    return tuple(
        one for one in processes if not one.ours and (_listens(one) or (_command(one) == RECEIVE and not _watches(one)))
    )


def senders(processes: Sequence[HostProcess], name: str, domid: int | None) -> tuple[HostProcess, ...]:
    """Those that send this domain, and that no agent started."""
    words = {name, str(domid)}
    return tuple(one for one in processes if not one.ours and _command(one) == SEND and words & set(one.argv[2:]))


def told(processes: Sequence[HostProcess]) -> str:
    """`process 199 (xl migrate-receive -p -e)`, each."""
    return ", ".join(f"process {one.pid} ({' '.join((one.program, *one.argv[1:]))[:80]})" for one in processes)


def receiving(processes: Sequence[HostProcess], node: str) -> Refusal | None:
    """What a foreign receiver means. It is never ended: it may be a person's own migration, with the only copy."""
    found = receivers(processes)
    if not found:
        return None
    pids = " ".join(str(one.pid) for one in found)
    return Refusal(
        reason="ForeignReceiver",
        message=f"{node} waits for, or receives, a domain that Xentandem did not send: {told(found)}. Nothing moves to"
        f" {node} meanwhile. If no migration of yours is under way, end it (kill {pids})",
    )


def _command(process: HostProcess) -> str:
    """xl's command, behind its global options; "" of another program."""
    if process.program != "xl":
        return ""
    return next((word for word in process.argv[1:] if not word.startswith("-")), "")


def _listens(process: HostProcess) -> bool:
    return process.program in LISTENERS and any(RECEIVE in word for word in process.argv[1:])


def _watches(process: HostProcess) -> bool:
    """Left behind to watch a domain that arrived: nothing comes from /dev/null."""
    return _command(process) == RECEIVE and process.stdin == "/dev/null"
