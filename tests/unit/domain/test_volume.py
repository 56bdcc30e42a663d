"""Decisions about a volume: what is asked of whom, and above all what is not."""

from __future__ import annotations

import pytest

from agent.protocol import GenerationIds, InitialSync, Refusal, WriteContent
from controller.domain.actions import DeleteVolume, Operate, PutVolume, Refused
from tests.unit.domain.worlds import FRESH, NOW, VOLUME_UID, asked, conditions, howto, peer, volume_state

BOTH_FRESH = {"vm_shaolin": volume_state(**FRESH)}


def test_first_look_places_writes_the_intent_and_reserves_on_both():
    worlds = howto()
    decision = worlds.decide_volume()
    assert decision.status.nodes == ("mk1", "mk2")
    assert (decision.status.device.minor, decision.status.device.port) == (1, 7789)
    assert not decision.lazy
    assert [(r.host, r.body.level) for r in asked(decision, PutVolume)] == [("mk1", "Reserved"), ("mk2", "Reserved")]
    # One write holds every intent of the creation: which member is forced Primary, and by which operation.
    assert decision.status.initial_sync.node == "mk1"
    assert not decision.status.initial_sync.completed


def test_the_source_is_not_chosen_where_an_agent_knows_the_volume_already():
    """The status was lost and one member's replica, too: what is left of it says which was the source."""
    worlds = howto()
    worlds.edit("XenVM", "shaolin", node="mk2")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(peer=peer(connection="Connecting", disk="DUnknown"))})
    decision = worlds.decide_volume()
    assert decision.status.initial_sync is None
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False)})
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state()})
    assert worlds.decide_volume().status.initial_sync.node == "mk1"


def test_the_howto_in_steps():
    worlds = howto()
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    for host in ("mk1", "mk2"):
        worlds.tell(
            host,
            volumes={
                "vm_shaolin": volume_state(
                    logical_volume=None, metadata="none", configured=False, peer=None, disk="Diskless", forced=False
                )
            },
        )
    assert {r.body.level for r in asked(worlds.decide_volume(), PutVolume)} == {"Provisioned"}
    for host in ("mk1", "mk2"):
        worlds.tell(
            host, volumes={"vm_shaolin": volume_state(configured=False, peer=None, disk="Diskless", forced=False)}
        )
    assert {r.body.level for r in asked(worlds.decide_volume(), PutVolume)} == {"Up"}
    for host in ("mk1", "mk2"):
        worlds.tell(host, volumes=BOTH_FRESH)
    decision = worlds.decide_volume()
    assert decision.lazy  # the intent was written before: what it is held by is told if it lasts
    (force,) = asked(decision, Operate)
    assert force.host == "mk1"
    assert isinstance(force.body.body, InitialSync)
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    # While the source copies nothing is asked; the percentage is shown.
    source = volume_state(role="Primary", peer=peer(disk="Inconsistent", replication="SyncSource", done_percent=45.2))
    target = volume_state(
        disk="Inconsistent", forced=False, peer=peer(role="Primary", replication="SyncTarget", done_percent=45.2)
    )
    worlds.tell("mk1", volumes={"vm_shaolin": source})
    worlds.tell("mk2", volumes={"vm_shaolin": target})
    decision = worlds.decide_volume()
    assert decision.requests == ()
    assert decision.status.phase == "Syncing"
    assert decision.status.sync.percent == 45
    assert decision.status.disk_state == "UpToDate/Inconsistent"
    assert [event.reason for event in decision.events] == ["SyncStarted"]
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    assert worlds.decide_volume().events == ()
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=peer(role="Primary"))})
    decision = worlds.decide_volume()
    assert decision.status.phase == "Ready"
    assert decision.status.initial_sync.completed
    # It stays Primary where the VM is to run.
    assert decision.requests == ()


def test_without_a_vm_the_source_is_demoted():
    worlds = howto(created=True)
    worlds.delete("XenVM", "shaolin")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    (demote,) = worlds.decide_volume().requests
    assert (demote.host, demote.body.role) == ("mk1", "Secondary")


