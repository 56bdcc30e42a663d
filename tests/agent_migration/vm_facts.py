"""Facts for the pure decisions' tests: a good case of each kind, to be changed in one place per test."""

from __future__ import annotations

from typing import Any

from agent.drivers.drbd import DrbdResource
from agent.protocol import (
    DiskConfig,
    DomainConfig,
    DomainDesired,
    DomainState,
    HostDesired,
    HostFacts,
    NetworkConfig,
    PeerState,
)
from agent.vm_records import VmRecord

UID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
NAME = "shaolin"
NODE = "mk1"
DISK = DiskConfig(resource="vm_shaolin", minor=1, vdev="xvda")


def config(**changes: Any) -> DomainConfig:
    values: dict[str, Any] = {
        "memory_mib": 128,
        "max_memory_mib": 256,
        "kernel": "/boot/vmlinuz",
        "disks": (DISK,),
        "networks": (NetworkConfig(bridge="xenbr0", mac="a0:00:00:01:00:01"),),
    }
    return DomainConfig(**(values | changes))


def desired(**changes: Any) -> DomainDesired:
    values: dict[str, Any] = {
        "term": 1,
        "epoch": 3,
        "uid": UID,
        "namespace": "default",
        "name": NAME,
        "state": "Running",
        "config": config(),
    }
    return DomainDesired(**(values | changes))


def record(state: str = "Running", **changes: Any) -> VmRecord:
    wish = changes.pop("desired", None) or desired(state=state)
    values: dict[str, Any] = {"desired": wish, "epoch": 3, "granted": True, "run": 1, "boot_id": "boot-1"}
    return VmRecord(**(values | changes))


FLAGS = {
    "running": "-b----", "paused": "--p---", "suspended": "---ss-", "poweroff": "---s--", "reboot": "---sr-",
    "crashed": "---sc-", "dying": "--ps-d",
}  # fmt: skip
SUFFIX = {"main": "", "incoming": "--incoming", "migratedaway": "--migratedaway"}


def domain(state: str = "running", kind: str = "main", **changes: Any) -> DomainState:
    values: dict[str, Any] = {
        "domid": 7,
        "name": "(null)" if kind == "zombie" else NAME + SUFFIX[kind],
        "uuid": UID,
        "kind": kind,
        "state": state,
        "flags": FLAGS[state],
        "memory_mib": 128,
        "vcpus": 1,
        "cpu_seconds": 0.0 if kind == "incoming" else 12.5,
    }
    return DomainState(**(values | changes))


def drbd(*, peer: dict[str, Any] | None = None, **changes: Any) -> dict[str, DrbdResource]:
    """Primary/Secondary, UpToDate/UpToDate, Connected."""
    seen = {"connection": "Connected", "role": "Secondary", "disk": "UpToDate", "replication": "Established"}
    values: dict[str, Any] = {
        "name": "vm_shaolin",
        "minor": 1,
        "role": "Primary",
        "disk": "UpToDate",
        "suspended": "no",
        "size_kib": 65496,
        "peer": PeerState(**(seen | (peer or {}))),
    }
    return {"vm_shaolin": DrbdResource(**(values | changes))}


def facts(**changes: Any) -> HostFacts:
    values: dict[str, Any] = {
        "xen_version": "4.17.5",
        "virt_caps": ("pv", "hvm", "hap", "shadow"),
        "memory_free_mib": 1024,
        "drbd_disable_sendpage": True,
        "bridges": ("xenbr0",),
    }
    return HostFacts(**(values | changes))


def host(**changes: Any) -> HostDesired:
    values: dict[str, Any] = {"term": 1, "volume_groups": ("vg0",), "replication_address": "10.0.0.81"}
    return HostDesired(**(values | changes))
