"""DrbdVolume: a logical volume on each of two hosts that DRBD keeps identical."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, computed_field

from controller.api.common import (
    ApiModel,
    ApiObject,
    GroupName,
    NodeName,
    OperationRecord,
    Quantity,
    Status,
    Time,
    cut,
    mebibytes,
    quantity_bytes,
)
from controller.api.rules import PATH, Rule, checked, text, validations
from controller.api.split_brain import SplitBrainChoice, SplitBrainStatus
from controller.api.volume_fencing import FencingPolicy, VerdictStatus
from controller.api.volume_rules import (
    META_DISK_RULES,
    RATE_LIMIT,
    RATE_SAY,
    SPEC_RULES,
    VOLUME_RULES,
    LogicalVolumeName,
    ResourceName,
)


class LogicalVolumeRef(ApiModel):
    """The logical volume that holds the data on each host."""

    group: GroupName
    """LVM volume group, such as vg0; each host that gets a replica must list it in its XenNode's volumeGroups."""
    name: LogicalVolumeName | None = None
    """Name of the logical volume, such as vm_shaolin; omitted: the resource's name."""


class Device(ApiModel):
    """The numbers that DRBD knows the volume by on both hosts."""

    minor: Annotated[int | None, Field(ge=0, le=1048575)] = None
    """Minor number: 1 makes /dev/drbd1. Omitted: the controller chooses one that is free on both hosts."""
    port: Annotated[
        int | None,
        checked(
            Rule(
                "!(self in [7000, 8002, 8003])",
                "7000, 8002 and 8003 belong to other services of the hosts: write another port, such as 7789",
            ),
            ge=1024,
            le=65535,
        ),
    ] = None
    """TCP port of the replication, such as 7789. Omitted: the controller chooses one that is free on both hosts."""


class MetaDisk(ApiModel):
    """Where DRBD keeps its own metadata."""

    model_config = ConfigDict(json_schema_extra=META_DISK_RULES)

    type: Literal["Internal", "External"] = "Internal"
    """Internal: at the end of the logical volume, which is therefore a little larger than the disk that the VM sees.
    External: in a logical volume of its own, named like the data's with _meta added."""
    group: GroupName | None = None
    """LVM volume group for External metadata, such as vgmeta; not used with Internal."""


class Sync(ApiModel):
    """How the replicas are made and kept identical."""

    rate: Annotated[
        str,
        checked(
            text("[1-9][0-9]{0,6}[KM]|[1-4]G", RATE_SAY),
            Rule(RATE_LIMIT, RATE_SAY),
            max_length=16,
        ),
    ] = "500M"
    """Highest speed of a resynchronisation in bytes a second, in drbd.conf's units: 500M is 500 MiB/s."""
    verify_alg: Literal["md5", "sha1", "sha256", "sha512", "crc32c"] = "sha1"
    """Checksum that an online verification compares blocks with."""


class Image(ApiModel):
    """An image of a disk or file system that is written to the volume once."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule("has(self.path) != has(self.url)", "say where the image is: write either path or url"),
        )
    )

    path: Annotated[
        str | None, checked(text(PATH, "write an absolute path, such as /srv/images/guest.img"), max_length=1024)
    ] = None
    """Absolute path of a raw image on the host that writes it."""
    url: Annotated[
        str | None,
        checked(
            Rule(
                "isURL(self) && self.startsWith('https://')",
                "write an https:// address, such as https://images.example.org/guest.img",
            ),
            max_length=2048,
        ),
    ] = None
    """https:// address of a raw image."""
    sha256: Annotated[
        str,
        checked(
            text("[0-9a-f]{64}", "write the 64 lower-case hexadecimal digits that sha256sum prints for the image"),
            max_length=128,
        ),
    ]
    """SHA-256 checksum of the image, 64 lower-case hexadecimal digits (what sha256sum prints)."""


