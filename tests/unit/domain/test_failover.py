"""A host that failed: what is evidence, what is taken over, in which order, and what happens when it is back.

Rows of the failure matrix, with A = mk1 (owner and Primary) and B = mk2.
"""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import FenceState, OperationState, Refusal, Verdict
from controller.domain.actions import Cancel, Decision, PutDomain, PutVolume, Refused
from controller.domain.node import decide_node
from tests.unit.domain.test_wanted import away, crowd
from tests.unit.domain.worlds import (
    VM_UID,
    Worlds,
    asked,
    begun,
    conditions,
    domain_state,
    host_state,
    howto,
    operation_state,
    peer,
    vm_state,
    volume_state,
)

ALONE = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")


def silent(worlds: Worlds, node: str = "mk1") -> Worlds:
    """Its agent does not answer, and DRBD on the other host lost it."""
    worlds.hosts[node].connected = False
    worlds.hosts[node].error = "no answer for 10 s"
    other = "mk2" if node == "mk1" else "mk1"
    told = worlds.hosts[other].state
    assert told is not None
    worlds.tell(other, volumes={name: one.model_copy(update={"peer": ALONE}) for name, one in told.volumes.items()})
    return worlds


def failed(**spec: Any) -> Worlds:
    """mk1, which ran the VM, is silent; nothing says that it is off."""
    worlds = whole(howto(running=True))
    worlds.edit("XenVM", "shaolin", **spec)
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    return silent(worlds)


def whole(worlds: Worlds) -> Worlds:
    """Both replicas of every volume were seen UpToDate and connected, with fencing in force."""
    for _, name in worlds.cache.volumes:
        worlds.set_status("DrbdVolume", name, {**worlds.status("DrbdVolume", name), "fenced": True})
    return worlds


def off(worlds: Worlds, node: str = "mk1") -> Worlds:
    """A person says so."""
    worlds.edit("XenNode", node, outOfService=True)
    return worlds


def node_of(worlds: Worlds, name: str = "mk1") -> Decision:
    node = worlds.cache.node(name)
    assert node is not None
    return decide_node(worlds.world, node)


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
    assert worlds.decide_vm().status.placement.node == "mk1"
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
    worlds = off(silent(lost(d=10, c=5)))
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
    worlds = lost(d=10)
    worlds.edit("XenVM", "d", memory="4Gi", maxMemory="4Gi")
    off(silent(worlds))
    worlds.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"memory_free_mib": 600}))
    assert worlds.decide_vm("d").status.placement.node == "mk1"
    assert worlds.decide_vm("a").status.placement.node == "mk2"


def lost(**priorities: int) -> Worlds:
    """Five VMs run on mk1, all with FailOver."""
    worlds = whole(crowd(**priorities))
    worlds.edit("XenNode", "mk1", maintenance=False)
    for name in "abcde":
        worlds.edit("XenVM", name, onNodeFailure="FailOver")
    return worlds


# --- while it moved ------------------------------------------------------------------------------------------------


def test_row_16_the_source_is_off_in_the_transfer_and_the_copy_goes_first() -> None:
    worlds, move = begun()
    whole(worlds)
    worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
    copy = operation_state(id=move, kind="migrate-receive", phase="Receiving")
    worlds.tell("mk2", operations={move: copy}, domains={"7": domain_state(domid=7, name="shaolin--incoming")})
    silent(worlds)
    assert asked(worlds.decide_vm(), Cancel) == [], "a silent source may still send"
    off(worlds)
    (cancel,) = asked(worlds.decide_vm(), Cancel)
    assert (cancel.host, cancel.body.source_keeps) == ("mk2", True)
    worlds.tell("mk2", operations={move: copy.model_copy(update={"outcome": "Cancelled"})})
    assert worlds.decide_vm().status.migration.outcome is None, "its domain is still there"
    worlds.tell("mk2", domains={})
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    assert worlds.status("XenVM", "shaolin")["migration"]["outcome"] == "Failed"
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 3)


