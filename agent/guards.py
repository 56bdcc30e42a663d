"""The agent's own guards: what it refuses whatever the controller says. Pure functions over facts, in ordered chains.

A guard returns None (nothing against it) or a Refusal. A fact that could not be read is None, and None refuses.
Who owns names, minors, ports and volumes is in `agent.ownership`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from agent.core import Refused
from agent.drivers.lvm import CONTENT_TAG, FORCED_TAG, UID_TAG
from agent.fence_records import FenceRecord, holds, promotable
from agent.protocol import DomainState, GenerationIds, LogicalVolumeState, Refusal
from agent.records import VolumeRecord, has_tag

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

F = TypeVar("F")
Guard = Callable[[F], Refusal | None]


def first_refusal(chain: Sequence[Guard[F]], facts: F) -> Refusal | None:
    """The first guard's refusal, None when all agree."""
    return next((refusal for guard in chain if (refusal := guard(facts)) is not None), None)


def require(chain: Sequence[Guard[F]], facts: F) -> None:
    """Raises Refused with the first guard's refusal."""
    if (refusal := first_refusal(chain, facts)) is not None:
        raise Refused.of(refusal)


# --- terms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TermFacts:
    promised: int
    requested: int


def term_not_lower(facts: TermFacts) -> Refusal | None:
    """A deposed controller is refused: its term is lower than the one promised here."""
    if facts.requested >= facts.promised:
        return None
    return Refusal(
        reason="TermTooOld",
        message=f"term {facts.requested} is over: this host promised term {facts.promised} to a newer controller",
    )


# --- metadata -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetadataFacts:
    record: VolumeRecord
    logical_volume: LogicalVolumeState | None  # the one that holds the metadata
    clearly_none: bool | None  # drbdmeta's own word "no valid meta data"; None: could not be read
    attached: bool | None  # the kernel has the disk attached


def volume_is_ours(facts: MetadataFacts) -> Refusal | None:
    """create-md only on an LV that carries this volume's uid."""
    if facts.logical_volume is not None and facts.logical_volume.owner_uid == facts.record.desired.uid:
        return None
    return Refusal(
        reason="LogicalVolumeNotOurs",
        message=f"{facts.record.lv_key} does not carry the tag {UID_TAG}{facts.record.desired.uid}",
    )


def metadata_never_made(facts: MetadataFacts) -> Refusal | None:
    """create-md never twice: if metadata was there and is gone, data may be behind it."""
    if facts.record.metadata != "created" and facts.record.volume != "adopted":
        return None
    return Refusal(
        reason="MetadataLost",
        message=f"{facts.record.desired.resource} had DRBD metadata here and drbdmeta finds none. It is not made anew:"
        " that would forget which side has the newer data. See check-resize and dump-md in drbdmeta(8)",
    )


def metadata_clearly_none(facts: MetadataFacts) -> Refusal | None:
    """create-md only when drbdmeta says that there is none and the kernel has nothing attached."""
    if facts.clearly_none is None or facts.attached is not False:
        return Refusal(
            reason="Unreadable",
            message=f"whether {facts.record.lv_key} holds DRBD metadata could not be read; none is made",
        )
    if facts.clearly_none:
        return None
    return Refusal(
        reason="MetadataForeign",
        message=f"{facts.record.lv_key} holds DRBD metadata that this agent did not make; it is not overwritten."
        f" If its data is not needed: drbdadm wipe-md {facts.record.desired.resource}",
    )


CREATE_METADATA: tuple[Guard[MetadataFacts], ...] = (volume_is_ours, metadata_never_made, metadata_clearly_none)


# --- roles --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoleFacts:
    resource: str
    node: str
    kernel: DrbdResource | None  # a fresh reading
    readable: bool
    domains: Sequence[DomainState] | None = None  # a fresh reading; None: could not be read
    fence: FenceRecord | None = None

    @property
    def device(self) -> str:
        return f"/dev/drbd{self.kernel.minor}" if self.kernel is not None else ""


def drbd_readable(facts: RoleFacts) -> Refusal | None:
    """Roles change only from a state that was read just now."""
    if facts.readable:
        return None
    return Refusal(reason="Unreadable", message=f"DRBD could not be read on {facts.node}; no role changes")


