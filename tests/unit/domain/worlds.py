"""Worlds for the pure decisions: the real cache and view over objects as the API server gives them, hosts as agents
tell of them. Nothing here decides anything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from agent.protocol import (
    DomainConfig,
    DomainState,
    GenerationIds,
    HostFacts,
    HostState,
    LogicalVolumeState,
    OperationState,
    PeerState,
    PreflightReport,
    VmState,
    VolumeGroupState,
    VolumeState,
)
from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM
from controller.domain.actions import FINALIZER, Decision, Refused
from controller.domain.power import PowerCommand, PowerResult
from controller.domain.vm import decide_vm
from controller.domain.vm_case import VmCase
from controller.domain.volume import decide_volume
from controller.domain.world import Answer, Limits, Question, World
from controller.reconcile.view import View
from controller.runtime.cache import Cache

NOW = 1_800_000_000.0
VOLUME_UID, VM_UID = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"


@dataclass
class Told:
    """What one agent told: the attributes that the view reads of a supervisor."""

    state: HostState | None
    connected: bool = True
    versions: dict[str, int] = field(default_factory=dict)
    error: str = ""
    heard: int = 0
    silent: float = 0.0


@dataclass
class Worlds:
    """A mutable world; `volume()` and `vm()` decide, `apply` does to the objects what the shell would."""

    term: int = 1
    now: float = NOW
    hosts: dict[str, Told] = field(default_factory=dict)
    answers: dict[Question, Answer] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()
    limits: Limits = field(default_factory=Limits)
    power: dict[PowerCommand, PowerResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = Cache()
        self._version = itertools.count(1)
        self._raw: dict[tuple[str, str], dict[str, Any]] = {}

    # --- objects

    def apply(
        self, kind: str, name: str, spec: dict[str, Any], *, uid: str, namespace: str = "default", **meta: Any
    ) -> None:
        raw = {
            "apiVersion": "xentandem.io/v1alpha1",
            "kind": kind,
            "metadata": {
                "name": name,
                "uid": uid,
                "generation": 1,
                "creationTimestamp": "2027-01-01T00:00:00Z",
                "finalizers": [FINALIZER],
                **({} if kind == "XenNode" else {"namespace": namespace}),
                **meta,
            },
            "spec": spec,
            "status": {"observedGeneration": -1},
        }
        self._put(kind, name, raw)

    def edit(self, kind: str, name: str, **spec: Any) -> None:
        raw = self._raw[kind, name]
        raw["spec"] = {**raw["spec"], **spec}
        raw["metadata"]["generation"] += 1
        self._put(kind, name, raw)

    def delete(self, kind: str, name: str) -> None:
        raw = self._raw[kind, name]
        raw["metadata"]["deletionTimestamp"] = "2027-01-02T00:00:00Z"
        self._put(kind, name, raw)

    def status(self, kind: str, name: str) -> dict[str, Any]:
        return self._raw[kind, name]["status"]

    def set_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        self._raw[kind, name]["status"] = status
        self._put(kind, name, self._raw[kind, name])

    def _put(self, kind: str, name: str, raw: dict[str, Any]) -> None:
        raw["metadata"]["resourceVersion"] = str(next(self._version))
        self._raw[kind, name] = raw
        self.cache.upsert(raw)

    def node(self, name: str, **spec: Any) -> None:
        base = {"agent": {"address": "127.0.0.1"}, "replication": {"address": f"10.0.0.{80 + int(name[-1])}"}}
        self.apply(
            "XenNode",
            name,
            {**base, "volumeGroups": ["vg0"], **spec},
            uid=f"cccccccc-0000-4000-8000-00000000000{name[-1]}",
        )
        self.hosts.setdefault(name, Told(host_state(name)))

    # --- hosts

    def tell(self, host: str, **sections: Any) -> None:
        """Replace sections of what the agent says."""
        told = self.hosts[host]
        assert told.state is not None
        told.state = told.state.model_copy(update={**sections, "revision": told.state.revision + 1})

    def get(self, name: str) -> Told | None:
        return self.hosts.get(name)

    # --- decisions

    @property
    def world(self) -> World:
        view = View(self.cache, self)  # type: ignore[arg-type]
        return World(view, self.now, self.term, self.answers, self.limits, self.power)

    def decide_volume(self, name: str = "vm-shaolin") -> Decision:
        volume = self.cache.volume(("default", name))
        assert isinstance(volume, DrbdVolume)
        return decide_volume(self.world, volume, self.refused)

    def decide_vm(self, name: str = "shaolin") -> Decision:
        vm = self.cache.vm(("default", name))
        assert isinstance(vm, XenVM)
        return decide_vm(self.world, vm, self.refused)

    def desired_config(self, name: str = "shaolin") -> DomainConfig:
        """What a domain is made of that is started now."""
        vm = self.cache.vm(("default", name))
        assert isinstance(vm, XenVM)
        return VmCase(self.world, vm).desired("Running", 1).config

    def commit(self, kind: str, name: str, decision: Decision) -> None:
        if decision.status is not None:
            self.set_status(kind, name, decision.status.to_status_dict())


def host_state(name: str, **sections: Any) -> HostState:
    facts = HostFacts(
        xen_version="4.17.5",
        virt_caps=("pv", "hvm", "hap", "shadow"),
        hw_caps="00000001:00000003",
        cpu_vendor="GenuineIntel",
        cpus=2,
        memory_total_mib=8192,
        memory_free_mib=4096,
        drbd_version="8.4.11",
        drbd_disable_sendpage=True,
        bridges=("xenbr0",),
        relocation_listening=True,
        volume_groups=(VolumeGroupState(name="vg0", size=8 << 30, free=7 << 30, extent=4 << 20),),
    )
    return HostState(
        node=name,
        boot_id=f"boot-{name}",
        revision=1,
        agent_version="0.1.0",
        agent_started_at="2027-01-01T00:00:00Z",
        term=1,
        facts=sections.pop("facts", facts),
        **sections,
    )


def volume_state(**update: Any) -> VolumeState:
    """The howto's volume as a member shows it: UpToDate/UpToDate, Secondary, unless updated."""
    base = VolumeState(
        resource="vm_shaolin",
        uid=VOLUME_UID,
        namespace="default",
        name="vm-shaolin",
        minor=1,
        port=7789,
        logical_volume=LogicalVolumeState(group="vg0", name="vm_shaolin", size=512 << 20, owner_uid=VOLUME_UID),
        metadata="present",
        configured=True,
        role="Secondary",
        disk="UpToDate",
        peer=PeerState(connection="Connected", role="Secondary", disk="UpToDate", replication="Established"),
        size=(512 << 20) - 69632,
        generation=GenerationIds(current="A1B2C3D4E5F60718", bitmap="0" * 16),
        forced=True,
        content="none",
        options="C 500M sha1 10.0.0.81 10.0.0.82 fenced",
        fenced=True,
    )
    return base.model_copy(update=update)


