"""One reading of a tool for all who want it at the same time. Pure waiting: what is read is the caller's business."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from agent.core import Context, within
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.signals import Signal

T = TypeVar("T")
PATIENCE = 1.0
MANY = 3
LONGEST_REST = 0.1


class SharedRead(Generic[T]):
    """Whoever asks gets a reading that began after it asked, never one that was under way already.

    Who asks while one runs waits for the next one, together with all others who ask until it begins. A reading that
    hangs holds up nobody for longer than PATIENCE seconds: the next one begins beside it. When more than MANY wanted
    the last one, the tool rests for as long as that took: more will want the next one, and the host has other work.
    """

    def __init__(self, context: Context, name: str, read: Callable[[], Awaitable[T]]) -> None:
        self._context, self._name, self._read = context, name, read
        self._next: asyncio.Future[T | Exception] | None = None
        self._asking = 0  # who waits for `_next`
        self._running = 0
        self._ended = Signal()
        self._rests_until = 0.0

    async def ask(self) -> T:
        """Raises what the reading raises: DriverError, CommandTimedOut, OSError."""
        following = self._next
        if following is None:
            following = self._next = asyncio.get_running_loop().create_future()
            self._asking = 0
            self._context.tasks.spawn(self._serve(following), name=f"read {self._name}")
        self._asking += 1
        found = await asyncio.shield(following)  # who is cancelled takes nothing away from the others
        if isinstance(found, Exception):
            raise found
        return found

    async def _serve(self, following: asyncio.Future[T | Exception]) -> None:
        host = self._context.host
        try:
            if self._running:
                with suppress(TimeoutError):
                    await within(host, PATIENCE, self._until_free())
            if (rest := self._rests_until - host.monotonic()) > 0:
                await host.sleep(min(rest, LONGEST_REST))
            self._next = None  # who asks from here on gets a later reading
            begun, shared = host.monotonic(), self._asking > MANY
            self._running += 1
            try:
                found = await self._read()
            finally:
                self._running -= 1
                if shared:
                    self._rests_until = host.monotonic() + min(host.monotonic() - begun, LONGEST_REST)
                self._ended.notify()
            following.set_result(found)
        except (DriverError, CommandTimedOut, OSError) as error:
            following.set_result(error)
        finally:
            if self._next is following:
                self._next = None
            following.cancel()  # if there is no result: the agent ends, or a defect, which is logged

    async def _until_free(self) -> None:
        while self._running:
            await self._ended.wait()
