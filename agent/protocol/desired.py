"""What shall be: the bodies of the requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agent.protocol.base import (
    RELOCATION_PORT,
    Address,
    IpAddress,
    Minor,
    Name,
    Number,
    OperationId,
    Path,
    Port,
    Refusal,
    Text,
    Uid,
    Wire,
)


class HostDesired(Wire):
    """What the XenNode's spec says of this host (the howto's xend-config.sxp among it)."""

    term: Number
    volume_groups: tuple[Name, ...]
    replication_address: Address
    relocation_enabled: bool = True
    relocation_address: Annotated[str, Field(pattern=r"^([0-9A-Za-z:][0-9A-Za-z:._-]{0,252})?$")] = ""
    relocation_port: Annotated[int, Field(ge=0, le=65535)] = RELOCATION_PORT  # 0: one that the kernel chooses
    relocation_allow_from: tuple[Name, ...] = ()  # node names; empty = every agent of the CA


class Member(Wire):
    node: Name
    address: IpAddress  # replication address, without port


class Fencing(Wire):
    """DRBD's `resource-and-stonith` with the agent's handler: IO is frozen when the peer is lost, until a verdict.

    continue_after: seconds without word of any controller after which a frozen Primary goes on by itself; None: never.
    """

    continue_after: Annotated[float, Field(ge=30, le=604800)] | None = None


class Verdict(Wire):
    """Which side of a volume may go on without the other, as recorded in DrbdVolume.status. Numbers only grow.

    Without survivor and stale: the verdict before has ended, and nobody may.
    """

    number: Annotated[Number, Field(ge=1)]
    survivor: Name | None = None
    stale: Name | None = None
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]{1,63}$")]

    @property
    def standing(self) -> bool:
        return self.survivor is not None


class VerdictDesired(Wire):
    """The verdict that stands for a volume. Refused when a higher number is known ("VerdictTooOld")."""

    term: Number
    uid: Uid
    resource: Name
    verdict: Verdict


class VolumeDesired(Wire):
    """What one DRBD resource shall be on this host. Idempotent; level by level, never downwards.

    level Reserved: the names, minor and port are this uid's here (refused if anything else has them), nothing made.
    level Provisioned: tagged LV, metadata where none is, configuration installed.
    level Up: attached and connecting. `role` is honoured at level Up only.
    """

    term: Number
    uid: Uid
    namespace: Name
    name: Name
    resource: Name
    minor: Minor
    port: Port
    group: Name
    logical_volume: Name
    size: Annotated[int, Field(gt=0, lt=1 << 60)]  # of the LV, bytes
    metadata_group: Name | None = None  # external metadata: LV `<logical_volume>_meta` in this group
    members: Annotated[tuple[Member, ...], Field(min_length=2, max_length=2)]
    protocol: Literal["A", "B", "C"] = "C"
    resync_rate: Annotated[str, Field(pattern=r"^[0-9]{1,12}[KMG]?$")] = "500M"  # bytes per second, drbd.conf's units
    verify_alg: Name = "sha1"
    fencing: Fencing | None = None  # None: `resource-only` without a handler, IO goes on when the peer is lost
    level: Literal["Reserved", "Provisioned", "Up"] = "Up"
    role: Literal["Primary", "Secondary"] = "Secondary"

    @property
    def options(self) -> str:
        """What may change in the volume's life: "C 500M sha1 10.0.0.81 10.0.0.82 fenced" (the members' addresses).

        fenced:300 = with Fencing.continue_after.
        """
        addresses = (member.address for member in self.members)
        fenced: tuple[str, ...] = ()
        if self.fencing is not None:
            after = self.fencing.continue_after
            fenced = ("fenced" if after is None else f"fenced:{after:g}",)
        return " ".join((self.protocol, self.resync_rate, self.verify_alg, *addresses, *fenced))


class VolumeRemoval(Wire):
    """Down, then: Retain = the LV is renamed, tagged and kept; Delete = removed. Refused while a domain uses it.

    Unreserve: only names were kept for it, and are free again; refused where anything was made for it.
    """

    term: Number
    uid: Uid
    policy: Literal["Retain", "Delete", "Unreserve"]


class DiskConfig(Wire):
    resource: Name
    minor: Minor
    vdev: Annotated[str, Field(pattern=r"^(xvd|hd|sd)[a-z]{1,2}[0-9]{0,3}$")]
    mode: Literal["r", "w"] = "w"


class NetworkConfig(Wire):
    bridge: Name
    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]


class DomainConfig(Wire):
    """xl.cfg(5): what the guest is made of. Free text never holds quotes, control characters or newlines."""

    type: Literal["pv", "pvh", "hvm"] = "pv"
    memory_mib: Annotated[int, Field(gt=0, lt=1 << 32)]
    max_memory_mib: Annotated[int, Field(gt=0, lt=1 << 32)]
    vcpus: Annotated[int, Field(gt=0, le=4096)] = 1
    kernel: Path | None = None
    ramdisk: Path | None = None
    bootloader: Annotated[str, Field(max_length=4096, pattern=r"^(pygrub|/[^\x00-\x1f\x7f]*)$")] | None = None
    cmdline: Text = ""  # "root=/dev/hda1 ro ..." made from spec.root and spec.extra
    disks: tuple[DiskConfig, ...] = ()
    networks: tuple[NetworkConfig, ...] = ()


class DomainDesired(Wire):
    """What one VM shall be on this host.

    Running, Paused: needs epoch >= the promised one; promises and grants it, then creates with the disks Primary and
    UpToDate here. Stopped: clean shutdown, destroyed after `shutdown_grace_seconds`; keeps the grant.
    Released: promises `epoch` to another host and gives up the grant; refused while a domain of it is here.
    """

    term: Number
    epoch: Annotated[Number, Field(ge=1)]
    uid: Uid
    namespace: Name
    name: Name  # the domain's name
    state: Literal["Running", "Paused", "Stopped", "Released"]
    run: Number = 1
    config: DomainConfig
    on_poweroff: Literal["destroy", "restart", "preserve"] = "destroy"
    on_reboot: Literal["destroy", "restart", "preserve"] = "restart"
    on_crash: Literal["destroy", "restart", "preserve"] = "restart"
    shutdown_grace_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0


class DomainRemoval(Wire):
    """Forget a VM that is stopped, for good: what comes for its uid afterwards is refused ("Gone").

    Refused while a domain of it is here. Done also where nothing is known of the VM.
    """

    term: Number
    uid: Uid
    epoch: Number


class ImageSource(Wire):
    path: Path | None = None  # a file on the dom0
    url: Text | None = None  # https only
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


class TakeSnapshot(Wire):
    """Keep what a replica holds now: an LVM snapshot of its logical volume, large enough never to overflow.

    Crash-consistent where the disk is UpToDate.
    """

    kind: Literal["snapshot"] = "snapshot"
    resource: Name
    uid: Uid
    name: Name  # of the snapshot, in the volume's own group


class DiscardChanges(Wire):
    """After a split brain: give up what this host wrote alone for the peer's data (drbdadm connect --discard-my-data).

    Only while the generation here is still the one that the choice was made for. `snapshot` is the one of when the
    split was found; another one, `<logical volume>.<operation id>`, is taken of what is given up. `snapshot` None: none
    is taken, and only where nothing was written.
    """

    kind: Literal["discard-changes"] = "discard-changes"
    resource: Name
    uid: Uid
    generation: Annotated[str, Field(pattern=r"^[0-9A-F]{16}$")]  # GenerationIds.current here
    snapshot: Name | None = None


class MigrateSend(Wire):
    """Source side of a live migration; `domain.epoch` is the one it runs at (e)."""

    kind: Literal["migrate-send"] = "migrate-send"
    domain: DomainDesired
    target: Name
    target_address: Address
    target_port: Port = RELOCATION_PORT


class MigrateReceive(Wire):
    """Target side; `domain.epoch` is e+1, which becomes this host's when its DRBD sees the source Secondary."""

    kind: Literal["migrate-receive"] = "migrate-receive"
    domain: DomainDesired
    source: Name


VolumeOperation = InitialSync | WriteContent | TakeSnapshot | DiscardChanges
OperationBody = Annotated[VolumeOperation | MigrateSend | MigrateReceive, Field(discriminator="kind")]


class OperationRequest(Wire):
    id: OperationId
    term: Number
    body: OperationBody


class OperationCancel(Wire):
    """Stop an operation that can still be stopped without harm; `NotCancellable` after the hand-over began.

    `source_keeps`: the source's part of the move was seen to have ended there, or to wait for this; without it a copy
    that has arrived is not destroyed, for it may be the only one.
    """

    term: Number
    uid: Uid
    source_keeps: bool = False


class PreflightRequest(Wire):
    """Would this VM run here (`target`), can it leave here (`source`)? Changes nothing."""

    side: Literal["source", "target", "start"]
    domain: DomainDesired


class PreflightReport(Wire):
    """Every reason at once; empty = nothing in the way."""

    refusals: tuple[Refusal, ...] = ()
