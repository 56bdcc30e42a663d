"""Worlds that a decision must lead out of, or say what a person must do."""

from __future__ import annotations

import pytest

from agent.protocol import Refusal, RestartState
from controller.domain.actions import Cancel, DeleteDomain, Operate, PutDomain, PutVolume, Refused
from tests.unit.domain.worlds import (
    NOW,
    VM_UID,
    asked,
    begun,
    conditions,
    domain_state,
    howto,
    moving,
    operation_state,
    peer,
    vm_state,
    volume_state,
)


def placed(worlds, node="mk1", epoch=1, **status):
    base = {"observedGeneration": 1, "run": 1, "lastState": "Running", "phase": "Running"}
    worlds.set_status("XenVM", "shaolin", {**base, **status, "placement": {"node": node, "epoch": epoch}})
    return worlds


# --- ended guests ---------------------------------------------


@pytest.mark.parametrize(("status", "reason"), [("halted", "poweroff"), ("halted", "reboot"), ("crashed", "crash")])
def test_a_guest_that_ended_by_itself_counts_as_stopped_and_can_be_deleted(status, reason):
    worlds = howto(running=True)
    ended = vm_state(status=status, halted_reason=reason, desired="Stopped", domid=None)
    worlds.tell("mk1", vms={VM_UID: ended}, domains={})
    worlds.edit("XenVM", "shaolin", state="Stopped")
    assert worlds.decide_vm().status.phase == "Stopped"
    worlds.delete("XenVM", "shaolin")
    assert [type(r) for r in worlds.decide_vm().requests] == [DeleteDomain]


def test_a_crash_that_is_not_followed_by_a_restart_asks_for_a_person():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="crashed", halted_reason="crash", domid=None)}, domains={})
    stalled = conditions(worlds.decide_vm())["Stalled"]
    assert stalled.reason == "GuestCrashed"
    assert "state: Stopped" in stalled.message


def test_a_crashed_guest_that_stays_off_moves_like_a_stopped_one():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="crashed", halted_reason="crash", domid=None)}, domains={})
    worlds.edit("XenVM", "shaolin", node="mk2")
    (release,) = asked(worlds.decide_vm(), PutDomain)
    assert release.body.state == "Released"


def test_a_guest_that_was_to_be_restarted_when_its_host_went_down_is_started_when_it_is_back():
    """After a reboot of the host the agent starts nothing by itself, also no restart that was due."""
    worlds = howto(running=True)
    due = RestartState(count=3, next_at="2027-01-15T07:00:00Z", last_reason="crash")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", domid=None, restart=due)}, domains={})
    (start,) = asked(worlds.decide_vm(), PutDomain)
    assert start.body.state == "Running"


# --- what the agent ran into is told ---------------------------------------------

NO_MEMORY = Refusal(reason="CreateFailed", message="xl create: failed to free memory for the domain")


def test_why_a_domain_does_not_start_is_told():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="starting", domid=None, problem=NO_MEMORY)}, domains={})
    assert "failed to free memory" in conditions(worlds.decide_vm())["Stalled"].message


def test_why_a_domain_does_not_stop_is_told():
    worlds = howto(running=True)
    zombie = Refusal(reason="ZombieDomain", message="only a reboot of the host clears it")
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="unknown", problem=zombie)})
    worlds.edit("XenVM", "shaolin", state="Stopped")
    assert "only a reboot" in conditions(worlds.decide_vm())["Stalled"].message


def test_why_a_guest_is_not_unpaused_is_told():
    worlds = howto(running=True)
    frozen = Refusal(reason="DiskSuspended", message="IO suspended (fencing)")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="paused", problem=frozen)})
    assert "IO suspended" in conditions(worlds.decide_vm())["Stalled"].message


def test_what_stands_against_keeping_a_volume_is_told():
    worlds = howto(created=True)
    down = volume_state(
        configured=False, disk="Diskless", peer=None,
        problem=Refusal(reason="LogicalVolumeLost", message="vg0/vm_shaolin was there and is gone"),
    )  # fmt: skip
    worlds.tell("mk1", volumes={"vm_shaolin": down})
    assert "is gone" in conditions(worlds.decide_volume())["Degraded"].message


