"""The plugin's reading of a status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubectl_xen import view

Object = dict[str, Any]


def make(generation: int = 2, observed: int = 2, conditions: list[Object] | None = None, **status: Any) -> Object:
    return {
        "kind": "XenVM",
        "metadata": {"name": "shaolin", "namespace": "default", "generation": generation},
        "spec": {"node": "mk1", "memory": "512Mi", "disks": [{"volume": "vm-shaolin", "device": "hda1"}]},
        "status": {"observedGeneration": observed, "conditions": conditions or [], **status},
    }


def ready(status: str, reason: str = "Running", message: str = "on mk1") -> Object:
    return {"type": "Ready", "status": status, "reason": reason, "message": message}


def stalled(reason: str, message: str) -> Object:
    return {"type": "Stalled", "status": "True", "reason": reason, "message": message}


def test_a_ready_object_needs_no_note() -> None:
    assert view.note(make(conditions=[ready("True")])) is None


@pytest.mark.parametrize("kind", ["Degraded", "Reconciling"])
def test_what_can_be_used_but_is_not_as_it_shall_be_is_noted(kind: str) -> None:
    more = {"type": kind, "status": "True", "reason": "NoReplicaThere", "message": "mk3 holds no replica"}
    note = view.note(make(conditions=[ready("True"), more]))
    assert note == view.Note(False, "NoReplicaThere", "mk3 holds no replica")
    assert view.note(make(conditions=[ready("True"), {**more, "status": "False"}])) is None


@pytest.mark.parametrize("kind", ["Drained", "FailoverReady"])
def test_what_a_host_cannot_do_yet_is_noted(kind: str) -> None:
    more = {"type": kind, "status": "False", "reason": "Blocked", "message": "XenVM default/shaolin: no log-dirty"}
    note = view.note(make(conditions=[ready("True"), more]))
    assert note == view.Note(False, "Blocked", "XenVM default/shaolin: no log-dirty")
    assert view.note(make(conditions=[ready("True"), {**more, "status": "True"}])) is None


def test_why_a_vm_is_away_is_told_in_few_words() -> None:
    assert view.displaced(make()) == ""
    assert view.displaced(make(displaced={"from": "mk1", "reason": "Maintenance"})) == "from mk1, Maintenance"


def test_a_ready_condition_about_an_older_spec_is_not_believed() -> None:
    note = view.note(make(generation=3, observed=2, conditions=[ready("True")]))
    assert note is not None
    assert note.reason == "NotYetSeen"


def test_stalled_comes_before_ready() -> None:
    both = [ready("False", "Blocked", "x"), stalled("MinorTaken", "minor 1 is vm-other's")]
    note = view.note(make(conditions=both))
    assert note == view.Note(True, "MinorTaken", "minor 1 is vm-other's")


def test_an_object_without_any_status_was_not_seen() -> None:
    vm = make()
    del vm["status"]
    note = view.note(vm)
    assert note is not None
    assert note.reason == "NotYetSeen"


def volume(name: str, state: str | None, namespace: str = "default") -> Object:
    status = {"diskState": state} if state else {}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodes": ["mk1", "mk2"]}, "status": status}


@pytest.mark.parametrize(
    ("volumes", "shown"),
    [
        ([volume("vm-shaolin", "UpToDate/UpToDate")], "UpToDate/UpToDate"),
        ([volume("vm-shaolin", None)], "unknown"),
        ([], "missing"),
        ([volume("vm-shaolin", "UpToDate/UpToDate", "other")], "missing"),
    ],
)
def test_storage(volumes: list[Object], shown: str) -> None:
    assert view.storage(make(), volumes) == shown


def test_storage_shows_the_worst_first_and_each_state_once() -> None:
    vm = make()
    vm["spec"]["disks"] = [{"volume": name, "device": "hda1"} for name in ("a", "b", "c")]
    both = "UpToDate/UpToDate"
    volumes = [volume("a", both), volume("b", "UpToDate/DUnknown"), volume("c", both)]
    assert view.storage(vm, volumes) == f"UpToDate/DUnknown, {both}"


def test_a_vm_without_disks_has_no_storage() -> None:
    vm = make()
    del vm["spec"]["disks"]
    assert view.storage(vm, []) == "-"


def test_only_a_move_without_outcome_is_on_its_way() -> None:
    move = {"id": "m1", "source": "mk1", "target": "mk2", "phase": "Transfer", "percent": 45.4}
    assert view.migration(make(migration=move)) == move
    assert view.migration(make(migration={**move, "outcome": "Failed"})) is None
    assert view.move_text(move) == "mk1 -> mk2 45%"
    assert view.move_text({**move, "phase": "HandOver"}) == "mk1 -> mk2 HandOver"


@pytest.mark.parametrize(
    ("since", "shown"),
    [
        ("2031-02-01T10:00:00Z", "0s"),
        ("2031-02-01T09:58:01Z", "119s"),
        ("2031-02-01T09:58:00Z", "2m"),
        ("2031-02-01T07:00:00Z", "3h"),
        ("2031-01-20T10:00:00Z", "12d"),
        ("2031-02-01T10:00:09Z", "0s"),  # the other clock is ahead
        (None, ""),
    ],
)
def test_age(since: str | None, shown: str) -> None:
    assert view.age(since, datetime(2031, 2, 1, 10, 0, 0, tzinfo=UTC)) == shown


@pytest.mark.parametrize(
    ("mark", "tool"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "vms"}}, "Flux"),
        ({"labels": {"app": "x"}}, ""),
    ],
)
def test_who_writes_the_spec(mark: Object, tool: str) -> None:
    vm = make()
    vm["metadata"].update(mark)
    assert view.owned_by_git(vm) == tool