@pytest.mark.parametrize(
    "spoil",
    [
        {"mk2": volume_state(**{**FRESH, "generation": GenerationIds(current="DEADBEEF00000000", bitmap="0" * 16)})},
        {"mk2": volume_state(**{**FRESH, "generation": None})},
        {"mk2": volume_state(**{**FRESH, "disk": "UpToDate"})},
        {"mk1": volume_state(**{**FRESH, "generation": GenerationIds(current="DEADBEEF00000000", bitmap="0" * 16)})},
    ],
)
def test_force_needs_the_proof_that_both_sides_are_new(spoil):
    worlds = howto()
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    for host in ("mk1", "mk2"):
        worlds.tell(host, volumes={"vm_shaolin": spoil.get(host, volume_state(**FRESH))})
    decision = worlds.decide_volume()
    assert asked(decision, Operate) == []
    no_generation = any(view.generation is None for view in spoil.values())
    assert ("Stalled" in conditions(decision)) != no_generation, "what is being read needs nobody"


def test_the_source_of_the_first_sync_is_never_chosen_again():
    worlds = howto()
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    for host in ("mk1", "mk2"):
        worlds.tell(host, volumes=BOTH_FRESH)
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    worlds.edit("XenVM", "shaolin", node="mk2")
    worlds.hosts["mk1"].connected = False
    decision = worlds.decide_volume()
    assert asked(decision, Operate) == []
    assert decision.status.initial_sync.node == "mk1"
    worlds.hosts["mk1"].connected = True
    (force,) = asked(worlds.decide_volume(), Operate)
    assert force.host == "mk1"


def test_an_allocated_minor_that_a_host_refuses_is_chosen_again_before_anything_was_made():
    worlds = howto()
    worlds.edit("DrbdVolume", "vm-shaolin", device={})
    first = worlds.decide_volume()
    worlds.commit("DrbdVolume", "vm-shaolin", first)
    taken = Refusal(reason="MinorTaken", message="minor 1 belongs to other")
    worlds.refused = (Refused(first.requests[0], taken, NOW),)
    second = worlds.decide_volume()
    assert second.status.device.minor != first.status.device.minor
    assert second.status.device.port != first.status.device.port
    assert len(second.requests) == 2


def test_a_minor_without_a_port_of_its_own_gets_another_one():
    """7788 + 60000 is no TCP port; 7788 + 214 is the one that VMs arrive at."""
    for minor in (60000, 214):
        worlds = howto()
        worlds.edit("DrbdVolume", "vm-shaolin", device={"minor": minor})
        device = worlds.decide_volume().status.device
        assert (device.minor, device.port) == (minor, 7789)


def test_no_port_of_the_members_own_services_is_chosen():
    worlds = howto()
    worlds.node("mk1", agent={"address": "127.0.0.1", "port": 7789}, relocation={"port": 7790})
    worlds.edit("DrbdVolume", "vm-shaolin", device={})
    assert worlds.decide_volume().status.device.port == 7791


def test_a_declared_minor_that_is_taken_stalls_and_names_the_other():
    worlds = howto()
    other = volume_state(uid=None, resource="byhand", namespace=None, name=None, port=7800)
    worlds.tell("mk2", volumes={"byhand": other})
    decision = worlds.decide_volume()
    stalled = conditions(decision)["Stalled"]
    assert stalled.reason == "MinorTaken"
    assert "byhand" in stalled.message
    assert "mk2" in stalled.message
    assert decision.requests == ()


def test_a_refused_request_is_held_back_a_while():
    worlds = howto()
    first = worlds.decide_volume()
    worlds.commit("DrbdVolume", "vm-shaolin", first)
    worlds.refused = (Refused(first.requests[0], Refusal(reason="PortTaken", message="port 7789 is taken"), NOW),)
    decision = worlds.decide_volume()
    assert [r.host for r in decision.requests] == []
    assert conditions(decision)["Stalled"].reason == "PortTaken"


