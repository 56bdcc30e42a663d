"""What the controller and an agent say to each other: pure data, no I/O.

Requests carry `term` (the controller's leadership number; an agent refuses a lower one than it promised) and, for a
domain, `epoch` (the number of the VM's placement; an agent runs a domain only at the highest epoch it promised).
Sizes are bytes unless the name says otherwise (`*_mib`, `*_kib`); times are RFC 3339 in UTC.

HTTP (TLS 1.3, client certificate with SAN `URI:xentandem:controller`):

    GET    /v1/state                  -> HostState
    GET    /v1/watch                  -> NDJSON of WatchEvent: one snapshot, then changes, a heartbeat every 10 s
    PUT    /v1/host                   HostDesired    -> HostState without collections
    PUT    /v1/volumes/{resource}     VolumeDesired  -> VolumeState
    DELETE /v1/volumes/{resource}     VolumeRemoval  -> 204
    PUT    /v1/domains/{name}         DomainDesired  -> VmState
    DELETE /v1/domains/{name}         DomainRemoval  -> 204
    POST   /v1/operations             OperationRequest -> OperationState (a repeated id joins the one that runs)
    DELETE /v1/operations/{id}        OperationCancel  -> OperationState
    POST   /v1/preflight              PreflightRequest -> PreflightReport

A refusal is HTTP 409 (a guard said no), 422 (the request itself is wrong), 403 (who asks) with a Refusal as the body.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

API_PORT = 8003
RELOCATION_PORT = 8002
CONTROLLER_URI = "xentandem:controller"
AGENT_URI_PREFIX = "xentandem:agent:"
HEARTBEAT_SECONDS = 10.0

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,126}$")]
"""A name that ends up in argv or a path: never an option (`-f`), never a path (`../`)."""
Uid = Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{8,64}$")]
OperationId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]

Role = Literal["Primary", "Secondary", "Unknown"]
Disk = Literal[
    "Diskless", "Attaching", "Detaching", "Failed", "Negotiating", "Inconsistent", "Outdated", "DUnknown",
    "Consistent", "UpToDate",
]  # fmt: skip
Connection = Literal[
    "StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError",
    "TearDown", "Connecting", "Connected",
]  # fmt: skip
"""DRBD 9's words (drbdsetup(8), events2); 8.4's WFConnection is Connecting."""


class Wire(BaseModel):
    """Base: unknown fields are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Refusal(Wire):
    """Why a request was refused, or why something cannot be.

    `reason` is CamelCase and stable; `message` has the numbers and says what to do.
    """

    reason: str
    message: str


# --- what is ------------------------------------------------------------------------------------------------------


class VolumeGroupState(Wire):
    name: str
    size: int
    free: int
    extent: int


class HostFacts(Wire):
    """Facts of the dom0 that placement and preflight need. None = could not be read (unknown, not absent)."""

    xen_version: str | None = None  # "4.17.5"
    virt_caps: tuple[str, ...] | None = None  # xl info: pv hvm hap shadow ...
    hw_caps: str | None = None  # xl info, eight words: equal or a superset on the target
    cpu_vendor: str | None = None  # "GenuineIntel"
    cpus: int | None = None
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None
    drbd_version: str | None = None  # kernel module, "8.4.11" or "9.1.23"
    drbd_disable_sendpage: bool | None = None
    bridges: tuple[str, ...] | None = None
    volume_groups: tuple[VolumeGroupState, ...] | None = None
    relocation_listening: bool = False


class LogicalVolumeState(Wire):
    group: str
    name: str
    size: int
    tags: tuple[str, ...] = ()
    owner_uid: str | None = None  # from the tag xentandem.uid=...; None = not ours
    retained: bool = False  # kept after deletion (tag xentandem.retained)
    open: bool | None = None


class PeerState(Wire):
    """The other side of a DRBD resource, as this host's DRBD sees it."""

    connection: Connection
    role: Role = "Unknown"
    disk: Disk = "DUnknown"
    replication: str = "Off"  # Off Established SyncSource SyncTarget WFBitMapS VerifyS PausedSyncS ...
    done_percent: float | None = None  # of the running resync or verify
    out_of_sync_kib: int | None = None
    speed_kib_s: int | None = None