class Content(ApiModel):
    """What is written to a new volume, once; without it the volume stays blank."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            Rule(
                "has(self.filesystem) != has(self.image)",
                "write either filesystem or image; for a blank volume leave content out",
            ),
        )
    )

    filesystem: Literal["ext4", "xfs"] | None = None
    """Make this file system on the volume."""
    image: Image | None = None
    """Write this image to the volume."""


class DrbdVolumeSpec(ApiModel):
    """What the volume shall be."""

    model_config = ConfigDict(json_schema_extra=SPEC_RULES)

    size: Annotated[Quantity, Field(json_schema_extra=mebibytes("4Mi", "1Pi"))]
    """Size of the logical volume, as given to lvcreate -L, in Kubernetes' units: 512Mi. Internal metadata is in it."""
    logical_volume: LogicalVolumeRef
    """The logical volume that holds the data on each host."""
    nodes: Annotated[
        tuple[NodeName, ...] | None,
        checked(
            Rule(
                "size(self) == 2 && self[0] != self[1]",
                "name two different XenNodes, such as [mk1, mk2], or leave nodes out",
            ),
            max_length=2,
        ),
    ] = None
    """The two XenNodes that hold a replica; omitted: the controller chooses two."""
    resource: ResourceName | None = None
    """Name of the DRBD resource; omitted: the object's name with each - replaced by _ (vm-shaolin: vm_shaolin)."""
    device: Device = Device()
    """The numbers that DRBD knows the volume by; what is omitted is allocated, and then in status.device."""
    protocol: Literal["A", "B", "C"] = "C"
    """DRBD's protocol: with C a write is complete when it is on both disks. A and B can lose the last writes when a
    host is lost."""
    meta_disk: MetaDisk = MetaDisk()
    """Where DRBD keeps its own metadata."""
    sync: Sync = Sync()
    """How the replicas are made and kept identical."""
    fencing: FencingPolicy = FencingPolicy()
    """What becomes of the disk when the hosts lose each other."""
    split_brain: SplitBrainChoice | None = None
    """Whose data stays after a split brain, which status.splitBrain shows: a person's choice."""
    content: Content | None = None
    """What is written to a new volume, once; without it the volume stays blank."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What becomes of the logical volumes when this object is deleted: Retain keeps them, renamed and tagged;
    Delete destroys the data."""

    @property
    def size_bytes(self) -> int:
        return quantity_bytes(self.size)


class DeviceStatus(ApiModel):
    """The numbers that the volume has."""

    minor: Annotated[int, Field(ge=0, le=1048575)]
    """Minor number: the device is /dev/drbd<minor> on both hosts."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """TCP port of the replication."""


class LogicalVolumeStatus(ApiModel):
    """The logical volume that was decided on."""

    group: Annotated[str, Field(max_length=127)]
    """LVM volume group."""
    name: Annotated[str, Field(max_length=127)]
    """Name of the logical volume."""


class InitialSyncStatus(ApiModel):
    """The first synchronisation: one host is forced Primary, once in the volume's life, and copies its disk over."""

    node: NodeName
    """The host that was chosen as the source, before it was told so."""
    operation: Annotated[str, Field(max_length=63)] = ""
    """Identifier of the operation."""
    started_at: Time | None = None
    """When the source was told to start."""
    completed: bool = False
    """true once both replicas were UpToDate for the first time."""


class ContentStatus(ApiModel):
    """How far spec.content has come."""

    state: Literal["None", "Writing", "Written"] = "None"
    """None, Writing, or Written: content is written only once, and never over content."""
    node: NodeName | None = None
    """The host that writes it."""
    operation: Annotated[str | None, Field(max_length=63)] = None
    """Identifier of the operation."""
    detail: Annotated[str, Field(max_length=256)] = ""
    """What was written: ext4, xfs, or image and its checksum."""


class Replica(ApiModel):
    """The replica on one host, as DRBD there sees it."""

    node: NodeName
    """Name of the XenNode."""
    disk: Annotated[str, Field(max_length=32)] = "DUnknown"
    """DRBD's disk state: UpToDate, Inconsistent, Outdated, Diskless, ...; DUnknown when the host cannot be asked."""
    role: Annotated[str, Field(max_length=32)] = "Unknown"
    """DRBD's role: Primary, Secondary or Unknown."""
    connection: Annotated[str, Field(max_length=32)] = ""
    """DRBD's connection to the other host: Connected, Connecting, StandAlone, ..."""
    out_of_sync: Quantity | None = None
    """How much of the volume differs from the other replica, as this host counts it."""


