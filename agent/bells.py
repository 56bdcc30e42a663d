"""Following a command that tells of changes, as a bell: what changed is read afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from agent.core import Context, within
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.signals import Rung

L = TypeVar("L")
RETRY_SECONDS = 5.0


async def listen(
    context: Context,
    bell: Callable[[], AbstractAsyncContextManager[AsyncIterator[L]]],
    ring: Rung,
    subject: Callable[[L], str | None],
) -> None:
    """Ring for every line, with what it is about (None: anything); started again when the command ends."""
    while True:
        try:
            async with bell() as lines:
                async for line in lines:
                    ring.ring(subject(line))
            said = "the command ended"
        except (DriverError, CommandTimedOut, OSError) as error:
            said = str(error)
        context.log().warning("no pushes; polling goes on", source=bell.__qualname__, problem=said)
        await context.host.sleep(RETRY_SECONDS)
        ring.set()


async def rang(context: Context, ring: Rung, seconds: float) -> bool:
    """Wait for it, at most that long."""
    try:
        await within(context.host, seconds, ring.take())
    except TimeoutError:
        return False
    return True
