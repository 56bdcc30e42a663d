"""Verdicts: who may go on with a volume without the other side, and above all who may not (docs/fencing.md)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import FenceQuestion, FenceState, GenerationIds, Verdict
from controller.domain.actions import Decision, PutVerdict, PutVolume
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    conditions,
    howto,
    operation_state,
    peer,
    vm_state,
    volume_state,
)

LOST = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")
OTHER = {"mk1": "mk2", "mk2": "mk1"}


def question(node: str, wants: str) -> FenceQuestion:
    return FenceQuestion.model_validate({"peer": OTHER[node], "wants": wants, "since": "2027-01-15T08:00:00Z"})


def tell(worlds: Worlds, node: str, **update: Any) -> None:
    worlds.tell(node, volumes={"vm_shaolin": volume_state(**update)})


def frozen(worlds: Worlds, node: str = "mk1", **update: Any) -> None:
    """A Primary whose IO is frozen; it asks."""
    values = {"role": "Primary", "peer": LOST, "suspended": "fencing", "fence_question": question(node, "io")}
    tell(worlds, node, **(values | update))


def waiting(worlds: Worlds, node: str, **update: Any) -> None:
    """A Secondary that shall be promoted without its peer; it asks."""
    tell(worlds, node, **({"peer": LOST, "fence_question": question(node, "promotion")} | update))


def silent(worlds: Worlds, node: str) -> None:
    worlds.hosts[node].connected = False


def fenced(worlds: Worlds, **status: Any) -> None:
    before = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**before, "fenced": True, **status})


def standing(number: int, survivor: str, stale: str, reason: str = "PeerLost") -> dict[str, Any]:
    return {"verdict": {"number": number, "survivor": survivor, "stale": stale, "reason": reason}}


def journal(number: int, survivor: str | None, stale: str | None, reason: str = "PeerLost", **more: Any) -> FenceState:
    return FenceState(verdict=Verdict(number=number, survivor=survivor, stale=stale, reason=reason), **more)


def given(decision: Decision) -> tuple[int, str, str, str] | None:
    verdict = decision.status.verdict
    return None if verdict is None else (verdict.number, verdict.survivor, verdict.stale, verdict.reason)


def told(decision: Decision) -> dict[str, int]:
    return {request.host: request.body.verdict.number for request in asked(decision, PutVerdict)}


def why(decision: Decision) -> str:
    return str(conditions(decision)["Degraded"].message)


# --- given --------------------------------------------------------------------------------------------------------


def test_row_01_the_frozen_primary_goes_on_when_the_other_host_lost_power() -> None:
    worlds = howto(running=True)
    frozen(worlds)
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (1, "mk1", "mk2", "PeerLost")
    assert not decision.lazy  # written at once, and before anybody is told
    assert told(decision) == {"mk1": 1}
    assert (conditions(decision)["Ready"].status, conditions(decision)["Reconciling"].reason) == ("False", "Suspended")
    assert [event.reason for event in decision.events][:1] == ["PeerLost"]


def test_row_07_both_agents_are_told_and_the_stale_one_again_until_it_has_it() -> None:
    worlds = howto(running=True)
    frozen(worlds)
    tell(worlds, "mk2", peer=LOST)
    decision = worlds.decide_volume()
    assert told(decision) == {"mk1": 1, "mk2": 1}
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    frozen(worlds, fence=journal(1, "mk1", "mk2"))
    decision = worlds.decide_volume()
    assert given(decision) == (1, "mk1", "mk2", "PeerLost")
    assert told(decision) == {"mk2": 1}
    assert "goes on by verdict 1" in why(decision)


def test_row_08_no_verdict_is_no_word_of_a_host_that_is_not_heard() -> None:
    """Neither agent is heard: nothing is decided from what was seen last."""
    worlds = howto(running=True)
    frozen(worlds)
    silent(worlds, "mk1")
    silent(worlds, "mk2")
    assert given(worlds.decide_volume()) is None


@pytest.mark.parametrize("disk", ["Diskless", "Inconsistent", "Outdated", "Consistent", "Failed"])
def test_rows_03_10_12_only_a_side_that_is_up_to_date_gets_a_verdict(disk: str) -> None:
    worlds = howto(running=True)
    frozen(worlds, disk=disk)
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "NotUpToDate" in why(decision)
    assert (conditions(decision)["Ready"].status, conditions(decision)["Stalled"].reason) == ("False", "Suspended")


def test_row_12_the_other_side_of_a_diskless_primary_is_not_promoted() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    tell(worlds, "mk1", role="Primary", disk="Diskless", peer=LOST)
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "PeerIsPrimary" in why(decision)


def diskless(worlds: Worlds, **update: Any) -> None:
    """mk1's disk failed, its domain is gone; mk2 shall be promoted and does not see it."""
    tell(worlds, "mk1", **({"disk": "Diskless", "peer": LOST, "generation": None} | update))
    waiting(worlds, "mk2")


