"""Fencing as an agent does it: frozen IO, the handler as a process, verdicts, restarts (docs/fencing.md)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agent_facts import UID, desired
from fleet import Fleet, ready, refused, until

from agent.protocol import FenceState, HostState, VerdictDesired, VolumeState

RESOURCE = "vm_shaolin"
FENCED: dict[str, Any] = {"fencing": {}}
BLOCK = 4096


def verdict(number: int, survivor: str | None, stale: str | None, reason: str = "PeerLost") -> VerdictDesired:
    return VerdictDesired.model_validate(
        {
            "term": 1,
            "uid": UID,
            "resource": RESOURCE,
            "verdict": {"number": number, "survivor": survivor, "stale": stale, "reason": reason},
        }
    )


async def put(fleet: Fleet, host: str, *words: Any, **more: Any) -> tuple[int, Any]:
    body = verdict(*words, **more).model_copy(update={"term": fleet.term})
    return await fleet.request(host, "PUT", f"/v1/volumes/{RESOURCE}/verdict", body)


async def put_ok(fleet: Fleet, host: str, *words: Any, **more: Any) -> FenceState:
    status, answer = await put(fleet, host, *words, **more)
    assert status == 200, answer
    return FenceState.model_validate(answer)


async def fenced(fleet: Fleet, primary: str | None = "mk1", **fencing: Any) -> None:
    """Both sides UpToDate under fencing, Primary on mk1."""
    await ready(fleet)
    for name in fleet.hosts:
        seen = await fleet.put_volume_ok(name, fencing=fencing)
        assert seen.fenced
    if primary is not None:
        await fleet.put_volume_ok(primary, fencing=fencing, role="Primary")


def writing(fleet: Fleet, host: str, block: int, data: bytes = b"w") -> asyncio.Task[None]:
    """A write of a guest; done when it is acknowledged."""

    async def write() -> None:
        device = fleet.simulation.hosts[host].open_device("/dev/drbd1", "w")
        try:
            await device.write(block * BLOCK, data * BLOCK)
        finally:
            device.close()

    return asyncio.create_task(write())


def seen(state: HostState) -> VolumeState:
    return state.volumes[RESOURCE]


def asks(state: HostState, wants: str = "io") -> bool:
    question = seen(state).fence_question
    return question is not None and question.wants == wants


def frozen(state: HostState) -> bool:
    return seen(state).suspended == "fencing"


def helper_exits(fleet: Fleet, host: str) -> list[int]:
    dmesg = fleet.simulation.hosts[host].dmesg
    lines = [line for line in dmesg if "drbdadm fence-peer" in line and "exit code" in line]
    return [int(line.split("exit code ")[1].split()[0]) for line in lines]


async def cut(fleet: Fleet) -> asyncio.Task[None]:
    """The cable is pulled while mk1 writes; the write waits, mk1 asks."""
    fleet.simulation.cut_link("mk1", "mk2")
    write = writing(fleet, "mk1", 11)
    await fleet.becomes("mk1", "asks", asks)
    return write


async def alone(fleet: Fleet) -> None:
    """mk1 goes on alone by verdict 1, mk2 knows that it is stale."""
    write = await cut(fleet)
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await put_ok(fleet, "mk2", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 20)
    await fleet.becomes("mk2", "Outdated", lambda state: seen(state).disk == "Outdated")


def identical(fleet: Fleet) -> bool:
    return fleet.simulation.truth.replicas_identical(RESOURCE)


# --- the whole way ------------------------------------------------------------------------------------------------


async def test_row_07_the_primary_goes_on_the_other_is_outdated_and_resyncs(fleet: Fleet) -> None:
    await fenced(fleet)
    write = await cut(fleet)
    question = (await fleet.volume("mk1")).fence_question
    assert question is not None
    assert (question.peer, question.wants) == ("mk2", "io")
    await asyncio.sleep(0.3)
    assert not write.done()  # no verdict, no acknowledgement
    shown = await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    assert shown.verdict is not None
    await asyncio.wait_for(write, 20)
    await until(lambda: _exits(fleet, "mk1", [4]), "the handler's answer")
    await put_ok(fleet, "mk2", 1, "mk1", "mk2")
    await fleet.becomes("mk2", "Outdated", lambda state: seen(state).disk == "Outdated")
    assert (await refused(fleet.put_volume("mk2", role="Primary", **FENCED)))["reason"] == "RecordedStale"
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.synced()
    await fleet.becomes("mk1", "given back", lambda state: seen(state).fence.given_back)
    assert identical(fleet)
    # Until the controller has recorded the end, the other side is not promoted, however good its disk is
    await fleet.put_volume_ok("mk1", **FENCED)
    assert (await refused(fleet.put_volume("mk2", role="Primary", **FENCED)))["reason"] == "RecordedStale"
    await put_ok(fleet, "mk2", 2, None, None, "Redundant")
    assert (await fleet.put_volume_ok("mk2", role="Primary", **FENCED)).role == "Primary"


async def _exits(fleet: Fleet, host: str, wanted: list[int]) -> bool:
    return helper_exits(fleet, host) == wanted


async def test_row_08_without_a_verdict_io_stays_frozen_and_the_link_thaws_it(fleet: Fleet) -> None:
    await fenced(fleet)
    write = await cut(fleet)
    await fleet.restart("mk1")
    await fleet.becomes("mk1", "asks again", asks)
    assert not write.done()
    fleet.simulation.restore_link("mk1", "mk2")
    await asyncio.wait_for(write, 20)
    await fleet.synced()
    await fleet.becomes("mk1", "asks no more", lambda state: seen(state).fence_question is None)
    assert (await fleet.volume("mk1")).fence.verdict is None
    assert identical(fleet)
    assert set(helper_exits(fleet, "mk1")) <= {1}


async def test_row_09_a_link_that_flaps_gives_one_survivor_and_no_split_brain(fleet: Fleet) -> None:
    await fenced(fleet)
    await alone(fleet)
    for round_ in range(3):
        fleet.simulation.restore_link("mk1", "mk2")
        await fleet.becomes("mk1", "connected", lambda state: _connection(state) == "Connected")
        fleet.simulation.cut_link("mk1", "mk2")
        await asyncio.wait_for(writing(fleet, "mk1", 20 + round_), 20)
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.synced()
    assert identical(fleet)


def _connection(state: HostState) -> str:
    peer = seen(state).peer
    return peer.connection if peer is not None else ""


async def test_a_promotion_without_the_peer_waits_for_a_verdict(fleet: Fleet) -> None:
    await fenced(fleet, primary=None)
    fleet.simulation.power_off("mk1")
    await fleet.kill("mk1")
    await fleet.becomes("mk2", "alone", lambda state: _connection(state) != "Connected")
    promoting = asyncio.create_task(fleet.put_volume("mk2", role="Primary", **FENCED))
    await fleet.becomes("mk2", "asks", lambda state: asks(state, "promotion"))
    await put_ok(fleet, "mk2", 1, "mk2", "mk1", "Fenced")
    status, answer = await promoting
    assert (status, answer["role"]) == (200, "Primary"), answer
    assert helper_exits(fleet, "mk2") == [7]
    await asyncio.wait_for(writing(fleet, "mk2", 3), 20)


async def test_two_askers_one_wins_the_other_never_resumes(fleet: Fleet) -> None:
    """Both are to be promoted while they can't see each other; the record names one."""
    await fenced(fleet, primary=None)
    fleet.simulation.cut_link("mk1", "mk2")
    for name in fleet.hosts:
        await fleet.becomes(name, "alone", lambda state: _connection(state) != "Connected")
    both = [asyncio.create_task(fleet.put_volume(name, role="Primary", **FENCED)) for name in ("mk1", "mk2")]
    for name in ("mk1", "mk2"):
        await fleet.becomes(name, "asks", lambda state: asks(state, "promotion"))
    for name in ("mk1", "mk2"):
        await put_ok(fleet, name, 1, "mk2", "mk1", "Identical")
    (lost, why), (won, _) = await asyncio.gather(*both)
    assert (lost, won) == (409, 200), why
    assert helper_exits(fleet, "mk1") == [1]
    assert helper_exits(fleet, "mk2") == [4]
    assert fleet.simulation.truth.primaries(RESOURCE) == ("mk2",)


