"""One reading for all who ask at the same time: never an older one, and never behind a hung one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.core import Tasks
from agent.drivers.errors import Unreadable
from agent.shared_reads import MANY, PATIENCE, SharedRead
from agent.simulation.cluster import Simulation


class World:
    """What SharedRead needs of a Context: a clock and tasks."""

    def __init__(self, simulation: Simulation) -> None:
        self.host = simulation.hosts["mk1"]
        self.tasks = Tasks()


class Tool:
    """Each reading says when it began, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = 0
        self.gates: list[asyncio.Future[None]] = []

    async def read(self) -> int:
        self.begun += 1
        mine, gate = self.begun, asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        await gate
        return mine

    async def begins(self, number: int) -> None:
        while self.begun < number:  # noqa: ASYNC110  # a hung tool tells of nothing
            await asyncio.sleep(0.01)

    def end(self, number: int) -> None:
        self.gates[number - 1].set_result(None)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulation(tmp_path) as simulation:
        world = World(simulation)
        yield world
        await world.tasks.cancel_all()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def shared(world: World, tool: Tool) -> SharedRead[int]:
    return SharedRead(world, "tool", tool.read)  # type: ignore[arg-type]


async def test_who_asks_during_a_reading_gets_a_later_one_and_shares_it(world: World) -> None:
    tool = Tool()
    reading = shared(world, tool)
    early = asyncio.create_task(reading.ask())
    await settle()
    late = [asyncio.create_task(reading.ask()) for _ in range(MANY + 2)]
    await settle()
    assert tool.begun == 1
    tool.end(1)
    assert await early == 1
    await settle()
    assert tool.begun == 2
    last = asyncio.create_task(reading.ask())
    await settle()
    tool.end(2)
    assert await asyncio.gather(*late) == [2] * len(late)
    await tool.begins(3)
    tool.end(3)
    assert await last == 3  # it asked when the one before had begun


async def test_a_hung_reading_holds_nobody_up_for_long(world: World) -> None:
    tool = Tool()
    reading = shared(world, tool)
    hung = asyncio.create_task(reading.ask())
    await settle()
    begun = world.host.now()
    late = asyncio.create_task(reading.ask())
    await tool.begins(2)
    assert world.host.now() - begun < PATIENCE + 1
    tool.end(2)
    assert await late == 2
    assert not hung.done()


async def test_everybody_is_told_of_a_failure_and_the_next_one_reads_again(world: World) -> None:
    fails = True

    async def read() -> str:
        if fails:
            raise Unreadable("cut off")
        return "fine"

    reading: SharedRead[str] = SharedRead(world, "tool", read)  # type: ignore[arg-type]
    answers = await asyncio.gather(*(reading.ask() for _ in range(3)), return_exceptions=True)
    assert [str(one) for one in answers] == ["cut off"] * 3
    fails = False
    assert await reading.ask() == "fine"


async def test_one_who_gives_up_takes_nothing_from_the_others(world: World) -> None:
    tool = Tool()
    reading = shared(world, tool)
    one, other = asyncio.create_task(reading.ask()), asyncio.create_task(reading.ask())
    await settle()
    one.cancel()
    await settle()
    tool.end(1)
    assert await other == 1
