"""What the project's own code reads of a volume's world: the DrbdVolume, the agents' HostState, their journals."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import objects
from observe import FACTS, MINOR, NOW, RESOURCE
from states import Power
from verdicts import LONG_AGO
from volume_world import HOSTS, NAMES, UIDS, Intent, Job, Kernel, Lv, Record, Volume, VolumeHost, VolumeWorld

from agent.drivers.drbd_files import ResConfig
from agent.drivers.drbd_parse import DrbdResource
from agent.drivers.lvm import CONTENT_TAG, FORCED_TAG, RETAINED_TAG, owner_tag
from agent.protocol import (
    GenerationIds,
    HostState,
    InitialSync,
    LogicalVolumeState,
    OperationState,
    PeerState,
    Refusal,
    VolumeDesired,
    VolumeGroupState,
    VolumeRemoval,
)
from agent.records import VolumeRecord, assemble
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.domain.actions import DeleteVolume, Operate, PutVerdict, PutVolume, Refused, Request
from controller.domain.volume import decide_volume
from controller.domain.world import HostView, World

KEY = ("default", "vm-shaolin")
GROUPS = (VolumeGroupState(name="vg0", size=8 << 30, free=7 << 30, extent=4 << 20),)
_requests: dict[tuple[int, int, tuple[object, ...]], Request] = {}


# --- logical volumes, journal, kernel ---------------------------------------------------------------------------------


@cache
def logical_volume(one: Lv) -> LogicalVolumeState:
    name = f"retained-{RESOURCE}-{UIDS[one.uid][:8]}" if one.retained else RESOURCE
    tags = [owner_tag(UIDS[one.uid])] if one.uid >= 0 else []
    tags += [RETAINED_TAG] * one.retained + [FORCED_TAG] * one.forced_tag + [CONTENT_TAG + "ext4"] * one.content_tag
    return LogicalVolumeState(
        group="vg0",
        name=name,
        size=512 << 20,
        tags=tuple(tags),
        owner_uid=UIDS[one.uid] if one.uid >= 0 else None,
        retained=one.retained,
    )


def logical_volumes(host: VolumeHost) -> dict[str, LogicalVolumeState]:
    found = (logical_volume(one) for one in host.lvs)
    return {f"{one.group}/{one.name}": one for one in found}


@cache
def desired(uid: int, level: str, role: str) -> VolumeDesired:
    members = tuple({"node": name, "address": f"10.0.0.8{name[-1]}"} for name in NAMES)
    return VolumeDesired.model_validate(
        {
            "term": 1, "uid": UIDS[uid], "namespace": KEY[0], "name": KEY[1], "resource": RESOURCE, "minor": MINOR,
            "port": 7789, "group": "vg0", "logical_volume": RESOURCE, "size": 512 << 20, "members": members,
            "level": level, "role": role, "fencing": {},
        }
    )  # fmt: skip


def operation_id(kind: str, uid: int, attempt: int) -> str:
    if kind == "content":
        return f"content-{UIDS[uid]}-{attempt}"
    return f"initial-sync-{UIDS[uid]}" + (f"-{attempt}" if attempt > 1 else "")


def attempt_of(operation: str) -> tuple[str, int, int]:
    """(kind, uid, attempt) of an operation's id."""
    kind = "content" if operation.startswith("content-") else "force"
    uid = next(number for number, one in enumerate(UIDS) if one in operation)
    number = operation.partition(UIDS[uid])[2].removeprefix("-")
    return kind, uid, int(number) if number else 1


@cache
def record(kept: Record) -> VolumeRecord:
    wanted = desired(kept.uid, kept.level, kept.role)
    return VolumeRecord.model_validate(
        {
            "desired": wanted, "volume": kept.volume, "metadata": kept.metadata, "options": wanted.options,
            "up_in": "now" if kept.up else "", "used": kept.used,
            "forced_by": None if kept.forced_by is None else operation_id("force", kept.uid, kept.forced_by),
            "content": kept.content,
            "content_by": None if kept.content_by is None else operation_id("content", kept.uid, kept.content_by),
            "removal": VolumeRemoval.model_validate({"term": 1, "uid": UIDS[kept.uid], "policy": kept.removal})
            if kept.removal else None,
        }
    )  # fmt: skip


def configuration(host: VolumeHost) -> dict[str, ResConfig]:
    if host.configured is None:
        return {}
    owner = UIDS[host.configured]
    disks = frozenset({f"/dev/vg0/{RESOURCE}"})
    return {RESOURCE: ResConfig(RESOURCE, "x.res", owner, frozenset({MINOR}), frozenset({7789}), disks, NAMES)}


