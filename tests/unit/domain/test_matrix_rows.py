"""Rows of the failure matrix (docs/failure-modes.md) that are a decision of the controller."""

from __future__ import annotations

from controller.domain.actions import PutDomain, PutVolume
from tests.unit.domain.worlds import VM_UID, asked, conditions, domain_state, howto, peer, vm_state, volume_state


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


def test_row_35_a_clock_that_is_wrong_changes_no_request() -> None:
    worlds = howto(created=True)
    requests = worlds.decide_vm().requests
    assert requests
    for skew in (-400 * 86400.0, -60.0, 60.0, 400 * 86400.0):
        worlds.now += skew
        assert worlds.decide_vm().requests == requests
        worlds.now -= skew
