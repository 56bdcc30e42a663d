"""Volumes (and what hangs on them) that a decision must lead out of their trouble, or say what a person must do."""

from __future__ import annotations

import pytest

from agent.protocol import LogicalVolumeState, OperationState, Refusal
from controller.domain.actions import Operate, PutVolume, Refused
from tests.unit.domain.worlds import (
    FRESH,
    SHAOLIN_DISK,
    VM_UID,
    VOLUME_UID,
    asked,
    begun,
    conditions,
    domain_state,
    howto,
    operation_state,
    peer,
    vm_state,
    volume_state,
)

# --- volumes ---------------------------------------------


def test_a_vm_says_which_xennode_its_volume_lacks():
    worlds = howto(created=True)
    worlds.cache.remove_key(("XenNode", "", "mk2"), "cccccccc-0000-4000-8000-000000000002")
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert "mk2" in conditions(decision)["Ready"].message


def forcing(**update):
    worlds = howto()
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    for host in ("mk1", "mk2"):
        worlds.tell(host, volumes={"vm_shaolin": volume_state(**FRESH)})
    decision = worlds.decide_volume()
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    (force,) = asked(decision, Operate)
    base = OperationState(
        id=force.body.id, kind="initial-sync", subject="vm_shaolin", subject_uid=VOLUME_UID, phase="Forcing",
        started_at="2027-01-15T08:00:00Z", finished_at="2027-01-15T08:00:01Z", outcome="Failed",
        refusal=Refusal(reason="TimedOut", message="drbdadm primary took too long"),
    )  # fmt: skip
    worlds.tell("mk1", operations={force.body.id: base.model_copy(update=update)})
    return worlds, force


def test_a_first_sync_that_failed_is_told_and_asked_again_of_the_same_host_under_another_id():
    """A repeated id joins the operation that has ended: nothing would happen for ever."""
    worlds, force = forcing()
    decision = worlds.decide_volume()
    assert "took too long" in conditions(decision)["Stalled"].message
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    worlds.now += 60
    decision = worlds.decide_volume()
    (again,) = asked(decision, Operate)
    assert again.host == force.host == decision.status.initial_sync.node
    assert again.body.id != force.body.id
    assert decision.status.initial_sync.operation == again.body.id


def test_a_first_sync_that_took_effect_although_it_failed_is_not_asked_again():
    worlds, _ = forcing()
    worlds.now += 60
    syncing = volume_state(role="Primary", peer=peer(disk="Inconsistent", replication="SyncSource"))
    worlds.tell("mk1", volumes={"vm_shaolin": syncing})
    decision = worlds.decide_volume()
    assert asked(decision, Operate) == []
    assert decision.status.phase == "Syncing"


def test_content_waits_until_the_operation_before_it_has_ended():
    """An agent takes one operation on a volume at a time: a refusal would hold the next try back."""
    worlds, _ = forcing(outcome=None, finished_at=None, refusal=None)
    worlds.edit("DrbdVolume", "vm-shaolin", content={"filesystem": "ext4"})
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary", peer=peer(disk="Inconsistent"))})
    assert asked(worlds.decide_volume(), Operate) == []
    worlds.tell("mk1", operations={})
    assert len(asked(worlds.decide_volume(), Operate)) == 1


def test_a_volume_whose_status_was_lost_is_found_again_by_its_replicas():
    worlds = howto(created=True)
    worlds.set_status("DrbdVolume", "vm-shaolin", {"observedGeneration": -1})
    decision = worlds.decide_volume()
    assert decision.status.initial_sync.completed
    assert decision.status.initial_sync.node == "mk1"
    assert asked(decision, Operate) == []


def test_replicas_with_data_that_were_never_synchronised_ask_for_a_person():
    worlds = howto()
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    for host in ("mk1", "mk2"):
        worlds.tell(
            host,
            volumes={"vm_shaolin": volume_state(disk="Inconsistent", forced=False, peer=peer(disk="Inconsistent"))},
        )
    assert conditions(worlds.decide_volume())["Stalled"].reason == "NotFresh"


