"""What is: the state of a host, and how it changes."""

from __future__ import annotations

from typing import Literal

from agent.protocol.base import Connection, Disk, Refusal, Role, Wire
from agent.protocol.desired import DomainConfig, HostDesired, Verdict


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
    certificate_expires_at: str | None = None  # the agent's own certificate, RFC 3339


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


class FenceQuestion(Wire):
    """This host lost its peer and must not go on with the volume before a verdict.

    wants "io": it is Primary and its IO is frozen. "promotion": it is to be promoted without its peer.
    """

    peer: str
    wants: Literal["io", "promotion"]
    since: str | None = None  # when the agent noticed


class FenceState(Wire):
    """What the agent's journal has of a volume's fencing."""

    verdict: Verdict | None = None  # the highest one that is durable here
    given_back: bool = False  # it named this host as survivor, and both sides were seen whole since
    continued_at: str | None = None  # IO went on by policy, without a verdict


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
    fenced: bool = False  # VolumeDesired.fencing is in force
    fence: FenceState = FenceState()
    fence_question: FenceQuestion | None = None
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


OperationKind = Literal[
    "initial-sync", "write-content", "snapshot", "discard-changes", "migrate-send", "migrate-receive"
]
Outcome = Literal["Succeeded", "Failed", "Cancelled"]


class TransferProgress(Wire):
    """Read from the migration stream's own headers (reference 6.10), not estimated."""

    round: int = 0  # precopy round, from 0
    pages_sent: int = 0
    pages_total: int = 0  # pages of the guest
    bytes_sent: int = 0
    rate_bytes_s: float = 0.0  # of memory
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
    gone: dict[str, str] = {}  # uids of objects that were deleted here for good: when
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
    gone: dict[str, str | None] = {}
