"""A host that failed: what is evidence, what is taken over, in which order, and what happens when it is back.

Rows of the failure matrix, with A = mk1 (owner and Primary) and B = mk2.
"""

from __future__ import annotations

from typing import Any

import pytest

from controller.domain.actions import PutDomain, PutVolume
from tests.unit.domain.failed_host import ALONE, crowded, failed, off, silent
from tests.unit.domain.test_wanted import away
from tests.unit.domain.worlds import (
    VM_UID,
    asked,
    conditions,
    domain_state,
    host_state,
    howto,
    peer,
    vm_state,
    volume_state,
)

# --- what is evidence ----------------------------------------------------------------------------------------------


def test_row_05_a_silent_host_is_never_taken_over() -> None:
    worlds = failed(onNodeFailure="FailOver")
    worlds.now += 1e6
    decision = worlds.decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    assert (decision.status.phase, conditions(decision)["Ready"].status) == ("Unknown", "Unknown")


def test_row_05_a_host_that_answers_is_not_off_whatever_is_said() -> None:
    worlds = off(howto(running=True))
    worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
    decision = worlds.decide_vm()
    assert decision.status.placement.node == "mk1"
    assert decision.status.phase == "Running"


def test_row_04_known_off_it_is_placed_elsewhere_with_a_new_epoch_promoted_and_started() -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert (decision.status.displaced.from_node, decision.status.displaced.reason) == ("mk1", "OutOfService")
    assert decision.status.run == 2
    assert decision.lazy == 0.0
    assert [event.reason for event in decision.events] == ["FailedOver"]
    (promote,) = decision.requests
    assert isinstance(promote, PutVolume)
    assert (promote.host, promote.body.role) == ("mk2", "Primary")
    worlds.commit("XenVM", "shaolin", decision)
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", peer=ALONE)})
    (create,) = worlds.decide_vm().requests
    assert isinstance(create, PutDomain)
    assert (create.host, create.body.state, create.body.epoch, create.body.run) == ("mk2", "Running", 2, 2)


def test_row_04_a_fence_agents_word_is_as_good() -> None:
    worlds = failed(onNodeFailure="FailOver")
    fenced = {"at": "2027-01-15T08:00:00Z", "bootID": "boot-mk1", "operation": "x", "evidence": "fence_ipmilan: OFF"}
    worlds.set_status("XenNode", "mk1", {"observedGeneration": 1, "fenced": fenced})
    decision = worlds.decide_vm()
    assert decision.status.placement.node == "mk2"
    assert decision.status.displaced.reason == "Fenced"


def test_stay_waits_and_says_what_a_person_may_do() -> None:
    worlds = off(failed())
    decision = worlds.decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    told = conditions(decision)["Stalled"]
    assert told.reason == "HostOff"
    assert "set spec.node: mk2, or onNodeFailure: FailOver" in told.message


def test_a_person_takes_it_over_by_the_node() -> None:
    worlds = off(failed())
    worlds.edit("XenVM", "shaolin", node="mk2")
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert decision.status.displaced is None


def test_guests_that_were_off_stay_off() -> None:
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="halted", halted_reason="poweroff", domid=None)}, domains={})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    off(silent(worlds))
    for _ in range(2):
        decision = worlds.decide_vm()
        assert (decision.status.phase, decision.status.placement.node) == ("Halted", "mk1")
        assert not decision.requests
        worlds.commit("XenVM", "shaolin", decision)


# --- guards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disk", ["Inconsistent", "Outdated", "Diskless", "Failed"])
def test_row_03_without_good_data_on_b_it_is_down_and_waits_for_a(disk: str) -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(disk=disk, peer=ALONE)})
    decision = worlds.decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    told = conditions(decision)["Stalled"]
    assert told.reason == "DiskNotUpToDate"
    assert f"vm-shaolin is {disk} on mk2" in told.message


@pytest.mark.parametrize(
    ("verdict", "fenced", "reason"),
    [
        (None, False, "NotFenced"),
        ({"number": 1, "survivor": "mk1", "stale": "mk2", "reason": "PeerLost"}, True, "RecordedStale"),
    ],
)
def test_row_04_a_copy_that_may_lack_writes_is_not_used(verdict: Any, fenced: bool, reason: str) -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    status = {
        **worlds.status("DrbdVolume", "vm-shaolin"),
        "fenced": fenced,
        **({"verdict": verdict} if verdict else {}),
    }
    worlds.set_status("DrbdVolume", "vm-shaolin", status)
    decision = worlds.decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    assert conditions(decision)["Stalled"].reason == reason