def resource_is_up(facts: RoleFacts) -> Refusal | None:
    """Only a resource that the kernel knows has a role."""
    if facts.kernel is not None:
        return None
    return Refusal(reason="NotUp", message=f"{facts.resource} is not up on {facts.node}")


def disk_up_to_date(facts: RoleFacts) -> Refusal | None:
    """Promote only good data, never by force: UpToDate here, or Consistent where a verdict makes the peer stale."""
    if facts.kernel is not None and facts.kernel.disk == "UpToDate":
        return None
    if facts.kernel is not None and facts.kernel.disk == "Consistent" and holds(facts.fence, facts.node):
        return None
    disk = facts.kernel.disk if facts.kernel else "unknown"
    return Refusal(
        reason="NotUpToDate",
        message=f"{facts.resource} is {disk} on {facts.node}, not UpToDate; it is never promoted by force",
    )


def not_suspended(facts: RoleFacts) -> Refusal | None:
    """A suspended resource waits for the word which side is stale; a promotion must not decide it."""
    if facts.kernel is not None and facts.kernel.suspended == "no":
        return None
    word = facts.kernel.suspended if facts.kernel else "unknown"
    return Refusal(reason="Suspended", message=f"IO of {facts.resource} is suspended ({word}) on {facts.node}")


def not_recorded_stale(facts: RoleFacts) -> Refusal | None:
    """Never promote what a verdict says is older than the other side's."""
    return promotable(facts.fence, facts.node, facts.resource)


def peer_not_primary(facts: RoleFacts) -> Refusal | None:
    """One Primary at every instant (DRBD refuses the second one too)."""
    if facts.kernel is None or facts.kernel.peer is None or facts.kernel.peer.role != "Primary":
        return None
    return Refusal(reason="PeerIsPrimary", message=f"{facts.resource} is Primary on the other host; demote it there")


def no_domain_uses(facts: RoleFacts) -> Refusal | None:
    """Demote and take down only what no domain here has as its disk."""
    if facts.domains is None:
        return Refusal(
            reason="Unreadable",
            message=f"the domains of {facts.node} could not be read, so one may be using {facts.resource}",
        )
    for domain in facts.domains:
        if domain.disks is None:
            if domain.kind == "zombie":
                continue  # nothing more to read of it: DRBD refuses (-12) while it holds the device
            return Refusal(
                reason="Unreadable", message=f"the disks of domain {domain.name} on {facts.node} could not be read"
            )
        if any(disk.device == facts.device for disk in domain.disks):
            return Refusal(
                reason="InUse",
                message=f"{facts.resource} ({facts.device}) is a disk of domain {domain.name} (id {domain.domid},"
                f" {domain.state}) on {facts.node}",
            )
    return None


PROMOTE: tuple[Guard[RoleFacts], ...] = (
    drbd_readable,
    resource_is_up,
    not_recorded_stale,
    disk_up_to_date,
    not_suspended,
    peer_not_primary,
)
DEMOTE: tuple[Guard[RoleFacts], ...] = (drbd_readable, resource_is_up, no_domain_uses)


# --- the one initial promotion by force -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ForceFacts:
    operation: str
    uid: str
    record: VolumeRecord | None
    logical_volume: LogicalVolumeState | None
    kernel: DrbdResource | None  # a fresh reading
    generation: GenerationIds | None  # a fresh reading


def record_matches(facts: ForceFacts) -> Refusal | None:
    """The request names the volume that this journal has under that resource."""
    if facts.record is not None and facts.record.desired.uid == facts.uid and facts.record.removal is None:
        return None
    return Refusal(reason="UidMismatch", message=f"no volume with uid {facts.uid} is kept here under that resource")


def never_forced(facts: ForceFacts) -> Refusal | None:
    """Once in the resource's life: neither the journal nor the LV's tag says that it was done."""
    assert facts.record is not None
    if facts.record.forced_by not in (None, facts.operation):
        return Refusal(
            reason="AlreadyForced",
            message=f"{facts.record.desired.resource} was forced Primary here, by operation {facts.record.forced_by}",
        )
    volume = facts.logical_volume
    if volume is None or volume.owner_uid != facts.uid:
        return Refusal(
            reason="LogicalVolumeNotOurs", message=f"{facts.record.lv_key} is missing or carries another volume's tag"
        )
    if facts.record.forced_by is None and has_tag(volume, FORCED_TAG):
        return Refusal(reason="AlreadyForced", message=f"{facts.record.lv_key} has the tag {FORCED_TAG}: it was done")
    return None


