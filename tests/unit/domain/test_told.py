"""What people are told: a refusal that passes is no alarm, a restart is an event, several reasons stay readable."""

from __future__ import annotations

import pytest

from agent.protocol import LogicalVolumeState, Refusal, RestartState
from controller.api.xennode import XenNode
from controller.domain.actions import PASSING_SECONDS, DeleteVolume, PutDomain, PutHost, PutVolume, Refused
from controller.domain.node import decide_node
from controller.domain.world import NO_ANSWER_YET
from tests.unit.domain.worlds import (
    NOW,
    SHAOLIN,
    VM_UID,
    VOLUME_UID,
    Told,
    asked,
    begun,
    conditions,
    domain_state,
    howto,
    peer,
    vm_state,
    volume_state,
)

SECOND_UID = "bbbbbbbb-0000-4000-8000-000000000003"


def starting(reason: str):
    """The disk is Primary on mk1, and its agent refused the start for that reason."""
    worlds = howto(created=True)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=peer(role="Primary"))})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    (start,) = asked(worlds.decide_vm(), PutDomain)
    worlds.refused = (Refused(start, Refusal(reason=reason, message="vm_shaolin is Secondary here"), NOW),)
    return worlds


def test_a_refusal_that_passes_by_itself_is_no_alarm_and_soon_asked_again():
    worlds = starting("DiskNotPrimary")
    decision = worlds.decide_vm()
    assert "Stalled" not in conditions(decision)
    assert "is Secondary here" in conditions(decision)["Reconciling"].message
    assert [event.type for event in decision.events] == []
    assert decision.look_again == PASSING_SECONDS
    assert asked(decision, PutDomain) == []
    worlds.now = NOW + PASSING_SECONDS
    assert len(asked(worlds.decide_vm(), PutDomain)) == 1


def test_a_disk_that_was_demoted_when_the_start_came_is_promoted_and_the_start_asked_for_again():
    worlds = howto(created=True)
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    lost = Refusal(reason="DiskNotPrimary", message="vm_shaolin is Secondary here")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="starting", domid=None, problem=lost)})
    decision = worlds.decide_vm()
    assert "Stalled" not in conditions(decision)
    (promotion,) = asked(decision, PutVolume)
    assert (promotion.host, promotion.body.role) == ("mk1", "Primary")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=peer(role="Primary"))})
    assert len(asked(worlds.decide_vm(), PutDomain)) == 1
    # Made anew, paused until its disk was looked at; the agent's last word is still the old one
    worlds.tell("mk1", vms={VM_UID: vm_state(status="paused", problem=lost)}, domains={"3": domain_state()})
    assert "Stalled" not in conditions(worlds.decide_vm())


def test_any_other_refusal_is_for_a_person_and_held_back_longer():
    worlds = starting("NotEnoughMemory")
    decision = worlds.decide_vm()
    assert conditions(decision)["Stalled"].reason == "NotEnoughMemory"
    assert [event.type for event in decision.events] == ["Warning"]
    worlds.now = NOW + PASSING_SECONDS
    assert asked(worlds.decide_vm(), PutDomain) == []


@pytest.mark.parametrize(
    ("reason", "said", "phase"),
    [("crash", ("Warning", "GuestCrashed"), "Crashed"), ("reboot", ("Normal", "GuestRebooted"), "Starting")],
)
def test_a_guest_that_is_restarted_is_told_once(reason, said, phase):
    worlds = howto(running=True)
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    for _ in range(2):  # the second one after it ran so long that its count begins anew
        due = RestartState(count=1, next_at="2027-01-15T08:00:01Z", last_reason=reason)
        told = []
        for state in (
            vm_state(status="stopping", restart=due),
            vm_state(status="starting", domid=None, restart=due),
            vm_state(domid=4, restart=due.model_copy(update={"next_at": None})),
        ):
            domains = {"3": domain_state(domid=state.domid)} if state.domid else {}
            worlds.tell("mk1", vms={VM_UID: state}, domains=domains)
            decision = worlds.decide_vm()
            told += [(event.type, event.reason) for event in decision.events if event.reason.startswith("Guest")]
            if state.status != "running":
                assert decision.status is not None
                assert decision.status.phase == phase
            worlds.commit("XenVM", "shaolin", decision)
        assert told == [said]