@cache
def _kernel(own: Kernel, peer: Kernel | None, link: str, source: bool) -> DrbdResource:
    linked = link in ("Connected", "Syncing")
    words = {"Off": "Connecting", "StandAlone": "StandAlone"}
    copying = "SyncSource" if source else "SyncTarget"
    other = PeerState.model_validate(
        {
            "connection": "Connected" if linked else words[link], "role": peer.role if peer and linked else "Unknown",
            "disk": peer.disk if peer and linked else "DUnknown",
            "replication": copying if link == "Syncing" else "Established" if linked else "Off",
        }
    )  # fmt: skip
    return DrbdResource(
        name=RESOURCE,
        minor=MINOR,
        role=own.role,  # type: ignore[arg-type]
        disk=own.disk,  # type: ignore[arg-type]
        suspended="no",
        size_kib=1 << 19,
        peer=other,
    )


def kernel(world: VolumeWorld, host: int) -> DrbdResource | None:
    own = world.hosts[host].kernel
    return None if own is None else _kernel(own, world.hosts[1 - host].kernel, world.link, world.source == host)


@cache
def generation(text: str) -> GenerationIds:
    return GenerationIds(current=text or "0000000000000004", bitmap="0" * 16)


# --- what an agent tells, what a decision sees ------------------------------------------------------------------------


def view(world: VolumeWorld, host: int) -> tuple[object, ...] | None:
    """All that an agent tells, None when nobody hears it."""
    one = world.hosts[host]
    if not (one.on and one.agent and one.heard):
        return None
    peer = world.hosts[1 - host].kernel
    kept = (host, one.record, one.configured, one.lvs, one.kernel)
    return (*kept, peer, world.link, world.source == host, one.jobs, one.gone)


@cache
def host_state(key: tuple[Any, ...]) -> HostState:
    host, kept, configured, lvs, own, peer, link, source, jobs, gone = key
    one = VolumeHost(record=kept, configured=configured, lvs=lvs, kernel=own)
    running = None if own is None else _kernel(own, peer, link, source)
    volumes = {}
    lv = one.lv
    if kept is not None or configured is not None or own is not None:
        volumes[RESOURCE] = assemble(
            RESOURCE,
            record(kept) if kept is not None else None,
            configuration(one).get(RESOURCE),
            running,
            True,
            logical_volume(lv) if lv is not None else None,
            generation(lv.generation) if lv is not None and lv.metadata else None,
            (),
            None,
        )
    return HostState(
        node=NAMES[host],
        boot_id="now",
        revision=1,
        agent_version="0.1.0",
        agent_started_at=LONG_AGO,
        term=1,
        facts=FACTS.model_copy(update={"volume_groups": GROUPS}),
        volumes=volumes,
        logical_volumes=logical_volumes(one),
        operations={(state := _operation(job)).id: state for job in jobs},
        gone={UIDS[uid]: LONG_AGO for uid in gone},
    )


@cache
def _operation(job: Job) -> OperationState:
    return OperationState.model_validate(
        {
            "id": operation_id(job.kind, job.uid, job.attempt),
            "kind": "initial-sync" if job.kind == "force" else "write-content",
            "subject": RESOURCE, "subject_uid": UIDS[job.uid], "phase": "Starting", "outcome": job.outcome,
            "started_at": LONG_AGO, "finished_at": LONG_AGO if job.outcome else None,
            "refusal": Refusal(reason=job.reason, message=job.reason) if job.reason else None,
        }
    )  # fmt: skip


def _intent(found: Any, done: bool) -> Intent | None:
    if found is None or found.node is None or not found.operation:
        return None
    return Intent(NAMES.index(found.node), attempt_of(found.operation)[2], done)