class GenerationIds(Wire):
    """DRBD's generation UUIDs, upper-case hexadecimal of 16 digits (drbdmeta(8), get-gi)."""

    current: str
    bitmap: str
    history: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """Just created: no data generation yet (reference 1.7: current is ...0004)."""
        return self.current.lstrip("0") == "4"


MetadataState = Literal["none", "present", "unknown"]
ContentState = Literal["none", "writing", "written", "unknown"]


class VolumeState(Wire):
    """One DRBD resource that the agent's journal, /etc/drbd.d or the kernel knows here."""

    resource: str
    uid: str | None = None  # the DrbdVolume's uid; None = not made by Xentandem
    namespace: str | None = None
    name: str | None = None
    minor: int | None = None
    port: int | None = None
    logical_volume: LogicalVolumeState | None = None
    metadata: MetadataState = "unknown"
    configured: bool = False  # the kernel knows the resource
    role: Role = "Unknown"
    disk: Disk = "Diskless"
    peer: PeerState | None = None
    suspended: str = "no"  # "no", or events2's word: "fencing", "user", "quorum"
    size: int | None = None  # usable bytes, without metadata
    generation: GenerationIds | None = None
    forced: bool = False  # this host did the resource's one initial forced promotion (journal and LV tag)
    content: ContentState = "none"
    content_detail: str = ""  # "ext4", "xfs", "image sha256:..."
    options: str = ""  # VolumeDesired.options as installed
    used_by: tuple[str, ...] = ()  # names of the domains here that have it as a disk
    problem: Refusal | None = None  # what the last attempt to reach the desired state ran into


DomainKind = Literal["main", "incoming", "migratedaway", "zombie"]


class DomainDisk(Wire):
    vdev: str
    device: str  # /dev/drbd1
    attached: bool  # blkback has the device open: sysfs physical_device is set (reference 0.3)


class DomainState(Wire):
    """One line of `xl list -v` (without Domain-0), managed or not."""

    domid: int
    name: str  # as xl says: NAME, NAME--incoming, NAME--migratedaway, (null)
    uuid: str | None
    kind: DomainKind
    state: Literal["running", "paused", "suspended", "poweroff", "reboot", "crashed", "dying"]
    flags: str  # the six columns, "-b----"
    memory_mib: int
    vcpus: int
    cpu_seconds: float
    disks: tuple[DomainDisk, ...] | None = None  # None = not read


class RestartState(Wire):
    count: int = 0  # since it last ran for ten minutes
    next_at: str | None = None
    last_reason: Literal["reboot", "crash", "poweroff"] | None = None


class VmState(Wire):
    """What the agent promised and keeps for one XenVM (its journal), and how it stands."""

    uid: str
    namespace: str
    name: str
    epoch: int  # highest promised here
    granted: bool  # True: this host may run it at `epoch`. False: released, or only promised away
    desired: Literal["Running", "Paused", "Stopped", "Released"]
    run: int  # the controller's count of starts that were asked for
    status: Literal["absent", "starting", "running", "paused", "stopping", "halted", "crashed", "preserved", "unknown"]
    halted_reason: Literal["poweroff", "crash", "reboot"] | None = None  # by the guest itself in this run
    domid: int | None = None
    since: str | None = None  # when `status` became so
    restart: RestartState = RestartState()
    started: DomainConfig | None = None  # what its last domain here was made of; None: not known
    problem: Refusal | None = None


OperationKind = Literal["initial-sync", "write-content", "migrate-send", "migrate-receive"]
Outcome = Literal["Succeeded", "Failed", "Cancelled"]


class TransferProgress(Wire):
    """Read from the migration stream's own headers (reference 6.10), not estimated."""

    round: int = 0  # precopy round, from 0
    pages_sent: int = 0
    pages_total: int = 0  # pages of the guest
    bytes_sent: int = 0
    rate_bytes_s: float = 0.0
    percent: float = 0.0  # never runs backwards


class OperationStep(Wire):
    name: str
    at: str


