"""Agents killed at every step of a migration, on either side, and started again: one VM, one Primary, no record lost.

Each case names the point of death; a point that is not passed fails the test. Afterwards a move must work again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.agent_migration.pair import LIMIT, Pair, When

SOURCE_PHASES = ["Starting", "Precopy", "StopAndCopy", "HandOver", "Demoted", "Done"]
TARGET_PHASES = ["Listening", "Receiving", "Received", "Promoting", "Attaching", "Unpausing", "Done"]
POINTS = [
    *(("mk1", f"phase {phase}") for phase in SOURCE_PHASES),
    ("mk1", "vms"),  # the release
    ("mk1", "volumes"),  # the role that it has from now on
    ("mk1", "outcome"),
    *(("mk2", f"phase {phase}") for phase in TARGET_PHASES),
    ("mk2", "released"),
    ("mk2", "vms"),  # the take-over
    ("mk2", "volumes"),
    ("mk2", "outcome"),
]
COMMANDS = [
    ("mk1", "xl migrate"),
    ("mk1", "drbdsetup secondary"),
    ("mk2", "xl migrate-receive"),
    ("mk2", "drbdsetup primary"),
    ("mk2", "xenstore-write"),
    ("mk2", "xl unpause"),
]


def matcher(point: str) -> Any:
    def matches(section: str, key: str, value: dict[str, Any]) -> bool:
        if section != "operations":
            return section == point
        state = value["state"]
        if point == "outcome":
            return state["outcome"] is not None
        if point == "released":
            return bool(value["notes"].get("released"))
        return point == f"phase {state['phase']}" and state["outcome"] is None

    return matches


async def die_and_go_on(pair: Pair, side: str) -> None:
    """The move is asked for, the agent dies at its point and comes back; whoever asked was cut off and asks again."""
    host = pair.hosts[side]
    asking = asyncio.ensure_future(pair.move())
    await asyncio.wait_for(host.dead.wait(), LIMIT)
    await asyncio.wait({asking}, timeout=LIMIT)
    pair.agents.pop(side)
    host.dead.clear()
    await pair.start(side)
    if asking.cancelled() or asking.exception() is not None:
        sent, received = pair.operation("mk1"), pair.operation("mk2")
        if received is None:
            await pair.receive()
        if sent is None:
            await pair.send()
    where = await pair.resolve()
    await pair.runs_only_on(where)
    if where == "mk1":
        await pair.move("again")
        await pair.ended("mk1", "again", "Succeeded")
        await pair.ended("mk2", "again", "Succeeded")
    await pair.runs_only_on("mk2")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("side", "point"), POINTS, ids=[f"{side} {point}" for side, point in POINTS])
async def test_killed_at_a_write_of_the_journal(running: Pair, side: str, point: str, when: When) -> None:
    running.hosts[side].die_at_journal(matcher(point), when)
    await die_and_go_on(running, side)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("side", "words"), COMMANDS, ids=[f"{side} {words}" for side, words in COMMANDS])
async def test_rows_20_21_killed_at_a_command(running: Pair, side: str, words: str, when: When) -> None:
    running.hosts[side].die_at_command(words, when)
    await die_and_go_on(running, side)
