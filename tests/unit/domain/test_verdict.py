"""Verdicts: who may go on with a volume without the other side, and above all who may not (docs/fencing.md)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import FenceState, GenerationIds
from controller.domain.actions import PutVolume
from tests.unit.domain.verdict_facts import (
    LOST,
    fenced,
    frozen,
    given,
    journal,
    question,
    silent,
    standing,
    tell,
    told,
    waiting,
    why,
)
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    conditions,
    howto,
    operation_state,
    vm_state,
)

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
