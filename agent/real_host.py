"""The real dom0: commands as subprocesses without a shell, files of its filesystem, jobs that outlive the agent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import os
import signal
import stat
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from agent.download import download
from agent.host import ByteStream, CommandTimedOut, Completed, HostProcess, PipedProcess
from agent.images import require_raw
from agent.real_jobs import Jobs, RealJob, end_marked, environment, sync_folder
from agent.real_processes import find_processes

OUTPUT_LIMIT = 16 << 20
"""Bytes of one command's output (each of the two). A command that says more is killed: it is not what we started."""
_LINE_LIMIT = 1 << 20
_CHUNK = 4 << 20
_DRAIN_SECONDS = 1.0
_PIPE = asyncio.subprocess.PIPE
_PIPE_SIZE = 1 << 20  # bytes in the pipe to a command that takes a stream: fewer turns between it and us

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Exits(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells when the command has ended; asyncio's own `wait` also waits until nobody holds its outputs open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exited: asyncio.Event) -> None:
        super().__init__(limit=_LINE_LIMIT, loop=loop)
        self._exited = exited

    def process_exited(self) -> None:
        self._exited.set()
        super().process_exited()


@dataclass(frozen=True, slots=True)
class _Command:
    process: asyncio.subprocess.Process
    transport: asyncio.SubprocessTransport
    exited: asyncio.Event


class RealHost:
    """`agent.host.Host` of the machine it runs on. `state_dir` keeps the files of jobs (in `jobs/`)."""

    def __init__(self, state_dir: Path, run_dir: Path | None = None) -> None:
        self.run_dir = run_dir
        self._jobs = Jobs(state_dir / "jobs")
        # Of its own: a file of a hung driver (sysfs, a dead disk) holds a thread, and may not hold up everything else
        self._threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="host")

    # --- commands -----------------------------------------------------------------------------------------------

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        command = await self._spawn(argv)
        process = command.process
        output, errors = _Collector(process.stdout), _Collector(process.stderr)
        tasks = [asyncio.create_task(part.fill(process)) for part in (output, errors)]
        tasks.append(asyncio.create_task(_feed(process, stdin)))
        try:
            async with asyncio.timeout(timeout):
                await command.exited.wait()
                # A daemon that the command left behind may hold its output open: the command itself has ended
                await asyncio.wait(tasks, timeout=_DRAIN_SECONDS)
        except TimeoutError:
            raise CommandTimedOut(argv, timeout) from None
        finally:
            _end_group(process)
            for task in tasks:
                task.cancel()
            command.transport.close()
        assert process.returncode is not None
        return Completed(tuple(argv), process.returncode, output.text(), errors.text())

    @asynccontextmanager
    async def follow(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        command = await self._spawn(argv, stderr=asyncio.subprocess.DEVNULL)
        process = command.process
        assert process.stdin is not None
        process.stdin.close()
        try:
            yield _lines(process.stdout)
        finally:
            _end_group(process)
            command.transport.close()

    async def start_job(self, scope: str, argv: Sequence[str]) -> RealJob:
        return await self._jobs.start(scope, argv)

    async def find_job(self, scope: str) -> RealJob | None:
        return self._jobs.find(scope)

    async def forget_job(self, scope: str) -> None:
        self._jobs.forget(scope)

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        mark, (reading, writing) = f"pipe-{uuid.uuid4()}", os.pipe()
        try:
            process = (await self._spawn(argv, mark=mark, stdin=reading)).process
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        return RealPipe(process, writing, mark)

    async def _spawn(
        self, argv: Sequence[str], *, mark: str | None = None, stdin: int = _PIPE, stderr: int = _PIPE
    ) -> _Command:
        loop, exited = asyncio.get_running_loop(), asyncio.Event()
        transport, protocol = await loop.subprocess_exec(
            lambda: _Exits(loop, exited),
            *argv, stdin=stdin, stdout=_PIPE, stderr=stderr, env=environment(mark), start_new_session=True, cwd="/",
        )  # fmt: skip
        return _Command(asyncio.subprocess.Process(transport, protocol, loop), transport, exited)

    async def find_processes(self, programs: Collection[str]) -> tuple[HostProcess, ...]:
        return await self._thread(find_processes, frozenset(programs))

    # --- files --------------------------------------------------------------------------------------------------

    async def read_text(self, path: str) -> str:
        return await self._thread(Path(path).read_text, encoding="utf-8")

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        await self._thread(_write, Path(path), text.encode(), mode)

    async def remove(self, path: str) -> None:
        await self._thread(Path(path).unlink, missing_ok=True)

    async def list_dir(self, path: str) -> list[str]:
        try:
            return sorted(await self._thread(os.listdir, path))
        except FileNotFoundError:
            return []

    async def exists(self, path: str) -> bool:
        try:
            await self._thread(os.stat, path)
        except (FileNotFoundError, NotADirectoryError):
            return False  # any other error is no answer, and is raised
        return True

    async def fetch_image(self, url: str, path: str, limit: int, *, timeout: float) -> tuple[int, str]:
        file = await self._thread(_create, Path(path))

        async def write(offset: int, data: bytes) -> None:
            put = asyncio.ensure_future(self._thread(_put, file, offset, data))
            try:
                await asyncio.shield(put)
            finally:
                await asyncio.wait({put})  # also when cancelled: the file is not closed under a thread that writes

        with _whole_or_gone(Path(path), file):
            answer = await download(url, write, limit, timeout)
            await self._thread(os.fsync, file.fileno())
        return answer

    async def copy_image(self, source_path: str, device: str) -> tuple[int, str]:
        stop = threading.Event()
        try:
            return await self._thread(_copy, source_path, device, stop)
        finally:
            stop.set()  # a caller that was cancelled does not leave a thread writing

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(call, *args, **kwargs))


