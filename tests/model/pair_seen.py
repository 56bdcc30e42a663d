"""What a controller sees of two VMs on up to three hosts, and what it decides of one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import casting
import controllers
import objects
import observe
import verdicts
from casting import At
from controllers import Outcome
from states import Api, Fence, Key, Power, Verdict

from agent.protocol import HostState
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import XenVMStatus
from controller.domain.actions import Decision, Operate
from controller.domain.vm import decide_vm
from controller.domain.volume import decide_volume
from controller.domain.world import Answer, HostView, Limits, Question, World
from controller.domain.world import Key as ObjectName

LIMITS = Limits(per_host=1, per_cluster=1)
VMS: tuple[ObjectName, ObjectName] = (("default", "shaolin"), ("default", "monk"))
VOLUMES: tuple[ObjectName, ObjectName] = (("default", "vm-shaolin"), ("default", "vm-monk"))
Told = tuple[tuple[str, str, str], ...]
"""Conditions of one VM that decisions about others read: type, status, reason."""


class Seen(NamedTuple):
    """`at`: where the volumes are. `memory`: MiB of each host. The rest is of each VM, under its own names."""

    at: tuple[At, At]
    memory: tuple[int, int, int]
    apis: tuple[Api, Api]
    told: tuple[Told, Told]
    views: tuple[tuple[Key | None, ...], tuple[Key | None, ...]]


class Objects:
    """controller.domain.world.Objects."""

    def __init__(self, seen: Seen) -> None:
        self._at = seen.at
        self._hosts = {name: _host(seen, number) for number, name in enumerate(casting.HOSTS)}
        self._vms = {
            VMS[index]: vm(index, seen.at[index], seen.apis[index], seen.told[index])
            for index in (0, 1)
            if seen.apis[index].exists
        }
        self._volumes = {VOLUMES[index]: volume(index, seen.at[index], seen.apis[index].verdict) for index in (0, 1)}

    def host(self, name: str) -> HostView:
        return self._hosts[name] if name in self._hosts else HostView(name, None)

    def silent(self, name: str) -> float:
        return 0.0

    def hosts(self) -> Mapping[str, HostView]:
        return self._hosts

    def volume(self, key: ObjectName) -> DrbdVolume | None:
        return self._volumes.get(key)

    def vm(self, key: ObjectName) -> XenVM | None:
        return self._vms.get(key)

    def vms_using(self, key: ObjectName) -> tuple[XenVM, ...]:
        users = (vm for vm, disk in zip(VMS, VOLUMES, strict=True) if disk == key)
        return tuple(self._vms[vm] for vm in users if vm in self._vms)

    def vms_on(self, name: str) -> tuple[XenVM, ...]:
        moving = self.moving()
        return tuple(
            vm
            for key, vm in self._vms.items()
            if name in moving.get(key, ()) or (vm.status.placement is not None and vm.status.placement.node == name)
        )

    def moving(self) -> Mapping[ObjectName, tuple[str, str]]:
        moves = {key: vm.status.migration for key, vm in self._vms.items()}
        return {key: (one.source, one.target) for key, one in moves.items() if one is not None and one.outcome is None}

    def volumes_on(self, name: str) -> tuple[DrbdVolume, ...]:
        return tuple(one for one in self._volumes.values() if name in one.status.nodes)

    def claims(self, kind: str, value: str) -> tuple[tuple[str, str, str], ...]:
        if kind == "domain":
            found = [vm.metadata for key, vm in self._vms.items() if key[1] == value]
        else:
            found = [one.metadata for one in self._volumes.values() if value in _claimed(one)]
        return tuple((one.namespace or "", one.name, one.uid) for one in found)

    def used_minors(self) -> frozenset[int]:
        return frozenset({1, 2})

    def used_ports(self) -> frozenset[int]:
        return frozenset({7789, 7790})


def _claimed(one: DrbdVolume) -> tuple[str, ...]:
    device = one.status.device
    numbers = (str(device.minor), str(device.port)) if device is not None else ()
    return (one.resource, *one.logical_volumes, *numbers)


# --- objects ----------------------------------------------------------------------------------------------------------


@cache
def vm(index: int, at: At, api: Api, told: Told) -> XenVM:
    found = casting.model(index, at, objects.vm(api), outward=True)
    conditions = [
        {"type": kind, "status": status, "reason": reason, "lastTransitionTime": verdicts.LONG_AGO}
        for kind, status, reason in told
    ]
    status = {**found.status.to_status_dict(), "conditions": conditions}
    return found.model_copy(update={"status": XenVMStatus.model_validate(status)})


@cache
def volume(index: int, at: At, verdict: Verdict | None) -> DrbdVolume:
    return casting.model(index, at, objects.volume(verdict), outward=True)


def _host(seen: Seen, number: int) -> HostView:
    places = [(index, at.index(number)) for index, at in enumerate(seen.at) if number in at]
    apis = tuple((seen.apis[index].out_of_service[host], seen.apis[index].maintenance[host]) for index, host in places)
    views = tuple((index, seen.at[index], seen.views[index][host]) for index, host in places)
    return _host_view(number, any(off for off, _ in apis), any(kept for _, kept in apis), views, seen.memory[number])


@cache
def _host_view(
    number: int, off: bool, maintenance: bool, views: tuple[tuple[int, At, Key | None], ...], memory: int
) -> HostView:
    name = casting.HOSTS[number]
    node = objects.node(name, off, Power(), maintenance)
    states = [state(index, at, key) for index, at, key in views if key is not None]
    if not states and views:
        return HostView(name, node, None, connected=False, error="no answer")
    domains = {key: one for found in states for key, one in found.domains.items()}
    held = sum(one.memory_mib or 0 for one in domains.values())
    made = {
        "node": name,
        "facts": observe.FACTS.model_copy(update={"memory_total_mib": memory, "memory_free_mib": memory - held}),
        "volumes": {key: one for found in states for key, one in found.volumes.items()},
        "vms": {key: one for found in states for key, one in found.vms.items()},
        "operations": {key: one for found in states for key, one in found.operations.items()},
        "gone": {key: one for found in states for key, one in found.gone.items()},
        "domains": domains,
    }
    base = states[0] if states else observe.host_state(_NOTHING)
    return HostView(name, node, base.model_copy(update=made), connected=True)


_NOTHING: Key = (0, None, False, (), (), observe.Disk("Unknown", "Diskless", "Lost", False, "", "", False, False), None,
                 False, Fence())  # fmt: skip


@cache
def state(index: int, at: At, key: Key) -> HostState:
    found = casting.model(index, at, observe.host_state(key), outward=True)
    if index == 0:
        return found
    domains = {f"1{one.domid}": one.model_copy(update={"domid": 10 + one.domid}) for one in found.domains.values()}
    return found.model_copy(update={"domains": domains})


# --- decisions --------------------------------------------------------------------------------------------------------


@cache
def decide(
    seen: Seen, index: int, term: int, refusals: controllers.Refusals, answered: tuple[tuple[Question, Answer], ...]
) -> tuple[Outcome, Told] | tuple[Question, ...]:
    """Of the VM."""
    at, api = seen.at[index], seen.apis[index]
    world = World(Objects(seen), observe.NOW, term, dict(answered), LIMITS)
    found = world.objects.vm(VMS[index])
    assert found is not None
    said = tuple(
        type(one)(casting.request(index, at, one.request, outward=True), one.refusal, one.at)
        for one in controllers.refused(term, refusals)
    )
    decision = decide_vm(world, found, said)
    if decision.ask:
        return decision.ask
    written = api
    told = seen.told[index]
    if decision.finalizer == "remove":
        written = controllers.removed(api)
    elif isinstance(decision.status, XenVMStatus):
        status = casting.inside(index, at, json.dumps(decision.status.to_status_dict()))
        before = objects.vm(api)
        changed = before.model_copy(update={"status": XenVMStatus.model_validate_json(status)})
        written = objects.api_of(api, changed)
        kinds = ("Placed", "Stalled")
        told = tuple((c.type, c.status, c.reason) for c in decision.status.conditions if c.type in kinds)
    requests = _requests(decision, index, at, term)
    after = written if written != api else None
    return Outcome(after, requests, controllers.explanations(decision), controllers.is_settled(decision)), told


def _requests(decision: Decision, index: int, at: At, term: int) -> tuple[tuple[int, Key], ...]:
    """What follows a split brain is not explored: see controllers.look_volume."""
    asked = (casting.request(index, at, one, outward=False) for one in decision.requests)
    explored = (one for one in asked if not isinstance(one, Operate) or one.body.body.kind.startswith("migrate"))
    return tuple(controllers.noted(one, term) for one in explored)


@cache
def decide_of_volume(seen: Seen, index: int, term: int) -> Outcome:
    at, api = seen.at[index], seen.apis[index]
    world = World(Objects(seen), observe.NOW, term, limits=LIMITS)
    found = world.objects.volume(VOLUMES[index])
    assert found is not None
    decision = decide_volume(world, found)
    assert isinstance(decision.status, DrbdVolumeStatus)
    status = DrbdVolumeStatus.model_validate_json(
        casting.inside(index, at, json.dumps(decision.status.to_status_dict()))
    )
    after = api._replace(verdict=verdicts.verdict_of(status.verdict))
    told = tuple(f"{one.type}={one.status} {one.reason}: {one.message}" for one in status.conditions)
    return Outcome(after if after != api else None, _requests(decision, index, at, term), told)