def test_settings_that_a_host_refuses_are_told():
    worlds = howto(running=True)
    worlds.edit("DrbdVolume", "vm-shaolin", sync={"rate": "100M"})
    first = worlds.decide_volume()
    adjust = asked(first, PutVolume)
    assert [r.host for r in adjust] == ["mk1", "mk2"]
    worlds.refused = (Refused(adjust[1], Refusal(reason="AdjustFailed", message="drbdadm adjust: exit 10"), NOW),)
    decision = worlds.decide_volume()
    assert "exit 10" in conditions(decision)["Reconciling"].message
    assert decision.look_again is not None


# --- promises that are newer than the record ---------------------------------------------


def test_going_back_after_the_release_takes_a_new_epoch():
    """spec.node there and back: mk1 has given epoch 2 away, and nobody took it."""
    worlds = placed(howto(created=True))
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Released", granted=False, epoch=2, status="absent", domid=None)})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk1", 3)
    assert not decision.lazy
    assert all(r.body.epoch == 3 for r in asked(decision, PutDomain))


def test_nothing_is_taken_back_while_somebody_who_could_have_it_is_silent():
    worlds = placed(howto(created=True))
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Released", granted=False, epoch=2, status="absent", domid=None)})
    worlds.hosts["mk2"].connected = False
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.placement.epoch == 1
    assert "mk2" in conditions(decision)["Ready"].message


def test_the_placement_follows_a_grant_that_the_record_does_not_know():
    """A record that was closed, or restored from a copy, while the agents went on: the grant is exclusive."""
    worlds = placed(howto(created=True))
    worlds.tell("mk1", vms={VM_UID: vm_state(granted=False, epoch=2, status="absent", domid=None)})
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=2)}, domains={"5": domain_state(domid=5)})
    worlds.edit("XenVM", "shaolin", node="mk2")
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)


def test_a_higher_epoch_of_the_same_host_is_taken_over():
    worlds = placed(howto(running=True))
    worlds.tell("mk1", vms={VM_UID: vm_state(epoch=4)})
    assert worlds.decide_vm().status.placement.epoch == 4


def test_two_hosts_that_both_say_it_is_theirs_stop_everything():
    worlds = placed(howto(running=True))
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=3)}, domains={"5": domain_state(domid=5)})
    worlds.edit("XenVM", "shaolin", state="Stopped")
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert {"mk1", "mk2"} <= set(conditions(decision)["Stalled"].message.replace(",", " ").split())


def test_a_status_that_was_lost_is_found_again_by_the_grant():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(epoch=3, run=2)})
    worlds.set_status("XenVM", "shaolin", {"observedGeneration": -1})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk1", 3)
    assert decision.status.phase == "Running"


@pytest.mark.parametrize(("asked_for", "run"), [(1, 5), (2, 1)])
def test_a_count_of_runs_that_differs_settles(asked_for, run):
    """The PUT of the second run was lost, or the status was restored from a copy: the guest runs on."""
    worlds = placed(howto(running=True), run=asked_for)
    worlds.tell("mk1", vms={VM_UID: vm_state(run=run)})
    decision = worlds.decide_vm()
    worlds.commit("XenVM", "shaolin", decision)
    worlds.tell("mk1", vms={VM_UID: vm_state(run=max([run, *(r.body.run for r in asked(decision, PutDomain))]))})
    assert worlds.decide_vm().status.phase == "Running"
    assert conditions(worlds.decide_vm())["Ready"].status == "True"


# --- moves that cannot go on ---------------------------------------------