class OperationState(Wire):
    """An operation's durable record, phase by phase.

    migrate-send:    Starting -> Precopy -> StopAndCopy -> HandOver -> Demoted -> Done
    migrate-receive: Listening -> Receiving -> Received -> Promoting -> Attaching -> Unpausing -> Done
    """

    id: str
    kind: OperationKind
    subject: str  # resource or domain name
    subject_uid: str
    phase: str
    outcome: Outcome | None = None  # None: still running
    refusal: Refusal | None = None  # why Failed
    cancellable: bool = False
    started_at: str
    finished_at: str | None = None
    steps: tuple[OperationStep, ...] = ()  # every phase with its time
    transfer: TransferProgress | None = None
    percent: float | None = None  # write-content


class HostState(Wire):
    node: str  # uname -n
    boot_id: str
    revision: int  # grows with every change since the agent's start
    agent_version: str
    agent_started_at: str
    term: int  # highest promised
    desired: HostDesired | None = None
    facts: HostFacts = HostFacts()
    volumes: dict[str, VolumeState] = {}  # by resource
    vms: dict[str, VmState] = {}  # by uid
    domains: dict[str, DomainState] = {}  # by str(domid)
    logical_volumes: dict[str, LogicalVolumeState] = {}  # by "group/name"
    operations: dict[str, OperationState] = {}  # by id
    problems: tuple[Refusal, ...] = ()  # of the host itself: a probe that could not be read, a foreign drbd config


class WatchEvent(Wire):
    """A line of GET /v1/watch. `changed`: values by section and key; None = gone."""

    type: Literal["snapshot", "changed", "heartbeat"]
    boot_id: str
    revision: int
    state: HostState | None = None  # snapshot
    facts: HostFacts | None = None  # changed
    term: int | None = None
    desired: HostDesired | None = None
    problems: tuple[Refusal, ...] | None = None
    volumes: dict[str, VolumeState | None] = {}
    vms: dict[str, VmState | None] = {}
    domains: dict[str, DomainState | None] = {}
    logical_volumes: dict[str, LogicalVolumeState | None] = {}
    operations: dict[str, OperationState | None] = {}


# --- what shall be ------------------------------------------------------------------------------------------------


class HostDesired(Wire):
    """What the XenNode's spec says of this host (the howto's xend-config.sxp among it)."""

    term: int
    volume_groups: tuple[Name, ...]
    replication_address: str
    relocation_enabled: bool = True
    relocation_address: str = ""
    relocation_port: int = RELOCATION_PORT
    relocation_allow_from: tuple[str, ...] = ()  # node names; empty = every agent of the CA


class Member(Wire):
    node: str
    address: str  # replication address, without port


class VolumeDesired(Wire):
    """What one DRBD resource shall be on this host. Idempotent; level by level, never downwards.

    level Reserved: the names, minor and port are this uid's here (refused if anything else has them), nothing made.
    level Provisioned: tagged LV, metadata where none is, configuration installed.
    level Up: attached and connecting. `role` is honoured at level Up only.
    """

    term: int
    uid: Uid
    namespace: Name
    name: Name
    resource: Name
    minor: Annotated[int, Field(ge=0, le=1048575)]
    port: Annotated[int, Field(ge=1, le=65535)]
    group: Name
    logical_volume: Name
    size: Annotated[int, Field(gt=0)]  # of the LV, bytes
    metadata_group: Name | None = None  # external metadata: LV `<logical_volume>_meta` in this group
    members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=2)]
    protocol: Literal["A", "B", "C"] = "C"
    resync_rate: Annotated[str, Field(pattern=r"^[0-9]+[KMG]?$")] = "500M"  # bytes per second, drbd.conf's units
    verify_alg: Name = "sha1"
    level: Literal["Reserved", "Provisioned", "Up"] = "Up"
    role: Literal["Primary", "Secondary"] = "Secondary"

    @property
    def options(self) -> str:
        """What may change in the volume's life: "C 500M sha1 10.0.0.81 10.0.0.82" (the members' addresses)."""
        addresses = (member.address for member in self.members)
        return " ".join((self.protocol, self.resync_rate, self.verify_alg, *addresses))


class VolumeRemoval(Wire):
    """Down, then: Retain = the LV is renamed, tagged and kept; Delete = removed. Refused while a domain uses it."""

    term: int
    uid: Uid
    policy: Literal["Retain", "Delete"]


