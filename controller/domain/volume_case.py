"""One DrbdVolume with everything that a decision about it may look at, and the questions asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from agent.protocol import Member, OperationState, Refusal, VolumeDesired, VolumeState
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.api.xenvm import XenVM
from controller.domain.actions import PutVolume, Refused
from controller.domain.world import HostView, World, operation_on, vm_on, volume_on

PORT_BASE = 7788
"""port = base + minor, as the howto's 7789 for minor 1; off the ephemeral range and off 7000."""
PORTS = range(PORT_BASE + 1, 1 << 16)
OTHERS_PORTS = frozenset({7000, 8002, 8003})
"""Of other services of the hosts, as spec.device.port's own rule says: never chosen for a replication."""


def initial_sync_id(uid: str) -> str:
    """One id for the whole life of the volume: however often it is asked for, it is the same operation."""
    return f"initial-sync-{uid.lower()}"[:63]


def created(status: DrbdVolumeStatus, volume: DrbdVolume) -> bool:
    """Were both replicas UpToDate once, and is the content that was asked for on them?"""
    content_done = volume.spec.content is None or (status.content is not None and status.content.state == "Written")
    return status.initial_sync is not None and status.initial_sync.completed and content_done


@dataclass(frozen=True)
class VolumeCase:
    """`volume.status` holds the decided members, device and intents; what hosts say is in the views."""

    world: World
    volume: DrbdVolume
    refused: tuple[Refused, ...] = ()
    written: DrbdVolumeStatus | None = None

    def planned(self, status: DrbdVolumeStatus) -> VolumeCase:
        """The same case with a status that is to be written; `before` stays the one that is."""
        volume = self.volume.model_copy(update={"status": status})
        return VolumeCase(self.world, volume, self.refused, self.before)

    @property
    def before(self) -> DrbdVolumeStatus:
        """The status as the API server has it."""
        return self.written if self.written is not None else self.volume.status

    @property
    def uid(self) -> str:
        return self.volume.metadata.uid

    @property
    def resource(self) -> str:
        return self.volume.resource

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.volume.status.nodes

    @cached_property
    def hosts(self) -> tuple[HostView, ...]:
        return tuple(self.world.objects.host(name) for name in self.nodes)

    @cached_property
    def views(self) -> dict[str, VolumeState | None]:
        """By node: the resource as this uid's, or None when it is unknown or not there."""
        found = {host.name: volume_on(host, self.resource) for host in self.hosts}
        return {name: view if view and view.uid == self.uid else None for name, view in found.items()}

    def view(self, node: str) -> VolumeState | None:
        return self.views.get(node)

    @cached_property
    def known(self) -> tuple[VolumeState, ...]:
        return tuple(view for view in self.views.values() if view is not None)

    @cached_property
    def consumers(self) -> tuple[XenVM, ...]:
        """VMs whose spec names the volume, oldest name first."""
        vms = self.world.objects.vms_using((self.volume.metadata.namespace, self.volume.metadata.name))
        return tuple(sorted(vms, key=lambda vm: vm.metadata.name))

    @cached_property
    def silent(self) -> tuple[HostView, ...]:
        """Members whose agent does not answer now: what they hold is unknown."""
        return tuple(host for host in self.hosts if host.live is None)

    def everywhere(self) -> bool:
        """Does every member have the resource as ours, by a current view?"""
        return len(self.known) == len(self.nodes) == 2

    def up_to_date(self) -> bool:
        """UpToDate/UpToDate and connected, by every current view; one is enough, for DRBD tells of both sides."""
        return bool(self.known) and all(
            view.disk == "UpToDate"
            and view.peer is not None
            and view.peer.connection == "Connected"
            and view.peer.disk == "UpToDate"
            for view in self.known
        )

    def primaries(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if (view := self.view(node)) and view.role == "Primary")

    def wanted_primary(self) -> str | None:
        """Where a VM runs or shall run with it. A move's target is promoted by the agents themselves."""
        for vm in self.consumers:
            node = vm.status.placement.node if vm.status.placement else vm.spec.node
            stopped = vm.spec.state == "Stopped" and vm.status.phase in ("Stopped", None)
            if node in self.nodes and not vm.deleting and not stopped:
                return node
        return None

    def busy_with_migration(self) -> bool:
        """While a guest moves that has the volume, roles are the agents' business alone.

        Also one whose spec dropped the disk since its start.
        """
        moving = any(vm.status.migration and vm.status.migration.outcome is None for vm in self.consumers)
        return moving or any(self._moves_at(host) for host in self.hosts)

    def _moves_at(self, host: HostView) -> bool:
        return any(
            disk.resource == self.resource
            for uid in host.moves_by_vm
            if (vm := vm_on(host, uid)) is not None and vm.started is not None
            for disk in vm.started.disks
        )

    def first_source(self) -> str:
        """Which member is forced Primary: once written to status never chosen again."""
        if self.volume.status.initial_sync:
            return self.volume.status.initial_sync.node
        return self.wanted_primary() or self.nodes[0]

    def operation(self, operation_id: str) -> OperationState | None:
        for host in self.hosts:
            if found := operation_on(host, operation_id):
                return found
        return None

    def fresh_everywhere(self) -> Refusal | None:
        """Force needs proof: both sides new, Inconsistent and connected, and nobody was ever forced."""
        for node in self.nodes:
            view = self.view(node)
            if view is None:
                return Refusal(reason="ReplicaUnknown", message=f"the replica on {node} cannot be seen now")
            if view.disk != "Inconsistent" or view.peer is None or view.peer.connection != "Connected":
                return Refusal(
                    reason="NotFresh",
                    message=f"{node} says disk:{view.disk}, connection:"
                    f"{view.peer.connection if view.peer else 'none'}; a first sync needs Inconsistent, Connected",
                )
            if view.generation is None:
                return Refusal(reason="ReplicaUnknown", message=f"the metadata on {node} is being read")
            if not view.generation.fresh:
                return Refusal(
                    reason="NotFresh",
                    message=f"the metadata on {node} is not new: it belongs to earlier data, and is never forced over. "
                    "If that data is not needed, delete this DrbdVolume and make it anew",
                )
        return None

    def describable(self) -> bool:
        """Can `desired` say it all: is the device decided, and is there a XenNode for each member?"""
        return self.volume.status.device is not None and all(host.node is not None for host in self.hosts)

    def desired(self, node: str, level: str, role: str) -> VolumeDesired:
        """What the volume shall be on one member; complete each time. Only if `describable`."""
        spec, status = self.volume.spec, self.volume.status
        assert status.device is not None
        return VolumeDesired.model_validate(
            {
                "term": self.world.term,
                "uid": self.uid,
                "namespace": self.volume.metadata.namespace,
                "name": self.volume.metadata.name,
                "resource": self.resource,
                "minor": status.device.minor,
                "port": status.device.port,
                "group": spec.logical_volume.group,
                "logical_volume": self.volume.logical_volume_name,
                "size": spec.size_bytes,
                "metadata_group": spec.meta_disk.group if spec.meta_disk.type == "External" else None,
                "members": tuple(Member(node=host.name, address=_replication(host)) for host in self.hosts),
                "protocol": spec.protocol,
                "resync_rate": spec.sync.rate,
                "verify_alg": spec.sync.verify_alg,
                "fencing": {"continue_after": spec.fencing.continue_after},
                "level": level,
                "role": role,
            }
        )

    def put(self, node: str, level: str = "Up", role: str = "Secondary") -> PutVolume:
        return PutVolume(node, self.desired(node, level, role))


def _replication(host: HostView) -> str:
    assert host.node is not None
    return host.node.spec.replication.address