@pytest.mark.parametrize("update", [{"type": "hvm"}, {"state": "Paused"}])
def test_a_vm_that_shall_be_stopped_is_stopped_before_it_changes_its_place(update):
    worlds = howto(running=True)
    paused = update.get("state") == "Paused"
    worlds.edit("XenVM", "shaolin", **{"node": "mk2", **update, "state": "Stopped"})
    worlds.tell("mk1", vms={VM_UID: vm_state(status="paused" if paused else "running")})
    decision = worlds.decide_vm()
    assert decision.ask == ()
    (stop,) = asked(decision, PutDomain)
    assert (stop.host, stop.body.state) == ("mk1", "Stopped")


LOST_COPY = Refusal(reason="DomainGone", message="the copy of shaolin is not on mk2 any more")


def test_a_copy_that_is_lost_after_the_hand_over_leaves_the_vm_to_the_target():
    worlds, move = begun()
    worlds.tell(
        "mk1", domains={}, vms={VM_UID: vm_state(epoch=2, granted=False, status="absent", domid=None)},
        operations={move: operation_state(id=move, phase="Done", outcome="Succeeded")},
    )  # fmt: skip
    worlds.tell(
        "mk2", vms={VM_UID: vm_state(epoch=2, status="starting", domid=None)},
        operations={move: operation_state(id=move, kind="migrate-receive", phase="Unpausing", outcome="Failed",
                                          refusal=LOST_COPY)},
    )  # fmt: skip
    decision = worlds.decide_vm()
    assert asked(decision, Cancel) == []
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert decision.status.migration.outcome == "Failed"


def test_a_copy_that_is_lost_before_the_target_took_it_ends_the_move_and_the_vm_starts_anew():
    worlds, move = begun()
    gone = vm_state(epoch=2, granted=False, status="absent", domid=None)
    worlds.tell(
        "mk1", domains={}, vms={VM_UID: gone}, volumes={"vm_shaolin": volume_state()},
        operations={move: operation_state(id=move, phase="Done", outcome="Succeeded")},
    )  # fmt: skip
    rebooted = operation_state(
        id=move, kind="migrate-receive", phase="Received", outcome="Failed",
        refusal=Refusal(reason="HostRebooted", message="mk2 was rebooted in phase Received; the copy is gone"),
    )  # fmt: skip
    worlds.tell("mk2", operations={move: rebooted}, volumes={"vm_shaolin": volume_state()})
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Failed"
    worlds.commit("XenVM", "shaolin", decision)
    worlds.edit("XenVM", "shaolin", node="mk1")
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk1", 3)


@pytest.mark.parametrize("delete", [True, False])
def test_a_vm_that_its_host_gave_away_and_nobody_has_is_stopped_and_can_be_deleted(delete: bool):
    """Its host would refuse to be asked at an epoch that is over: there is nothing to ask it for."""
    worlds = howto(running=True)
    gone = vm_state(epoch=2, granted=False, status="absent", domid=None, desired="Running")
    worlds.tell("mk1", domains={}, vms={VM_UID: gone}, volumes={"vm_shaolin": volume_state()})
    if delete:
        worlds.delete("XenVM", "shaolin")
        assert {type(request) for request in worlds.decide_vm().requests} == {DeleteDomain}
    else:
        worlds.edit("XenVM", "shaolin", state="Stopped")
        decision = worlds.decide_vm()
        assert decision.requests == ()
        assert decision.status.phase == "Stopped"


def test_a_target_that_forgot_the_operation_after_the_hand_over_does_not_hold_it_open():
    worlds, move = begun()
    gone = vm_state(epoch=2, granted=False, status="absent", domid=None)
    worlds.tell(
        "mk1", domains={}, vms={VM_UID: gone},
        operations={move: operation_state(id=move, phase="Done", outcome="Succeeded")},
    )  # fmt: skip
    decision = worlds.decide_vm()
    assert asked(decision, Operate) == []
    assert decision.status.migration.outcome == "Failed"
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=2)}, domains={"5": domain_state(domid=5)})
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Succeeded"
    assert decision.status.placement.node == "mk2"


