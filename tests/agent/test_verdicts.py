"""Fencing as an agent does it: frozen IO, the handler as a process, verdicts, reboots (docs/fencing.md)."""

from __future__ import annotations

import asyncio

from fencing_steps import (
    FENCED,
    RESOURCE,
    alone,
    asks,
    connection,
    cut,
    exits,
    fenced,
    frozen,
    helper_exits,
    identical,
    put_ok,
    seen,
    writing,
)
from fleet import Fleet, refused, until

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
    await until(lambda: exits(fleet, "mk1", [4]), "the handler's answer")
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
        await fleet.becomes("mk1", "connected", lambda state: connection(state) == "Connected")
        fleet.simulation.cut_link("mk1", "mk2")
        await asyncio.wait_for(writing(fleet, "mk1", 20 + round_), 20)
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.synced()
    assert identical(fleet)


async def test_row_09_what_was_given_back_is_not_acted_on_again_a_higher_number_is(fleet: Fleet) -> None:
    """The end of verdict 1 was not recorded before the link was lost again."""
    await fenced(fleet)
    await alone(fleet)
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.synced()
    await fleet.becomes("mk1", "given back", lambda state: seen(state).fence.given_back)
    write = await cut(fleet)
    await fleet.becomes("mk1", "frozen", frozen)
    assert (await put_ok(fleet, "mk1", 1, "mk1", "mk2")).given_back
    await asyncio.sleep(0.3)
    assert not write.done()
    assert not (await put_ok(fleet, "mk1", 2, "mk1", "mk2")).given_back
    await asyncio.wait_for(write, 20)


async def test_a_promotion_without_the_peer_waits_for_a_verdict(fleet: Fleet) -> None:
    await fenced(fleet, primary=None)
    fleet.simulation.power_off("mk1")
    await fleet.kill("mk1")
    await fleet.becomes("mk2", "alone", lambda state: connection(state) != "Connected")
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
        await fleet.becomes(name, "alone", lambda state: connection(state) != "Connected")
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
    await until(lambda: exits(fleet, "mk1", [1]), "the handler's answer")
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
    await fleet.becomes("mk1", "alone", lambda state: connection(state) != "Connected")
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await asyncio.sleep(4)
    assert fleet.hosts["mk1"].ran("drbdsetup", "resume-io") == []
    assert not asks(await fleet.state("mk1"))
    assert (await fleet.volume("mk1")).suspended == "no-data"


async def test_a_secondary_that_goes_down_properly_freezes_nobody(fleet: Fleet) -> None:
    await fenced(fleet)
    assert (await fleet.simulation.hosts["mk2"].run(["drbdadm", "down", RESOURCE])).exit == 0
    await asyncio.wait_for(writing(fleet, "mk1", 7), 20)
    assert not asks(await fleet.state("mk1"))
    assert helper_exits(fleet, "mk1") == []