def test_row_17_a_target_that_was_told_of_the_release_goes_on_and_is_the_placement() -> None:
    worlds, move = begun()
    off(silent(worlds))
    done = operation_state(id=move, kind="migrate-receive", phase="Done", outcome="Succeeded")
    worlds.tell("mk2", operations={move: done}, vms={VM_UID: vm_state(epoch=2)}, domains={"4": domain_state(domid=4)})
    decision = worlds.decide_vm()
    assert (decision.status.placement.node, decision.status.placement.epoch) == ("mk2", 2)
    assert decision.status.migration.outcome == "Succeeded"


def copy_waits(held: str = "DiskNotConnected", **status: Any) -> tuple[Worlds, str, OperationState]:
    """mk1 is off after it let go; mk2 has the copy, and does not see mk1's disk any more."""
    worlds, move = begun()
    why = Refusal(reason=held, message="vm_shaolin is Secondary/UpToDate here, Connecting")
    copy = operation_state(id=move, kind="migrate-receive", phase="Received", refusal=why)
    worlds.tell("mk2", operations={move: copy}, domains={"7": domain_state(domid=7, state="paused")})
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=ALONE)})
    before = worlds.status("DrbdVolume", "vm-shaolin")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**before, "fenced": True, **status})
    off(silent(worlds))
    (cancel,) = asked(worlds.decide_vm(), Cancel)
    no = Refusal(reason="NotCancellable", message="shaolin belongs to mk2 already")
    worlds.refused = (Refused(cancel, no, worlds.now - 1.0),)
    return worlds, move, copy


def test_row_17_a_copy_whose_source_is_off_goes_on_by_a_verdict_with_its_memory() -> None:
    worlds, _, _ = copy_waits()
    verdict = worlds.decide_volume().status.verdict
    assert (verdict.survivor, verdict.stale, verdict.reason) == ("mk2", "mk1", "Fenced")
    decision = worlds.decide_vm()
    assert "Stalled" not in conditions(decision)
    assert "goes on with the guest's memory" in conditions(decision)["Reconciling"].message


def test_row_17_nobody_speaks_for_a_copy_that_its_source_was_not_seen_to_give_away() -> None:
    worlds, _, _ = copy_waits("NotReleased")
    assert worlds.decide_volume().status.verdict is None


def test_row_17_a_silent_source_is_no_reason_for_a_verdict() -> None:
    worlds, _, _ = copy_waits()
    worlds.edit("XenNode", "mk1", outOfService=False)
    assert worlds.decide_volume().status.verdict is None


@pytest.mark.parametrize(
    ("held", "status", "why"),
    [
        ("DiskNotConnected", {"fenced": False}, "NotFenced"),
        (
            "DiskNotConnected",
            {"verdict": {"number": 1, "survivor": "mk1", "stale": "mk2", "reason": "PeerLost"}},
            "RecordedStale",
        ),
        ("WroteAlone", {"verdict": {"number": 1, "survivor": "mk2", "stale": "mk1", "reason": "Fenced"}}, "WroteAlone"),
    ],
)
def test_row_17_a_copy_that_waits_for_the_lost_source_needs_a_person(held: str, status: Any, why: str) -> None:
    worlds, move, copy = copy_waits(held, **status)
    if "survivor" in str(status) and held == "WroteAlone":
        fence = FenceState(verdict=Verdict(number=1, survivor="mk2", stale="mk1", reason="Fenced"))
        worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=ALONE, fence=fence)})
    told = conditions(worlds.decide_vm())["Stalled"]
    assert told.reason == "CopyWaits"
    assert f"({why}: " in told.message
    assert "xl destroy shaolin--incoming" in told.message
    worlds.refused = ()
    worlds.tell("mk2", operations={move: copy.model_copy(update={"outcome": "Failed"})}, domains={})
    assert worlds.decide_vm().status.migration.outcome == "Failed"