def test_several_reasons_are_numbered_and_the_one_that_needs_somebody_leads():
    worlds = howto(running=True)
    worlds.apply("XenVM", "second", {**SHAOLIN, "node": "mk9"}, uid=SECOND_UID)
    stalled = conditions(worlds.decide_vm("second"))["Stalled"]
    assert stalled.reason == "NoReplicaHere"
    assert "blocked: (1) there is no XenNode mk9; apply it, or change spec.node; (2) " in stalled.message
    assert "is a disk of XenVM shaolin too" in stalled.message


def test_a_disk_that_another_vm_has_is_said_before_where_it_is_primary():
    worlds = howto(running=True)
    worlds.apply("XenVM", "second", {**SHAOLIN, "node": "mk2"}, uid=SECOND_UID)
    stalled = conditions(worlds.decide_vm("second"))["Stalled"]
    assert stalled.reason == "VolumeInUse"
    assert "vm-shaolin is Primary on mk1, not mk2" in stalled.message


def test_a_disk_that_is_still_primary_elsewhere_is_waited_for():
    worlds = howto(created=True)
    worlds.edit("XenVM", "shaolin", node="mk2")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=peer(role="Primary"))})
    decision = worlds.decide_vm()
    assert conditions(decision)["Reconciling"].reason == "PrimaryElsewhere"
    assert "Stalled" not in conditions(decision)
    assert decision.events == ()


def test_vms_without_a_host_of_their_own_are_spread_though_free_memory_is_read_now_and_then():
    worlds = howto(created=True)
    spec = {**SHAOLIN, "memory": "3Gi", "disks": []}
    del spec["node"]
    places = []
    for number in range(3):
        name = f"vm-{number}"
        worlds.apply("XenVM", name, spec, uid=f"bbbbbbbb-0000-4000-8000-00000000001{number}")
        decision = worlds.decide_vm(name)
        assert decision.status is not None
        worlds.commit("XenVM", name, decision)
        places.append(decision.status.placement)
    assert sorted(place.node for place in places[:2]) == ["mk1", "mk2"]
    assert places[2] is None, "4 GiB were free on each"
    assert "mk1: 1020 MiB free, 3076 MiB needed" in conditions(decision)["Stalled"].message


def test_what_a_domain_took_since_free_memory_was_read_is_not_free():
    worlds = howto(created=True)
    spec = {key: value for key, value in SHAOLIN.items() if key != "node"}
    worlds.apply("XenVM", "one", {**spec, "memory": "1Gi", "disks": []}, uid=SECOND_UID)
    for name in ("mk1", "mk2"):
        worlds.tell(name, domains={"3": domain_state(name="other", uuid="x", memory_mib=7600)})
    message = conditions(worlds.decide_vm("one"))["Stalled"].message
    assert "mk1: 592 MiB free, 1028 MiB needed" in message, "8192 MiB in all, 4096 of them free when it was read"


def test_what_a_domain_that_is_being_built_has_not_taken_yet_is_not_free():
    worlds = howto(created=True)
    spec = {key: value for key, value in SHAOLIN.items() if key != "node"}
    worlds.apply("XenVM", "first", {**spec, "node": "mk1", "memory": "3Gi", "disks": []}, uid=SECOND_UID)
    worlds.commit("XenVM", "first", worlds.decide_vm("first"))
    built = domain_state(name="first", uuid=SECOND_UID, memory_mib=8)
    starting = vm_state(uid=SECOND_UID, name="first", status="starting")
    worlds.tell("mk1", domains={"4": built}, vms={SECOND_UID: starting})
    worlds.tell("mk2", domains={"3": domain_state(name="other", uuid="x", memory_mib=8000)})
    worlds.apply("XenVM", "one", {**spec, "memory": "2Gi", "disks": []}, uid="eeeeeeee-0000-4000-8000-000000000005")
    message = conditions(worlds.decide_vm("one"))["Stalled"].message
    assert "mk1: 1028 MiB free, 2052 MiB needed" in message


