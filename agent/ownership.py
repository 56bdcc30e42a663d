"""Guards on ownership: a resource's name, minor, port and logical volume belong to one DrbdVolume on a host.

Pure, as `agent.guards`; what holds the name (another volume, or something made by hand) is named in the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.guards import Guard
from agent.protocol import LogicalVolumeState, Refusal, VolumeDesired
from agent.records import VolumeRecord

if TYPE_CHECKING:
    from agent.drivers.drbd import ResConfig
    from agent.drivers.drbd_parse import DrbdResource


@dataclass(frozen=True, slots=True)
class OwnershipFacts:
    """Who has the names that a VolumeDesired asks for. None: could not be read."""

    node: str
    desired: VolumeDesired
    records: Mapping[str, VolumeRecord]  # this journal, all resources
    logical_volumes: Mapping[str, LogicalVolumeState] | None  # by group/name
    configured: Mapping[str, ResConfig] | None  # /etc/drbd.d, ours and others'
    kernel: Mapping[str, DrbdResource] | None

    @property
    def mine(self) -> VolumeRecord | None:
        record = self.records.get(self.desired.resource)
        return record if record is not None and record.desired.uid == self.desired.uid else None

    @property
    def others(self) -> Iterator[tuple[str, VolumeRecord]]:
        mine = self.desired.resource
        return (item for item in self.records.items() if item[0] != mine)

    @property
    def known_as_ours(self) -> bool:
        """What runs under this name is ours: the journal, the configuration's owner, or (both lost) the LV's tag."""
        volume = (self.logical_volumes or {}).get(f"{self.desired.group}/{self.desired.logical_volume}")
        return self.mine is not None or self.desired.uid in (
            self.configuration.owner_uid if self.configuration else None,
            volume.owner_uid if volume else None,
        )

    @property
    def only_reserved(self) -> bool:
        """The journal keeps the names for it, and nothing here uses them yet."""
        mine = self.mine
        return (
            mine is not None
            and (mine.desired.level, mine.volume, mine.metadata) == ("Reserved", "none", "none")
            and self.configuration is None
            and self.desired.resource not in (self.kernel or {})
        )

    @property
    def configuration(self) -> ResConfig | None:
        return (self.configured or {}).get(self.desired.resource)


def everything_readable(facts: OwnershipFacts) -> Refusal | None:
    """LVM, /etc/drbd.d and the kernel's DRBD must be readable: what cannot be seen may be taken."""
    for name, value in (
        ("LVM", facts.logical_volumes),
        ("the DRBD configuration in /etc/drbd.d", facts.configured),
        ("DRBD", facts.kernel),
    ):
        if value is None:
            return Refusal(
                reason="Unreadable",
                message=f"{name} could not be read on {facts.node}, so nobody knows what is taken there; tried again",
            )
    return None


def host_is_member(facts: OwnershipFacts) -> Refusal | None:
    """The volume names this host as one of its members."""
    nodes = [member.node for member in facts.desired.members]
    if facts.node in nodes:
        return None
    return Refusal(
        reason="NotAMember", message=f"{facts.desired.resource} belongs on {' and '.join(nodes)}, this is {facts.node}"
    )


def identity_unchanged(facts: OwnershipFacts) -> Refusal | None:
    """What an existing resource is made of never changes under its data."""
    if facts.mine is None:
        return None
    old, new = facts.mine.desired, facts.desired
    free = ("minor", "port") if facts.only_reserved else ()  # the other member may have refused them
    for field in ("minor", "port", "group", "logical_volume", "metadata_group"):
        if field not in free and getattr(old, field) != getattr(new, field):
            return Refusal(
                reason="Immutable",
                message=f"{field} of {new.resource} is {getattr(old, field)} here and cannot become"
                f" {getattr(new, field)}; make a new volume",
            )
    if {member.node for member in old.members} != {member.node for member in new.members}:
        return Refusal(reason="Immutable", message=f"the members of {new.resource} cannot change while it exists")
    if new.size < old.size:
        return Refusal(
            reason="Shrink", message=f"{new.resource} has {old.size} bytes; {new.size} would cut off data at its end"
        )
    return None