def test_row_12_once_it_is_secondary_the_other_side_has_everything() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    diskless(worlds)
    assert given(worlds.decide_volume()) == (1, "mk2", "mk1", "PeerDiskless")


@pytest.mark.parametrize(
    ("protocol", "known", "mk1"),
    [
        ("C", True, {"fence": FenceState(continued_at="2027-01-15T08:00:00Z")}),
        ("C", True, {"fence": journal(1, "mk1", "mk2")}),
        ("C", True, {"configured": False, "role": "Unknown"}),
        ("C", False, {}),
        ("A", True, {}),
    ],
)
def test_row_12_not_if_it_may_have_written_alone(protocol: str, known: bool, mk1: dict[str, Any]) -> None:
    worlds = howto(running=True)
    worlds.edit("DrbdVolume", "vm-shaolin", protocol=protocol)
    fenced(worlds, fenced=known)
    diskless(worlds, **mk1)
    verdict = given(worlds.decide_volume())
    assert verdict is None or verdict[1] == "mk1"


def test_row_04_a_secondary_takes_over_from_a_host_that_a_person_says_is_off() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    silent(worlds, "mk1")
    waiting(worlds, "mk2")
    assert given(worlds.decide_volume()) is None  # silence is no evidence
    assert "outOfService" in why(worlds.decide_volume())
    worlds.edit("XenNode", "mk1", outOfService=True)
    assert given(worlds.decide_volume()) == (1, "mk2", "mk1", "Fenced")


def test_row_05_a_host_that_answers_is_not_off_whatever_a_person_says() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    worlds.edit("XenNode", "mk1", outOfService=True)
    tell(worlds, "mk1", role="Primary", peer=LOST, fenced=False)
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "PeerIsPrimary" in why(decision)


def test_a_host_that_was_never_under_fencing_may_have_written_alone() -> None:
    worlds = howto(running=True)
    silent(worlds, "mk1")
    worlds.edit("XenNode", "mk1", outOfService=True)
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "NotFenced" in why(decision)


def test_that_both_are_under_fencing_is_recorded_once_they_are_whole() -> None:
    worlds = howto(running=True)
    assert worlds.decide_volume().status.fenced
    tell(worlds, "mk2", fenced=False)
    assert not worlds.decide_volume().status.fenced


def test_both_secondary_with_the_same_generation() -> None:
    worlds = howto(created=True)
    tell(worlds, "mk1", peer=LOST)
    waiting(
        worlds, "mk2", generation=GenerationIds(current="A1B2C3D4E5F60719", bitmap="0" * 16)
    )  # but for its lowest bit
    assert given(worlds.decide_volume()) == (1, "mk2", "mk1", "Identical")


@pytest.mark.parametrize(
    ("generation", "reason"),
    [(None, "ReplicaUnknown"), (GenerationIds(current="FFFFFFFFFFFFFFF0", bitmap="A1B2C3D4E5F60718"), "DataDiffers")],
)
def test_generations_that_differ_or_are_not_known(generation: GenerationIds | None, reason: str) -> None:
    worlds = howto(created=True)
    tell(worlds, "mk1", peer=LOST, generation=generation)
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert reason in why(decision)


