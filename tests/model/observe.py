"""What the project's own code reads, made of a world: the agents' HostState, the XenVM, DRBD's and xl's own words.

Everything is cached by the part of the world that it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import storage
import verdicts
from states import NAMES, Domain, Fence, Host, Key, Part, Promise, World
from verdicts import LONG_AGO, VOLUME_UID

from agent import fence_records, vm_steps
from agent.drivers.drbd_parse import DrbdResource
from agent.preflight import Seen
from agent.protocol import (
    DiskConfig,
    DomainConfig,
    DomainDesired,
    DomainDisk,
    DomainState,
    GenerationIds,
    HostFacts,
    HostState,
    LogicalVolumeState,
    OperationState,
    PeerState,
    Refusal,
    VolumeState,
)
from agent.vm_disks import usable
from agent.vm_records import Now, VmRecord, vm_state

NOW = 1_800_000_000.0
VM, VOLUME, RESOURCE, MINOR = "shaolin", "vm-shaolin", "vm_shaolin", 1
VM_UID = "bbbbbbbb-0000-4000-8000-000000000002"
BOOT, EARLIER_BOOT = "boot-now", "boot-before"
AGENTS_NOW = Now(1000.0, 1000.0)
CONFIG = DomainConfig(
    memory_mib=512, max_memory_mib=512, kernel="/boot/vmlinuz", cmdline="root=/dev/hda1 ro",
    disks=(DiskConfig(resource=RESOURCE, minor=MINOR, vdev="hda1"),),
)  # fmt: skip
FACTS = HostFacts(
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
)
_REPLICATION = {"Connected": "Established", "Lost": "Off", "StandAlone": "Off"}
_CONNECTION = {"Connected": "Connected", "Syncing": "Connected", "Lost": "Connecting", "StandAlone": "StandAlone"}


@cache
def desired(state: str, epoch: int, run: int, term: int = 1) -> DomainDesired:
    return DomainDesired.model_validate(
        {
            "term": term, "epoch": epoch, "uid": VM_UID, "namespace": "default", "name": VM, "state": state,
            "run": run, "config": CONFIG, "shutdown_grace_seconds": 60.0,
        }
    )  # fmt: skip


# --- the agent's journal ------------------------------------------------------------------------------------------


@cache
def record(promise: Promise) -> VmRecord:
    """Times are long ago: whatever waits for a time has waited long enough."""
    return VmRecord(
        desired=desired(promise.state, promise.asked_epoch, promise.run),
        epoch=promise.epoch,
        granted=promise.granted,
        run=promise.run,
        boot_id=BOOT if promise.this_boot else EARLIER_BOOT,
        halted=promise.halted,
        started=CONFIG if promise.made else None,
        started_at=0.0 if promise.started else None,
        stopping_since=0.0 if promise.stopping else None,
        restart_at=0.0 if promise.restarting else None,
    )


def promise_of(kept: VmRecord) -> Promise:
    return Promise(
        state=kept.desired.state,
        asked_epoch=kept.desired.epoch,
        epoch=kept.epoch,
        granted=kept.granted,
        run=kept.run,
        this_boot=kept.boot_id == BOOT,
        halted=kept.halted,
        started=kept.started_at is not None,
        stopping=kept.stopping_since is not None,
        restarting=kept.restart_at is not None,
        made=kept.started is not None,
    )


# --- xl and DRBD --------------------------------------------------------------------------------------------------

_NAME = {"main": VM, "incoming": f"{VM}--incoming", "migratedaway": f"{VM}--migratedaway"}
_FLAGS = {"running": "-b----", "paused": "--p---", "suspended": "---ss-", "poweroff": "---s--", "crashed": "---sc-"}


@cache
def domain_states(domains: tuple[Domain, ...]) -> tuple[DomainState, ...]:
    return tuple(
        DomainState(
            domid=number,
            name=_NAME[one.kind],
            uuid=VM_UID,
            kind=one.kind,
            state=one.state,
            flags=_FLAGS[one.state],
            memory_mib=512,
            vcpus=1,
            cpu_seconds=1.0 if one.ran else 0.0,
            disks=(DomainDisk(vdev="hda1", device=f"/dev/drbd{MINOR}", attached=one.attached),),
        )
        for number, one in enumerate(domains, 1)
    )


class Disk(NamedTuple):
    """One host's DRBD as /proc/drbd has it."""

    role: str
    disk: str
    link: str
    source: bool
    peer_role: str
    peer_disk: str
    frozen: bool
    ahead: bool


def disk_of(world: World, host: int) -> Disk:
    one = world.hosts[host]
    return Disk(
        one.role, one.disk, world.link, world.source == host, storage.peer_role(world, host),
        storage.peer_disk(world, host), one.frozen, one.ahead,
    )  # fmt: skip


@cache
def _peer(disk: Disk) -> PeerState:
    syncing = "SyncSource" if disk.source else "SyncTarget"
    replication = syncing if disk.link == "Syncing" else _REPLICATION[disk.link]
    return PeerState.model_validate(
        {
            "connection": _CONNECTION[disk.link], "role": disk.peer_role, "disk": disk.peer_disk,
            "replication": replication,
        }
    )  # fmt: skip


@cache
def kernel(disk: Disk) -> Mapping[str, DrbdResource]:
    """drbdsetup's answer; nothing while the resource is not up."""
    if disk.role == "Unknown":
        return {}
    return {
        RESOURCE: DrbdResource(
            name=RESOURCE,
            minor=MINOR,
            role=disk.role,  # type: ignore[arg-type]
            disk=disk.disk,  # type: ignore[arg-type]
            suspended="fencing" if disk.frozen else "no",
            size_kib=1 << 19,
            peer=_peer(disk),
        )
    }