def resource_free(facts: OwnershipFacts) -> Refusal | None:
    """The resource's name belongs to this volume, not to another one or to something made by hand."""
    resource = facts.desired.resource
    record = facts.records.get(resource)
    if record is not None and facts.mine is None:
        return Refusal(
            reason="ResourceTaken",
            message=f"resource {resource} on {facts.node} belongs to {record.owner} (uid {record.desired.uid})",
        )
    found = facts.configuration
    if found is not None and found.owner_uid != facts.desired.uid:
        who = f"the DrbdVolume with uid {found.owner_uid}" if found.owner_uid else "somebody else"
        return Refusal(
            reason="ResourceTaken", message=f"resource {resource} on {facts.node} is in {found.path}, written by {who}"
        )
    if resource in (facts.kernel or {}) and not facts.known_as_ours:
        return Refusal(
            reason="ResourceTaken",
            message=f"resource {resource} is up in the kernel of {facts.node} and was not made by Xentandem",
        )
    return None


def minor_free(facts: OwnershipFacts) -> Refusal | None:
    """/dev/drbd<minor> belongs to this resource alone."""
    minor, resource = facts.desired.minor, facts.desired.resource
    for name, record in facts.others:
        if record.desired.minor == minor:
            return _taken("MinorTaken", f"minor {minor}", facts.node, f"resource {name} of {record.owner}")
    for name, configuration in (facts.configured or {}).items():
        if name != resource and minor in configuration.minors:
            return _taken("MinorTaken", f"minor {minor}", facts.node, f"resource {name} in {configuration.path}")
    for name, running in (facts.kernel or {}).items():
        if name != resource and running.minor == minor:
            return _taken("MinorTaken", f"minor {minor}", facts.node, f"resource {name}, which is up in the kernel")
    return None


def port_free(facts: OwnershipFacts) -> Refusal | None:
    """The replication port belongs to this resource alone."""
    port, resource = facts.desired.port, facts.desired.resource
    for name, record in facts.others:
        if record.desired.port == port:
            return _taken("PortTaken", f"port {port}", facts.node, f"resource {name} of {record.owner}")
    for name, configuration in (facts.configured or {}).items():
        if name != resource and port in configuration.ports:
            return _taken("PortTaken", f"port {port}", facts.node, f"resource {name} in {configuration.path}")
    return None


def logical_volume_free(facts: OwnershipFacts) -> Refusal | None:
    """The LV does not exist yet or carries this volume's uid; the same for the LV of external metadata."""
    desired = facts.desired
    wanted = [f"{desired.group}/{desired.logical_volume}"]
    if desired.metadata_group:
        wanted.append(f"{desired.metadata_group}/{desired.logical_volume}_meta")
    for key in wanted:
        for _, record in facts.others:
            # most have another name, and that is quickly seen
            if record.desired.logical_volume in key and key in (record.lv_key, record.metadata_key):
                return _taken("LogicalVolumeTaken", f"logical volume {key}", facts.node, record.owner)
        for name, configuration in (facts.configured or {}).items():
            if name != desired.resource and f"/dev/{key}" in configuration.disks:
                user = f"resource {name} in {configuration.path}"
                return _taken("LogicalVolumeTaken", f"logical volume {key}", facts.node, user)
        volume = (facts.logical_volumes or {}).get(key)
        if volume is None or volume.owner_uid == desired.uid:
            continue
        who = f"the DrbdVolume with uid {volume.owner_uid}" if volume.owner_uid else "something not made by Xentandem"
        return _taken("LogicalVolumeTaken", f"logical volume {key}", facts.node, who)
    return None


def _taken(reason: str, what: str, node: str, who: str) -> Refusal:
    return Refusal(reason=reason, message=f"{what} on {node} is taken by {who}; choose another one")


RESERVE: tuple[Guard[OwnershipFacts], ...] = (
    host_is_member,
    everything_readable,
    identity_unchanged,
    resource_free,
    minor_free,
    port_free,
    logical_volume_free,
)