@cache
def volume(one: Volume, content: bool) -> DrbdVolume:
    status: dict[str, Any] = {"observedGeneration": 1}
    if one.placed:
        status |= {"nodes": list(NAMES), "resource": RESOURCE, "device": {"minor": MINOR, "port": 7789},
                   "logicalVolume": {"group": "vg0", "name": RESOURCE}}  # fmt: skip
    if one.sync is not None:
        status["initialSync"] = {
            "node": NAMES[one.sync.node], "operation": operation_id("force", one.uid, one.sync.attempt),
            "completed": one.sync.done,
        }  # fmt: skip
    if one.content is not None:
        status["content"] = {
            "node": NAMES[one.content.node], "operation": operation_id("content", one.uid, one.content.attempt),
            "state": "Written" if one.content.done else "Writing",
        }  # fmt: skip
    deleting = {"deletionTimestamp": LONG_AGO} if one.deleting else {}
    spec = {"content": {"filesystem": "ext4"}} if content else {}
    return DrbdVolume.model_validate(
        {
            "apiVersion": "xentandem.io/v1alpha1", "kind": "DrbdVolume",
            "metadata": objects._meta(KEY[1], UIDS[one.uid], namespace=KEY[0], **deleting),
            "spec": {
                "size": "512Mi", "logicalVolume": {"group": "vg0", "name": RESOURCE}, "nodes": list(NAMES),
                "resource": RESOURCE, "device": {"minor": MINOR, "port": 7789},
                "deletionPolicy": "Delete" if one.deletes else "Retain", **spec,
            },
            "status": status,
        }
    )  # fmt: skip


class Seen(objects.Objects):
    """controller.domain.world.Objects: one volume, nobody who uses it."""

    def __init__(self, one: Volume, views: tuple[Any, ...]) -> None:
        self._volume = one
        self._hosts = {NAMES[host]: _host_view(host, views[host]) for host in HOSTS}

    def volume(self, key: tuple[str, str]) -> DrbdVolume | None:
        return volume(self._volume, CONTENT) if key == KEY else None

    def vm(self, key: tuple[str, str]) -> None:
        return None

    def vms_using(self, key: tuple[str, str]) -> tuple[()]:
        return ()

    def vms_on(self, name: str) -> tuple[()]:
        return ()

    def moving(self) -> Mapping[tuple[str, str], tuple[str, str]]:
        return {}

    def volumes_on(self, name: str) -> tuple[DrbdVolume, ...]:
        return (volume(self._volume, CONTENT),)

    def claims(self, kind: str, value: str) -> tuple[tuple[str, str, str], ...]:
        return ((*KEY, UIDS[self._volume.uid]),)


CONTENT = True
"""The volume asks for a filesystem."""


@cache
def _host_view(host: int, key: tuple[Any, ...] | None) -> HostView:
    node = objects.node(NAMES[host], False, Power())
    if key is None:
        return HostView(NAMES[host], node, None, connected=False, error="no answer")
    return HostView(NAMES[host], node, host_state(key), connected=True)


# --- one look ---------------------------------------------------------------------------------------------------------


def _key(request: Request) -> tuple[object, ...]:
    match request:
        case PutVolume(body=body):
            return ("put", UIDS.index(body.uid), body.level, body.role)
        case DeleteVolume(body=removal):
            return ("remove", UIDS.index(removal.uid), removal.policy)
        case Operate(body=body):
            kind, uid, attempt = attempt_of(body.id)
            assert (kind == "force") == isinstance(body.body, InitialSync)
            return (kind, uid, attempt)
    raise AssertionError(request)


@cache
def look(
    one: Volume, views: tuple[Any, ...], term: int, refused: tuple[tuple[int, tuple[object, ...], str], ...]
) -> tuple[Volume, tuple[tuple[int, tuple[object, ...]], ...], tuple[str, ...]]:
    """The object as it is written, what is asked of agents, what is told."""
    world = World(Seen(one, views), NOW, term)
    found = world.objects.volume(KEY)
    assert found is not None
    said = tuple(
        Refused(_requests[term, host, key], Refusal(reason=why, message=why), NOW - 1000.0)
        for host, key, why in refused
    )
    decision = decide_volume(world, found, said)
    after, status = one, decision.status
    if decision.finalizer == "remove":
        after = Volume(uid=one.uid, exists=False)
    elif status is not None:
        assert isinstance(status, DrbdVolumeStatus)
        sync, content = status.initial_sync, status.content
        after = one._replace(
            placed=bool(status.nodes),
            sync=_intent(sync, sync is not None and sync.completed),
            content=_intent(content, content is not None and content.state == "Written"),
        )
    requests = []
    for request in decision.requests:
        if isinstance(request, PutVerdict):
            continue  # who may go on alone is no part of this model
        host, key = NAMES.index(request.host), _key(request)
        _requests.setdefault((term, host, key), request)
        requests.append((host, key))
    told = () if status is None else tuple(f"{c.type}={c.status} {c.reason}: {c.message}" for c in status.conditions)
    return after, tuple(requests), told
