"""Decisions about a VM: starts, stops, moves and what happens when they are interrupted."""

from __future__ import annotations

import pytest

from agent.protocol import MigrateReceive, MigrateSend, PreflightReport, Refusal
from controller.domain.actions import Cancel, DeleteDomain, Operate, PutDomain, PutVolume, Refused
from tests.unit.domain.worlds import (
    NOW,
    VM_UID,
    asked,
    begun,
    conditions,
    domain_state,
    host_state,
    howto,
    moving,
    operation_state,
    peer,
    vm_state,
    volume_state,
)

# --- start, stop ---------------------------------------------------------------------------------------------------


def test_waits_for_its_disks_without_placing_anything():
    decision = howto().decide_vm()
    assert decision.status.placement is None
    assert decision.requests == ()
    assert conditions(decision)["Ready"].reason == "VolumeNotReady"


def test_promotes_then_creates_with_the_epoch_in_status_first():
    worlds = howto(created=True)
    first = worlds.decide_vm()
    assert (first.status.placement.node, first.status.placement.epoch) == ("mk1", 1)
    assert not first.lazy
    (promote,) = first.requests
    assert isinstance(promote, PutVolume)
    assert (promote.host, promote.body.role) == ("mk1", "Primary")
    worlds.commit("XenVM", "shaolin", first)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"))})
    (create,) = worlds.decide_vm().requests
    assert isinstance(create, PutDomain)
    assert (create.host, create.body.epoch, create.body.state, create.body.run) == ("mk1", 1, "Running", 1)
    assert create.body.config.cmdline == "root=/dev/hda1 ro"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda w: w.tell("mk2", domains={"9": domain_state(domid=9)}), "DomainElsewhere"),
        (
            lambda w: w.tell("mk2", domains={"9": domain_state(domid=9, name="shaolin--incoming", uuid=None)}),
            "DomainElsewhere",
        ),
        (lambda w: w.tell("mk1", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"))}), "PrimaryElsewhere"),
        (lambda w: w.tell("mk1", volumes={"vm_shaolin": volume_state(disk="Outdated")}), "DiskNotUpToDate"),
        (lambda w: w.tell("mk1", volumes={"vm_shaolin": volume_state(suspended="fencing")}), "Suspended"),
        (lambda w: w.tell("mk1", volumes={}), "ReplicaMissing"),
        (lambda w: setattr(w.hosts["mk1"], "connected", False), "AgentUnreachable"),
    ],
)
def test_nothing_is_asked_while_a_guard_refuses(spoil, reason):
    worlds = howto(created=True)
    spoil(worlds)
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.placement is None
    assert conditions(decision)["Ready"].reason == reason


def test_a_silent_home_is_not_a_host_that_is_off():
    worlds = howto(running=True)
    worlds.hosts["mk1"].connected = False
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.phase == "Unknown"
    assert conditions(decision)["Ready"].status == "Unknown"
    worlds.edit("XenVM", "shaolin", node="mk2")
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.placement.node == "mk1"


def test_stop_then_start_counts_a_new_run():
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", state="Stopped")
    (stop,) = worlds.decide_vm().requests
    assert stop.body.state == "Stopped"
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)}, domains={})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    assert worlds.status("XenVM", "shaolin")["phase"] == "Stopped"
    worlds.edit("XenVM", "shaolin", state="Running")
    decision = worlds.decide_vm()
    assert decision.status.run == 2


def test_a_guest_that_powered_itself_off_stays_off():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="halted", halted_reason="poweroff", domid=None)}, domains={})
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.phase == "Halted"
    assert conditions(decision)["Ready"].reason == "PoweredOff"


def test_pause_and_unpause_are_one_request():
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", state="Paused")
    (pause,) = worlds.decide_vm().requests
    assert pause.body.state == "Paused"
    worlds.tell("mk1", vms={VM_UID: vm_state(status="paused", desired="Paused")})
    assert worlds.decide_vm().status.phase == "Paused"


def test_settled_means_the_same_status_again():
    worlds = howto(running=True)
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    again = worlds.decide_vm()
    assert again.status == worlds.cache.vm(("default", "shaolin")).status
    assert again.events == ()
    assert again.requests == ()