def test_a_primary_that_writes_alone_is_the_survivor_whoever_let_it() -> None:
    """By policy, or because a person resumed it: from now on that is recorded."""
    worlds = howto(running=True)
    fenced(worlds)
    tell(worlds, "mk1", role="Primary", peer=LOST, fence=FenceState(continued_at="2027-01-15T08:00:00Z"))
    silent(worlds, "mk2")
    assert given(worlds.decide_volume()) == (1, "mk1", "mk2", "WroteAlone")


def test_a_secondary_that_left_in_good_order_needs_no_verdict() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    tell(worlds, "mk1", role="Primary", peer=LOST.model_copy(update={"disk": "Outdated"}))
    silent(worlds, "mk2")
    assert given(worlds.decide_volume()) is None


def test_the_vm_is_placed_elsewhere() -> None:
    worlds = howto(running=True)
    status = worlds.status("XenVM", "shaolin")
    worlds.set_status("XenVM", "shaolin", {**status, "placement": {"node": "mk2", "epoch": 2}})
    frozen(worlds)
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "PlacedElsewhere" in why(decision)


# --- moves --------------------------------------------------------------------------------------------------------


def in_move(epoch: int = 2) -> Worlds:
    worlds = howto(running=True)
    fenced(worlds)
    status = worlds.status("XenVM", "shaolin")
    move = {
        "id": "move-1", "source": "mk1", "target": "mk2", "epoch": epoch, "phase": "HandOver",
        "startedAt": "2027-01-15T08:00:00Z",
    }  # fmt: skip
    worlds.set_status("XenVM", "shaolin", {**status, "migration": move})
    silent(worlds, "mk1")
    operation = operation_state(id="move-1", kind="migrate-receive", phase="Promoting")
    worlds.tell("mk2", operations={"move-1": operation})
    return worlds


def test_row_17_the_target_that_took_the_vm_over_is_promoted_without_the_source() -> None:
    worlds = in_move()
    waiting(worlds, "mk2")
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=2, granted=False)})
    assert given(worlds.decide_volume()) is None
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=2, granted=True)})
    assert given(worlds.decide_volume()) == (1, "mk2", "mk1", "HandedOver")


def test_row_17_the_target_that_is_primary_already_goes_on() -> None:
    worlds = in_move()
    frozen(worlds, "mk2")
    assert given(worlds.decide_volume()) == (1, "mk2", "mk1", "PeerLost")


def test_row_13_the_source_goes_on_when_the_target_dies() -> None:
    worlds = in_move()
    worlds.hosts["mk1"].connected = True
    frozen(worlds, "mk1")
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (1, "mk1", "mk2", "PeerLost")
    assert asked(decision, PutVolume) == []


# --- one at a time ------------------------------------------------------------------------------------------------


def test_two_askers_get_one_verdict() -> None:
    worlds = howto(created=True)
    waiting(worlds, "mk1")
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (1, "mk1", "mk2", "Identical")
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    later = worlds.decide_volume()
    assert given(later) == (1, "mk1", "mk2", "Identical")
    assert told(later) == {"mk1": 1, "mk2": 1}


def test_row_26_the_side_that_is_recorded_as_stale_is_refused_even_as_the_last_one_there() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk2", "mk1", "Fenced"))
    worlds.edit("XenNode", "mk2", outOfService=True)
    silent(worlds, "mk2")
    frozen(worlds)
    decision = worlds.decide_volume()
    assert given(decision) == (3, "mk2", "mk1", "Fenced")
    assert "RecordedStale" in why(decision)


def test_two_primaries_are_for_a_person() -> None:
    worlds = howto(running=True)
    frozen(worlds)
    tell(worlds, "mk2", role="Primary", peer=LOST, suspended="fencing", fence_question=question("mk2", "io"))
    decision = worlds.decide_volume()
    assert given(decision) is None
    assert "TwoPrimaries" in why(decision)


