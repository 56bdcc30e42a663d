"""Where a VM is wanted: maintenance, what follows after it, and in which order the moves begin."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import PreflightReport, Refusal
from controller.domain.actions import Cancel, Decision, Operate
from controller.domain.world import Limits
from tests.unit.domain.worlds import (
    SHAOLIN,
    SHAOLIN_DISK,
    VM_UID,
    VOLUME_UID,
    Worlds,
    asked,
    conditions,
    domain_state,
    host_state,
    howto,
    operation_state,
    peer,
    vm_state,
    volume_state,
)


def decided(worlds: Worlds, name: str = "shaolin", **answers: PreflightReport | str) -> Decision:
    """With the preflight's questions answered."""
    decision = worlds.decide_vm(name)
    for question in decision.ask:
        worlds.answers[question] = answers.get(question.host, PreflightReport())
    return worlds.decide_vm(name) if decision.ask else decision


def committed(worlds: Worlds, name: str = "shaolin") -> dict[str, Any]:
    worlds.commit("XenVM", name, decided(worlds, name))
    return worlds.status("XenVM", name)


def maintained(**spec: Any) -> Worlds:
    """It runs on mk1, which was just taken into maintenance."""
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", **spec)
    worlds.edit("XenNode", "mk1", maintenance=True)
    return worlds


def away(reason: str = "Maintenance", **spec: Any) -> Worlds:
    """spec.node says mk1; it runs on mk2 since mk1 was in maintenance or off."""
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", **spec)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"))}, vms={}, domains={})
    worlds.tell(
        "mk2",
        volumes={"vm_shaolin": volume_state(role="Primary", used_by=("shaolin",), forced=False)},
        vms={VM_UID: vm_state(epoch=2)},
        domains={"3": domain_state()},
    )
    worlds.set_status(
        "XenVM",
        "shaolin",
        {
            "observedGeneration": 2,
            "placement": {"node": "mk2", "epoch": 2},
            "displaced": {"from": "mk1", "reason": reason, "since": "2027-01-15T08:00:00Z"},
            "run": 1,
            "lastState": "Running",
            "phase": "Running",
        },
    )
    return worlds


# --- away ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [{}, {"node": None}])
def test_maintenance_moves_it_live_and_says_why(declared: dict[str, Any]) -> None:
    worlds = maintained(**declared)
    decision = decided(worlds)
    (receive,) = asked(decision, Operate)
    assert receive.host == "mk2"
    assert decision.status.migration.target == "mk2"
    if declared:
        assert decision.status.displaced is None, "nobody said where it shall be"
    else:
        assert (decision.status.displaced.from_node, decision.status.displaced.reason) == ("mk1", "Maintenance")


def test_what_is_declared_on_the_maintained_host_begins_elsewhere() -> None:
    worlds = howto(created=True)
    worlds.edit("XenNode", "mk1", maintenance=True)
    decision = worlds.decide_vm()
    assert decision.status.placement.node == "mk2"
    assert decision.status.displaced.reason == "Maintenance"
    assert "Reconciling" in conditions(decision)


def test_a_vm_that_is_away_is_ready_and_not_in_progress() -> None:
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    told = conditions(decided(worlds))
    assert told["Ready"].status == "True"
    assert (told["Placed"].status, told["Placed"].reason) == ("False", "Maintenance")
    assert "mk1 is in maintenance" in told["Placed"].message
    assert not {"Reconciling", "Stalled"} & set(told)


def test_it_settles_there() -> None:
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    committed(worlds)
    again = worlds.decide_vm()
    assert again.status == worlds.cache.vm(("default", "shaolin")).status
    assert not again.requests


def test_setting_maintenance_back_cancels_the_move() -> None:
    worlds = maintained()
    move = committed(worlds)["migration"]["id"]
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")})
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy")})
    worlds.edit("XenNode", "mk1", maintenance=False)
    (cancel,) = asked(decided(worlds), Cancel)
    assert cancel.host == "mk1"


def test_a_move_goes_on_while_the_target_has_no_room_for_another() -> None:
    worlds = maintained()
    move = committed(worlds)["migration"]["id"]
    facts = host_state("mk2").facts.model_copy(update={"memory_free_mib": 8})
    worlds.tell(
        "mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")}, facts=facts
    )
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy")})
    assert asked(decided(worlds), Cancel) == []