# --- HostState ----------------------------------------------------------------------------------------------------


def busy(host: Host) -> Part | None:
    """The VM's operation on that host that has not ended."""
    return next((part for part in host.parts if part.outcome is None), None)


def may_start(host: Host) -> bool:
    """agent.domains.Domains._may_start."""
    promise = host.promise
    return promise is not None and promise.this_boot and (promise.started or promise.restarting or host.asked)


_SHOWN = {"Owned": "Received"}  # in the journal of VMs, and not yet a phase of its own


def view_key(world: World, host: int) -> Key | None:
    """All that an agent tells, None when nobody hears it."""
    one = world.hosts[host]
    if not (one.on and one.agent and one.heard):
        return None
    told = tuple(
        part._replace(phase=_SHOWN.get(part.phase, part.phase), cancelled=False, told=False, job=False, alone=False)
        for part in one.parts
    )
    return (host, one.promise, may_start(one), told, one.domains, disk_of(world, host), _problem(world, host), one.gone,
            one.fence)  # fmt: skip


def _problem(world: World, host: int) -> tuple[str, str] | None:
    """What the VM's worker runs into now (agent.domains shows it as VmState.problem)."""
    one = world.hosts[host]
    if one.promise is None or busy(one) is not None:
        return None
    step = vm_steps.next_step(
        record(one.promise), domain_states(one.domains), now=AGENTS_NOW, may_start=may_start(one), node=NAMES[host]
    )
    if isinstance(step, vm_steps.Blocked):
        return step.refusal.reason, step.refusal.message
    against = []
    if isinstance(step, vm_steps.Create):
        against = usable(CONFIG.disks, kernel(disk_of(world, host)), NAMES[host])
    return (against[0].reason, against[0].message) if against else None


@cache
def _generation(host: int, ahead: bool) -> GenerationIds:
    """Whoever went on alone began a generation of its own, on top of the one that both had."""
    both = "A1B2C3D4E5F60718"
    if not ahead:
        return GenerationIds(current=both, bitmap="0" * 16)
    return GenerationIds(current=f"{host + 1:X}1B2C3D4E5F60710", bitmap=both)


@cache
def host_state(key: Key) -> HostState:
    host, promise, starts, parts, domains, disk, told, gone, fence = key
    assert isinstance(host, int)
    assert isinstance(disk, Disk)
    assert isinstance(fence, Fence)
    listed = domain_states(domains)
    vms = {}
    if isinstance(promise, Promise):
        problem = Refusal(reason=told[0], message=told[1]) if isinstance(told, tuple) else None
        vms[VM_UID] = vm_state(record(promise), listed, may_start=bool(starts), since=LONG_AGO, problem=problem)
    up, fenced = disk.role != "Unknown", verdicts.view(fence)
    question = fenced.question(kernel(disk).get(RESOURCE), NAMES[1 - host])
    volume = VolumeState.model_validate(
        {
            "resource": RESOURCE, "uid": VOLUME_UID, "namespace": "default", "name": VOLUME, "minor": MINOR,
            "port": 7789, "metadata": "present", "configured": up, "role": disk.role,
            "logical_volume": LogicalVolumeState(group="vg0", name=RESOURCE, size=512 << 20, owner_uid=VOLUME_UID),
            "disk": disk.disk if up else "Diskless", "peer": _peer(disk) if up else None, "size": 511 << 20,
            "generation": _generation(host, disk.ahead), "forced": host == 0,
            "suspended": "fencing" if disk.frozen else "no", "fenced": True, "fence_question": question,
            **({"fence": fenced.record.shown} if fenced.record is not None else {}),
            "options": "C 500M sha1 10.0.0.81 10.0.0.82 fenced",
            "used_by": tuple(one.name for one in listed if one.disks),
        }
    )  # fmt: skip
    return HostState(
        node=NAMES[host],
        boot_id=BOOT,
        revision=1,
        agent_version="0.1.0",
        agent_started_at=LONG_AGO,
        term=1,
        facts=FACTS,
        volumes={RESOURCE: volume},
        vms=vms,
        domains={str(one.domid): one for one in listed},
        operations={part.id: _operation(part) for part in parts},  # type: ignore[attr-defined]
        gone={VM_UID: LONG_AGO} if gone else {},
    )


@cache
def _operation(part: Part) -> OperationState:
    return OperationState.model_validate(
        {
            "id": part.id, "kind": f"migrate-{part.kind}", "subject": VM, "subject_uid": VM_UID, "phase": part.phase,
            "outcome": part.outcome, "started_at": LONG_AGO,
            "refusal": Refusal(reason=part.reason, message=part.reason) if part.reason else None,
        }
    )  # fmt: skip


def alone(world: World, host: int) -> tuple[str, ...]:
    """agent.preflight.wrote_alone. A real DRBD is frozen until that is in the journal; this one goes on at once."""
    return (RESOURCE,) if world.hosts[host].ahead else ()


def seen(world: World, host: int, *, own: str | None = None) -> Seen:
    """What a preflight weighs. `own`: the operation whose own part does not count."""
    one = world.hosts[host]
    running = busy(one)
    if running is not None and running.id == own:
        running = None
    stale = fence_records.promotable(verdicts.record(one.fence), NAMES[host], RESOURCE)
    return Seen(
        node=NAMES[host],
        facts=FACTS,
        desired=None,
        domains=domain_states(one.domains),
        drbd=kernel(disk_of(world, host)),
        files={},
        listening=True,
        record=record(one.promise) if one.promise else None,
        busy=running.id if running else None,
        alone=alone(world, host),
        stale=(stale,) if stale is not None else (),
    )