def test_an_unclear_hand_over_is_settled_when_the_target_has_lost_every_trace_of_it():
    worlds, move = begun()
    unclear = Refusal(reason="HandOverUnclear", message="the target's report was lost")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=unclear)})
    assert [c.host for c in asked(worlds.decide_vm(), Cancel)] == ["mk1"]


def test_nothing_is_said_to_run_that_does_not():
    worlds, move = begun()
    why = Refusal(reason="GuestEnded", message="the guest ended by itself while it was moved")
    worlds.tell(
        "mk1", domains={}, vms={VM_UID: vm_state(status="halted", halted_reason="poweroff", domid=None)},
        operations={move: operation_state(id=move, phase="Precopy", outcome="Failed", refusal=why)},
    )  # fmt: skip
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Failed"
    assert conditions(decision)["Ready"].status != "True"
    assert not any("runs on" in event.message for event in decision.events)


def test_a_frozen_guest_is_not_called_ready_while_the_source_is_silent():
    worlds, move = begun()
    worlds.hosts["mk1"].connected = False
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Received")})
    assert conditions(worlds.decide_vm())["Ready"].status == "Unknown"


def test_a_leader_that_is_over_ends_no_move():
    worlds, _ = begun()
    (receive,) = worlds.decide_vm().requests
    worlds.refused = (Refused(receive, Refusal(reason="TermTooOld", message="term 1 is over"), NOW),)
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome is None
    assert "term 1 is over" in conditions(decision)["Reconciling"].message


def test_a_cancellation_that_an_agent_refuses_is_told():
    worlds, move = begun()
    why = Refusal(reason="TransferFailed", message="connection reset")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy", outcome="Failed", refusal=why)})
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Received")})
    (cancel,) = worlds.decide_vm().requests
    worlds.refused = (Refused(cancel, Refusal(reason="NotCancellable", message="it belongs to mk2"), NOW),)
    assert "it belongs to mk2" in conditions(worlds.decide_vm())["Reconciling"].message


def test_hvm_is_refused_together_with_every_other_reason():
    worlds = moving()
    worlds.edit("XenVM", "shaolin", type="hvm")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary", peer=peer(disk="Inconsistent"))})
    worlds.tell("mk2", facts=worlds.hosts["mk2"].state.facts.model_copy(update={"xen_version": "4.14.1"}))
    for question in worlds.decide_vm().ask:
        worlds.answers[question] = f"{question.host} timed out"
    message = conditions(worlds.decide_vm())["Placed"].message
    for part in ("hvm", "Xen 4.17", "Inconsistent", "mk2 timed out"):
        assert part in message


# --- deletion ---------------------------------------------


def test_a_domain_that_the_agent_forgot_is_stopped_before_the_vm_is_forgotten():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={})
    worlds.delete("XenVM", "shaolin")
    decision = worlds.decide_vm()
    assert decision.finalizer is None
    (stop,) = asked(decision, PutDomain)
    assert stop.body.state == "Stopped"


def test_out_of_service_is_not_believed_of_a_host_that_answers():
    worlds = howto(running=True)
    worlds.node("mk1", outOfService=True)
    worlds.delete("XenVM", "shaolin")
    (stop,) = asked(worlds.decide_vm(), PutDomain)
    assert (stop.host, stop.body.state) == ("mk1", "Stopped")


def test_a_missing_xennode_does_not_prove_that_the_guest_is_gone():
    worlds = howto(running=True)
    worlds.cache.remove_key(("XenNode", "", "mk1"), "cccccccc-0000-4000-8000-000000000001")
    del worlds.hosts["mk1"]
    worlds.delete("XenVM", "shaolin")
    decision = worlds.decide_vm()
    assert decision.finalizer is None
    assert "XenNode mk1" in conditions(decision)["Stalled"].message


def test_a_volume_whose_vm_is_being_deleted_too_only_waits():
    worlds = howto(running=True)
    worlds.delete("DrbdVolume", "vm-shaolin")
    worlds.delete("XenVM", "shaolin")
    found = conditions(worlds.decide_volume())
    assert "Stalled" not in found
    assert found["Reconciling"].reason == "InUse"
