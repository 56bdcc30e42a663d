"""A world in which mk1, which ran the VM, has failed, and what a person says of it."""

from __future__ import annotations

from typing import Any

from controller.domain.actions import Decision
from controller.domain.node import decide_node
from tests.unit.domain.test_wanted import crowd
from tests.unit.domain.worlds import (
    Worlds,
    howto,
    peer,
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


def crowded(**priorities: int) -> Worlds:
    """Five VMs run on mk1, all with FailOver."""
    worlds = whole(crowd(**priorities))
    worlds.edit("XenNode", "mk1", maintenance=False)
    for name in "abcde":
        worlds.edit("XenVM", name, onNodeFailure="FailOver")
    return worlds