def test_row_04_a_consistent_disk_with_a_verdict_for_it_is_good() -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(disk="Consistent", peer=ALONE)})
    verdict = {"number": 1, "survivor": "mk2", "stale": "mk1", "reason": "Fenced"}
    worlds.set_status("DrbdVolume", "vm-shaolin", {**worlds.status("DrbdVolume", "vm-shaolin"), "verdict": verdict})
    decision = worlds.decide_vm()
    assert decision.status.placement.node == "mk2"
    assert [put.body.role for put in asked(decision, PutVolume)] == ["Primary"]


def test_row_05_a_host_that_drbd_is_connected_with_lives_whatever_is_said() -> None:
    worlds = failed(onNodeFailure="FailOver")
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer(role="Primary"))})
    decision = off(worlds).decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    ready = conditions(decision)["Ready"]
    assert ready.reason == "HostLives"
    assert "DRBD on mk2 is connected with mk1" in ready.message


def test_a_domain_that_is_left_anywhere_forbids_it() -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    worlds.tell("mk2", domains={"9": domain_state(domid=9, name="shaolin--incoming")})
    decision = worlds.decide_vm()
    assert not decision.requests
    assert decision.status.placement.node == "mk1"
    assert conditions(decision)["Stalled"].reason == "DomainElsewhere"


def test_an_agent_that_keeps_the_vm_at_a_newer_epoch_is_its_placement() -> None:
    worlds = off(failed(onNodeFailure="FailOver"))
    worlds.tell("mk2", vms={VM_UID: vm_state(epoch=5)}, domains={"9": domain_state(domid=9)})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 5)


def test_memory_goes_to_the_more_important_ones_and_the_others_say_the_numbers() -> None:
    worlds = off(silent(crowded(d=10, c=5)))
    facts = host_state("mk2").facts.model_copy(update={"memory_free_mib": 1100})
    worlds.tell("mk2", facts=facts)
    placed = {}
    for name in "abcde":
        decision = worlds.decide_vm(name)
        placed[name] = decision.status.placement.node
        if name == "a":
            told = conditions(decision)["Stalled"]
            assert told.reason == "InsufficientMemory"
            assert "mk2: 68 MiB free, 516 MiB needed" in told.message
        worlds.commit("XenVM", name, decision)
    assert placed == {"a": "mk1", "b": "mk1", "c": "mk2", "d": "mk2", "e": "mk1"}


def test_one_that_is_too_large_leaves_room_for_the_next() -> None:
    worlds = crowded(d=10)
    worlds.edit("XenVM", "d", memory="4Gi", maxMemory="4Gi")
    off(silent(worlds))
    worlds.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"memory_free_mib": 600}))
    assert worlds.decide_vm("d").status.placement.node == "mk1"
    assert worlds.decide_vm("a").status.placement.node == "mk2"


# --- the host is back ----------------------------------------------------------------------------------------------


def test_row_06_a_host_that_returns_is_told_the_epoch_and_starts_nothing() -> None:
    worlds = away("OutOfService")
    mine = vm_state(epoch=1, status="absent", domid=None)
    behind = volume_state(disk="Inconsistent", peer=peer(role="Primary", replication="SyncTarget"))
    worlds.tell("mk1", vms={VM_UID: mine}, volumes={"vm_shaolin": behind})
    decision = worlds.decide_vm()
    (told,) = asked(decision, PutDomain)
    assert (told.host, told.body.state, told.body.epoch) == ("mk1", "Released", 2)
    assert decision.status.phase == "Running"
    worlds.tell("mk1", vms={VM_UID: mine.model_copy(update={"epoch": 2, "granted": False, "desired": "Released"})})
    assert worlds.decide_vm().requests == ()


def test_row_06_where_a_domain_is_left_nothing_is_released() -> None:
    worlds = away("OutOfService")
    worlds.tell("mk1", vms={VM_UID: vm_state(epoch=1)}, domains={"3": domain_state()})
    assert asked(worlds.decide_vm(), PutDomain) == []


def test_row_29_after_a_reboot_the_owner_starts_it_again_once_its_disk_is_known_newest() -> None:
    worlds = howto(running=True)
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", domid=None)}, domains={})
    worlds.tell(
        "mk1", volumes={"vm_shaolin": volume_state(configured=False, role="Unknown", disk="Diskless", peer=None)}
    )
    assert worlds.decide_vm().requests == ()
    (up,) = [put for put in asked(worlds.decide_volume(), PutVolume) if put.host == "mk1"]
    assert (up.body.level, up.body.role) == ("Up", "Secondary")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(peer=ALONE)})
    decision = worlds.decide_vm()
    assert decision.requests == ()
    assert conditions(decision)["Ready"].reason == "ReplicaMayBeStale"
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state()})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state()})
    (promote,) = asked(worlds.decide_vm(), PutVolume)
    assert (promote.host, promote.body.role) == ("mk1", "Primary")
