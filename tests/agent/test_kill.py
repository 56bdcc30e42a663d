"""An agent that is killed leaves nobody waiting, however far the connection had come."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator

import pytest
from fleet import Fleet

from agent.tls import client_context


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A socket that only the garbage collector would close counts as left open."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("turns", range(12))
async def test_whoever_is_coming_in_is_let_go(fleet: Fleet, no_collection: None, turns: int) -> None:
    """Killed after so many turns of the loop: before the connection is accepted, in the handshake, after it."""
    address, context = ("127.0.0.1", fleet.agents["mk1"].api_port), client_context(fleet.controller)
    coming = asyncio.ensure_future(asyncio.open_connection(*address, ssl=context))
    for _ in range(turns):
        await asyncio.sleep(0)
    await fleet.kill("mk1")
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            reader, writer = await coming
            assert await reader.read() == b""
            writer.close()