def test_stopped_and_ended_guests_stay() -> None:
    worlds = maintained(state="Stopped")
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)}, domains={})
    decision = decided(worlds)
    assert (decision.status.phase, decision.status.placement.node) == ("Stopped", "mk1")
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="halted", halted_reason="poweroff", domid=None)}, domains={})
    committed(worlds)
    worlds.edit("XenNode", "mk1", maintenance=True)
    decision = decided(worlds)
    assert (decision.status.phase, decision.status.placement.node) == ("Halted", "mk1")


def test_started_during_maintenance_it_starts_elsewhere() -> None:
    worlds = maintained(state="Stopped")
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)}, domains={})
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state()})
    committed(worlds)
    worlds.edit("XenVM", "shaolin", state="Running")
    release = decided(worlds)
    assert [r.body.state for r in release.requests] == ["Released"]
    worlds.tell("mk1", vms={VM_UID: vm_state(epoch=2, granted=False, desired="Released", status="absent", domid=None)})
    assert decided(worlds).status.placement.node == "mk2"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.edit("XenNode", "mk2", schedulable=False), "mk2: not schedulable"),
        (lambda w: w.edit("XenNode", "mk2", maintenance=True), "mk2: in maintenance"),
        (
            lambda w: w.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"memory_free_mib": 96})),
            "mk2: 96 MiB free, 516 MiB needed",
        ),
    ],
)
def test_it_runs_on_where_no_other_host_takes_it(spoil: Any, words: str) -> None:
    worlds = maintained()
    spoil(worlds)
    decision = decided(worlds)
    told = conditions(decision)
    assert words in told["Placed"].message
    assert told["Ready"].status == "True"
    assert not decision.requests


def test_nothing_is_started_on_a_maintained_host() -> None:
    worlds = howto(created=True)
    for node in ("mk1", "mk2"):
        worlds.edit("XenNode", node, maintenance=True)
    decision = worlds.decide_vm()
    assert not decision.requests
    assert "mk1 is in maintenance" in conditions(decision)["Ready"].message


# --- back ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "failback", "goes"),
    [
        ("Maintenance", None, True),
        ("OutOfService", None, True),
        ("Fenced", None, False),
        ("Fenced", "Automatic", True),
        ("Maintenance", "Manual", False),
    ],
)
def test_failback_follows_the_policy(reason: str, failback: str | None, goes: bool) -> None:
    worlds = away(reason, **({"failback": failback} if failback else {}))
    decision = decided(worlds)
    assert (decision.status.migration is not None) == goes
    if goes:
        assert decision.status.migration.target == "mk1"
    else:
        assert "spec.node" in conditions(decision)["Placed"].message
        assert "Reconciling" not in conditions(decision)


def test_a_fenced_host_that_went_through_a_maintenance_is_good_again() -> None:
    worlds = away("Fenced")
    worlds.edit("XenNode", "mk1", maintenance=True)
    assert committed(worlds)["displaced"]["reason"] == "Maintenance"
    worlds.edit("XenNode", "mk1", maintenance=False)
    assert decided(worlds).status.migration.target == "mk1"


def test_nothing_goes_back_to_a_host_that_is_out_of_service_though_its_agent_answers() -> None:
    worlds = away("OutOfService")
    worlds.edit("XenNode", "mk1", outOfService=True)
    decision = decided(worlds)
    assert decision.status.migration is None
    assert conditions(decision)["Placed"].reason == "OutOfService"
    assert "Reconciling" not in conditions(decision)


def test_failback_waits_for_the_disks_and_says_so() -> None:
    worlds = away()
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(disk="Inconsistent", peer=peer(role="Primary"))})
    decision = decided(worlds)
    assert decision.status.migration is None
    assert "goes back to mk1 when vm-shaolin is UpToDate" in conditions(decision)["Placed"].message
    assert conditions(decision)["Ready"].status == "True"


def test_an_edit_of_the_node_ends_it() -> None:
    worlds = away("Fenced")
    worlds.edit("XenVM", "shaolin", node="mk2")
    decision = decided(worlds)
    assert decision.status.displaced is None
    assert conditions(decision)["Placed"].status == "True"


def test_a_link_that_flaps_does_not_cancel_the_way_back() -> None:
    worlds = away()
    move = committed(worlds)["migration"]["id"]
    assert worlds.status("XenVM", "shaolin")["displaced"]["from"] == "mk1"
    worlds.tell("mk1", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")})
    worlds.tell("mk2", operations={move: operation_state(id=move, phase="Precopy")})
    lost = peer(connection="Connecting", disk="DUnknown")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(peer=lost)})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", peer=lost)})
    assert asked(decided(worlds), Cancel) == []
    worlds.edit("XenVM", "shaolin", failback="Manual")
    assert [cancel.host for cancel in asked(decided(worlds), Cancel)] == ["mk2"]