def both_inconsistent_and_connected(facts: ForceFacts) -> Refusal | None:
    """Neither side has data: Connected, Established, Inconsistent/Inconsistent, Secondary/Secondary."""
    assert facts.record is not None
    kernel, peer = facts.kernel, facts.kernel.peer if facts.kernel else None
    if (
        kernel is not None
        and peer is not None
        and (kernel.role, kernel.disk, kernel.suspended) == ("Secondary", "Inconsistent", "no")
        and (peer.connection, peer.role, peer.disk) == ("Connected", "Secondary", "Inconsistent")
        and peer.replication == "Established"
    ):
        return None
    seen = (
        f"{kernel.role}/{kernel.disk} here, {peer.connection} {peer.role}/{peer.disk} {peer.replication} there"
        if kernel and peer
        else "not up, or not readable"
    )
    return Refusal(
        reason="NotBrandNew",
        message=f"{facts.record.desired.resource} is {seen}; forced only when both are Inconsistent and Connected",
    )


def generation_is_fresh(facts: ForceFacts) -> Refusal | None:
    """The metadata has never known a data generation."""
    if facts.generation is not None and facts.generation.fresh:
        return None
    seen = facts.generation.current if facts.generation else "not readable"
    return Refusal(reason="NotBrandNew", message=f"the data generation is {seen}, not the one that create-md leaves")


FORCE: tuple[Guard[ForceFacts], ...] = (
    record_matches,
    never_forced,
    both_inconsistent_and_connected,
    generation_is_fresh,
)


# --- content --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ContentFacts:
    operation: str
    uid: str
    record: VolumeRecord | None
    logical_volume: LogicalVolumeState | None
    role: RoleFacts
    signature: bool | None  # blkid finds something on the device; None: could not be read


def content_record_matches(facts: ContentFacts) -> Refusal | None:
    """The request names the volume that this journal has under that resource."""
    return record_matches(ForceFacts(facts.operation, facts.uid, facts.record, None, None, None))


def primary_and_good(facts: ContentFacts) -> Refusal | None:
    """Written only on this host's Primary with good data under it, while no domain uses it."""
    kernel = facts.role.kernel
    if kernel is None or kernel.role != "Primary":
        return Refusal(reason="NotPrimary", message=f"{facts.role.resource} is not Primary on {facts.role.node}")
    return first_refusal((drbd_readable, disk_up_to_date, not_suspended, no_domain_uses), facts.role)


def never_had_content(facts: ContentFacts) -> Refusal | None:
    """Once in the volume's life; only a writing of ours that was interrupted or failed may be done again."""
    assert facts.record is not None
    record = facts.record
    if facts.logical_volume is None or facts.logical_volume.owner_uid != facts.uid:
        return Refusal(reason="LogicalVolumeNotOurs", message=f"{record.lv_key} is missing or carries another's tag")
    if record.content == "writing":
        return None
    if record.content != "none" or has_tag(facts.logical_volume, CONTENT_TAG):
        return Refusal(
            reason="HasContent",
            message=f"{record.desired.resource} has content ({record.content_detail or 'by its tag'}, written by"
            f" operation {record.content_by or 'unknown'}); it is never written over",
        )
    return None


def never_used(facts: ContentFacts) -> Refusal | None:
    """What a domain here had as its disk holds that guest's data."""
    assert facts.record is not None
    if not facts.record.used:
        return None
    return Refusal(reason="HasContent", message=f"{facts.record.desired.resource} was the disk of a domain here")


def no_signature(facts: ContentFacts) -> Refusal | None:
    """blkid finds no filesystem, partition table or other signature, except after our own interrupted writing."""
    assert facts.record is not None
    if facts.record.content == "writing":
        return None
    if facts.signature is False:
        return None
    if facts.signature is None:
        return Refusal(reason="Unreadable", message=f"whether {facts.role.device} holds data could not be read")
    return Refusal(
        reason="HasContent", message=f"blkid finds a signature on {facts.role.device}; it is never written over"
    )


WRITE_CONTENT: tuple[Guard[ContentFacts], ...] = (
    content_record_matches,
    primary_and_good,
    never_had_content,
    never_used,
    no_signature,
)
