"""Worlds in which a wrong decision would run a VM twice, resume an old memory, or use a stale or a shared disk."""

from __future__ import annotations

import pytest

from agent.protocol import DiskConfig, DomainConfig, MigrateReceive, MigrateSend, PreflightReport, Refusal
from controller.domain.actions import Cancel, Operate, PutDomain, PutVolume
from tests.unit.domain.worlds import (
    SHAOLIN,
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

OTHER_UID = "dddddddd-0000-4000-8000-000000000009"
LOST = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")


# --- epochs ---------------------------------------------


def test_every_attempt_asks_the_target_for_the_epoch_that_the_source_gives_away():
    """The source gives away its own epoch + 1; a target that waits for a higher one would wait for ever."""
    worlds, move = begun()
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy", outcome="Failed")})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    worlds.now += 31
    worlds.answers.clear()
    for question in worlds.decide_vm().ask:
        worlds.answers[question] = PreflightReport()
    decision = worlds.decide_vm()
    (receive,) = asked(decision, Operate)
    assert receive.body.id != move
    assert receive.body.body.domain.epoch == decision.status.placement.epoch + 1
    worlds.commit("XenVM", "shaolin", decision)
    listening = operation_state(id=receive.body.id, kind="migrate-receive", phase="Listening")
    worlds.tell("mk2", operations={receive.body.id: listening})
    (send,) = asked(worlds.decide_vm(), Operate)
    assert isinstance(send.body.body, MigrateSend)
    assert send.body.body.domain.epoch + 1 == receive.body.body.domain.epoch


# --- a copy that was left behind ---------------------------------------------


def left_behind():
    """A move to mk2 failed while mk2 was silent: its paused copy and its part of the operation are still there."""
    worlds, move = begun()
    worlds.hosts["mk2"].connected = False
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="Precopy", outcome="Failed")})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    assert worlds.status("XenVM", "shaolin")["migration"]["outcome"] == "Failed"
    worlds.hosts["mk2"].connected = True
    worlds.tell(
        "mk2",
        operations={move: operation_state(id=move, kind="migrate-receive", phase="Received")},
        domains={"7": domain_state(domid=7, state="paused", cpu_seconds=0.0)},
    )
    return worlds, move


def test_a_part_that_was_left_open_is_cancelled_when_its_host_is_back():
    worlds, move = left_behind()
    for state in ("Running", "Stopped"):
        worlds.edit("XenVM", "shaolin", node="mk1", state=state)
        cancels = asked(worlds.decide_vm(), Cancel)
        assert [(c.host, c.operation) for c in cancels] == [("mk2", move)]


def test_nothing_is_taken_back_while_the_target_could_still_take_it():
    """The source gave epoch 2 away and failed then; the target, which was told, has not taken it yet."""
    worlds, move = begun()
    gone = vm_state(epoch=2, granted=False, status="absent", domid=None)
    failed = operation_state(id=move, phase="HandOver", outcome="Failed")
    received = operation_state(id=move, kind="migrate-receive", phase="Received")
    worlds.set_status(
        "XenVM",
        "shaolin",
        {
            **worlds.status("XenVM", "shaolin"),
            "migration": {**worlds.status("XenVM", "shaolin")["migration"], "outcome": "Failed"},
        },
    )
    worlds.edit("XenVM", "shaolin", node="mk1")
    worlds.tell("mk1", vms={VM_UID: gone}, domains={}, operations={move: failed})
    worlds.tell("mk2", operations={move: received})
    decision = worlds.decide_vm()
    assert decision.status.placement.epoch == 1
    assert [type(r) for r in decision.requests] == [Cancel]
    worlds.tell("mk2", operations={}, vms={VM_UID: vm_state(epoch=2)}, domains={"5": domain_state(domid=5)})
    worlds.edit("XenVM", "shaolin", node="mk2")
    assert worlds.decide_vm().status.placement.node == "mk2"


def test_an_old_copy_is_never_resumed_by_placing_the_vm_on_its_host():
    """An agent that waits with a received copy takes a PUT of a higher epoch as its permission to unpause it."""
    worlds, move = left_behind()
    worlds.edit("XenVM", "shaolin", state="Stopped")
    worlds.tell("mk1", vms={VM_UID: vm_state(desired="Stopped", status="absent", domid=None)}, domains={})
    decision = worlds.decide_vm()
    assert asked(decision, PutDomain) == []
    assert "mk2" in conditions(decision)["Placed"].message
    worlds.set_status(
        "XenVM", "shaolin", {**worlds.status("XenVM", "shaolin"), "placement": {"node": "mk2", "epoch": 3}}
    )
    worlds.edit("XenVM", "shaolin", state="Running")
    decision = worlds.decide_vm()
    assert asked(decision, PutDomain) == []
    assert [c.operation for c in asked(decision, Cancel)] == [move]


