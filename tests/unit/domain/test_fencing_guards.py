"""When a host is not switched off: every guard, each alone, in a world that otherwise allows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.domain.fencing_guards import GUARDS, should_fence, why_not
from tests.unit.domain.lost_host import PEER_LOST, SPEC, decide, lost, node, offs, proved, third
from tests.unit.domain.worlds import VM_UID, Told, Worlds, host_state, peer, volume_state


def no(worlds: Worlds) -> str:
    refusal = why_not(worlds.world, node(worlds))
    assert (refusal is None) == should_fence(worlds.world, node(worlds))
    return refusal.reason if refusal else ""


def test_a_lost_host_with_a_vm_to_save_is_fenced():
    worlds = lost()
    assert no(worlds) == ""
    (command,) = offs(decide(worlds))
    assert (command.host, command.attempt, command.partners) == ("mk1", 1, ("mk2",))


def connected(worlds: Worlds) -> None:
    worlds.hosts["mk1"].connected = True


def in_maintenance(worlds: Worlds) -> None:
    worlds.edit("XenNode", "mk1", maintenance=True)


def out_of_service(worlds: Worlds) -> None:
    worlds.edit("XenNode", "mk1", outOfService=True)


def deleted(worlds: Worlds) -> None:
    worlds.delete("XenNode", "mk1")


def stays(worlds: Worlds) -> None:
    worlds.edit("XenVM", "shaolin", onNodeFailure="Stay")


def stopped(worlds: Worlds) -> None:
    worlds.edit("XenVM", "shaolin", state="Stopped")


def elsewhere(worlds: Worlds) -> None:
    worlds.set_status(
        "XenVM", "shaolin", {**worlds.status("XenVM", "shaolin"), "placement": {"node": "mk2", "epoch": 2}}
    )


def vm_deleted(worlds: Worlds) -> None:
    worlds.delete("XenVM", "shaolin")


def unconfigured(worlds: Worlds) -> None:
    worlds.edit("XenNode", "mk1", fencing=None)


def another_device(worlds: Worlds) -> None:
    worlds.edit("XenNode", "mk1", fencing={**SPEC, "parameters": {"ip": "10.0.1.82"}})


def never_seen(worlds: Worlds) -> None:
    worlds.hosts["mk1"].state = None
    status = {**worlds.status("XenNode", "mk1")}
    del status["bootID"]
    worlds.set_status("XenNode", "mk1", status)


def lied(worlds: Worlds) -> None:
    fenced = {"at": "2027-01-15T07:00:00Z", "contradictedAt": "2027-01-15T07:01:00Z", "bootID": "boot-mk1"}
    more = {"operation": "x", "evidence": "off", "device": node(worlds).status.fencing_device}
    worlds.set_status("XenNode", "mk1", {**worlds.status("XenNode", "mk1"), "fenced": {**fenced, **more}})


def silent_for_a_moment(worlds: Worlds) -> None:
    worlds.hosts["mk1"].silent = 59.9


def everybody_silent(worlds: Worlds) -> None:
    worlds.hosts["mk2"].connected = False


def most_silent(worlds: Worlds) -> None:
    third(worlds)
    worlds.hosts["mk3"] = Told(host_state("mk3"), connected=False)


def connected_by_drbd(worlds: Worlds) -> None:
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(peer=peer())})


def stand_alone(worlds: Worlds) -> None:
    worlds.tell(
        "mk2", volumes={"vm_shaolin": volume_state(peer=PEER_LOST.model_copy(update={"connection": "StandAlone"}))}
    )


def no_replica_there(worlds: Worlds) -> None:
    worlds.tell("mk2", volumes={})


def partner_silent(worlds: Worlds) -> None:
    third(worlds)
    worlds.node("mk4")
    worlds.hosts["mk2"].connected = False


def partner_being_fenced(worlds: Worlds) -> None:
    request = {"operation": "fence-1-mk2", "requestedAt": "2027-01-15T08:00:00Z", "reason": "x", "bootID": "boot-mk2"}
    worlds.set_status(
        "XenNode",
        "mk2",
        {"observedGeneration": 1, "fencing": {**request, "device": "d", "notBefore": request["requestedAt"]}},
    )


def partner_fenced(worlds: Worlds) -> None:
    fenced = {"at": "2027-01-15T08:00:00Z", "bootID": "b", "operation": "x", "evidence": "off"}
    worlds.set_status("XenNode", "mk2", {"observedGeneration": 1, "fenced": fenced})


def too_many(worlds: Worlds) -> None:
    third(worlds)
    times = ["2027-01-15T07:30:00Z", "2027-01-15T07:40:00Z", "2027-01-15T07:50:00Z"]
    worlds.set_status("XenNode", "mk3", {"observedGeneration": 1, "fencings": times})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (connected, "AgentAnswers"),
        (in_maintenance, "TakenOut"),
        (out_of_service, "TakenOut"),
        (deleted, "TakenOut"),
        (stays, "NothingToSave"),
        (stopped, "NothingToSave"),
        (elsewhere, "NothingToSave"),
        (vm_deleted, "NothingToSave"),
        (unconfigured, "NotConfigured"),
        (another_device, "NotTested"),
        (never_seen, "BootUnknown"),
        (lied, "FencedButAlive"),
        (silent_for_a_moment, "Silent"),
        (everybody_silent, "NobodyElseAnswers"),
        (most_silent, "MostAreSilent"),
        (connected_by_drbd, "AgentDown"),
        (stand_alone, "NoWitness"),
        (no_replica_there, "NoWitness"),
        (partner_silent, "NoWitness"),
        (partner_being_fenced, "PartnerIsFenced"),
        (partner_fenced, "PartnerIsFenced"),
        (too_many, "TooMany"),
    ],
)
def test_a_host_is_not_fenced_when(spoil: Callable[[Worlds], None], reason: str):
    worlds = lost()
    spoil(worlds)
    assert no(worlds) == reason
    assert offs(decide(worlds)) == []
    decision = decide(worlds)
    assert decision.status is None or decision.status.fencing is None  # type: ignore[union-attr]


def test_every_guard_is_in_the_table_above():
    assert len(GUARDS) == 6


def test_a_fencing_of_yesterday_does_not_count():
    worlds = lost()
    third(worlds)
    times = ["2027-01-14T07:30:00Z", "2027-01-15T07:40:00Z", "2027-01-15T07:50:00Z"]
    worlds.set_status("XenNode", "mk3", {"observedGeneration": 1, "fencings": times})
    assert no(worlds) == ""


def test_a_fencing_that_was_begun_is_not_stopped_by_the_limit():
    worlds = lost()
    worlds.commit("XenNode", "mk1", decide(worlds))
    too_many(worlds)
    assert no(worlds) == ""


def test_a_host_that_is_off_by_a_persons_word_is_not_counted_as_silent():
    worlds = lost()
    third(worlds, outOfService=True)
    worlds.hosts["mk3"] = Told(host_state("mk3"), connected=False)
    assert no(worlds) == ""


def test_one_replica_that_is_connected_outweighs_one_that_is_not():
    worlds = lost()
    worlds.apply("DrbdVolume", "other", {"size": "512Mi", "logicalVolume": {"group": "vg0"}}, uid="other")
    worlds.set_status("DrbdVolume", "other", {"observedGeneration": 1, "nodes": ["mk1", "mk2"], "resource": "other"})
    told = {"vm_shaolin": volume_state(peer=PEER_LOST), "other": volume_state(resource="other", peer=peer())}
    worlds.tell("mk2", volumes=told)
    assert no(worlds) == "AgentDown"


def test_a_vm_without_disks_needs_no_witness():
    worlds = lost()
    worlds.cache.remove_key(("DrbdVolume", "default", "vm-shaolin"), "aaaaaaaa-0000-4000-8000-000000000001")
    worlds.edit("XenVM", "shaolin", disks=[])
    assert VM_UID
    assert no(worlds) == ""


def test_both_hosts_of_a_pair_are_never_begun_whatever_is_lost():
    """Two hosts, two VMs that may fail over, both hosts proved: whichever is silent, one at most is fenced."""
    for first, second in ((True, False), (False, True), (False, False)):
        worlds = lost()
        worlds.edit("XenNode", "mk2", fencing={**SPEC, "parameters": {"ip": "10.0.1.82"}})
        proved(worlds, "mk2")
        worlds.hosts["mk1"].connected, worlds.hosts["mk2"].connected = first, second
        worlds.hosts["mk1"].silent = worlds.hosts["mk2"].silent = 61.0
        assert sum(should_fence(worlds.world, node(worlds, name)) for name in ("mk1", "mk2")) <= 1
