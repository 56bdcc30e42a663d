"""What `kubectl xen migrate --watch` makes of each state that it can meet."""

from __future__ import annotations

from typing import Any

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


def test_refused_by_the_preflight() -> None:
    blocked = condition("Stalled", "True", "MigrationBlocked", "mk2 has no bridge xenbr0")
    seen = see(vm(conditions=(blocked, condition("Ready", "False", "MigrationBlocked", "no bridge"))))
    assert seen == Seen("MigrationBlocked: mk2 has no bridge xenbr0", outcome="Failed")


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