def test_settled_means_the_same_status_again():
    worlds = howto(running=True)
    worlds.commit("DrbdVolume", "vm-shaolin", worlds.decide_volume())
    again = worlds.decide_volume()
    assert again.status == worlds.cache.volume(("default", "vm-shaolin")).status
    assert again.events == ()
    assert again.requests == ()
    assert again.lazy


def test_content_is_written_once_by_the_source_and_retried_under_another_id_only_after_a_failure():
    worlds = howto(created=True)
    worlds.edit("DrbdVolume", "vm-shaolin", content={"filesystem": "ext4"})
    status = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status(
        "DrbdVolume", "vm-shaolin", {**status, "initialSync": {**status["initialSync"], "completed": False}}
    )
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    first = worlds.decide_volume()
    (write,) = asked(first, Operate)
    assert isinstance(write.body.body, WriteContent)
    assert write.host == "mk1"
    assert first.status.content.state == "Writing"
    assert not first.lazy
    worlds.commit("DrbdVolume", "vm-shaolin", first)
    assert asked(worlds.decide_volume(), Operate) == [write]
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary", content="written", content_detail="ext4")})
    decision = worlds.decide_volume()
    assert decision.status.content.state == "Written"
    # Both replicas are UpToDate already: what was seen at once is one write.
    assert decision.status.initial_sync.completed
    assert decision.status.phase == "Ready"
    assert not decision.lazy


def test_a_source_that_restarted_before_its_content_was_written_is_promoted_again_without_force():
    worlds = howto(created=True)
    worlds.edit("DrbdVolume", "vm-shaolin", content={"filesystem": "ext4"})
    status = worlds.status("DrbdVolume", "vm-shaolin")
    sync = {**status["initialSync"], "completed": False}
    worlds.set_status("DrbdVolume", "vm-shaolin", {**status, "initialSync": sync})
    (promote,) = worlds.decide_volume().requests
    assert isinstance(promote, PutVolume)
    assert (promote.host, promote.body.role) == ("mk1", "Primary")


def test_a_volume_in_use_is_not_deleted_and_says_who_uses_it():
    worlds = howto(running=True)
    worlds.delete("DrbdVolume", "vm-shaolin")
    decision = worlds.decide_volume()
    assert decision.requests == ()
    assert decision.finalizer is None
    assert "shaolin" in conditions(decision)["Stalled"].message


def test_deletion_waits_for_every_member_that_is_not_out_of_service():
    worlds = howto(created=True)
    worlds.cache.remove_key(("XenVM", "default", "shaolin"), worlds.cache.vm(("default", "shaolin")).metadata.uid)
    worlds.delete("DrbdVolume", "vm-shaolin")
    worlds.hosts["mk2"].connected = False
    assert worlds.decide_volume().requests == ()
    worlds.hosts["mk2"].connected = True
    assert {(r.host, r.body.policy) for r in asked(worlds.decide_volume(), DeleteVolume)} == {
        ("mk1", "Retain"), ("mk2", "Retain"),
    }  # fmt: skip
    worlds.tell("mk1", volumes={}, gone={VOLUME_UID: "2027-01-15T08:00:00Z"})
    worlds.tell("mk2", volumes={})  # never heard of it, and what was sent there may still come
    assert [request.host for request in asked(worlds.decide_volume(), DeleteVolume)] == ["mk2"]
    worlds.tell("mk2", gone={VOLUME_UID: "2027-01-15T08:00:00Z"})
    assert worlds.decide_volume().finalizer == "remove"


def test_a_replica_that_vanished_is_reported_and_nothing_is_made_anew():
    worlds = howto(running=True)
    worlds.tell("mk2", volumes={})
    decision = worlds.decide_volume()
    assert decision.requests == ()
    assert conditions(decision)["Degraded"].reason == "ReplicaMissing"


def test_a_primary_with_a_domain_is_never_demoted():
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", state="Stopped")
    worlds.set_status("XenVM", "shaolin", {**worlds.status("XenVM", "shaolin"), "phase": "Stopped"})
    assert worlds.decide_volume().requests == ()
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary", used_by=())})
    (demote,) = worlds.decide_volume().requests
    assert demote.body.uid == VOLUME_UID
    assert demote.body.role == "Secondary"