def test_a_role_that_cannot_be_read_asks_for_nothing():
    worlds = howto(created=True)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Unknown", options="A 1M md5")})
    assert [r.host for r in asked(worlds.decide_volume(), PutVolume)] == []


# --- names and settings ---------------------------------------------


EXTERNAL = {**SHAOLIN_DISK, "metaDisk": {"type": "External", "group": "vg0"}}


def test_the_metadatas_logical_volume_collides_with_another_volumes_data():
    worlds = howto()
    worlds.apply(
        "DrbdVolume", "meta", {**EXTERNAL, "logicalVolume": {"group": "vg0", "name": "vm_shaolin_meta"},
                               "metaDisk": {"type": "Internal"}, "resource": "meta", "device": {}},
        uid="dddddddd-0000-4000-8000-00000000000a", creationTimestamp="2026-01-01T00:00:00Z",
    )  # fmt: skip
    worlds.apply("DrbdVolume", "vm-shaolin", EXTERNAL, uid=VOLUME_UID)
    stalled = conditions(worlds.decide_volume())["Stalled"]
    assert stalled.reason == "LogicalVolumeTaken"
    assert "default/meta" in stalled.message
    assert "vg0/vm_shaolin_meta" in stalled.message


def test_the_metadatas_logical_volume_collides_with_an_unmanaged_one():
    worlds = howto()
    worlds.apply("DrbdVolume", "vm-shaolin", EXTERNAL, uid=VOLUME_UID)
    byhand = LogicalVolumeState(group="vg0", name="vm_shaolin_meta", size=4 << 20)
    worlds.tell("mk2", logical_volumes={"vg0/vm_shaolin_meta": byhand})
    decision = worlds.decide_volume()
    stalled = conditions(decision)["Stalled"]
    assert stalled.reason == "LogicalVolumeTaken"
    assert "mk2" in stalled.message
    assert decision.requests == ()


def test_the_metadatas_volume_group_must_be_there():
    worlds = howto()
    worlds.apply("DrbdVolume", "vm-shaolin", {**EXTERNAL, "metaDisk": {"type": "External", "group": "vgmeta"}},
                 uid=VOLUME_UID)  # fmt: skip
    assert "vgmeta" in conditions(worlds.decide_volume())["Stalled"].message


def test_a_changed_replication_address_reaches_both_hosts_but_never_in_mid_migration():
    worlds = howto(running=True)
    assert worlds.decide_volume().requests == ()
    worlds.edit("XenNode", "mk2", replication={"address": "10.1.0.82"})
    puts = asked(worlds.decide_volume(), PutVolume)
    assert [(r.host, r.body.role) for r in puts] == [("mk1", "Primary"), ("mk2", "Secondary")]
    assert [m.address for m in puts[0].body.members] == ["10.0.0.81", "10.1.0.82"]
    worlds, _ = begun()
    worlds.edit("XenNode", "mk2", replication={"address": "10.1.0.82"})
    assert worlds.decide_volume().requests == ()


def test_a_guest_that_does_not_have_what_its_spec_says_is_told_of():
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(started=worlds.desired_config())})
    assert "RestartNeeded" not in conditions(worlds.decide_vm())
    worlds.edit("XenVM", "shaolin", memory="1Gi", vcpus=2)
    needed = conditions(worlds.decide_vm())["RestartNeeded"]
    assert needed.status == "True"
    for part in ("512", "1024", "vcpus"):
        assert part in needed.message
    assert conditions(worlds.decide_vm())["Ready"].status == "True"


# --- an agent that lost its journal ---------------------------------------------------------------------------------

BARE = {"uid": None, "namespace": None, "name": None, "logical_volume": None, "options": "", "fenced": False}