async def test_the_losing_side_never_resumes(fleet: Fleet) -> None:
    """A frozen Primary that is recorded as stale (a person's word was wrong) makes no new generation, ever."""
    await fenced(fleet)
    write = await cut(fleet)
    before = fleet.simulation.hosts["mk1"].drbd.resource(RESOURCE).block.generation
    await put_ok(fleet, "mk1", 1, "mk2", "mk1", "Fenced")
    await until(lambda: _exits(fleet, "mk1", [1]), "the handler's answer")
    await fleet.restart("mk1")
    await fleet.becomes("mk1", "is frozen", frozen)
    await asyncio.sleep(6)  # longer than any patience of the agent's
    assert not write.done()
    assert fleet.hosts["mk1"].ran("drbdsetup", "resume-io") == []
    assert fleet.simulation.hosts["mk1"].drbd.resource(RESOURCE).block.generation == before
    write.cancel()


async def test_row_01_a_handler_that_is_missing_is_no_reason_to_stay_frozen(fleet: Fleet) -> None:
    """The disk of the other host's power loss; the agent itself resumes what nobody asked about."""
    await fenced(fleet)
    fleet.simulation.hosts["mk1"].programs.pop("xentandem-fence")
    fleet.simulation.power_off("mk2")
    await fleet.kill("mk2")
    write = writing(fleet, "mk1", 5)
    await fleet.becomes("mk1", "asks", asks)
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 20)

    async def resumed() -> bool:
        return len(fleet.hosts["mk1"].ran("drbdsetup", "resume-io")) == 1

    await until(resumed, "resume-io")


