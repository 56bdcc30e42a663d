"""A host that failed while a VM moved from it or to it (rows 15 to 17)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import FenceState, OperationState, Refusal, Verdict
from controller.domain.actions import Cancel, Refused
from tests.unit.domain.failed_host import ALONE, off, silent, whole
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    begun,
    conditions,
    domain_state,
    operation_state,
    vm_state,
    volume_state,
)


def test_row_16_the_source_is_off_in_the_transfer_and_the_copy_goes_first() -> None:
    worlds, move = begun()
    whole(worlds)
    worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
    copy = operation_state(id=move, kind="migrate-receive", phase="Receiving")
    worlds.tell("mk2", operations={move: copy}, domains={"7": domain_state(domid=7, name="shaolin--incoming")})
    silent(worlds)
    assert asked(worlds.decide_vm(), Cancel) == [], "a silent source may still send"
    off(worlds)
    (cancel,) = asked(worlds.decide_vm(), Cancel)
    assert (cancel.host, cancel.body.source_keeps) == ("mk2", True)
    worlds.tell("mk2", operations={move: copy.model_copy(update={"outcome": "Cancelled"})})
    assert worlds.decide_vm().status.migration.outcome is None, "its domain is still there"
    worlds.tell("mk2", domains={})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    assert worlds.status("XenVM", "shaolin")["migration"]["outcome"] == "Failed"
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 3)


def test_row_17_a_target_that_was_told_of_the_release_goes_on_and_is_the_placement() -> None:
    worlds, move = begun()
    off(silent(worlds))
    done = operation_state(id=move, kind="migrate-receive", phase="Done", outcome="Succeeded")
    worlds.tell("mk2", operations={move: done}, vms={VM_UID: vm_state(epoch=2)}, domains={"4": domain_state(domid=4)})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert decision.status.migration.outcome == "Succeeded"


def copy_waits(held: str = "DiskNotConnected", **status: Any) -> tuple[Worlds, str, OperationState]:
    """mk1 is off after it let go; mk2 has the copy, and does not see mk1's disk any more."""
    worlds, move = begun()
    why = Refusal(reason=held, message="vm_shaolin is Secondary/UpToDate here, Connecting")
    copy = operation_state(id=move, kind="migrate-receive", phase="Received", refusal=why)
    worlds.tell("mk2", operations={move: copy}, domains={"7": domain_state(domid=7, state="paused")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=ALONE)})
    before = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**before, "fenced": True, **status})
    off(silent(worlds))
    (cancel,) = asked(worlds.decide_vm(), Cancel)
    no = Refusal(reason="NotCancellable", message="shaolin belongs to mk2 already")
    worlds.refused = (Refused(cancel, no, worlds.now - 1.0),)
    return worlds, move, copy


def test_row_17_a_copy_whose_source_is_off_goes_on_by_a_verdict_with_its_memory() -> None:
    worlds, _, _ = copy_waits()
    verdict = worlds.decide_volume().status.verdict
    assert (verdict.survivor, verdict.stale, verdict.reason) == ("mk2", "mk1", "Fenced")
    decision = worlds.decide_vm()
    assert "Stalled" not in conditions(decision)
    assert "goes on with the guest's memory" in conditions(decision)["Reconciling"].message


def test_row_17_nobody_speaks_for_a_copy_that_its_source_was_not_seen_to_give_away() -> None:
    worlds, _, _ = copy_waits("NotReleased")
    assert worlds.decide_volume().status.verdict is None


def test_row_17_a_silent_source_is_no_reason_for_a_verdict() -> None:
    worlds, _, _ = copy_waits()
    worlds.edit("XenNode", "mk1", outOfService=False)
    assert worlds.decide_volume().status.verdict is None


@pytest.mark.parametrize(
    ("held", "status", "why"),
    [
        ("DiskNotConnected", {"fenced": False}, "NotFenced"),
        (
            "DiskNotConnected",
            {"verdict": {"number": 1, "survivor": "mk1", "stale": "mk2", "reason": "PeerLost"}},
            "RecordedStale",
        ),
        ("WroteAlone", {"verdict": {"number": 1, "survivor": "mk2", "stale": "mk1", "reason": "Fenced"}}, "WroteAlone"),
    ],
)
def test_row_17_a_copy_that_waits_for_the_lost_source_needs_a_person(held: str, status: Any, why: str) -> None:
    worlds, move, copy = copy_waits(held, **status)
    if "survivor" in str(status) and held == "WroteAlone":
        fence = FenceState(verdict=Verdict(number=1, survivor="mk2", stale="mk1", reason="Fenced"))
        worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=ALONE, fence=fence)})
    told = conditions(worlds.decide_vm())["Stalled"]
    assert told.reason == "CopyWaits"
    assert f"({why}: " in told.message
    assert "xl destroy shaolin--incoming" in told.message
    worlds.refused = ()
    worlds.tell("mk2", operations={move: copy.model_copy(update={"outcome": "Failed"})}, domains={})
    assert worlds.decide_vm().status.migration.outcome == "Failed"


@pytest.mark.parametrize(("role", "resumes"), [("Primary", True), ("Secondary", False)])
def test_row_15_the_target_is_off_after_an_unclear_end(role: str, resumes: bool) -> None:
    """With the source Primary all the time the copy can't have written: the source resumes."""
    worlds, move = begun()
    why = Refusal(reason="HandOverUnclear", message="the last word was lost")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=why)})
    silent(worlds, "mk2")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role=role, peer=ALONE)})
    assert asked(worlds.decide_vm(), Cancel) == [], "a silent target may have it"
    off(worlds, "mk2")
    assert [cancel.host for cancel in asked(worlds.decide_vm(), Cancel)] == (["mk1"] if resumes else [])
