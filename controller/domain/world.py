"""The world as it was observed: the input of every decision. Facts with their age, nothing derived by hope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from agent.protocol import (
    DomainState,
    HostState,
    OperationState,
    PreflightReport,
    PreflightRequest,
    VmState,
    VolumeState,
)
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.power import PowerCommand, PowerResult

Key = tuple[str, str]
"""(namespace, name)."""


NO_ANSWER_YET = "no answer yet"
"""`HostView.error` of an agent that was not yet reached, nor failed to be."""


@dataclass(frozen=True)
class HostView:
    """One dom0 as its agent last told; a new one for each change of its state.

    `state` is None when it never told; stale when `connected` is False.
    """

    name: str
    node: XenNode | None
    state: HostState | None = None
    connected: bool = False  # the watch is alive and its last line is no older than its limit
    error: str = ""  # why it is not connected
    heard_since_fenced: bool = False  # the agent said anything after status.fenced, as it stands, was decided

    @property
    def off(self) -> bool:
        """Whether there is evidence that the host is off: a person's word (spec.outOfService), or a fence agent's
        (status.fenced) that nothing contradicts. Silence is none, and a host that answers is not off; nor is one that
        is being switched on again.
        """
        if self.node is None or self.live is not None:
            return False
        fenced = self.node.status.fenced
        stands = fenced is not None and (fenced.contradicted_at, fenced.power_on) == (None, None)
        if stands and not self.heard_since_fenced:
            return True
        return self.node.spec.out_of_service

    @property
    def recorded_off(self) -> bool:
        """Whether status.fenced still says so, also of a host that answers again: until the end of that is committed,
        the next controller may take it for evidence."""
        fenced = self.node.status.fenced if self.node is not None else None
        return fenced is not None and fenced.contradicted_at is None

    @property
    def live(self) -> HostState | None:
        """The state if it is current, else None: what is not current is unknown."""
        return self.state if self.connected else None

    @cached_property
    def domains_by_name(self) -> Mapping[str, tuple[DomainState, ...]]:
        """Current domains by uuid and by name, so that looking for one VM costs the same on a full host."""
        found: dict[str, tuple[DomainState, ...]] = {}
        for domain in self.live.domains.values() if self.live else ():
            for key in {domain.name, domain.uuid or domain.name}:
                found[key] = (*found.get(key, ()), domain)
        return found

    @cached_property
    def moves_by_vm(self) -> Mapping[str, tuple[OperationState, ...]]:
        """Migrations that are open on this host, by the VM's uid."""
        found: dict[str, tuple[OperationState, ...]] = {}
        for operation in self.live.operations.values() if self.live else ():
            if operation.outcome is None and operation.kind in ("migrate-send", "migrate-receive"):
                found[operation.subject_uid] = (*found.get(operation.subject_uid, ()), operation)
        return found


class Objects(Protocol):
    """Read-only view of the object cache with its indexes; every lookup is O(1) or O(answer)."""

    def host(self, name: str) -> HostView: ...
    def hosts(self) -> Mapping[str, HostView]: ...
    def silent(self, name: str) -> float:
        """Seconds since the host's agent was last heard; at most since this controller began to listen to it."""
        ...

    def volume(self, key: Key) -> DrbdVolume | None: ...
    def vm(self, key: Key) -> XenVM | None: ...
    def vms_using(self, volume: Key) -> tuple[XenVM, ...]:
        """VMs whose spec.disks name the volume."""
        ...

    def vms_on(self, node: str) -> tuple[XenVM, ...]:
        """VMs that are placed on the node, or move from or to it; also by a status that is being written."""
        ...

    def moving(self) -> Mapping[Key, tuple[str, str]]:
        """VMs on a live move: (source, target); also by a status that is being written."""
        ...

    def volumes_on(self, node: str) -> tuple[DrbdVolume, ...]:
        """Volumes whose status.nodes holds the node."""
        ...

    def claims(self, kind: str, value: str) -> tuple[tuple[str, str, str], ...]:
        """(namespace, name, uid) of the objects that claim a name, the holder first.

        Kinds: minor, port, lv ("group/name"), resource, domain. The holder has it in status, or else is the oldest
        object that declares it in spec (by creationTimestamp, then uid).
        """
        ...

    def used_minors(self) -> frozenset[int]:
        """Minors in any DrbdVolume's spec or status."""
        ...

    def used_ports(self) -> frozenset[int]: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A live read that a decision needs before it may be made (the shell asks, then decides again)."""

    host: str
    body: PreflightRequest  # its side: source, target or start


Answer = PreflightReport | str
"""What was answered, or, as a text, why it could not be."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many live moves that nobody asked for by name (maintenance, failback) may be on their way at the same time.

    One stream fills a gigabit link; a second one uses the pauses in which the first hands over. More would only make
    each of them longer, and with it the time in which its guest writes pages again that were sent already.
    """

    per_host: int = 2  # as source and as target together
    per_cluster: int = 4


@dataclass(frozen=True, slots=True)
class World:
    """All that one decision about one object may look at. `now` is Unix time, seconds."""

    objects: Objects
    now: float
    term: int
    answers: Mapping[Question, Answer] = field(default_factory=dict)
    limits: Limits = Limits()
    power: Mapping[PowerCommand, PowerResult] = field(default_factory=dict)


def volume_on(view: HostView, resource: str) -> VolumeState | None:
    """The resource on that host, if the host's state is current and knows it."""
    live = view.live
    return live.volumes.get(resource) if live else None


def vm_on(view: HostView, uid: str) -> VmState | None:
    live = view.live
    return live.vms.get(uid) if live else None


def operation_on(view: HostView, operation_id: str) -> OperationState | None:
    live = view.live
    return live.operations.get(operation_id) if live else None


def domains_on(view: HostView, uid: str, name: str) -> tuple[DomainState, ...]:
    """Every domain there with the VM's uuid or with its name in any form, the zombie's among them by uuid."""
    index = view.domains_by_name
    keys = (uid, name, f"{name}--incoming", f"{name}--migratedaway")
    found = {domain.domid: domain for key in keys for domain in index.get(key, ())}
    return tuple(found.values())
