"""When a verdict is over: who may say so, and who does not (docs/fencing.md)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import FenceState
from controller.domain.actions import Decision
from tests.unit.domain.verdict_facts import (
    LOST,
    fenced,
    frozen,
    given,
    journal,
    silent,
    standing,
    tell,
    told,
    waiting,
    why,
)
from tests.unit.domain.worlds import (
    Worlds,
    conditions,
    howto,
    peer,
)


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
