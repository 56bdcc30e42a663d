"""When a host is known to be off: evidence only, and nothing that contradicts it."""

from __future__ import annotations

from typing import Any

from controller.domain.world import HostView
from controller.reconcile.view import View
from tests.unit.domain.worlds import Worlds

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