def test_a_lost_status_is_found_again_in_a_journal() -> None:
    """Restored from a copy: what the agents have is newer, and stands."""
    worlds = howto(running=True)
    fenced(worlds)
    worlds.edit("XenNode", "mk1", outOfService=True)
    silent(worlds, "mk1")
    waiting(worlds, "mk2", fence=journal(7, "mk1", "mk2"))
    decision = worlds.decide_volume()
    assert given(decision) == (7, "mk1", "mk2", "PeerLost")
    assert "RecordedStale" in why(decision)


def test_what_a_silent_agent_had_last_counts_too() -> None:
    worlds = howto(running=True)
    fenced(worlds)
    worlds.edit("XenNode", "mk1", outOfService=True)
    tell(worlds, "mk1", role="Primary", fence=journal(7, "mk1", "mk2"))
    silent(worlds, "mk1")
    waiting(worlds, "mk2")
    assert given(worlds.decide_volume()) == (7, "mk1", "mk2", "PeerLost")


def test_two_verdicts_of_one_number_stop_everything() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    frozen(worlds)
    tell(worlds, "mk2", peer=LOST, fence=journal(3, "mk2", "mk1"))
    decision = worlds.decide_volume()
    assert given(decision) == (3, "mk1", "mk2", "PeerLost")
    assert "VerdictContradicts" in why(decision)


# --- ended --------------------------------------------------------------------------------------------------------


def whole(worlds: Worlds, first: FenceState, second: FenceState) -> Decision:
    tell(worlds, "mk1", role="Primary", used_by=("shaolin",), fence=first)
    tell(worlds, "mk2", peer=peer(role="Primary"), fence=second)
    return worlds.decide_volume()


def test_row_07_the_verdict_ends_when_both_are_whole_and_its_holder_gave_it_back() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    kept = journal(3, "mk1", "mk2")
    assert given(whole(worlds, kept, kept)) == (3, "mk1", "mk2", "PeerLost")  # not given back yet
    back = journal(3, "mk1", "mk2", given_back=True)
    decision = whole(worlds, back, kept)
    assert given(decision) == (4, "", "", "Redundant")
    assert told(decision) == {"mk1": 4, "mk2": 4}
    assert [event.reason for event in decision.events] == ["VerdictEnded"]
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    ended = journal(4, None, None, "Redundant")
    decision = whole(worlds, ended, kept)
    assert told(decision) == {"mk2": 4}
    assert "Degraded" not in conditions(whole(worlds, ended, ended))


@pytest.mark.parametrize("number", [2, 4])
def test_a_holder_that_gave_another_verdict_back_ends_nothing(number: int) -> None:
    """The one that stands may still be on its way to it."""
    worlds = howto(running=True)
    fenced(worlds, **standing(4, "mk1", "mk2"))
    first = journal(number, "mk1", "mk2", given_back=number == 2)
    decision = whole(worlds, first, journal(4, "mk1", "mk2"))
    assert given(decision) == (4, "mk1", "mk2", "PeerLost")
    assert told(decision) == ({"mk1": 4} if number == 2 else {})
    assert conditions(decision)["Degraded"].reason == "VerdictStands"


@pytest.mark.parametrize("gone", ["mk1", "mk2"])
def test_it_ends_by_its_holders_word_alone_whoever_is_silent_since(gone: str) -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    back = journal(3, "mk1", "mk2", given_back=True)
    whole(worlds, back, journal(3, "mk1", "mk2"))
    silent(worlds, gone)
    decision = worlds.decide_volume()
    assert given(decision) == (4, "", "", "Redundant")
    assert told(decision) == {"mk1" if gone == "mk2" else "mk2": 4}


def test_it_does_not_end_while_its_holders_word_is_not_known() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].state = False, None
    waiting(worlds, "mk2")
    worlds.edit("XenNode", "mk1", outOfService=True)
    decision = worlds.decide_volume()
    assert given(decision) == (3, "mk1", "mk2", "PeerLost")
    assert "RecordedStale" in why(decision)


