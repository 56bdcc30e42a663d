"""What the relay saw: as new as its file, and told at once by a FIFO that nobody needs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.migration.relay import BELL, Progress, ring
from agent.migration.relay_files import Passed, RelayFiles

SOON, NEVER = 5.0, 0.05


async def test_the_relay_rings_for_what_has_weight(tmp_path: Path) -> None:
    files = RelayFiles(tmp_path / "relay")
    with files.bell("move") as rung:
        relay = Progress(str(files.progress_path("move")))
        assert files.progress("move") == Passed()
        relay.sender.bytes = 10
        relay.write(now=True)
        await asyncio.wait_for(rung.wait(), SOON)
        assert files.progress("move").bytes == 10

        rung.clear()
        relay.write()  # nothing of weight
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rung.wait(), NEVER)
        relay.receiver.ready = True
        relay.write()
        await asyncio.wait_for(rung.wait(), SOON)
        assert files.progress("move").ready


async def test_a_relay_that_outlived_its_agent_wakes_the_next_one(tmp_path: Path) -> None:
    files = RelayFiles(tmp_path / "relay")
    with files.bell("move"):
        pass
    bell = str(files.progress_path("move")) + BELL
    ring(bell)  # nobody listens: neither an error nor a wait
    with files.bell("move") as rung:
        for _ in range(100_000):  # more than a FIFO holds, by one who does not read meanwhile
            ring(bell)
        await asyncio.wait_for(rung.wait(), SOON)
    files.remove("move")
    assert list((tmp_path / "relay").iterdir()) == []


async def test_without_a_fifo_there_is_still_the_file(tmp_path: Path) -> None:
    (tmp_path / "relay").mkdir()
    files = RelayFiles(tmp_path / "relay")
    (tmp_path / "relay" / f"move.progress{BELL}").mkdir()
    with files.bell("move") as rung:
        relay = Progress(str(files.progress_path("move")))
        relay.write(now=True)
        assert not rung.is_set()
        assert files.progress("move").ended is None
