"""Fencing: numbers, an agent that is killed at each line, the policy without a controller, configuration."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_facts import UID, desired
from fencing_steps import (
    FENCED,
    RESOURCE,
    asks,
    cut,
    exits,
    fenced,
    helper_exits,
    identical,
    put,
    put_ok,
    seen,
    verdict,
    writing,
)
from fleet import Fleet, ready, refused, until

# --- numbers ------------------------------------------------------------------------------------------------------


async def test_numbers_only_grow_and_a_number_says_one_thing(fleet: Fleet) -> None:
    await fenced(fleet)
    await put_ok(fleet, "mk2", 5, "mk1", "mk2")
    assert (await refused(put(fleet, "mk2", 4, "mk2", "mk1")))["reason"] == "VerdictTooOld"
    assert (await refused(put(fleet, "mk2", 5, "mk2", "mk1")))["reason"] == "VerdictContradicts"
    await put_ok(fleet, "mk2", 5, "mk1", "mk2")
    await fleet.restart("mk2")
    assert (await refused(put(fleet, "mk2", 4, "mk2", "mk1")))["reason"] == "VerdictTooOld"
    assert (await refused(fleet.put_volume("mk2", role="Primary", **FENCED)))["reason"] == "RecordedStale"


async def test_another_volumes_verdict_is_refused(fleet: Fleet) -> None:
    assert (await refused(put(fleet, "mk1", 1, "mk1", "mk2")))["reason"] == "UnknownVolume"
    await fenced(fleet)
    other = verdict(1, "mk1", "mk2").model_copy(update={"uid": UID.replace("1", "2")})
    body = await fleet.request("mk1", "PUT", f"/v1/volumes/{RESOURCE}/verdict", other)
    assert body[1]["reason"] == "UidMismatch"


# --- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("program", [True, False], ids=["handler", "resume-io"])
async def test_the_agent_is_killed_around_the_verdicts_journalling(fleet: Fleet, when: str, program: bool) -> None:
    """Once it is on disk the agent goes on from there alone; before, it asks again."""
    await fenced(fleet)
    if not program:
        fleet.simulation.hosts["mk1"].programs.pop("xentandem-fence")
    write = await cut(fleet)
    journal = fleet.agents["mk1"].context.journal
    put_before = journal.put

    def dying(section: Any, key: str, value: dict[str, Any]) -> None:
        if when == "after":
            put_before(section, key, value)
        journal.kill()
        raise asyncio.CancelledError

    journal.put = dying  # type: ignore[method-assign]
    lost = asyncio.create_task(put(fleet, "mk1", 1, "mk1", "mk2"))
    await asyncio.wait({lost}, timeout=2)
    lost.cancel()
    await fleet.restart("mk1")
    if when == "before":
        await fleet.becomes("mk1", "asks again", asks)
        await asyncio.sleep(0.5)
        assert not write.done()
        await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 30)
    await fleet.becomes("mk1", "goes on", lambda state: seen(state).suspended == "no")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_agent_is_killed_around_resume_io(fleet: Fleet, when: str) -> None:
    await fenced(fleet)
    fleet.simulation.hosts["mk1"].programs.pop("xentandem-fence")
    write = await cut(fleet)
    recorder, died = fleet.hosts["mk1"], asyncio.Event()
    recorder.die_at = (len(recorder.changes) + 1, when)

    async def die() -> None:
        await fleet.kill("mk1")
        died.set()

    recorder.die = die
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(died.wait(), 20)
    assert "resume-io" in recorder.changes[-1]
    await fleet.start("mk1")
    await asyncio.wait_for(write, 30)
    await put_ok(fleet, "mk2", 1, "mk1", "mk2")
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.synced()
    assert identical(fleet)


async def test_the_agent_is_killed_while_the_handler_waits(fleet: Fleet) -> None:
    """The handler asks the next agent."""
    await fenced(fleet)
    write = await cut(fleet)
    await fleet.restart("mk1")
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 30)
    await until(lambda: exits(fleet, "mk1", [4]), "the handler's answer")


# --- the policy ---------------------------------------------------------------------------------------------------


async def test_policy_continue_goes_on_when_no_controller_was_heard_for_so_long(fleet: Fleet) -> None:
    await fenced(fleet, continue_after=30)
    fleet.simulation.cut_link("mk1", "mk2")
    write = writing(fleet, "mk1", 11)
    fence = fleet.agents["mk1"].context.fence
    await fleet.becomes("mk1", "asks", asks)
    await asyncio.sleep(4)
    assert not write.done()  # these very looks are a controller's
    heard = fleet.simulation.clock.now() - 31
    fence.heard = lambda: heard  # type: ignore[attr-defined]  # half a minute without a word
    await asyncio.wait_for(write, 90)
    state = await fleet.volume("mk1")
    assert state.fence.continued_at is not None
    assert state.fence.verdict is None
    await fleet.becomes("mk1", "goes on", lambda state: seen(state).suspended == "no")


async def test_policy_continue_is_not_moved_by_a_clock_that_is_set(fleet: Fleet) -> None:
    await fenced(fleet, continue_after=30)
    write = await cut(fleet)
    context = fleet.agents["mk1"].context
    before = context.host.now()
    fleet.simulation.hosts["mk1"].clock_is_ahead = 3600.0
    assert context.host.now() - before >= 3600
    await asyncio.sleep(2)  # four looks at what waits, and no request
    assert helper_exits(fleet, "mk1") == []  # the handler is told first that it goes on by itself
    assert not write.done()
    fleet.simulation.hosts["mk1"].clock_is_ahead = -3600.0
    heard = context.host.monotonic() - 31
    context.fence.heard = lambda: heard  # type: ignore[attr-defined]
    await asyncio.wait_for(write, 90)


async def test_policy_continue_does_not_move_a_side_that_is_recorded_as_stale(fleet: Fleet) -> None:
    await fenced(fleet, continue_after=30)
    write = await cut(fleet)
    await put_ok(fleet, "mk1", 1, "mk2", "mk1", "Fenced")
    fleet.agents["mk1"].context.fence.heard = lambda: 0.0  # type: ignore[attr-defined]
    await asyncio.sleep(6)
    assert not write.done()
    assert fleet.hosts["mk1"].ran("drbdsetup", "resume-io") == []
    write.cancel()


# --- configuration ------------------------------------------------------------------------------------------------


async def test_a_volume_takes_fencing_while_it_is_in_use(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    assert not (await fleet.volume("mk1")).fenced
    state = await fleet.put_volume_ok("mk1", role="Primary", **FENCED)
    assert (state.role, state.fenced, state.options) == ("Primary", True, desired(**FENCED).options)
    text = await fleet.hosts["mk1"].read_text(f"/etc/drbd.d/{RESOURCE}.res")
    assert "fencing resource-and-stonith;" in text
    assert fleet.simulation.hosts["mk1"].drbd.resource(RESOURCE).fencing == "resource-and-stonith"


async def test_a_deleted_volume_leaves_no_verdict(fleet: Fleet) -> None:
    await fenced(fleet, primary=None)
    await put_ok(fleet, "mk1", 3, None, None, "Redundant")
    status, answer = await fleet.remove_volume("mk1", "Delete")
    assert status == 204, answer

    async def gone() -> bool:
        return RESOURCE not in (await fleet.state("mk1")).volumes

    await until(gone, "deleted")
    assert fleet.agents["mk1"].context.journal.keys("fences") == []
