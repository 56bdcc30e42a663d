"""A world in which mk1, with a VM that may fail over, has fallen silent and everything allows to fence it."""

from __future__ import annotations

from typing import Any

from controller.api.xennode import XenNode
from controller.domain.actions import Decision
from controller.domain.node import decide_node
from controller.domain.power import PowerOff, PowerResult, PowerStatus
from tests.unit.domain.worlds import Told, Worlds, host_state, howto, peer, volume_state

SPEC = {"agent": "fence_test", "parameters": {"ip": "10.0.1.81"}, "secretRef": {"name": "mk1-bmc"}}
PEER_LOST = peer(connection="Connecting", role="Unknown", disk="DUnknown", replication="Off")


def node(worlds: Worlds, name: str = "mk1") -> XenNode:
    found = worlds.cache.node(name)
    assert found is not None
    return found


def proved(worlds: Worlds, name: str = "mk1") -> None:
    """The fence agent once said "on" while the host answered."""
    fencing = node(worlds, name).spec.fencing
    assert fencing is not None
    status = {**worlds.status("XenNode", name), "fencingDevice": fencing.device, "bootID": f"boot-{name}"}
    worlds.set_status("XenNode", name, status)


def lost(**fencing: Any) -> Worlds:
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", onNodeFailure="FailOver")
    worlds.edit("XenNode", "mk1", fencing={**SPEC, **fencing})
    proved(worlds)
    worlds.hosts["mk1"] = Told(host_state("mk1"), connected=False, error="the agent is silent", silent=61.0)
    worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=PEER_LOST)})
    return worlds


def third(worlds: Worlds, **spec: Any) -> None:
    worlds.node("mk3", **spec)


def decide(worlds: Worlds, name: str = "mk1") -> Decision:
    return decide_node(worlds.world, node(worlds, name))


def step(worlds: Worlds) -> Decision:
    """Decide about mk1, and commit it."""
    decision = decide(worlds)
    worlds.commit("XenNode", "mk1", decision)
    return decision


def offs(decision: Decision) -> list[PowerOff]:
    return [command for command in decision.power if isinstance(command, PowerOff)]


def questions(decision: Decision) -> list[PowerStatus]:
    return [command for command in decision.power if isinstance(command, PowerStatus)]


def begun() -> tuple[Worlds, PowerOff]:
    """The request is written, and the fence agent asked."""
    worlds = lost()
    (command,) = offs(step(worlds))
    return worlds, command


def answered(worlds: Worlds, command: PowerOff | PowerStatus, state: Any, **more: Any) -> None:
    worlds.now += 5
    worlds.hosts[command.host].silent += 0 if worlds.hosts[command.host].connected else 5
    result = PowerResult(state, began=worlds.now - 4, at=worlds.now - 1, **more)
    worlds.power[command] = result


def events(decision: Decision) -> list[str]:
    return [event.reason for event in decision.events]
