"""When a host is known to be off: evidence only, and nothing that contradicts it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.domain.actions import Operate, PutDomain, PutVolume
from controller.domain.node import decide_node
from controller.domain.world import HostView
from controller.reconcile.view import View
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    begun,
    conditions,
    howto,
    moving,
    vm_state,
    volume_state,
)

FENCED = {"at": "2027-01-15T08:00:00Z", "bootID": "boot-mk1", "operation": "fence-1", "evidence": "fence_test: off"}


def one_host(*, fenced: dict[str, Any] | None = None, heard: int = 0, **spec: Any) -> tuple[Worlds, View]:
    worlds = Worlds()
    worlds.node("mk1", **spec)
    if fenced:
        record(worlds, fenced)
    worlds.hosts["mk1"].connected, worlds.hosts["mk1"].heard = False, heard
    return worlds, View(worlds.cache, worlds)  # type: ignore[arg-type]


def record(worlds: Worlds, fenced: dict[str, Any] | None) -> None:
    status = {**worlds.status("XenNode", "mk1")}
    status.pop("fenced", None)
    worlds.set_status("XenNode", "mk1", {**status, "fenced": fenced} if fenced else status)


def test_silence_is_no_evidence():
    _, view = one_host()
    assert not view.host("mk1").off


def test_no_xennode_is_no_evidence():
    assert not HostView("mk1", None).off


def test_a_persons_word_and_a_fence_agents_are_evidence_until_the_host_answers():
    for facts in ({"outOfService": True}, {"fenced": FENCED}):
        worlds, view = one_host(**facts)
        assert view.host("mk1").off
        worlds.hosts["mk1"].connected = True
        assert not view.host("mk1").off


def test_a_record_that_was_contradicted_is_no_evidence():
    _, view = one_host(fenced={**FENCED, "contradictedAt": "2027-01-15T08:01:00Z"})
    assert not view.host("mk1").off


def test_a_contradicted_record_does_not_take_a_persons_word_away():
    _, view = one_host(fenced={**FENCED, "contradictedAt": "2027-01-15T08:01:00Z"}, outOfService=True)
    assert view.host("mk1").off


def test_what_was_heard_before_the_record_was_decided_does_not_contradict_it():
    worlds, view = one_host(heard=7)
    assert not view.host("mk1").off
    record(worlds, FENCED)
    assert view.host("mk1").off


def test_a_line_heard_while_the_record_was_written_contradicts_it():
    worlds, view = one_host(heard=7)
    view.host("mk1")
    worlds.hosts["mk1"].heard = 8
    view.host("mk1")  # somebody else's look in between
    record(worlds, FENCED)
    assert not view.host("mk1").off


def test_a_host_that_answered_and_fell_silent_again_is_not_off_by_the_old_record():
    worlds, view = one_host(heard=7)
    view.host("mk1")
    record(worlds, FENCED)
    assert view.host("mk1").off
    worlds.hosts["mk1"].heard = 8
    assert not view.host("mk1").off
    record(worlds, FENCED)  # another version of the object, the same record
    assert not view.host("mk1").off


def test_a_controller_that_starts_believes_a_record_only_of_a_host_that_it_did_not_hear():
    _, view = one_host(fenced=FENCED)
    assert view.host("mk1").off
    _, view = one_host(fenced=FENCED, heard=3)
    assert not view.host("mk1").off


def test_a_new_record_counts_anew():
    worlds, view = one_host(fenced=FENCED, heard=3)
    assert not view.host("mk1").off
    record(worlds, None)
    view.host("mk1")
    record(worlds, {**FENCED, "operation": "fence-2"})
    assert view.host("mk1").off


# --- a host that is back, while its record still stands -------------------------------------------------------------

EARLIER = {**FENCED, "bootID": "boot-before"}


def record_of(worlds: Worlds, node: str, fenced: dict[str, Any] | None = None) -> None:
    worlds.set_status("XenNode", node, {"observedGeneration": 1, "fenced": fenced or EARLIER})


def back(role: str = "Secondary") -> Worlds:
    """The VM is placed on mk1, which was switched off, and answers in another boot: that is not recorded yet."""
    worlds = howto(created=True)
    placed = {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Running"}
    worlds.set_status("XenVM", "shaolin", placed)
    record_of(worlds, "mk1")
    absent = {VM_UID: vm_state(status="absent", domid=None)}
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role=role)}, vms=absent, domains={})
    return worlds


@pytest.mark.parametrize("role", ["Primary", "Secondary"])
def test_nothing_is_started_on_a_host_before_the_end_of_its_record_is_written(role: str) -> None:
    """The next controller would take that record for evidence that what was started there is off, too."""
    worlds = back(role)
    decision = worlds.decide_vm()
    assert asked(decision, PutDomain) == []
    assert asked(decision, PutVolume) == []
    assert "RecordedOff" in (conditions(decision)["Reconciling"].reason, conditions(decision)["Ready"].reason)
    node = worlds.cache.node("mk1")
    assert node is not None
    came_back = decide_node(worlds.world, node)
    worlds.commit("XenNode", "mk1", came_back)
    decision = worlds.decide_vm()
    assert asked(decision, PutDomain) or asked(decision, PutVolume)


def test_a_record_that_was_contradicted_keeps_nothing_from_its_host() -> None:
    """It is no evidence for anybody."""
    worlds = back("Primary")
    record_of(worlds, "mk1", {**EARLIER, "contradictedAt": "2027-01-15T08:01:00Z"})
    assert asked(worlds.decide_vm(), PutDomain)


@pytest.mark.parametrize("node", ["mk1", "mk2"])
def test_no_move_begins_from_or_to_it(node: str) -> None:
    worlds = moving()
    record_of(worlds, node)
    decision = worlds.decide_vm()
    assert decision.status.migration is None
    assert conditions(decision)["Placed"].reason == "RecordedOff"
    assert asked(decision, Operate) == []


def test_a_move_that_began_before_is_not_asked_for_there_again() -> None:
    worlds, _ = begun()
    assert [request.host for request in asked(worlds.decide_vm(), Operate)] == ["mk2"]
    record_of(worlds, "mk2")
    assert asked(worlds.decide_vm(), Operate) == []


def test_a_stopped_vm_is_not_released_to_it() -> None:
    worlds = howto(created=True)
    placed = {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Running"}
    worlds.set_status("XenVM", "shaolin", placed)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", domid=None)}, domains={})
    worlds.edit("XenVM", "shaolin", node="mk2")
    assert [request.body.state for request in asked(worlds.decide_vm(), PutDomain)] == ["Released"]
    record_of(worlds, "mk2")
    decision = worlds.decide_vm()
    assert "Released" not in [request.body.state for request in asked(decision, PutDomain)]
    assert conditions(decision)["Placed"].reason == "RecordedOff"
