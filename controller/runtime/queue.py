"""The work queue: deduplicated, serial per key, with delays and exponential backoff.

Level-triggered: a key says only that its object is to be looked at. A key that is added while it is being worked on is
worked on once more afterwards. One timer serves all delays.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable

ObjectKey = tuple[str, str, str]
"""(kind, namespace, name); the namespace of a cluster-scoped object is empty."""

Rand = Callable[[], float]


def backoff(failures: int, base: float, cap: float, rand: Rand = random.random) -> float:
    """Seconds before attempt `failures` + 1: doubles from `base` to `cap`, of which the upper half is random."""
    full = min(cap, base * 2.0 ** min(failures, 32))
    return full * (0.5 + 0.5 * rand())


class Closed(Exception):
    """The queue gives out no more keys."""


class WorkQueue:
    """Keys for a fixed number of workers. All methods belong to one event loop."""

    def __init__(self, *, base: float = 0.05, cap: float = 60.0, rand: Rand = random.random) -> None:
        self._base, self._cap, self._rand = base, cap, rand
        self._ready: dict[ObjectKey, float] = {}  # in order of arrival, with the time of it
        self._active: dict[ObjectKey, float] = {}
        self._again: dict[ObjectKey, float] = {}  # added while active
        self._failures: dict[ObjectKey, int] = {}
        self._due: dict[ObjectKey, float] = {}
        self._heap: list[tuple[float, ObjectKey]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self.added = 0

    # --- adding

    def add(self, key: ObjectKey) -> None:
        """Work on the key soon."""
        if self._closed:
            return
        self._due.pop(key, None)
        now = self._now()
        if key in self._active:
            self._again.setdefault(key, now)
        elif key not in self._ready:
            self._ready[key] = now
            self.added += 1
            self._idle.clear()
            self._wake()

    def add_after(self, key: ObjectKey, seconds: float) -> None:
        """Work on the key after that time, if nothing adds it earlier. Of several delays the shortest counts."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        if key in self._ready or key in self._again:
            return
        due = self._now() + seconds
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._set_timer()

    def add_failed(self, key: ObjectKey) -> float:
        """Work on the key after its backoff, which grows until `forget`. Returns the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        seconds = backoff(failures, self._base, self._cap, self._rand)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: ObjectKey) -> None:
        """The key is well: its next backoff is the shortest again."""
        self._failures.pop(key, None)

    # --- working

    async def get(self) -> ObjectKey:
        """The next key, which is then active until `done`. Raises Closed."""
        while not self._ready:
            if self._closed:
                raise Closed
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif self._ready:
                    self._wake()  # the wake-up that this one got is another's now
                raise
        if self._closed:
            raise Closed
        key = next(iter(self._ready))
        del self._ready[key]
        self._due.pop(key, None)  # what it asked for earlier is superseded by this look
        self._active[key] = self._now()
        return key

    def done(self, key: ObjectKey) -> None:
        """The worker is finished with the key."""
        self._active.pop(key, None)
        since = self._again.pop(key, None)
        if since is not None and not self._closed:
            self._ready[key] = since
            self.added += 1
            self._wake()
        if not self._active and (self._closed or not self._ready):
            self._idle.set()

    async def work(self, handle: Callable[[ObjectKey], Awaitable[None]]) -> None:
        """One worker: takes keys until the queue closes. `handle` deals with its own errors."""
        while True:
            try:
                key = await self.get()
            except Closed:
                return
            try:
                await handle(key)
            finally:
                self.done(key)

    def close(self) -> None:
        """Give out no more keys and forget the waiting ones; active ones may finish."""
        self._closed = True
        self._ready.clear()
        self._again.clear()
        self._due.clear()
        self._heap.clear()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        if not self._active:
            self._idle.set()

    async def drain(self) -> None:
        """Close and wait until no key is active."""
        self.close()
        await self._idle.wait()

    async def until_idle(self) -> None:
        """Wait until no key is ready or active (delayed ones don't count)."""
        await self._idle.wait()

    # --- looking

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready) + len(self._again)

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def delayed(self) -> int:
        return len(self._due)

    def oldest(self) -> float:
        """Seconds that the longest-waiting ready key has waited."""
        return self._now() - next(iter(self._ready.values())) if self._ready else 0.0

    def longest(self) -> float:
        """Seconds that the longest-active key is being worked on."""
        return self._now() - min(self._active.values()) if self._active else 0.0

    # --- inside

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            if self._heap and self._timer.when() <= self._heap[0][0]:
                return
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = asyncio.get_running_loop().call_at(self._heap[0][0], self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # else superseded
                self.add(key)
        self._set_timer()