def peer(**update: Any) -> PeerState:
    return PeerState(connection="Connected", role="Secondary", disk="UpToDate", replication="Established").model_copy(
        update=update
    )


FRESH = {
    "disk": "Inconsistent",
    "forced": False,
    "generation": GenerationIds(current="0000000000000004", bitmap="0" * 16),
    "peer": PeerState(connection="Connected", role="Secondary", disk="Inconsistent", replication="Established"),
}


def vm_state(**update: Any) -> VmState:
    base = VmState(
        uid=VM_UID,
        namespace="default",
        name="shaolin",
        epoch=1,
        granted=True,
        desired="Running",
        run=1,
        status="running",
        domid=3,
        since="2027-01-01T00:00:00Z",
    )
    return base.model_copy(update=update)


def domain_state(**update: Any) -> DomainState:
    base = DomainState(
        domid=3, name="shaolin", uuid=VM_UID, kind="main", state="running", flags="-b----", memory_mib=512, vcpus=1,
        cpu_seconds=1.0,
    )  # fmt: skip
    return base.model_copy(update=update)


def operation_state(**update: Any) -> OperationState:
    base = OperationState(
        id="x",
        kind="migrate-send",
        subject="shaolin",
        subject_uid=VM_UID,
        phase="Starting",
        started_at="2027-01-15T08:00:00Z",
    )
    return base.model_copy(update=update)


SHAOLIN_DISK = {
    "size": "512Mi",
    "logicalVolume": {"group": "vg0", "name": "vm_shaolin"},
    "nodes": ["mk1", "mk2"],
    "resource": "vm_shaolin",
    "device": {"minor": 1, "port": 7789},
}
SHAOLIN = {
    "node": "mk1",
    "memory": "512Mi",
    "maxMemory": "4Gi",
    "kernel": "/boot/xenU/vmlinuz-2.6.16.49-xenU-r1",
    "root": "/dev/hda1 ro",
    "disks": [{"volume": "vm-shaolin", "device": "hda1"}],
    "networks": [{"bridge": "xenbr0", "mac": "a0:00:00:01:00:01"}],
}


def howto(*, created: bool = False, running: bool = False) -> Worlds:
    """Two hosts, the howto's volume and VM; optionally already created, already running on mk1."""
    worlds = Worlds()
    worlds.node("mk1")
    worlds.node("mk2")
    worlds.apply("DrbdVolume", "vm-shaolin", SHAOLIN_DISK, uid=VOLUME_UID)
    worlds.apply("XenVM", "shaolin", SHAOLIN, uid=VM_UID)
    if created or running:
        role = "Primary" if running else "Secondary"
        first = volume_state(role=role, used_by=("shaolin",) if running else ())
        worlds.tell("mk1", volumes={"vm_shaolin": first})
        worlds.tell("mk2", volumes={"vm_shaolin": volume_state(forced=False, peer=peer(role=role))})
        worlds.set_status(
            "DrbdVolume",
            "vm-shaolin",
            {
                "observedGeneration": 1,
                "nodes": ["mk1", "mk2"],
                "resource": "vm_shaolin",
                "device": {"minor": 1, "port": 7789},
                "initialSync": {"node": "mk1", "operation": f"initial-sync-{VOLUME_UID}", "completed": True},
            },
        )
    if running:
        worlds.tell("mk1", vms={VM_UID: vm_state()}, domains={"3": domain_state()})
        worlds.set_status(
            "XenVM",
            "shaolin",
            {"observedGeneration": 1, "placement": {"node": "mk1", "epoch": 1}, "run": 1, "lastState": "Running"},
        )
    return worlds


def moving(**answers: PreflightReport | str) -> Worlds:
    """shaolin runs on mk1, spec.node says mk2, both agents answered the preflight."""
    worlds = howto(running=True)
    worlds.edit("XenVM", "shaolin", node="mk2")
    for question in worlds.decide_vm().ask:
        worlds.answers[question] = answers.get(question.host, PreflightReport())
    return worlds


def begun() -> tuple[Worlds, str]:
    """... and the move's record is written; with the operation's id."""
    worlds = moving()
    worlds.commit("XenVM", "shaolin", worlds.decide_vm())
    return worlds, worlds.status("XenVM", "shaolin")["migration"]["id"]


def asked(decision: Decision, kind: type[Any]) -> list[Any]:
    return [request for request in decision.requests if isinstance(request, kind)]


def conditions(decision: Decision) -> dict[str, Any]:
    assert decision.status is not None
    return {c.type: c for c in decision.status.conditions}