class SyncStatus(ApiModel):
    """A running synchronisation, rounded so that it isn't written with every block."""

    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """How much is done."""
    rate: Annotated[str, Field(max_length=32)] = ""
    """Speed now, such as 40 MiB/s."""
    time_left: Annotated[str, Field(max_length=32)] = ""
    """Estimated time to the end, such as 0:00:03."""
    observed_at: Time | None = None
    """When these numbers were taken."""

    @computed_field(  # type: ignore[prop-decorator]
        description="Progress in one text, for the SYNC column: 45% 40 MiB/s 0:00:03.",
        json_schema_extra={"maxLength": 160},
    )
    @property
    def summary(self) -> str:
        return " ".join(part for part in (f"{self.percent:g}%", self.rate, self.time_left) if part)


DrbdVolumePhase = Literal["Pending", "Creating", "Syncing", "Ready", "Degraded", "Deleting", "Stalled"]


class DrbdVolumeStatus(Status):
    """What the controller decided for the volume, and what both hosts say of it."""

    phase: DrbdVolumePhase | None = None
    """One word for people; conditions hold the truth."""
    resource: Annotated[str | None, Field(max_length=127)] = None
    """Name of the DRBD resource."""
    nodes: Annotated[tuple[NodeName, ...], Field(max_length=2)] = ()
    """The hosts that hold a replica."""
    device: DeviceStatus | None = None
    """Minor and port, given or allocated."""
    logical_volume: LogicalVolumeStatus | None = None
    """The logical volume on both hosts."""
    size: Annotated[int | None, Field(ge=0)] = None
    """Usable bytes: the logical volume without internal metadata, the size of the disk that the VM sees."""
    initial_sync: InitialSyncStatus | None = None
    """The first synchronisation."""
    content: ContentStatus | None = None
    """How far spec.content has come."""
    primary: Annotated[str, Field(max_length=63)] = ""
    """The host on which the volume is Primary, and so can be written to; empty: on none."""
    replicas: Annotated[
        tuple[Replica, ...],
        Field(
            max_length=2, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["node"]}
        ),
    ] = ()
    """Both replicas."""
    disk_state: Annotated[str, Field(max_length=64)] = ""
    """Disk states of both replicas as /proc/drbd shows them (ds:), such as UpToDate/UpToDate."""
    connection: Annotated[str, Field(max_length=32)] = ""
    """Connection between both hosts as /proc/drbd shows it (cs:), such as Connected."""
    verdict: VerdictStatus | None = None
    """Which side may go on without the other, after they lost each other."""
    fenced: bool = False
    """true once both replicas were seen whole with fencing in force: from then on none writes alone without a
    record."""
    frozen: Annotated[str, Field(max_length=63)] = ""
    """The host on which IO is frozen now, because it lost the other one; empty: on none."""
    split_brain: SplitBrainStatus | None = None
    """Both sides were written alone, or have nothing in common; it stays until both are whole again."""
    sync: SyncStatus | None = None
    """The running synchronisation, if there is one."""
    used_by: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64), cut(64)] = ()
    """Names of the XenVMs that have the volume as a disk."""
    operation: OperationRecord | None = None
    """The running operation, if there is one."""


class DrbdVolume(ApiObject):
    """A disk for VMs: a logical volume on each of two hosts, kept identical by DRBD."""

    model_config = ConfigDict(json_schema_extra=VOLUME_RULES)

    kind: Literal["DrbdVolume"] = "DrbdVolume"
    spec: DrbdVolumeSpec
    status: DrbdVolumeStatus = DrbdVolumeStatus()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def resource(self) -> str:
        """Name of the DRBD resource: spec.resource, else from the object's name."""
        return self.spec.resource or self.metadata.name.replace("-", "_")

    @property
    def logical_volume_name(self) -> str:
        return self.spec.logical_volume.name or self.resource

    @property
    def logical_volumes(self) -> tuple[str, ...]:
        """group/name of the logical volumes that it has on each member: the data's, then that of external metadata."""
        name, meta = self.logical_volume_name, self.spec.meta_disk
        data = f"{self.spec.logical_volume.group}/{name}"
        return (data, f"{meta.group}/{name}_meta") if meta.type == "External" else (data,)
