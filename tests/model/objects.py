"""The API server's objects, and what a decision sees of them and of the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from observe import BOOT, EARLIER_BOOT, MINOR, RESOURCE, VM, VM_UID, VOLUME, host_state
from states import HOSTS, NAMES, NODES, Api, Displaced, Key, Last, Move, Placement, Power, Verdict
from verdicts import LONG_AGO, VOLUME_UID, recorded

from controller.api.drbdvolume import DrbdVolume
from controller.api.fencing import FencingSpec
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.actions import FINALIZER
from controller.domain.world import HostView
from controller.domain.world import Key as ObjectName

VM_KEY, VOLUME_KEY = ("default", VM), ("default", VOLUME)


def _meta(name: str, uid: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uid": uid, "generation": 2, "resourceVersion": "1", "finalizers": [FINALIZER], **more}


@cache
def node(name: str, out_of_service: bool, power: Power, maintenance: bool = False) -> XenNode:
    fencing = {"fencing": {"agent": "fence_test", "parameters": {"ip": "10.0.1.81"}}} if power.device else {}
    return XenNode.model_validate(
        {
            "apiVersion": "xentandem.io/v1alpha1", "kind": "XenNode", "metadata": _meta(name, f"cccccccc-{name}"),
            "spec": {
                "agent": {"address": "127.0.0.1"}, "replication": {"address": f"10.0.0.8{name[-1]}"},
                "volumeGroups": ["vg0"], "outOfService": out_of_service,
                "maintenance": maintenance, **fencing,
            },
            "status": _power(name, power) if power.device else {},
        }
    )  # fmt: skip


def _power(name: str, power: Power) -> dict[str, Any]:
    """XenNode.status of a host with a fence agent that was tested."""
    device = FencingSpec(agent="fence_test", parameters={"ip": "10.0.1.81"}).device
    told: dict[str, Any] = {"bootID": BOOT if power.known else EARLIER_BOOT, "fencingDevice": device}
    record = {"operation": f"fence-{name}", "bootID": BOOT if power.same_boot else EARLIER_BOOT, "device": device}
    if power.state == "fencing":
        told["fencing"] = {**record, "requestedAt": LONG_AGO, "reason": "silent", "notBefore": LONG_AGO}
    elif power.state:
        wrong = {"contradictedAt": LONG_AGO} if power.state == "contradicted" else {}
        told["fenced"] = {**record, "at": LONG_AGO, "evidence": "off", **wrong}
    return told


@cache
def volume(verdict: Verdict | None = None) -> DrbdVolume:
    return DrbdVolume.model_validate(
        {
            "apiVersion": "xentandem.io/v1alpha1", "kind": "DrbdVolume",
            "metadata": _meta(VOLUME, VOLUME_UID, namespace="default"),
            "spec": {
                "size": "512Mi", "logicalVolume": {"group": "vg0", "name": RESOURCE}, "nodes": list(NAMES),
                "resource": RESOURCE, "device": {"minor": MINOR, "port": 7789},
            },
            "status": {
                "observedGeneration": 2, "nodes": list(NAMES), "resource": RESOURCE,
                "device": {"minor": MINOR, "port": 7789},
                "initialSync": {"node": "mk1", "operation": f"initial-sync-{VOLUME_UID}", "completed": True},
                "fenced": True, **({"verdict": recorded(verdict)} if verdict else {}),
            },
        }
    )  # fmt: skip


@cache
def vm(api: Api) -> XenVM:
    status: dict[str, Any] = {"observedGeneration": 2 if api.acted_on else 1, "run": api.run}
    if api.placement is not None:
        status["placement"] = {"node": NAMES[api.placement.node], "epoch": api.placement.epoch}
    if api.phase is not None:
        status["phase"] = api.phase
    if api.last_state is not None:
        status["lastState"] = api.last_state
    if (move := api.move) is not None:
        status["migration"] = {
            "id": move.id, "source": NAMES[move.source], "target": NAMES[move.target], "epoch": move.epoch,
            "phase": "Transfer", "startedAt": LONG_AGO, "cancelRequested": move.cancelling, "outcome": move.outcome,
        }  # fmt: skip
    if (last := api.last) is not None:
        status["lastMigration"] = {
            "id": "x", "source": NAMES[1 - last.target], "target": NAMES[last.target], "outcome": last.outcome,
            "startedAt": LONG_AGO, "finishedAt": LONG_AGO, "failures": 1 if last.outcome == "Failed" else 0,
        }  # fmt: skip
    if (away := api.displaced) is not None:
        status["displaced"] = {"from": NODES[away.origin], "reason": away.reason, "since": LONG_AGO}
    deleting = {"deletionTimestamp": LONG_AGO} if api.deleting else {}
    return XenVM.model_validate(
        {
            "apiVersion": "xentandem.io/v1alpha1", "kind": "XenVM",
            "metadata": _meta(VM, VM_UID, namespace="default", **deleting),
            "spec": {
                "node": NODES[api.node], "state": api.state, "onNodeFailure": api.on_failure,
                "priority": api.priority, "memory": "512Mi",
                "kernel": "/boot/vmlinuz", "root": "/dev/hda1 ro", "disks": [{"volume": VOLUME, "device": "hda1"}],
            },
            "status": status,
        }
    )  # fmt: skip


def api_of(before: Api, changed: XenVM) -> Api:
    """`before` with the status that a decision writes."""
    status = changed.status
    move, last, placement, away = status.migration, status.last_migration, status.placement, status.displaced
    return before._replace(
        acted_on=status.observed_generation == changed.metadata.generation,
        placement=Placement(NAMES.index(placement.node), placement.epoch) if placement else None,
        phase=status.phase,
        run=status.run,
        last_state=status.last_state,
        move=Move(
            move.id, NAMES.index(move.source), NAMES.index(move.target), move.epoch, move.cancel_requested, move.outcome
        )
        if move
        else None,
        last=Last(NAMES.index(last.target), last.outcome) if last else None,
        displaced=Displaced(NODES.index(away.from_node), away.reason) if away else None,
    )


class Objects:
    """controller.domain.world.Objects over one world's parts."""

    def __init__(self, api: Api, views: Sequence[Key | None]) -> None:
        self._api = api
        self._hosts = {
            NAMES[host]: _host_view(NAMES[host], api.out_of_service[host], api.power[host], views[host])
            for host in HOSTS
        }

    def host(self, name: str) -> HostView:
        return self._hosts[name] if name in self._hosts else HostView(name, None)

    def silent(self, name: str) -> float:
        return 0.0 if self._hosts[name].live is not None else 1000.0  # silence is long enough at once

    def hosts(self) -> Mapping[str, HostView]:
        return self._hosts

    def volume(self, key: ObjectName) -> DrbdVolume | None:
        return volume(self._api.verdict) if key == VOLUME_KEY else None

    def vm(self, key: ObjectName) -> XenVM | None:
        return vm(self._api) if key == VM_KEY and self._api.exists else None

    def vms_using(self, key: ObjectName) -> tuple[XenVM, ...]:
        return (vm(self._api),) if key == VOLUME_KEY and self._api.exists else ()

    def vms_on(self, name: str) -> tuple[XenVM, ...]:
        placement, move = self._api.placement, self.moving().get(VM_KEY, ())
        there = self._api.exists and (name in move or (placement is not None and NAMES[placement.node] == name))
        return (vm(self._api),) if there else ()

    def moving(self) -> Mapping[ObjectName, tuple[str, str]]:
        move = self._api.move
        if not self._api.exists or move is None or move.outcome is not None:
            return {}
        return {VM_KEY: (NAMES[move.source], NAMES[move.target])}

    def volumes_on(self, name: str) -> tuple[DrbdVolume, ...]:
        return (volume(self._api.verdict),)

    def claims(self, kind: str, value: str) -> tuple[tuple[str, str, str], ...]:
        if kind == "domain":
            return (("default", VM, VM_UID),) if self._api.exists else ()
        return (("default", VOLUME, VOLUME_UID),)

    def used_minors(self) -> frozenset[int]:
        return frozenset({MINOR})

    def used_ports(self) -> frozenset[int]:
        return frozenset({7789})


@cache
def _host_view(name: str, out_of_service: bool, power: Power, key: Key | None) -> HostView:
    found = node(name, out_of_service, power)
    if key is None:
        return HostView(name, found, None, connected=False, error="no answer")
    return HostView(name, found, host_state(key), connected=True)
