"""Rows of the failure matrix (docs/failure-modes.md) that are a decision of the controller."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import Refusal
from controller.domain.actions import Decision, Operate, PutDomain, PutVolume
from controller.domain.node import decide_node
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    conditions,
    domain_state,
    howto,
    moving,
    peer,
    vm_state,
    volume_state,
)


def test_row_11_a_disk_that_failed_on_the_other_host_leaves_the_vm_where_it_is() -> None:
    worlds = howto(running=True)
    seen = volume_state(role="Primary", used_by=("shaolin",), peer=peer(disk="Diskless"))
    worlds.tell("mk1", volumes={"vm_shaolin": seen}, vms={VM_UID: vm_state()}, domains={"3": domain_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(disk="Diskless", peer=peer(role="Primary"))})
    volume = worlds.decide_volume()
    assert conditions(volume)["Degraded"].status == "True"
    assert "Diskless" in conditions(volume)["Degraded"].message
    vm = worlds.decide_vm()
    assert conditions(vm)["Ready"].status == "True"
    assert not vm.requests


def test_row_10_a_disk_that_failed_under_the_vm_keeps_it_running_through_the_other_host() -> None:
    worlds = howto(running=True)
    seen = volume_state(role="Primary", disk="Diskless", used_by=("shaolin",))
    worlds.tell("mk1", volumes={"vm_shaolin": seen}, vms={VM_UID: vm_state()}, domains={"3": domain_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary", disk="Diskless"))})
    assert conditions(worlds.decide_volume())["Degraded"].status == "True"
    vm = worlds.decide_vm()
    assert conditions(vm)["Ready"].status == "True"
    assert not asked(vm, PutDomain)


def failed(node: str, *, vm: bool = True, **status: Any) -> Worlds:
    """The disk of that host has failed; the VM is on mk1, running or shut down, and wanted on mk2."""
    worlds = moving() if vm else stopped()
    role = "Primary" if vm else "Secondary"
    disks = {"mk1": "UpToDate", "mk2": "UpToDate", node: "Diskless"}
    first = volume_state(
        role=role, disk=disks["mk1"], used_by=("shaolin",) if vm else (), peer=peer(disk=disks["mk2"]), generation=None
    )
    worlds.tell("mk1", volumes={"vm_shaolin": first})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(disk=disks["mk2"], peer=peer(role=role, disk=disks["mk1"]))})
    before = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**before, "fenced": True, **status})
    return worlds


def stopped() -> Worlds:
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", node="mk2", state="Stopped")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", desired="Stopped", domid=None)}, domains={})
    return worlds


def placed(decision: Decision) -> Any:
    return conditions(decision)["Placed"]


def test_row_10_the_vm_moves_to_the_host_whose_disk_it_writes_to() -> None:
    decision = failed("mk1").decide_vm()
    assert [request.body.body.kind for request in asked(decision, Operate)] == ["migrate-receive"]
    assert decision.status.migration is not None


def test_row_10_a_stopped_vm_is_released_to_the_host_that_has_its_data() -> None:
    assert [put.body.state for put in asked(failed("mk1", vm=False).decide_vm(), PutDomain)] == ["Released"]


@pytest.mark.parametrize("vm", [True, False])
def test_row_10_nothing_moves_to_a_failed_disk(vm: bool) -> None:
    decision = failed("mk2", vm=vm).decide_vm()
    assert not asked(decision, Operate)
    assert not asked(decision, PutDomain)
    assert placed(decision).reason == "DiskNotUpToDate"
    assert "replace it on mk2" in placed(decision).message


@pytest.mark.parametrize("vm", [True, False])
def test_row_10_what_it_wrote_alone_may_be_on_the_failed_disk_only(vm: bool) -> None:
    verdict = {"number": 1, "survivor": "mk1", "stale": "mk2", "reason": "PeerLost"}
    decision = failed("mk1", vm=vm, verdict=verdict).decide_vm()
    assert not asked(decision, Operate)
    assert not asked(decision, PutDomain)
    assert placed(decision).reason == "WroteAlone"


@pytest.mark.parametrize(("role", "released"), [("Secondary", ["Released"]), ("Primary", [])])
def test_row_12_apart_it_is_released_once_its_disk_is_secondary(role: str, released: list[str]) -> None:
    worlds = failed("mk1", vm=False)
    lost = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(disk="Diskless", role=role, peer=lost, generation=None)})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=lost)})
    assert [put.body.state for put in asked(worlds.decide_vm(), PutDomain)] == released
    before = worlds.status("XenVM", "shaolin")
    worlds.set_status("XenVM", "shaolin", {**before, "phase": "Stopped"})
    demoted = [(put.host, put.body.role) for put in asked(worlds.decide_volume(), PutVolume)]
    assert demoted == ([("mk1", "Secondary")] if role == "Primary" else [])


def test_row_10_without_a_domain_nobody_but_the_record_says_what_was_written_alone() -> None:
    decision = failed("mk1", vm=False, fenced=False).decide_vm()
    assert not asked(decision, PutDomain)
    assert placed(decision).reason == "WroteAlone"


def test_row_12_without_disk_and_peer_io_waits_and_says_for_what() -> None:
    worlds = howto(running=True)
    lost = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")
    seen = volume_state(role="Primary", disk="Diskless", suspended="no-data", used_by=("shaolin",), peer=lost)
    worlds.tell("mk1", volumes={"vm_shaolin": seen}, vms={VM_UID: vm_state()}, domains={"3": domain_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=lost)})
    decision = worlds.decide_volume()
    assert conditions(decision)["Ready"].status == "False"
    stalled = conditions(decision)["Stalled"]
    assert (stalled.status, stalled.reason) == ("True", "Suspended")
    assert "start mk2" in stalled.message
    assert (decision.status.frozen, decision.status.verdict) == ("mk1", None)
    assert not asked(decision, PutVolume)
    assert not asked(worlds.decide_vm(), PutDomain)


def test_row_25_of_two_primaries_the_one_that_nobody_uses_is_demoted() -> None:
    worlds = howto(running=True)
    seen = volume_state(role="Primary", used_by=("shaolin",), peer=peer(role="Primary"))
    worlds.tell("mk1", volumes={"vm_shaolin": seen}, vms={VM_UID: vm_state()}, domains={"3": domain_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", peer=peer(role="Primary"))})
    puts = asked(worlds.decide_volume(), PutVolume)
    assert [(put.host, put.body.role) for put in puts] == [("mk2", "Secondary")]


def test_row_28_a_second_domain_made_by_hand_is_told_and_the_placed_one_goes_on() -> None:
    worlds = howto(running=True)
    worlds.tell("mk2", domains={"9": domain_state(domid=9)}, volumes={"vm_shaolin": volume_state()})
    decision = worlds.decide_vm()
    stalled = conditions(decision)["Stalled"]
    assert (stalled.status, stalled.reason) == ("True", "DomainElsewhere")
    assert "mk2 has domain shaolin (id 9" in stalled.message
    assert "xl destroy" in stalled.message
    assert not decision.requests  # neither is ended: which one is right is a person's knowledge
    worlds.edit("XenVM", "shaolin", state="Paused")
    assert not worlds.decide_vm().requests
    worlds.tell("mk2", domains={}, volumes={"vm_shaolin": volume_state()})
    assert [put.body.state for put in asked(worlds.decide_vm(), PutDomain)] == ["Paused"]


def test_row_39_what_the_agent_says_of_a_leftover_is_told_with_it() -> None:
    worlds = howto(running=True)
    why = Refusal(reason="LeftoverDomain", message="domain 9 may be the only copy")
    worlds.tell(
        "mk2",
        domains={"9": domain_state(domid=9, name="shaolin--incoming", kind="incoming", state="paused")},
        vms={VM_UID: vm_state(granted=False, status="absent", problem=why)},
        volumes={"vm_shaolin": volume_state()},
    )
    stalled = conditions(worlds.decide_vm())["Stalled"]
    assert stalled.reason == "DomainElsewhere"
    assert "shaolin--incoming" in stalled.message
    assert "domain 9 may be the only copy" in stalled.message


def test_row_40_a_volume_that_may_have_two_primaries_says_so_and_is_as_good_as_before() -> None:
    worlds = howto(running=True)
    window = Refusal(reason="TwoPrimariesAllowed", message="DRBD on mk2 allows two Primaries")
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"), problem=window)})
    decision = worlds.decide_volume()
    told = conditions(decision)["TwoPrimariesAllowed"]
    assert (told.status, told.message) == ("True", window.message)
    assert conditions(decision)["Ready"].status == "True"
    assert [event.reason for event in decision.events] == ["TwoPrimariesAllowed"]
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    assert not worlds.decide_volume().events
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"))})
    assert "TwoPrimariesAllowed" not in conditions(worlds.decide_volume())


def test_row_41_a_foreign_receiver_is_a_condition_of_its_host_which_is_well() -> None:
    worlds = howto(running=True)
    receiver = Refusal(reason="ForeignReceiver", message="process 199")

    def decide() -> Decision:
        node = worlds.world.objects.host("mk2").node
        assert node is not None
        return decide_node(worlds.world, node)

    worlds.tell("mk2", problems=(receiver,))
    decision = decide()
    assert (conditions(decision)["ForeignReceiver"].status, conditions(decision)["Ready"].status) == ("True", "True")
    assert "ForeignReceiver" in [event.reason for event in decision.events]
    worlds.tell("mk2", problems=(receiver, Refusal(reason="XenUnreadable", message="no xl")))
    assert conditions(decide())["Stalled"].message == "no xl"
    worlds.tell("mk2", problems=())
    assert "ForeignReceiver" not in conditions(decide())


def test_row_35_a_clock_that_is_wrong_changes_no_request() -> None:
    worlds = howto(created=True)
    requests = worlds.decide_vm().requests
    assert requests
    for skew in (-400 * 86400.0, -60.0, 60.0, 400 * 86400.0):
        worlds.now += skew
        assert worlds.decide_vm().requests == requests
        worlds.now -= skew
