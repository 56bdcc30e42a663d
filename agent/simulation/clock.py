"""The simulation's clock: real time, or virtual time that jumps when everybody waits."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

IDLE_TURNS = 3
"""Turns of the event loop without any work before virtual time jumps: one for a task that has just been woken, one
for bytes that a loopback socket of this process has just been given, one to spare."""

EPOCH = 1_795_341_177.0
"""Where virtual time begins (2026-11-22, the day the real hosts' output was recorded)."""


class Clock(Protocol):
    """Time of all hosts of a simulation (their clocks do not drift)."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def wait_for(self, awaitable: Awaitable[T], seconds: float) -> T:
        """The result, or TimeoutError after that many seconds of this clock; what was awaited is cancelled then."""
        ...


class RealClock:
    """Wall-clock time."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def wait_for(self, awaitable: Awaitable[T], seconds: float) -> T:
        return await asyncio.wait_for(awaitable, seconds)


class VirtualClock:
    """Time that stands still while any task has work and jumps to the next sleeper when none has.

    Deterministic for everything that waits on this clock alone. Works in any asyncio loop of the standard library:
    idleness is seen by looking at the loop's queue of ready callbacks from within.
    """

    def __init__(self, start: float = EPOCH) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self._watching = False
        self._idle_turns = 0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._count += 1  # equal times wake in the order in which they went to sleep
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, future))
        self._watch()
        await future

    async def wait_for(self, awaitable: Awaitable[T], seconds: float) -> T:
        work = asyncio.ensure_future(awaitable)
        alarm = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait({work, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise TimeoutError
        finally:
            alarm.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    def _watch(self) -> None:
        if not self._watching:
            self._watching, self._idle_turns = True, 0
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        if not self._sleepers:
            self._watching = False
            return
        loop = asyncio.get_running_loop()
        ready: deque[object] = loop._ready  # type: ignore[attr-defined]  # the only way to see idleness from within
        self._idle_turns = 0 if ready else self._idle_turns + 1
        if self._idle_turns >= IDLE_TURNS:
            self._idle_turns = 0
            self._now = max(self._now, self._sleepers[0][0])
            _, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)
        loop.call_soon(self._turn)


class Tasks:
    """Background tasks of one owner, that end with it; a task that fails is reported by `failures`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failures: list[BaseException] = []

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.failures.append(failure)

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    async def close(self) -> None:
        self.cancel()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))