class RealPipe:
    """`agent.host.PipedProcess`: a subprocess whose standard input and output the agent carries."""

    def __init__(self, process: asyncio.subprocess.Process, writing: int, mark: str) -> None:
        """`writing`: the end of the pipe to its standard input; closed by `stdio.close_write`."""
        self._process, self._mark = process, mark
        self.stdio: ByteStream = _Stdio(process, writing)
        self._said: list[str] = []
        self._all_said = False
        self._changed = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def stderr(self) -> AsyncIterator[str]:
        """Lines from the beginning, then as they come."""
        at = 0
        while True:
            async with self._changed:
                while len(self._said) <= at and not self._all_said:
                    await self._changed.wait()
                lines = self._said[at:]
            if not lines:
                return
            at += len(lines)
            for line in lines:
                yield line

    async def wait(self) -> int:
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL to it and to all that it started, helpers in sessions of their own too."""
        await end_marked(self._mark)
        await self._process.wait()

    async def _read(self) -> None:
        try:
            async for line in _lines(self._process.stderr):
                async with self._changed:
                    self._said.append(line)
                    self._changed.notify_all()
        finally:
            self._all_said = True
            async with self._changed:
                self._changed.notify_all()


class _Stdio:
    """`agent.host.ByteStream`. Written without asyncio's transport, which copies what does not fit at once twice."""

    def __init__(self, process: asyncio.subprocess.Process, writing: int) -> None:
        assert process.stdout is not None
        self._out = process.stdout
        self._in: int | None = writing
        self._writable = asyncio.Event()
        os.set_blocking(writing, False)
        with contextlib.suppress(OSError):  # above the user's limit: only slower
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    async def read(self, limit: int) -> bytes:
        return await self._out.read(limit)

    async def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._in is None:
                raise BrokenPipeError("closed")
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                await self._until_writable(self._in)

    async def _until_writable(self, writing: int) -> None:
        loop = asyncio.get_running_loop()
        self._writable.clear()
        loop.add_writer(writing, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if self._in is not None:
                loop.remove_writer(writing)

    async def close_write(self) -> None:
        if (writing := self._in) is None:
            return
        self._in = None
        asyncio.get_running_loop().remove_writer(writing)
        self._writable.set()
        os.close(writing)


class _Collector:
    """One output of a command, up to the limit."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        self._stream, self._data = stream, bytearray()

    async def fill(self, process: asyncio.subprocess.Process) -> None:
        while chunk := await self._stream.read(1 << 16):
            self._data += chunk
            if len(self._data) > OUTPUT_LIMIT:
                _end_group(process)
                return

    def text(self) -> str:
        return self._data.decode(errors="replace")


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()
    process.stdin.close()


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    assert stream is not None
    while line := await stream.readline():
        yield line.decode(errors="replace").rstrip("\n")


def _end_group(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to a command's process group, unless the command ended by itself.

    Not waited for: one in uninterruptible sleep ends when the kernel lets it, and is reaped then.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _write(path: Path, data: bytes, mode: int) -> None:
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
        sync_folder(path.parent.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)


@contextlib.contextmanager
def _whole_or_gone(path: Path, file: BinaryIO) -> Iterator[None]:
    with file:
        try:
            yield
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _put(file: BinaryIO, offset: int, data: bytes) -> None:
    if offset == 0:
        file.truncate(0)
    view = memoryview(data)
    while view:
        count = os.pwrite(file.fileno(), view, offset)
        view, offset = view[count:], offset + count


def _copy(source_path: str, device: str, stop: threading.Event) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    # O_EXCL on a block device: refused while it is mounted or otherwise claimed (open(2))
    target = os.open(device, os.O_WRONLY | os.O_EXCL)
    try:
        if not stat.S_ISBLK(os.fstat(target).st_mode):
            raise OSError(15, "Block device required", device)
        with open(source_path, "rb") as source:
            while chunk := source.read(_CHUNK):
                if not size:
                    require_raw(chunk)
                if stop.is_set():
                    raise OSError(4, "Interrupted", device)
                digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[os.write(target, view) :]
                size += len(chunk)
        os.fsync(target)
    finally:
        os.close(target)
    return size, digest.hexdigest()
