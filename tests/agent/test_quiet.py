"""While a guest stands still nobody looks around by himself; and never for long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.quiet import LIMIT_SECONDS, Quiet


class Clock:
    """The part of a host that Quiet needs, with a time that a test sets."""

    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:  # noqa: ASYNC110  # a time that a test sets tells of nothing
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quiet(clock: Clock) -> Quiet:
    host: Any = clock
    return Quiet(host)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_nobody_waits_when_nothing_is_under_way(quiet: Quiet) -> None:
    await asyncio.wait_for(quiet.over(), 5)
    quiet.end("never begun")


async def test_one_waits_for_all_of_them(quiet: Quiet) -> None:
    quiet.begin("a")
    quiet.begin("b")
    looking = asyncio.ensure_future(quiet.over())
    quiet.end("a")
    await settle()
    assert not looking.done()
    quiet.end("b")
    await asyncio.wait_for(looking, 5)


async def test_it_is_never_long(quiet: Quiet, clock: Clock) -> None:
    quiet.begin("a")
    looking = asyncio.ensure_future(quiet.over())
    await settle()
    clock.time += LIMIT_SECONDS - 1
    quiet.begin("a")  # the first one counts
    await settle()
    assert not looking.done()
    clock.time += 1.5
    await asyncio.wait_for(looking, 5)
