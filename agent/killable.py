"""A host that can be let go of as kill -9 does: commands that run go on, nothing new begins, nobody gets an answer.

In production the agent's process ends; in tests many agents live in one process, and each must be able to die there
without its clean-up code touching the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from agent.host import Completed, Host, HostProcess, Job, PipedProcess

T = TypeVar("T")


class KillableHost:
    """`agent.host.Host`, passed on to `inner` until `kill`. See there for what the methods do."""

    def __init__(self, inner: Host) -> None:
        self._inner = inner
        self._killed = False
        self._orphans: set[asyncio.Future[Any]] = set()
        self._pipes: list[PipedProcess] = []

    def kill(self) -> None:
        """From now on nothing passes. The kernel closes the agent's ends of its pipes."""
        self._killed = True
        for pipe in self._pipes:
            self._leave(asyncio.ensure_future(pipe.stdio.close_write()))

    async def drain(self, seconds: float) -> None:
        """Wait until the commands that nobody waits for any more have ended, at most that long."""
        if self._orphans:
            await asyncio.wait(tuple(self._orphans), timeout=seconds)

    def check_alive(self) -> None:
        if self._killed:
            raise asyncio.CancelledError("the agent was killed")

    async def _pass(self, work: Awaitable[T]) -> T:
        """Await `work`. Whoever waits may be cancelled or killed; a command that was begun goes on to its end.

        Ending it in the middle would leave what it did unknown; so does its time limit, but that is long.
        """
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._leave(task)
            raise
        self.check_alive()
        return result

    def _leave(self, task: asyncio.Future[Any]) -> None:
        self._orphans.add(task)
        task.add_done_callback(self._orphan_ended)

    def _orphan_ended(self, task: asyncio.Future[Any]) -> None:
        self._orphans.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to be told

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        self.check_alive()
        return await self._pass(self._inner.run(argv, timeout=timeout, stdin=stdin))

    @asynccontextmanager
    async def follow(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        self.check_alive()
        followed: AbstractAsyncContextManager[AsyncIterator[str]] = self._inner.follow(argv)
        async with followed as lines:
            yield lines

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        self.check_alive()
        return KillableJob(self, await self._pass(self._inner.start_job(scope, argv)))

    async def find_job(self, scope: str) -> Job | None:
        self.check_alive()
        job = await self._pass(self._inner.find_job(scope))
        return None if job is None else KillableJob(self, job)

    async def forget_job(self, scope: str) -> None:
        self.check_alive()
        await self._pass(self._inner.forget_job(scope))

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        self.check_alive()
        process = await self._pass(self._inner.pipe(argv))
        self._pipes.append(process)
        return KillablePipe(self, process)

    def ended(self, process: PipedProcess) -> None:
        if process in self._pipes:
            self._pipes.remove(process)

    async def find_processes(self, programs: Collection[str]) -> tuple[HostProcess, ...]:
        self.check_alive()
        return await self._inner.find_processes(programs)

    async def read_text(self, path: str) -> str:
        self.check_alive()
        return await self._inner.read_text(path)

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        self.check_alive()
        await self._inner.write_text(path, text, mode=mode)

    async def remove(self, path: str) -> None:
        self.check_alive()
        await self._inner.remove(path)

    async def list_dir(self, path: str) -> list[str]:
        self.check_alive()
        return await self._inner.list_dir(path)

    async def exists(self, path: str) -> bool:
        self.check_alive()
        return await self._inner.exists(path)

    async def fetch_image(self, url: str, path: str, limit: int, *, timeout: float) -> tuple[int, str]:
        self.check_alive()
        return await self._inner.fetch_image(url, path, limit, timeout=timeout)  # by the agent itself: ends with it

    async def copy_image(self, source_path: str, device: str) -> tuple[int, str]:
        self.check_alive()
        return await self._inner.copy_image(source_path, device)  # done by the agent itself: ends with it

    @property
    def run_dir(self) -> Path | None:
        return self._inner.run_dir

    def now(self) -> float:
        return self._inner.now()

    def monotonic(self) -> float:
        return self._inner.monotonic()

    async def sleep(self, seconds: float) -> None:
        self.check_alive()
        await self._inner.sleep(seconds)


class KillableJob:
    """A job of a KillableHost: it survives the agent, the agent's hold on it does not."""

    def __init__(self, host: KillableHost, inner: Job) -> None:
        self._host, self._inner = host, inner
        self.scope = inner.scope

    async def wait(self) -> int:
        self._host.check_alive()
        return await self._inner.wait()

    async def stderr(self) -> AsyncIterator[str]:
        self._host.check_alive()
        async for line in self._inner.stderr():
            self._host.check_alive()
            yield line

    async def kill(self) -> None:
        self._host.check_alive()
        await self._inner.kill()


class KillablePipe:
    """A piped process of a KillableHost: of the agent's death it feels that its pipes are closed."""

    def __init__(self, host: KillableHost, inner: PipedProcess) -> None:
        self._host, self._inner = host, inner
        self.stdio = inner.stdio

    async def stderr(self) -> AsyncIterator[str]:
        self._host.check_alive()
        async for line in self._inner.stderr():
            self._host.check_alive()
            yield line

    async def wait(self) -> int:
        self._host.check_alive()
        status = await self._inner.wait()
        self._host.ended(self._inner)
        return status

    async def kill(self) -> None:
        self._host.check_alive()
        await self._inner.kill()