# --- turns ---------------------------------------------------------------------------------------------------------

MANY = ("a", "b", "c", "d", "e")


def crowd(**priorities: int) -> Worlds:
    """Five VMs run on mk1, which was taken into maintenance."""
    worlds = Worlds()
    worlds.node("mk1")
    worlds.node("mk2")
    volumes: dict[str, dict[str, Any]] = {"mk1": {}, "mk2": {}}
    vms, domains = {}, {}
    for number, name in enumerate(MANY, 1):
        disk, uid = f"{VOLUME_UID[:-1]}{number}", f"{VM_UID[:-1]}{number}"
        resource = f"vm_{name}"
        worlds.apply(
            "DrbdVolume",
            f"vm-{name}",
            {**SHAOLIN_DISK, "resource": resource, "device": {"minor": number, "port": 7788 + number},
             "logicalVolume": {"group": "vg0", "name": resource}},
            uid=disk,
        )  # fmt: skip
        worlds.set_status(
            "DrbdVolume",
            f"vm-{name}",
            {
                "observedGeneration": 1,
                "nodes": ["mk1", "mk2"],
                "resource": resource,
                "device": {"minor": number, "port": 7788 + number},
                "initialSync": {"node": "mk1", "operation": f"initial-sync-{disk}", "completed": True},
            },
        )
        made: dict[str, Any] = {"resource": resource, "uid": disk, "name": f"vm-{name}", "minor": number}
        volumes["mk1"][resource] = volume_state(role="Primary", used_by=(name,), **made)
        volumes["mk2"][resource] = volume_state(peer=peer(role="Primary"), **made)
        worlds.apply(
            "XenVM",
            name,
            {
                **SHAOLIN,
                "disks": [{"volume": f"vm-{name}", "device": "hda1"}],
                "networks": [],
                "priority": priorities.get(name, 0),
            },
            uid=uid,
        )
        worlds.set_status(
            "XenVM",
            name,
            {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Running"},
        )
        vms[uid] = vm_state(uid=uid, name=name, domid=number)
        domains[str(number)] = domain_state(domid=number, name=name, uuid=uid)
    worlds.tell("mk1", volumes=volumes["mk1"], vms=vms, domains=domains)
    worlds.tell("mk2", volumes=volumes["mk2"])
    worlds.edit("XenNode", "mk1", maintenance=True)
    return worlds


def begun(worlds: Worlds, order: tuple[str, ...] = MANY) -> list[str]:
    """Everybody is looked at once, in that order; who moves then."""
    for name in order:
        committed(worlds, name)
    return [name for name in MANY if "migration" in worlds.status("XenVM", name)]


def test_so_many_at_a_time_begin_and_the_others_wait_for_their_turn() -> None:
    worlds = crowd()
    assert begun(worlds) == ["a", "b"]
    placed = {c["type"]: c for c in worlds.status("XenVM", "c")["conditions"]}["Placed"]
    assert placed["reason"] == "MoveQueued"
    assert "at most 2 moves at a time on a host" in placed["message"]


def test_the_more_important_ones_begin_whoever_is_looked_at_first() -> None:
    worlds = crowd(d=10, e=5)
    assert begun(worlds) == ["d", "e"]


def test_what_is_blocked_holds_up_nobody() -> None:
    worlds = crowd(e=10)
    blocked = PreflightReport(refusals=(Refusal(reason="NoLogDirty", message="no log-dirty mode"),))
    worlds.commit("XenVM", "e", decided(worlds, "e", mk1=blocked))
    assert begun(worlds, ("a", "b", "c", "d")) == ["a", "b"]


def test_the_limit_of_the_cluster_counts_moves_of_other_hosts_too() -> None:
    worlds = crowd()
    worlds.limits = Limits(per_host=4, per_cluster=1)
    assert begun(worlds) == ["a"]


def test_a_move_that_was_asked_for_by_name_does_not_wait() -> None:
    worlds = crowd()
    assert begun(worlds) == ["a", "b"]
    worlds.edit("XenVM", "e", node="mk2")
    committed(worlds, "e")
    assert "migration" in worlds.status("XenVM", "e")
