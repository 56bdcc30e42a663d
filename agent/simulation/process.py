"""Simulated processes: standard streams, exit status, children, scopes that outlive the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.host import ByteStream, Completed, HostProcess
from agent.real_jobs import MARK

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

SIGKILL = -9
PIPE_BYTES = 65536  # pipe(7)

Command = Callable[["SimulatedHost", list[str], bytes], Awaitable[Completed]]
"""A program that runs to its end: host, whole argv, standard input. Answer with `done` or `failed`."""

Program = Callable[["Process"], Awaitable[int]]
"""A program that streams: reads `process.stdin`, writes `process.stdout` and `process.stderr`, returns its status."""


def done(argv: Sequence[str], stdout: str = "") -> Completed:
    return Completed(tuple(argv), 0, stdout, "")


def failed(argv: Sequence[str], status: int, stderr: str, stdout: str = "") -> Completed:
    return Completed(tuple(argv), status, stdout, stderr)


class Pipe:
    """Bytes from one process to another, in order. Writers wait while it is full, unless `limit` is None."""

    def __init__(self, limit: int | None = PIPE_BYTES) -> None:
        self._data = bytearray()
        self._limit = limit
        self._writer_closed = self._reader_closed = False
        self._changed = asyncio.Event()

    async def read(self, limit: int = -1) -> bytes:
        """Up to `limit` bytes as soon as there are any (-1: everything until the end); b"" at the end."""
        if limit < 0:
            data = b""
            while part := await self.read(PIPE_BYTES):
                data += part
            return data
        while not self._data and not self._writer_closed:
            await self._wait()
        taken = bytes(self._data[:limit])
        del self._data[:limit]
        self._changed.set()
        return taken

    async def read_exactly(self, size: int) -> bytes:
        """Raises EOFError when the writer ended before."""
        data = b""
        while len(data) < size:
            part = await self.read(size - len(data))
            if not part:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += part
        return data

    async def readline(self) -> bytes:
        """A line with its end, or what is left before the end of the stream."""
        while (end := self._data.find(b"\n")) < 0 and not self._writer_closed:
            await self._wait()
        return await self.read(end + 1) if end >= 0 else await self.read(max(1, len(self._data)))

    async def write(self, data: bytes | str) -> None:
        """Raises BrokenPipeError when nobody will read it."""
        self.put(data)
        while self._limit is not None and len(self._data) > self._limit and not self._reader_closed:
            await self._wait()

    def put(self, data: bytes | str) -> None:
        """Write without waiting for room."""
        if self._reader_closed or self._writer_closed:
            raise BrokenPipeError
        self._data += data.encode() if isinstance(data, str) else data
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    @property
    def closed(self) -> bool:
        return self._reader_closed or self._writer_closed

    def close_write(self) -> None:
        self._writer_closed = True
        self._changed.set()

    def close_read(self) -> None:
        self._reader_closed = True
        self._data.clear()
        self._changed.set()


class Lines:
    """Standard error kept whole, as a job's file: anybody can follow it from its beginning."""

    def __init__(self) -> None:
        self.text = ""
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, text: str | bytes) -> None:
        self.text += text.decode() if isinstance(text, bytes) else text
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        start = 0
        while True:
            end = self.text.find("\n", start)
            if end >= 0:
                yield self.text[start:end]
                start = end + 1
            elif self._closed:
                if start < len(self.text):
                    yield self.text[start:]
                return
            else:
                await self._changed.wait()


