"""Errors of the drivers, and the one way in which a driver runs a command."""

from __future__ import annotations

from collections.abc import Sequence

from agent.host import Completed, Host


class DriverError(Exception):
    """A tool refused or failed, or an argument can't be passed on safely.

    `reason` is CamelCase and stable; `message` says what happened in words; `completed` is the command that failed,
    None when none was run.
    """

    def __init__(self, reason: str, message: str, completed: Completed | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.completed = reason, message, completed


class Unreadable(DriverError):
    """What a tool said (or that it said nothing) leaves the state unknown. Unknown is never absent."""

    def __init__(self, message: str, completed: Completed | None = None) -> None:
        super().__init__("Unreadable", message, completed)


def said(completed: Completed) -> str:
    """The command's words in one line, for messages."""
    words = " ".join((completed.stderr or completed.stdout).split())
    return words[:400] or f"exit status {completed.exit}"


async def run(host: Host, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
    """Run a command whatever its exit status. Raises DriverError("ToolMissing"), CommandTimedOut."""
    try:
        return await host.run(argv, timeout=timeout, stdin=stdin)
    except FileNotFoundError as error:
        raise DriverError("ToolMissing", f"{argv[0]} is not installed on this host") from error


async def run_ok(host: Host, argv: Sequence[str], *, timeout: float = 30.0, reason: str = "CommandFailed") -> Completed:
    """Run a command that must exit 0. Raises DriverError(reason), DriverError("ToolMissing"), CommandTimedOut."""
    completed = await run(host, argv, timeout=timeout)
    if completed.exit != 0:
        raise DriverError(reason, f"{' '.join(argv)}: {said(completed)}", completed)
    return completed


async def read(host: Host, argv: Sequence[str], *, timeout: float = 30.0) -> str:
    """Standard output of a command that only looks. Raises Unreadable, CommandTimedOut."""
    try:
        return (await run_ok(host, argv, timeout=timeout)).stdout
    except DriverError as error:
        raise Unreadable(error.message, error.completed) from error