class DiskConfig(Wire):
    resource: Name
    minor: int
    vdev: Annotated[str, Field(pattern=r"^(xvd|hd|sd)[a-z]{1,2}[0-9]{0,3}$")]
    mode: Literal["r", "w"] = "w"


class NetworkConfig(Wire):
    bridge: Name
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]


class DomainConfig(Wire):
    """xl.cfg(5): what the guest is made of. Free text never holds quotes, control characters or newlines."""

    type: Literal["pv", "pvh", "hvm"] = "pv"
    memory_mib: Annotated[int, Field(gt=0)]
    max_memory_mib: Annotated[int, Field(gt=0)]
    vcpus: Annotated[int, Field(gt=0)] = 1
    kernel: str | None = None
    ramdisk: str | None = None
    bootloader: str | None = None
    cmdline: str = ""  # "root=/dev/hda1 ro ..." made from spec.root and spec.extra
    disks: tuple[DiskConfig, ...] = ()
    networks: tuple[NetworkConfig, ...] = ()


class DomainDesired(Wire):
    """What one VM shall be on this host.

    Running, Paused: needs epoch >= the promised one; promises and grants it, then creates with the disks Primary and
    UpToDate here. Stopped: clean shutdown, destroyed after `shutdown_grace_seconds`; keeps the grant.
    Released: promises `epoch` to another host and gives up the grant; refused while a domain of it is here.
    """

    term: int
    epoch: Annotated[int, Field(ge=1)]
    uid: Uid
    namespace: Name
    name: Name  # the domain's name
    state: Literal["Running", "Paused", "Stopped", "Released"]
    run: int = 1
    config: DomainConfig
    on_poweroff: Literal["destroy", "restart", "preserve"] = "destroy"
    on_reboot: Literal["destroy", "restart", "preserve"] = "restart"
    on_crash: Literal["destroy", "restart", "preserve"] = "restart"
    shutdown_grace_seconds: float = 60.0


class DomainRemoval(Wire):
    """Forget a VM that is stopped: its configuration and promises. Refused while a domain of it is here."""

    term: int
    uid: Uid
    epoch: int


class ImageSource(Wire):
    path: str | None = None  # a file on the dom0
    url: str | None = None  # https only
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class InitialSync(Wire):
    """Force this host Primary once in the resource's life (drbdadm primary --force).

    Only while both sides are Inconsistent, connected and fresh, and no member ever did it.
    """

    kind: Literal["initial-sync"] = "initial-sync"
    resource: Name
    uid: Uid


class WriteContent(Wire):
    """mkfs or an image, once, onto a volume that never had content; needs Primary here."""

    kind: Literal["write-content"] = "write-content"
    resource: Name
    uid: Uid
    filesystem: Literal["ext4", "xfs"] | None = None
    image: ImageSource | None = None


class MigrateSend(Wire):
    """Source side of a live migration; `domain.epoch` is the one it runs at (e)."""

    kind: Literal["migrate-send"] = "migrate-send"
    domain: DomainDesired
    target: Name
    target_address: str
    target_port: int = RELOCATION_PORT


class MigrateReceive(Wire):
    """Target side; `domain.epoch` is e+1, which becomes this host's when its DRBD sees the source Secondary."""

    kind: Literal["migrate-receive"] = "migrate-receive"
    domain: DomainDesired
    source: Name


OperationBody = Annotated[InitialSync | WriteContent | MigrateSend | MigrateReceive, Field(discriminator="kind")]


class OperationRequest(Wire):
    id: OperationId
    term: int
    body: OperationBody


class OperationCancel(Wire):
    """Stop an operation that can still be stopped without harm; `NotCancellable` after the hand-over began."""

    term: int
    uid: Uid


class PreflightRequest(Wire):
    """Would this VM run here (`target`), can it leave here (`source`)? Changes nothing."""

    side: Literal["source", "target", "start"]
    domain: DomainDesired


class PreflightReport(Wire):
    """Every reason at once; empty = nothing in the way."""

    refusals: tuple[Refusal, ...] = ()


VmState.model_rebuild()
HostState.model_rebuild()
WatchEvent.model_rebuild()