@dataclass(eq=False)
class Process:
    """One process on a host. `argv[0]` is as it was given; children belong to the same session and die with it."""

    host: SimulatedHost
    argv: list[str]
    pid: int
    stdin: Pipe
    stdout: Pipe
    stderr: Lines
    session: list[Process]
    environment: dict[str, str]
    reads_nothing: bool = False  # its standard input is /dev/null
    status: int | None = None
    task: asyncio.Task[None] | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def spawn(self, argv: Sequence[str], *, stdin: Pipe | None = None, stdout: Pipe | None = None) -> Process:
        """A child in the same session, its standard error joined to the parent's."""
        return self.host.processes.start(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=self.stderr,
            session=self.session,
            environment=self.environment,
        )

    @property
    def seen(self) -> HostProcess:
        """As /proc shows it."""
        stdin = "/dev/null" if self.reads_nothing else f"pipe:[{self.pid}]"
        return HostProcess(self.pid, tuple(self.argv), stdin, MARK in self.environment)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.status is not None
        return self.status

    def kill(self) -> None:
        """SIGKILL to this process alone; its pipes break."""
        self.end(SIGKILL)
        if self.task is not None:
            self.task.cancel()

    def kill_session(self) -> None:
        for process in tuple(self.session):
            process.kill()

    def end(self, status: int) -> None:
        """Called once, by the host, when the program returned or was killed."""
        if self.status is not None:
            return
        self.status = status
        self.stdin.close_read()
        self.stdout.close_write()
        if self.session and self.session[0] is self:
            self.stderr.close()
        self.host.processes.ended(self)
        self._ended.set()


class Processes:
    """A host's process table."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self.running: dict[int, Process] = {}
        self._next_pid = 300

    def start(
        self,
        argv: Sequence[str],
        *,
        stdin: Pipe | None = None,
        stdout: Pipe | None = None,
        stderr: Lines | None = None,
        session: list[Process] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Process:
        """Raises FileNotFoundError when the host has no such program, PoweredOff when the host is off."""
        program = self._host.program(argv[0])
        self._next_pid += 1
        reads_nothing = stdin is None
        if stdin is None:
            stdin = Pipe()
            stdin.close_write()
        members: list[Process] = [] if session is None else session
        process = Process(
            self._host,
            list(argv),
            self._next_pid,
            stdin,
            stdout or Pipe(None),
            stderr or Lines(),
            members,
            environment or {},
            reads_nothing,
        )
        members.append(process)
        self.running[process.pid] = process
        process.task = asyncio.get_running_loop().create_task(self._run(process, program), name=f"{argv[0]}")
        return process

    async def _run(self, process: Process, program: Program) -> None:
        try:
            await self._host.before_program(process)
            status = await program(process)
        except BrokenPipeError:
            status = -13  # SIGPIPE
        except asyncio.CancelledError:
            process.end(SIGKILL)
            raise
        except BaseException as failure:
            # A defect of the simulation: say so in a way that no test can take for an answer of the tool.
            process.stderr.put(f"simulation failed: {failure!r}\n")
            self._host.simulation.defects.append(failure)
            process.end(SIGKILL)
            raise
        process.end(status)

    def ended(self, process: Process) -> None:
        self.running.pop(process.pid, None)

    def power_off(self) -> None:
        for process in tuple(self.running.values()):
            process.kill()


class SimulatedJob:
    """agent.host.Job: a session of processes with a name."""

    def __init__(self, scope: str, leader: Process) -> None:
        self.scope = scope
        self._leader = leader

    @property
    def ended(self) -> bool:
        return self._leader.status is not None

    async def wait(self) -> int:
        return await self._leader.wait()

    def stderr(self) -> AsyncIterator[str]:
        return self._leader.stderr.__aiter__()

    async def kill(self) -> None:
        self._leader.kill_session()


class SimulatedPipedProcess:
    """agent.host.PipedProcess and its ByteStream in one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.stdio: ByteStream = self

    async def read(self, limit: int) -> bytes:
        return await self._process.stdout.read(limit)

    async def write(self, data: bytes | memoryview) -> None:
        await self._process.stdin.write(bytes(data))

    async def close_write(self) -> None:
        self._process.stdin.close_write()

    def stderr(self) -> AsyncIterator[str]:
        return self._process.stderr.__aiter__()

    async def wait(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        self._process.kill_session()


def command(function: Command) -> Program:
    """A streaming program made of one that runs to its end."""

    async def program(process: Process) -> int:
        completed = await function(process.host, process.argv, await process.stdin.read())
        if completed.stdout:
            process.stdout.put(completed.stdout)
        if completed.stderr:
            process.stderr.put(completed.stderr)
        return completed.exit

    return program
