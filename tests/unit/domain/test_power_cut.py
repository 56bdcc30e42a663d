"""Row 23: both hosts lose power, and one alone comes back. Its disk is Consistent: good when it lost the other."""

from __future__ import annotations

import pytest

from controller.domain.actions import PutDomain, PutVerdict, PutVolume
from tests.unit.domain.failed_host import ALONE, failed, off, silent, whole
from tests.unit.domain.verdict_facts import given
from tests.unit.domain.worlds import VM_UID, Worlds, asked, conditions, howto, vm_state, volume_state


def came_back(worlds: Worlds, node: str = "mk2", disk: str = "Consistent") -> Worlds:
    """It has been rebooted, and DRBD there does not find its peer."""
    worlds.tell(node, volumes={"vm_shaolin": volume_state(disk=disk, peer=ALONE)}, domains={})
    return worlds


def home_lost() -> Worlds:
    """The VM is mk1's, and mk1 stays away."""
    return came_back(failed(onNodeFailure="FailOver"))


def other_lost() -> Worlds:
    """The VM is mk1's, which is back, and mk2 stays away."""
    worlds = whole(howto(running=True))
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    silent(worlds, "mk2")
    worlds.tell("mk1", vms={VM_UID: vm_state(status="absent", domid=None)})
    return came_back(worlds, "mk1")


def test_row_23_nobody_is_promoted_and_it_is_said_what_helps() -> None:
    for worlds, lost, back in ((home_lost(), "mk1", "mk2"), (other_lost(), "mk2", "mk1")):
        assert given(worlds.decide_volume()) is None
        decision = worlds.decide_vm()
        assert not asked(decision, PutVolume)
        if back == "mk1":
            told = conditions(decision)["Stalled"]
            assert told.reason == "DiskNotUpToDate"
            assert f"outOfService: true on XenNode {lost}" in told.message


def test_row_23_the_vms_own_host_goes_on_when_the_other_one_is_known_to_be_off() -> None:
    worlds = off(other_lost(), "mk2")
    waits = worlds.decide_vm()
    assert not waits.requests
    assert conditions(waits)["Reconciling"].reason == "VerdictPending"
    assert "Stalled" not in conditions(waits)
    verdict = worlds.decide_volume()
    assert given(verdict) == (1, "mk1", "mk2", "Fenced")
    worlds.commit("DrbdVolume", "vm-shaolin", verdict)
    (told,) = asked(worlds.decide_volume(), PutVerdict)
    assert told.host == "mk1"
    decision = worlds.decide_vm()
    assert [(put.host, put.body.role) for put in asked(decision, PutVolume)] == [("mk1", "Primary")]


def test_row_23_the_other_host_takes_over_when_the_vms_own_is_known_to_be_off() -> None:
    worlds = off(home_lost())
    assert given(worlds.decide_volume()) is None, "nobody needs the disk of a VM that is placed on mk1"
    decision = worlds.decide_vm()
    assert decision.status.placement.node == "mk2"
    assert not decision.requests, "the placement is on record first, then comes the verdict"
    worlds.commit("XenVM", "shaolin", decision)
    verdict = worlds.decide_volume()
    assert given(verdict) == (1, "mk2", "mk1", "Fenced")
    worlds.commit("DrbdVolume", "vm-shaolin", verdict)
    assert [(put.host, put.body.role) for put in asked(worlds.decide_vm(), PutVolume)] == [("mk2", "Primary")]
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(role="Primary", peer=ALONE)})
    assert [put.host for put in asked(worlds.decide_vm(), PutDomain)] == ["mk2"]


@pytest.mark.parametrize("disk", ["Outdated", "Inconsistent", "Diskless"])
def test_row_23_what_is_not_good_is_not_made_good_by_the_others_end(disk: str) -> None:
    worlds = came_back(off(other_lost(), "mk2"), "mk1", disk)
    assert given(worlds.decide_volume()) is None
    assert conditions(worlds.decide_vm())["Stalled"].reason == "DiskNotUpToDate"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"fenced": False}, "NotFenced"),
        (
            {"verdict": {"number": 3, "survivor": "mk2", "stale": "mk1", "reason": "PeerLost", "at": "2026-01-01"}},
            "RecordedStale",
        ),
    ],
)
def test_row_23_not_if_the_other_one_may_have_written_alone(status: dict[str, object], reason: str) -> None:
    worlds = off(other_lost(), "mk2")
    worlds.set_status("DrbdVolume", "vm-shaolin", {**worlds.status("DrbdVolume", "vm-shaolin"), **status})
    verdict = given(worlds.decide_volume())
    assert verdict is None or verdict[1] == "mk2"
    told = conditions(worlds.decide_vm())["Stalled"]
    assert told.reason == reason