def test_a_verdict_does_not_end_while_data_is_copied() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    kept = journal(3, "mk1", "mk2")
    tell(worlds, "mk1", role="Primary", fence=kept, peer=peer(disk="Inconsistent", replication="SyncSource"))
    tell(worlds, "mk2", disk="Inconsistent", peer=peer(role="Primary", replication="SyncTarget"), fence=kept)
    assert given(worlds.decide_volume()) == (3, "mk1", "mk2", "PeerLost")


# --- given back, and its end was not recorded before the next loss ------------------------------------------------


def gave_back(**more: Any) -> FenceState:
    return journal(3, "mk1", "mk2", given_back=True, **more)


def test_a_holder_that_gave_back_and_is_frozen_again_gets_a_new_verdict() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    frozen(worlds, fence=gave_back())
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (4, "mk1", "mk2", "PeerLost")
    assert told(decision) == {"mk1": 4}
    assert "it goes on by verdict 4" in why(decision)


def test_it_is_judged_anew_and_not_by_what_it_was_given_for() -> None:
    """The VM has gone to mk2 since: what mk1 was told before is no reason any more."""
    worlds = howto(running=True)
    status = worlds.status("XenVM", "shaolin")
    worlds.set_status("XenVM", "shaolin", {**status, "placement": {"node": "mk2", "epoch": 2}})
    fenced(worlds, **standing(3, "mk1", "mk2"))
    frozen(worlds, fence=gave_back())
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (4, "", "", "Redundant")
    assert "PlacedElsewhere" in why(decision)


def test_the_other_side_takes_over_from_a_holder_that_gave_back_and_is_off() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    tell(worlds, "mk1", role="Primary", fence=gave_back())
    silent(worlds, "mk1")
    waiting(worlds, "mk2", fence=journal(3, "mk1", "mk2"))
    assert given(worlds.decide_volume()) == (4, "", "", "Redundant")  # silence is no evidence
    worlds.edit("XenNode", "mk1", outOfService=True)
    decision = worlds.decide_volume()
    assert given(decision) == (4, "mk2", "mk1", "Fenced")
    assert told(decision) == {"mk2": 4}


@pytest.mark.parametrize("verdict", [{}, standing(3, "mk1", "mk2")])
def test_not_if_it_was_seen_to_go_on_by_its_policy_since(verdict: dict[str, Any]) -> None:
    worlds = howto(running=True)
    fenced(worlds, **verdict)
    since = "2027-01-15T08:00:00Z"
    tell(
        worlds,
        "mk1",
        role="Primary",
        fence=gave_back(continued_at=since) if verdict else FenceState(continued_at=since),
    )
    silent(worlds, "mk1")
    worlds.edit("XenNode", "mk1", outOfService=True)
    waiting(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) in (None, (4, "", "", "Redundant"))
    assert "WroteAlone" in why(decision)


def test_one_that_gave_back_and_went_on_by_its_policy_is_the_survivor() -> None:
    worlds = howto(running=True)
    fenced(worlds, **standing(3, "mk1", "mk2"))
    tell(worlds, "mk1", role="Primary", peer=LOST, fence=gave_back(continued_at="2027-01-15T08:00:00Z"))
    silent(worlds, "mk2")
    assert given(worlds.decide_volume()) == (4, "mk1", "mk2", "WroteAlone")


def test_numbers_grow_over_the_next_loss() -> None:
    worlds = howto(running=True)
    fenced(worlds, verdict={"number": 4, "reason": "Redundant"})
    frozen(worlds, fence=journal(4, None, None, "Redundant"))
    silent(worlds, "mk2")
    assert given(worlds.decide_volume()) == (5, "mk1", "mk2", "PeerLost")


def test_a_volume_that_is_being_deleted_does_not_stay_frozen() -> None:
    """A domain whose disk is frozen can't be destroyed."""
    worlds = howto(running=True)
    worlds.delete("DrbdVolume", "vm-shaolin")
    frozen(worlds)
    silent(worlds, "mk2")
    decision = worlds.decide_volume()
    assert given(decision) == (1, "mk1", "mk2", "PeerLost")
    assert told(decision) == {"mk1": 1}