def test_a_host_that_a_vm_moves_to_is_not_forgotten():
    """Also a VM without a disk, of which no volume tells."""
    worlds, _ = begun()
    worlds.edit("XenVM", "shaolin", disks=[])
    worlds.cache.remove_key(("DrbdVolume", "default", "vm-shaolin"), VOLUME_UID)
    worlds.delete("XenNode", "mk2")
    node = worlds.cache.get(("XenNode", "", "mk2"))
    assert isinstance(node, XenNode)
    decision = decide_node(worlds.world, node)
    assert decision.finalizer is None
    assert "still here: XenVM shaolin" in conditions(decision)["Stalled"].message


LATE_UID = "dddddddd-0000-4000-8000-000000000004"
RESERVED = {
    "uid": LATE_UID, "logical_volume": None, "metadata": "none", "configured": False, "forced": False,
    "peer": None, "disk": "Diskless",
}  # fmt: skip


@pytest.mark.parametrize(
    ("update", "given_up"),
    [
        ({}, True),
        ({"uid": VOLUME_UID}, False),
        ({"uid": None}, False),
        ({"configured": True}, False),
        ({"metadata": "unknown"}, False),
        ({"forced": True}, False),
        ({"logical_volume": LogicalVolumeState(group="vg0", name="vm_shaolin", size=1 << 20)}, False),
    ],
)
def test_names_that_are_kept_for_a_volume_that_is_no_more_are_given_up(update, given_up):
    """And nothing else: what anything was made for is somebody's, whatever this cluster knows of it."""
    worlds = howto(created=True)
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(**{**RESERVED, **update})})
    node = worlds.cache.get(("XenNode", "", "mk1"))
    assert isinstance(node, XenNode)
    found = asked(decide_node(worlds.world, node), DeleteVolume)
    assert [(one.resource, one.body.uid, one.body.policy) for one in found] == (
        [("vm_shaolin", LATE_UID, "Unreserve")] if given_up else []
    )


def test_a_new_host_is_no_alarm_before_its_agent_failed_to_answer():
    worlds = howto()
    told = []
    for error in (NO_ANSWER_YET, "no connection to 10.0.0.81:8003: Connection refused"):
        worlds.hosts["mk1"] = Told(None, connected=False, error=error)
        node = worlds.cache.get(("XenNode", "", "mk1"))
        assert isinstance(node, XenNode)
        decision = decide_node(worlds.world, node)
        told.append([(event.type, event.reason) for event in decision.events])
        assert conditions(decision)["Ready"].status == "Unknown"
        worlds.commit("XenNode", "mk1", decision)
    assert told == [[], [("Warning", "AgentUnreachable")]]


def test_who_holds_a_volume_and_a_host_that_are_to_be_deleted_is_said():
    worlds = howto(running=True)
    worlds.delete("DrbdVolume", "vm-shaolin")
    decision = worlds.decide_volume()
    assert "it is a disk of XenVM shaolin; delete the VM first" in conditions(decision)["Stalled"].message
    worlds.delete("XenNode", "mk1")
    node = worlds.cache.get(("XenNode", "", "mk1"))
    assert isinstance(node, XenNode)
    (event,) = decide_node(worlds.world, node).events
    assert (event.type, event.reason) == ("Warning", "InUse")
    assert "still here: XenVM shaolin; DrbdVolume vm-shaolin" in event.message


def test_that_a_host_cannot_take_vms_is_said_once_it_knows_where():
    worlds = howto()
    facts = worlds.hosts["mk1"].state.facts.model_copy(update={"relocation_listening": False})
    worlds.tell("mk1", facts=facts)
    node = worlds.cache.get(("XenNode", "", "mk1"))
    assert isinstance(node, XenNode)
    decision = decide_node(worlds.world, node)
    assert "Stalled" not in conditions(decision), "it has not been told the spec yet"
    (told,) = asked(decision, PutHost)
    worlds.tell("mk1", desired=told.body)
    stalled = conditions(decide_node(worlds.world, node))["Stalled"]
    assert stalled.reason == "RelocationNotListening"
    assert "cannot listen on *:8002" in stalled.message
    worlds.tell("mk1", facts=facts.model_copy(update={"relocation_listening": True}))
    assert "Stalled" not in conditions(decide_node(worlds.world, node))