def test_a_source_that_waits_does_not_resume_beside_a_copy_that_the_target_could_not_remove():
    worlds, move = begun()
    unclear = Refusal(reason="HandOverUnclear", message="the target's report was lost")
    strange = Refusal(reason="UnexpectedState", message="domain shaolin (id 7, -b----) is not as a receiver leaves it")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=unclear)})
    failed = operation_state(id=move, kind="migrate-receive", phase="Receiving", outcome="Failed", refusal=strange)
    worlds.tell("mk2", operations={move: failed}, domains={"7": domain_state(domid=7)})
    decision = worlds.decide_vm()
    assert asked(decision, Cancel) == []
    assert "mk2" in conditions(decision)["Stalled"].message
    worlds.tell("mk2", domains={})
    assert [c.host for c in asked(worlds.decide_vm(), Cancel)] == ["mk1"]


# --- disks ---------------------------------------------


def test_a_disk_that_another_vm_has_is_not_given_to_a_second_one():
    worlds = howto(running=True)
    worlds.apply("XenVM", "aikido", {**SHAOLIN, "networks": []}, uid=OTHER_UID)
    decision = worlds.decide_vm("aikido")
    assert decision.requests == ()
    assert decision.status.placement is None
    assert "shaolin" in conditions(decision)["Stalled"].message


def test_of_two_new_vms_with_one_disk_the_older_gets_it():
    worlds = howto(created=True)
    worlds.apply("XenVM", "aikido", SHAOLIN, uid=OTHER_UID, creationTimestamp="2027-01-01T00:00:01Z")
    assert worlds.decide_vm("aikido").status.placement is None
    assert worlds.decide_vm("shaolin").status.placement.node == "mk1"


def test_a_disk_that_a_domain_still_has_is_not_given_away_although_its_spec_dropped_it():
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", disks=[])
    worlds.apply("XenVM", "aikido", SHAOLIN, uid=OTHER_UID)
    decision = worlds.decide_vm("aikido")
    assert decision.requests == ()
    assert "shaolin" in conditions(decision)["Stalled"].message


@pytest.mark.parametrize("node", ["mk1", "mk2"])
def test_a_replica_that_may_have_missed_writes_is_not_started_on(node):
    worlds = howto(created=True)
    worlds.edit("XenVM", "shaolin", node=node)
    worlds.tell(node, volumes={"vm_shaolin": volume_state(peer=LOST)})
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert conditions(decision)["Stalled"].reason == "ReplicaMayBeStale"


@pytest.mark.parametrize(
    "known", [{"role": "Primary", "peer": LOST}, {"peer": LOST.model_copy(update={"disk": "Outdated"})}]
)
def test_a_replica_that_is_known_to_be_the_newest_is_started_on_alone(known):
    worlds = howto(created=True)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(**known)})
    worlds.hosts["mk2"].connected = False
    assert worlds.decide_vm().requests != ()


def test_the_last_primary_is_not_demoted_while_its_peer_is_away():
    """Promoting it again would need to know that the peer has nothing newer."""
    worlds = howto(created=True)
    worlds.delete("XenVM", "shaolin")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary", peer=LOST)})
    worlds.hosts["mk2"].connected = False
    assert asked(worlds.decide_volume(), PutVolume) == []


# --- what runs is what moves ---------------------------------------------


def config(**update):
    base = DomainConfig(
        memory_mib=512, max_memory_mib=4096, kernel=SHAOLIN["kernel"], cmdline="root=/dev/hda1 ro",
        disks=(DiskConfig(resource="vm_shaolin", minor=1, vdev="hda1"),),
        networks=({"bridge": "xenbr0", "mac": "a0:00:00:01:00:01"},),
    )  # fmt: skip
    return base.model_copy(update=update)


@pytest.mark.parametrize("disks", [[], [*SHAOLIN["disks"], {"volume": "more", "device": "hdb"}]])
def test_a_guest_whose_disks_were_edited_since_its_start_does_not_move_live(disks):
    worlds = moving()
    worlds.tell("mk1", vms={VM_UID: vm_state(started=config())})
    worlds.edit("XenVM", "shaolin", disks=disks)
    for question in worlds.decide_vm().ask:
        worlds.answers[question] = PreflightReport()
    decision = worlds.decide_vm()
    assert decision.status.migration is None
    assert asked(decision, Operate) == []
    assert conditions(decision)["Placed"].reason in ("DisksEdited", "VolumeNotFound")


def test_a_guest_moves_as_it_was_started_whatever_was_edited_since():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(started=config())})
    worlds.edit("XenVM", "shaolin", node="mk2", memory="1Gi", networks=[{"bridge": "xenbr7"}])
    for question in worlds.decide_vm().ask:
        assert question.body.domain.config == config()
        worlds.answers[question] = PreflightReport()
    (receive,) = asked(worlds.decide_vm(), Operate)
    assert isinstance(receive.body.body, MigrateReceive)
    assert receive.body.body.domain.config == config()


def test_roles_and_settings_are_left_alone_while_a_guest_moves_whose_spec_dropped_the_disk():
    worlds, move = begun()
    worlds.tell(
        "mk1", vms={VM_UID: vm_state(started=config())}, operations={move: operation_state(id=move, phase="Demoted")}
    )
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", options="A 1M md5")})
    worlds.edit("XenVM", "shaolin", disks=[])
    assert asked(worlds.decide_volume(), PutVolume) == []
