"""What `kubectl xen migrate --watch` makes of each state that it can meet."""

from __future__ import annotations

from typing import Any

import pytest

from kubectl_xen.move import Seen, progress_of

Object = dict[str, Any]
EARLIER = "move-1"


def vm(
    *,
    node: str = "mk2",
    observed: int = 5,
    placed: str = "mk1",
    move: Object | None = None,
    conditions: tuple[Object, ...] = (),
    phase: str = "Running",
) -> Object:
    status: Object = {"observedGeneration": observed, "placement": {"node": placed, "epoch": 1}, "phase": phase}
    status["conditions"] = list(conditions)
    if move:
        status["migration"] = {"source": "mk1", "target": "mk2", **move}
    return {"metadata": {"name": "shaolin", "generation": 5}, "spec": {"node": node}, "status": status}


def condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def see(thing: Object, target: str = "mk2") -> Seen:
    return progress_of(thing, target, 5, EARLIER)


def test_before_the_controller_looked() -> None:
    assert see(vm(observed=4)) == Seen("waiting for the controller")


def test_a_vm_that_was_there_before_the_edit_is_not_taken_for_the_end() -> None:
    assert see(vm(observed=4, placed="mk2")).outcome is None


def test_on_its_way() -> None:
    seen = see(vm(move={"id": "move-2", "phase": "Transfer", "percent": 45.0, "round": 1, "rate": "110 MiB/s"}))
    assert seen == Seen("Transfer, round 1, 110 MiB/s", 45.0)


def test_the_status_of_a_running_move_counts_before_its_generation_is_observed() -> None:
    assert see(vm(observed=4, move={"id": "move-2", "phase": "Preflight"})).text == "Preflight"


def test_the_earlier_move_is_not_taken_for_this_one() -> None:
    seen = see(vm(observed=4, move={"id": EARLIER, "outcome": "Failed", "message": "target lost"}))
    assert seen.outcome is None


def test_succeeded() -> None:
    seen = see(vm(placed="mk2", move={"id": "move-2", "phase": "Done", "outcome": "Succeeded"}))
    assert seen == Seen("Running", 100.0, "Succeeded")


def test_failed_says_why() -> None:
    seen = see(vm(move={"id": "move-2", "phase": "Done", "outcome": "Failed", "message": "mk2: 96 MiB free"}))
    assert seen == Seen("mk2: 96 MiB free", outcome="Failed")


def test_refused_by_the_preflight_with_every_reason() -> None:
    """The guest runs on, so it is Ready, and nothing is Stalled."""
    why = "Live migration to mk2 is blocked: (1) mk2 has no bridge xenbr0; (2) 96 MiB free, 512 MiB needed"
    told = [
        condition(kind, truth, "BridgeNotFound", why) for kind, truth in (("Placed", "False"), ("Reconciling", "True"))
    ]
    seen = see(vm(conditions=(condition("Ready", "True", "Running", "runs on mk1"), *told)))
    assert seen == Seen(f"BridgeNotFound: {why}", outcome="Blocked")


def test_stalled_needs_a_person_also_in_the_middle_of_a_move() -> None:
    stalled = condition("Stalled", "True", "CopyLeft", "mk2 could not remove its copy")
    assert see(vm(conditions=(stalled,))).outcome == "Stalled"
    seen = see(vm(move={"id": "move-2", "phase": "HandOver"}, conditions=(stalled,)))
    assert seen == Seen("CopyLeft: mk2 could not remove its copy", outcome="Stalled")


def test_a_silent_host_in_the_middle_of_a_move_is_waited_for_and_named() -> None:
    silent = condition("Ready", "Unknown", "AgentUnreachable", "the agent of mk2 does not answer")
    seen = see(vm(move={"id": "move-2", "phase": "HandOver"}, conditions=(silent,)))
    assert seen == Seen("HandOver, the agent of mk2 does not answer")


@pytest.mark.parametrize("reason", ["Migrating", "Stopping", "Releasing"])
def test_what_is_on_its_way_is_not_blocked(reason: str) -> None:
    waits = (condition("Placed", "False", reason, "it goes on"), condition("Reconciling", "True", reason, "it goes on"))
    assert see(vm(conditions=waits)).outcome is None


@pytest.mark.parametrize(("phase", "outcome"), [("Starting", None), ("Crashed", "Blocked")])
def test_a_guest_that_does_not_run_yet_is_waited_for(phase: str, outcome: str | None) -> None:
    placed = condition("Placed", "False", "NotRunning", "moving to mk2 waits")
    assert see(vm(phase=phase, conditions=(placed,))).outcome == outcome


def test_waiting_says_for_what() -> None:
    waiting = condition("Ready", "False", "Queued", "mk1 sends another VM")
    assert see(vm(conditions=(waiting,))) == Seen("Queued: mk1 sends another VM")


def test_a_stopped_vm_only_changes_its_place() -> None:
    assert see(vm(placed="mk2", phase="Stopped")) == Seen("Stopped", 100.0, "Succeeded")


def test_reverted_by_somebody_else() -> None:
    seen = see(vm(node="mk1"))
    assert seen.outcome == "Cancelled"
    assert "mk1" in seen.text


def test_deleted_meanwhile() -> None:
    thing = vm()
    thing["metadata"]["deletionTimestamp"] = "2031-02-01T10:00:00Z"
    assert see(thing).outcome == "Cancelled"
