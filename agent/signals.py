"""A wake-up for any number of waiters, without a state that could go stale."""

from __future__ import annotations

import asyncio


class Signal:
    """`notify` wakes everybody who is in `wait` now."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class Flag:
    """One consumer: `set` before `take` is not lost; several `set` are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def take(self) -> None:
        await self._event.wait()
        self._event.clear()


class Rung(Flag):
    """A Flag that remembers what rang: names, or, after a plain `set`, anything."""

    def __init__(self) -> None:
        super().__init__()
        self._names: set[str] | None = set()

    def set(self) -> None:
        self.ring(None)

    def ring(self, name: str | None) -> None:
        """None: no one knows what it was about."""
        if name is None:
            self._names = None
        elif self._names is not None:
            self._names.add(name)
        super().set()

    def names(self) -> frozenset[str]:
        """What rang since the last call; empty: anything may have."""
        names, self._names = self._names, set()
        return frozenset(names or ())
