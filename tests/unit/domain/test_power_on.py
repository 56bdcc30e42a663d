"""A fenced host is switched on again: only where it is asked for, after the evidence and all that follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from controller.domain.actions import Decision
from controller.domain.power import PowerOn
from tests.unit.domain.lost_host import answered, begun, events, step
from tests.unit.domain.worlds import Worlds, conditions


def ons(decision: Decision) -> list[PowerOn]:
    return [command for command in decision.power if isinstance(command, PowerOn)]


def fenced(power_on: str | None = "AfterFencing") -> Worlds:
    """mk1 was switched off, and that is recorded."""
    worlds, command = begun()
    if power_on is not None:
        spec = worlds._raw["XenNode", "mk1"]["spec"]
        worlds.edit("XenNode", "mk1", fencing={**spec["fencing"], "powerOn": power_on})
    answered(worlds, command, "off", said="status: OFF")
    decision = step(worlds)
    assert "Fenced" in events(decision)
    return worlds


def vm(worlds: Worlds, node: str, phase: str, **status: Any) -> None:
    before = worlds.status("XenVM", "shaolin")
    placed = {"placement": {"node": node, "epoch": 2}, "phase": phase}
    worlds.set_status("XenVM", "shaolin", {**before, **placed, **status})


@pytest.mark.parametrize("power_on", [None, "Never"])
def test_a_fenced_host_stays_off_unless_it_is_asked_for(power_on: str | None) -> None:
    worlds = fenced(power_on)
    vm(worlds, "mk2", "Running")
    assert ons(step(worlds)) == []
    assert worlds.world.objects.host("mk1").off


def test_it_waits_until_its_vms_run_elsewhere_and_then_the_evidence_ends() -> None:
    worlds = fenced()
    assert ons(step(worlds)) == []  # still placed here
    vm(worlds, "mk2", "Starting")
    assert ons(step(worlds)) == []
    assert worlds.world.objects.host("mk1").off
    vm(worlds, "mk2", "Running")
    decision = step(worlds)
    (command,) = ons(decision)
    assert decision.status.fenced.power_on.attempt == command.attempt == 1
    assert decision.status.fenced.evidence == "status: OFF"
    assert not worlds.world.objects.host("mk1").off  # written with the request
    answered(worlds, command, "on", said="status: ON")
    decision = step(worlds)
    assert "SwitchedOn" in events(decision)
    assert conditions(decision)["Fenced"].reason == "SwitchedOn"
    assert ons(step(worlds)) == []


def test_a_vm_that_nobody_can_take_over_does_not_keep_it_off() -> None:
    worlds = fenced()
    stalled = {"type": "Stalled", "status": "True", "reason": "DiskNotUpToDate", "message": "only mk1 has the data"}
    stalled["lastTransitionTime"] = "2027-01-15T08:00:00Z"
    before = worlds.status("XenVM", "shaolin")
    worlds.set_status("XenVM", "shaolin", {**before, "conditions": [stalled]})
    assert len(ons(step(worlds))) == 1


def test_an_open_move_is_ended_first() -> None:
    worlds = fenced()
    move = {"id": "move-1", "source": "mk1", "target": "mk2", "epoch": 2, "phase": "Transfer"}
    vm(worlds, "mk2", "Running", migration={**move, "startedAt": "2027-01-15T08:00:00Z"})
    assert ons(step(worlds)) == []


def test_what_fails_is_tried_again_later_and_later() -> None:
    worlds = fenced()
    vm(worlds, "mk2", "Running")
    waits = []
    for attempt in (1, 2, 3):
        (command,) = ons(step(worlds))
        assert command.attempt == attempt
        answered(worlds, command, "failed", said="no route to host", reason="AgentFailed")
        began = worlds.now
        assert "SwitchOnFailed" in events(step(worlds))
        assert ons(step(worlds)) == []
        while not (found := ons(step(worlds))):
            worlds.now += 1
        waits.append(worlds.now - began)
        worlds.power.pop(found[0], None)
    assert waits == sorted(waits)
    assert waits[0] < waits[2]


@pytest.mark.parametrize("spec", [{"outOfService": True}, {"fencing": None}])
def test_not_where_a_person_has_taken_it_out(spec: dict[str, Any]) -> None:
    worlds = fenced()
    vm(worlds, "mk2", "Running")
    worlds.edit("XenNode", "mk1", **spec)
    assert ons(step(worlds)) == []


def test_a_host_that_lives_after_all_is_contradicted_as_before() -> None:
    worlds = fenced()
    vm(worlds, "mk2", "Running")
    step(worlds)
    worlds.hosts["mk1"].connected = True
    worlds.hosts["mk1"].silent = 0.0
    decision = step(worlds)
    assert "FencedButAlive" in events(decision)
    assert ons(decision) == []