@pytest.mark.parametrize(("role", "resumes"), [("Primary", True), ("Secondary", False)])
def test_row_15_the_target_is_off_after_an_unclear_end(role: str, resumes: bool) -> None:
    """With the source Primary all the time the copy can't have written: the source resumes."""
    worlds, move = begun()
    why = Refusal(reason="HandOverUnclear", message="the last word was lost")
    worlds.tell("mk1", operations={move: operation_state(id=move, phase="HandOver", refusal=why)})
    silent(worlds, "mk2")
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role=role, peer=ALONE)})
    assert asked(worlds.decide_vm(), Cancel) == [], "a silent target may have it"
    off(worlds, "mk2")
    assert [cancel.host for cancel in asked(worlds.decide_vm(), Cancel)] == (["mk1"] if resumes else [])


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


# --- the host itself -----------------------------------------------------------------------------------------------


def test_an_agent_that_is_down_is_told_from_a_host_that_is_gone() -> None:
    worlds = howto(running=True)
    worlds.hosts["mk1"].connected = False
    worlds.hosts["mk1"].error = "connection refused"
    ready = conditions(node_of(worlds))["Ready"]
    assert (ready.status, ready.reason) == ("Unknown", "AgentDown")
    assert "vm_shaolin on mk2" in ready.message
    silent(worlds)
    ready = conditions(node_of(worlds))["Ready"]
    assert (ready.status, ready.reason) == ("Unknown", "HostUnreachable")


def test_what_would_not_fit_elsewhere_is_told_before_it_happens() -> None:
    worlds = lost()
    told = conditions(node_of(worlds))["FailoverReady"]
    assert (told.status, told.reason) == ("True", "Fits")
    worlds.tell("mk2", facts=host_state("mk2").facts.model_copy(update={"memory_free_mib": 1100}))
    told = conditions(node_of(worlds))["FailoverReady"]
    assert (told.status, told.reason) == ("False", "InsufficientMemory")
    assert "3 of 5 VMs" in told.message
    assert "default/c (mk2: 68 MiB free, 516 MiB needed)" in told.message


def test_hosts_without_such_vms_say_nothing_of_it() -> None:
    assert "FailoverReady" not in conditions(node_of(howto(running=True)))


def test_a_maintained_host_says_what_is_left_and_when_it_may_be_rebooted() -> None:
    worlds = crowd()
    told = conditions(node_of(worlds))["Drained"]
    assert (told.status, told.reason) == ("False", "Moving")
    assert "5 VMs are left" in told.message
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    assert conditions(node_of(worlds))["Drained"].reason == "SafeToReboot"
    assert node_of(worlds).status.phase == "Maintenance"
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", disk="Inconsistent")})
    told = conditions(node_of(worlds))["Drained"]
    assert (told.status, told.reason) == ("True", "Drained")
    assert "vm-shaolin is Inconsistent on mk2" in told.message
    worlds.tell("mk1", volumes={"vm_shaolin": volume_state(role="Primary")})
    assert "Primary here" in conditions(node_of(worlds))["Drained"].message


def test_a_maintained_host_names_what_is_in_the_way() -> None:
    worlds = crowd()
    worlds.edit("XenNode", "mk2", schedulable=False)
    worlds.commit("XenVM", "a", worlds.decide_vm("a"))
    told = worlds.hosts["mk1"].state
    assert told is not None
    worlds.tell("mk1", domains={**told.domains, "77": domain_state(domid=77, name="byhand", uuid="x")})
    found = conditions(node_of(worlds))["Drained"]
    assert (found.status, found.reason) == ("False", "Blocked")
    assert "XenVM default/a: mk1 is in maintenance" in found.message
    assert "mk2: not schedulable" in found.message
    assert "domain byhand (id 77)" in found.message


def test_while_it_reboots_it_stays_as_it_was_seen() -> None:
    worlds = away()
    worlds.edit("XenNode", "mk1", maintenance=True)
    worlds.commit("XenNode", "mk1", node_of(worlds))
    silent(worlds)
    assert conditions(node_of(worlds))["Drained"].reason == "SafeToReboot"