def test_deletion_stops_first_then_every_agent_forgets():
    worlds = howto(running=True)
    worlds.delete("XenVM", "shaolin")
    (stop,) = worlds.decide_vm().requests
    assert stop.body.state == "Stopped"
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)}, domains={})
    (forget,) = worlds.decide_vm().requests
    assert isinstance(forget, DeleteDomain)
    worlds.tell("mk1", vms={})
    assert worlds.decide_vm().finalizer is None, "a request to start it could still be under way"
    worlds.tell("mk1", gone={VM_UID: "2027-01-01T00:00:00.000Z"})
    assert worlds.decide_vm().finalizer == "remove"


def test_a_vm_that_its_agent_never_heard_of_is_forgotten_there_before_it_goes():
    worlds = howto(created=True)
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    worlds.delete("XenVM", "shaolin")
    (forget,) = worlds.decide_vm().requests
    assert isinstance(forget, DeleteDomain)
    assert forget.host == "mk1"
    worlds.tell("mk1", gone={VM_UID: "2027-01-01T00:00:00.000Z"})
    assert worlds.decide_vm().finalizer == "remove"


def test_a_domain_name_of_another_object_stalls_and_names_it():
    worlds = howto(created=True)
    from tests.unit.domain.worlds import SHAOLIN

    worlds.apply(
        "XenVM",
        "shaolin",
        SHAOLIN,
        uid="dddddddd-0000-4000-8000-000000000009",
        namespace="other",
        creationTimestamp="2026-01-01T00:00:00Z",
    )
    decision = worlds.decide_vm()
    assert conditions(decision)["Stalled"].reason == "DomainNameTaken"
    assert "other/shaolin" in conditions(decision)["Stalled"].message


# --- moves ---------------------------------------------------------------------------------------------------------


def test_preflight_is_asked_of_both_agents_before_anything_else():
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", node="mk2")
    decision = worlds.decide_vm()
    assert {(q.host, q.body.side) for q in decision.ask} == {("mk1", "source"), ("mk2", "target")}
    assert decision.requests == ()
    assert decision.status is None


def test_every_reason_at_once():
    memory = Refusal(reason="NotEnoughMemory", message="96 MiB free on mk2, 514 MiB needed")
    bridge = Refusal(reason="BridgeMissing", message="mk2 has no bridge xenbr0")
    worlds = moving(mk2=PreflightReport(refusals=(memory, bridge)))
    worlds.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"xen_version": "4.14.1"}))
    decision = worlds.decide_vm()
    message = conditions(decision)["Placed"].message
    assert message.startswith("Live migration to mk2 is blocked: ")
    for part in ("96 MiB free on mk2, 514 MiB needed", "no bridge xenbr0", "Xen 4.17"):
        assert part in message
    assert decision.status.migration is None
    assert decision.requests == ()
    assert conditions(decision)["Ready"].status == "True"


def test_the_record_is_written_before_the_target_is_asked():
    worlds = moving()
    decision = worlds.decide_vm()
    assert (decision.status.migration.source, decision.status.migration.target) == ("mk1", "mk2")
    assert decision.status.migration.epoch == 2
    assert not decision.lazy
    (receive,) = decision.requests
    assert receive.host == "mk2"
    assert isinstance(receive.body.body, MigrateReceive)
    assert receive.body.body.domain.epoch == 2


def test_the_source_is_asked_only_when_the_target_listens():
    worlds, move = begun()
    assert [r.host for r in worlds.decide_vm().requests] == ["mk2"]
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Listening")})
    (send,) = worlds.decide_vm().requests
    assert send.host == "mk1"
    assert isinstance(send.body.body, MigrateSend)
    assert send.body.body.domain.epoch == 1


def test_placement_follows_the_domain_that_runs_at_the_target():
    worlds, move = begun()
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Demoted")}, domains={}, vms={})
    worlds.tell(
        "mk2",
        operations={
            move: operation_state(id=move, kind="migrate-receive", phase="Done", outcome="Succeeded",
                                  finished_at="2027-01-15T08:00:09Z"),
        },
        vms={VM_UID: vm_state(epoch=2)},
    )  # fmt: skip
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert decision.status.migration.outcome is None
    worlds.commit("XenVM", "shaolin", decision)
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Done", outcome="Succeeded")})
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Succeeded"
    assert decision.status.last_migration.outcome == "Succeeded"
    worlds.commit("XenVM", "shaolin", decision)
    assert worlds.decide_vm().status.phase == "Running"
    assert worlds.decide_vm().requests == ()