def forgotten(owner: str | None = VOLUME_UID, **update):
    """mk1's agent shows the resource as nobody's, and the logical volume with its tag."""
    worlds = howto(running=True)
    found = LogicalVolumeState(group="vg0", name="vm_shaolin", size=512 << 20, owner_uid=owner)
    bare = volume_state(**(BARE | {"role": "Primary", "used_by": ("shaolin",)} | update))
    worlds.tell("mk1", volumes={"vm_shaolin": bare}, logical_volumes={"vg0/vm_shaolin": found}, vms={})
    return worlds


@pytest.mark.parametrize(
    ("update", "role"),
    [({}, "Primary"), ({"role": "Secondary", "used_by": ()}, "Secondary"), ({"configured": False}, "Primary")],
)
def test_a_replica_that_its_agent_forgot_is_taken_up_as_it_is(update, role):
    decision = forgotten(**update).decide_volume()
    (put,) = asked(decision, PutVolume)
    assert (put.host, put.body.level, put.body.role) == ("mk1", "Up", role)
    assert (conditions(decision)["Ready"].status, conditions(decision)["Reconciling"].reason) == ("False", "Adopting")


def test_also_when_drbd_has_nothing_of_it():
    worlds = forgotten()
    worlds.tell("mk1", volumes={})
    (put,) = asked(worlds.decide_volume(), PutVolume)
    assert (put.host, put.body.role) == ("mk1", "Secondary")


def test_what_keeps_it_from_being_taken_up_is_said():
    worlds = forgotten()
    (put,) = asked(worlds.decide_volume(), PutVolume)
    worlds.refused = (Refused(put, Refusal(reason="MetadataLost", message="no metadata"), worlds.now),)
    decision = worlds.decide_volume()
    assert "no metadata" in conditions(decision)["Stalled"].message


@pytest.mark.parametrize("owner", [None, "aaaaaaaa-0000-4000-8000-00000000000f"])
def test_nothing_is_taken_up_on_another_ones_logical_volume(owner):
    decision = forgotten(owner).decide_volume()
    assert asked(decision, PutVolume) == []
    assert (conditions(decision)["Ready"].status, conditions(decision)["Stalled"].reason) == ("False", "ReplicaMissing")
    assert f"xentandem.uid={VOLUME_UID}" in conditions(decision)["Stalled"].message


def test_not_while_its_role_is_read_or_a_guest_moves():
    assert asked(forgotten(role="Unknown").decide_volume(), PutVolume) == []
    worlds, _ = begun()
    told = forgotten()
    worlds.hosts["mk1"].state = told.hosts["mk1"].state
    decision = worlds.decide_volume()
    assert asked(decision, PutVolume) == []
    assert "once no VM moves" in conditions(decision)["Degraded"].message


# --- what is told of hosts that remember something else ---------------------------------------------------------------


def test_an_outdated_grant_is_no_second_owner():
    """The status is restored from before the failover: mk1 was off and knows epoch 1 only, mk2 has the VM at 2."""
    worlds = howto(created=True)
    placed = {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Running"}
    worlds.set_status("XenVM", "shaolin", placed)
    worlds.edit("XenVM", "shaolin", node="mk2")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", domid=None)}, domains={})
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=2)})
    placement = worlds.decide_vm().status.placement
    assert (placement.node, placement.epoch) == ("mk2", 2)


def test_a_copy_that_the_targets_agent_forgot_is_named():
    worlds, move = begun()
    no = Refusal(reason="HandOverUnclear", message="no report came back")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=no)})
    worlds.tell("mk2", operations={}, domains={"5": domain_state(domid=5, state="paused", cpu_seconds=0.0)})
    message = conditions(worlds.decide_vm())["Stalled"].message
    assert "does not answer" not in message
    assert "(id 5)" in message
    worlds.hosts["mk2"].connected = False
    assert "does not answer" in conditions(worlds.decide_vm())["Stalled"].message
