"""Facts for the guards' tests: a good case of each kind, to be changed in one place per test."""

from __future__ import annotations

from typing import Any

from agent.drivers.drbd import DrbdResource, ResConfig
from agent.protocol import DomainDisk, DomainState, LogicalVolumeState, Member, PeerState, VolumeDesired
from agent.records import VolumeRecord

UID = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"


def desired(**changes: Any) -> VolumeDesired:
    values: dict[str, Any] = {
        "term": 1,
        "uid": UID,
        "namespace": "default",
        "name": "vm-shaolin",
        "resource": "vm_shaolin",
        "minor": 1,
        "port": 7789,
        "group": "vg0",
        "logical_volume": "vm_shaolin",
        "size": 64 << 20,
        "members": (Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82")),
    }
    return VolumeDesired(**(values | changes))


def record(**changes: Any) -> VolumeRecord:
    return VolumeRecord(**({"desired": desired(), "volume": "made", "metadata": "created"} | changes))


def other_record(**changes: Any) -> VolumeRecord:
    values = {"uid": OTHER, "name": "other", "resource": "other", "minor": 2, "port": 7790, "logical_volume": "other"}
    return record(desired=desired(**(values | changes)))


def volume(name: str = "vm_shaolin", owner: str | None = UID, tags: tuple[str, ...] = ()) -> LogicalVolumeState:
    return LogicalVolumeState(group="vg0", name=name, size=64 << 20, owner_uid=owner, tags=tags)


def config(name: str, **changes: Any) -> ResConfig:
    values: dict[str, Any] = {
        "path": f"/etc/drbd.d/{name}.res",
        "owner_uid": None,
        "minors": frozenset({9}),
        "ports": frozenset({7799}),
        "disks": frozenset({"/dev/vg0/foreign"}),
        "hosts": ("mk1", "mk2"),
    }
    return ResConfig(name=name, **(values | changes))


def kernel(name: str = "vm_shaolin", *, peer: dict[str, Any] | None = None, **changes: Any) -> DrbdResource:
    """Connected, Secondary/Secondary, UpToDate/UpToDate."""
    seen = {"connection": "Connected", "role": "Secondary", "disk": "UpToDate", "replication": "Established"}
    values: dict[str, Any] = {
        "name": name,
        "minor": 1,
        "role": "Secondary",
        "disk": "UpToDate",
        "suspended": "no",
        "size_kib": 65496,
        "peer": PeerState(**(seen | (peer or {}))),
    }
    return DrbdResource(**(values | changes))


def domain(domid: int = 3, device: str | None = "/dev/drbd1", **changes: Any) -> DomainState:
    disks = None if device is None else (DomainDisk(vdev="xvda", device=device, attached=True),)
    values: dict[str, Any] = {
        "domid": domid,
        "name": "shaolin",
        "uuid": OTHER,
        "kind": "main",
        "state": "running",
        "flags": "-b----",
        "memory_mib": 512,
        "vcpus": 1,
        "cpu_seconds": 1.0,
        "disks": disks,
    }
    return DomainState(**(values | changes))