async def test_row_29_the_survivor_reboots_alone_and_is_promoted_by_its_journal(fleet: Fleet) -> None:
    await fenced(fleet)
    fleet.simulation.hosts["mk1"].programs.pop("xentandem-fence")  # so that DRBD itself never learnt of the verdict
    handler = fleet.simulation.hosts["mk2"].programs["xentandem-fence"]
    fleet.simulation.power_off("mk2")
    await fleet.kill("mk2")
    write = writing(fleet, "mk1", 5)
    await fleet.becomes("mk1", "asks", asks)
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 20)
    fleet.simulation.hosts["mk1"].programs["xentandem-fence"] = handler
    await fleet.reboot("mk1")
    await fleet.becomes("mk1", "Consistent", lambda state: seen(state).disk == "Consistent")
    assert (await fleet.put_volume_ok("mk1", role="Primary", **FENCED)).role == "Primary"
    assert (await fleet.volume("mk1")).disk == "UpToDate"


async def test_row_23_after_both_rebooted_nobody_is_promoted_alone(fleet: Fleet) -> None:
    await fenced(fleet)
    await fleet.kill("mk2")
    fleet.simulation.power_off("mk2")
    await fleet.reboot("mk1")
    await fleet.becomes("mk1", "Consistent", lambda state: seen(state).disk == "Consistent")
    assert (await refused(fleet.put_volume("mk1", role="Primary", **FENCED)))["reason"] == "NotUpToDate"


async def test_row_29_a_stale_host_that_reboots_stays_stale(fleet: Fleet) -> None:
    await fenced(fleet)
    await alone(fleet)
    await fleet.reboot("mk2")
    await fleet.becomes("mk2", "Outdated", lambda state: seen(state).disk == "Outdated")
    assert (await refused(fleet.put_volume("mk2", role="Primary", **FENCED)))["reason"] == "RecordedStale"


async def test_a_host_that_was_off_when_it_became_stale_is_outdated_when_it_is_told(fleet: Fleet) -> None:
    await fenced(fleet)
    await fleet.kill("mk2")
    write = await cut(fleet)
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 20)
    await fleet.reboot_without_kill("mk2")
    await fleet.becomes("mk2", "Consistent", lambda state: seen(state).disk == "Consistent")
    await put_ok(fleet, "mk2", 1, "mk1", "mk2")
    await fleet.becomes("mk2", "Outdated", lambda state: seen(state).disk == "Outdated")


async def test_rows_10_and_12_a_diskless_primary_asks_nothing_and_a_verdict_does_not_help_it(fleet: Fleet) -> None:
    await fenced(fleet)
    assert (await fleet.simulation.hosts["mk1"].run(["drbdadm", "detach", "--force", RESOURCE])).exit == 0
    fleet.simulation.cut_link("mk1", "mk2")
    await fleet.becomes("mk1", "alone", lambda state: _connection(state) != "Connected")
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.sleep(4)
    assert fleet.hosts["mk1"].ran("drbdsetup", "resume-io") == []
    assert not asks(await fleet.state("mk1"))


async def test_a_secondary_that_goes_down_properly_freezes_nobody(fleet: Fleet) -> None:
    await fenced(fleet)
    assert (await fleet.simulation.hosts["mk2"].run(["drbdadm", "down", RESOURCE])).exit == 0
    await asyncio.wait_for(writing(fleet, "mk1", 7), 20)
    assert not asks(await fleet.state("mk1"))
    assert helper_exits(fleet, "mk1") == []


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
    await until(lambda: _exits(fleet, "mk1", [4]), "the handler's answer")


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