def test_reverting_before_the_hand_over_cancels_the_source_first():
    worlds, move = begun()
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")})
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy")})
    worlds.edit("XenVM", "shaolin", node="mk1")
    decision = worlds.decide_vm()
    assert decision.status.migration.cancel_requested
    assert [(type(r), r.host) for r in decision.requests] == [(Cancel, "mk1")]
    worlds.commit("XenVM", "shaolin", decision)
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy", outcome="Cancelled")})
    decision = worlds.decide_vm()
    assert [(type(r), r.host) for r in decision.requests] == [(Cancel, "mk2")]
    worlds.tell(
        "mk2",
        operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving", outcome="Cancelled")},
    )
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Cancelled"
    assert decision.status.placement.node == "mk1"


def test_reverting_after_the_hand_over_began_lets_it_finish_then_moves_back():
    worlds, move = begun()
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Demoted")})
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Promoting")})
    worlds.edit("XenVM", "shaolin", node="mk1")
    assert worlds.decide_vm().requests == ()


def test_a_second_target_waits_for_the_end_of_the_first_move():
    worlds, move = begun()
    worlds.node("mk3")
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")})
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy")})
    worlds.edit("XenVM", "shaolin", node="mk3")
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert decision.status.migration.target == "mk2"


def test_a_failed_source_has_the_incoming_copy_destroyed_then_says_why():
    worlds, move = begun()
    why = Refusal(reason="TransferFailed", message="connection reset by mk2")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy", outcome="Failed", refusal=why)})
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving")})
    decision = worlds.decide_vm()
    assert [(type(r), r.host) for r in decision.requests] == [(Cancel, "mk2")]
    worlds.tell(
        "mk2",
        operations={move: operation_state(id=move, kind="migrate-receive", phase="Receiving", outcome="Cancelled")},
    )
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Failed"
    assert "connection reset by mk2" in conditions(decision)["Placed"].message
    worlds.commit("XenVM", "shaolin", decision)
    again = worlds.decide_vm()
    assert again.ask == ()
    assert again.requests == ()
    assert again.look_again == pytest.approx(30, abs=1)
    worlds.now += 31
    worlds.answers.clear()
    assert worlds.decide_vm().ask != ()


UNCLEAR = Refusal(reason="HandOverUnclear", message="the target's report was lost")


def test_an_unclear_hand_over_first_has_the_target_give_up_its_copy():
    worlds, move = begun()
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=UNCLEAR)})
    worlds.tell("mk2", operations={move: operation_state(id=move, kind="migrate-receive", phase="Received")})
    decision = worlds.decide_vm()
    assert [(type(r), r.host) for r in decision.requests] == [(Cancel, "mk2")]
    worlds.tell(
        "mk2",
        operations={move: operation_state(id=move, kind="migrate-receive", phase="Received", outcome="Cancelled")},
    )
    decision = worlds.decide_vm()
    assert [(type(r), r.host) for r in decision.requests] == [(Cancel, "mk1")]


def test_an_unclear_hand_over_with_a_silent_target_resumes_nothing():
    worlds, move = begun()
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=UNCLEAR)})
    worlds.hosts["mk2"].connected = False
    worlds.now += 100_000
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert conditions(decision)["Stalled"].reason == "HandOverUnclear"


def test_a_target_that_refuses_ends_the_move_where_it_was():
    worlds, _ = begun()
    receive = worlds.decide_vm().requests[0]
    worlds.refused = (Refused(receive, Refusal(reason="NotEnoughMemory", message="no"), NOW),)
    decision = worlds.decide_vm()
    assert decision.status.migration.outcome == "Failed"
    assert decision.status.placement.node == "mk1"
    assert asked(decision, Operate) == []


def test_a_stopped_vm_changes_its_place_by_release_then_a_new_epoch():
    worlds = howto(created=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)})
    worlds.set_status(
        "XenVM", "shaolin",
        {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Stopped",
         "phase": "Stopped"},
    )  # fmt: skip
    worlds.edit("XenVM", "shaolin", node="mk2", state="Stopped")
    (release,) = worlds.decide_vm().requests
    assert (release.host, release.body.state, release.body.epoch) == ("mk1", "Released", 2)
    assert worlds.decide_vm().status.placement.node == "mk1"
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Released", granted=False, epoch=2, status="absent", domid=None)})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)


def test_a_stopped_vm_does_not_change_its_place_while_replicas_differ():
    worlds = howto(created=True)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(peer=peer(connection="Connecting", disk="DUnknown"))})
    worlds.set_status(
        "XenVM", "shaolin",
        {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Stopped",
         "phase": "Stopped"},
    )  # fmt: skip
    worlds.edit("XenVM", "shaolin", node="mk2", state="Stopped")
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert "UpToDate" in conditions(decision)["Placed"].message
