"""Fence agents: the real decisions about switching a lost host off, and the machine that is switched off.

Silence counts as long enough at once, and a fence agent does what it says: its "off" is true when it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import objects
from observe import BOOT, NOW
from states import HOSTS, NAMES, Api, Key, Leader, Power, World

from controller.domain.conditions import Conditions
from controller.domain.fencing import decide_fencing
from controller.domain.power import PowerCommand, PowerOff, PowerResult
from controller.domain.world import World as Observed

_SWITCHING_OFF = {
    "asked": PowerResult("running", NOW - 100.0),
    "off": PowerResult("off", NOW - 100.0, NOW - 50.0, said="off"),
    "failed": PowerResult("failed", NOW - 100.0, NOW - 50.0, said="no route"),
}


class Results(Mapping[PowerCommand, PowerResult]):
    """What the leader's fence agents said: each device was tested; `said` is of switching off, if that was asked."""

    def __init__(self, said: str) -> None:
        self._said = said

    def __getitem__(self, command: PowerCommand) -> PowerResult:
        if not isinstance(command, PowerOff):
            return PowerResult("on", NOW - 2.0, NOW - 1.0)
        return _SWITCHING_OFF[self._said]

    def __iter__(self) -> Iterator[PowerCommand]:
        return iter(())

    def __len__(self) -> int:
        return 0


def look(world: World, views: tuple[Key | None, ...], host: int) -> World:
    """The leader looks at the XenNode: what it records of it, and what it asks its fence agent."""
    kept, said = world.api.power[host], world.leader.power[host]
    if not kept.device:
        return world
    wanted, asks, settled = _look(world.api, views, host, said)
    said = "asked" if asks else "" if settled or wanted.state != "fencing" else said
    api = world.api.with_power(host, **wanted._asdict())
    return world._replace(api=api, leader=_with_word(world.leader, host, said))


def _with_word(leader: Leader, host: int, said: str) -> Leader:
    return leader._replace(power=(said, leader.power[1]) if host == 0 else (leader.power[0], said))


@cache
def _look(api: Api, views: tuple[Key | None, ...], host: int, said: str) -> tuple[Power, bool, bool]:
    kept, name = api.power[host], NAMES[host]
    observed = Observed(objects.Objects(api, views), NOW, 1, power=Results(said))
    node = observed.objects.host(name).node
    assert node is not None
    made = decide_fencing(observed, node, Conditions((), 2, NOW))
    known = kept.known or views[host] is not None
    record = made.fencing if made.fenced is None else made.fenced
    state = "" if record is None else "fencing"
    if made.fenced is not None:
        state = "fenced" if made.fenced.contradicted_at is None else "contradicted"
    same = record is not None and record.boot_id == BOOT
    asks = any(isinstance(one, PowerOff) for one in made.power)
    return Power(True, state, same, known), asks, said in ("off", "failed")


def asked(world: World) -> Iterator[int]:
    """Hosts whose fence agent was asked and may switch them off: controller.reconcile.power reads the record anew."""
    for host in HOSTS:
        if world.leader.power[host] == "asked" and world.api.power[host].state == "fencing":
            yield host


def heard(world: World, host: int, said: str) -> World:
    return world._replace(leader=_with_word(world.leader, host, said))
