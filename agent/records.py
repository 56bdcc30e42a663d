"""What the journal keeps of one volume, and how VolumeState is made of it and of what was observed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from agent.drivers.lvm import CONTENT_TAG, FORCED_TAG
from agent.fence_records import FenceView
from agent.protocol import (
    ContentState,
    FenceState,
    GenerationIds,
    LogicalVolumeState,
    MetadataState,
    Refusal,
    VolumeDesired,
    VolumeRemoval,
    VolumeState,
)

if TYPE_CHECKING:
    from agent.drivers.drbd import ResConfig
    from agent.drivers.drbd_parse import DrbdResource


class VolumeRecord(BaseModel):
    """One resource in the journal (section `volumes`, key = resource). Every field is on disk before its effect."""

    model_config = ConfigDict(frozen=True)

    desired: VolumeDesired
    volume: Literal["none", "making", "made", "adopted"] = "none"
    """made: it was there, so if it is gone, data is gone. adopted: it carried our uid before this journal knew it."""
    metadata: Literal["none", "creating", "created"] = "none"
    options: str = ""  # VolumeDesired.options that the kernel was given, and the addresses
    addresses: tuple[str, ...] = ()
    up_in: str = ""  # boot id in which the disk was attached: a detached disk in the same boot has failed
    used: bool = False  # a domain here had it as its disk
    forced_by: str | None = None  # id of the operation that forced this host Primary, once in the resource's life
    content: ContentState = "none"
    content_by: str | None = None  # id of the operation that writes or wrote it
    content_detail: str = ""
    removal: VolumeRemoval | None = None  # deletion began: it only goes on

    @property
    def owner(self) -> str:
        return f"DrbdVolume {self.desired.namespace}/{self.desired.name}"

    @property
    def fenced(self) -> bool:
        """Is fencing part of what the kernel was given?"""
        return any(word.partition(":")[0] == "fenced" for word in self.options.split())

    @property
    def freezes(self) -> bool:
        """Does DRBD freeze a Primary that lost its peer? Not with protocol A, which does not go with it."""
        return self.fenced and self.options.split()[0] != "A"

    def peer_of(self, node: str) -> str:
        return next((member.node for member in self.desired.members if member.node != node), "")

    @property
    def addresses_wanted(self) -> tuple[str, ...]:
        return tuple(f"{member.node}={member.address}" for member in self.desired.members)

    @property
    def lv_key(self) -> str:
        return f"{self.desired.group}/{self.desired.logical_volume}"

    @property
    def metadata_lv(self) -> str:
        return f"{self.desired.logical_volume}_meta"

    @property
    def metadata_key(self) -> str | None:
        """group/name of the external metadata's LV."""
        return f"{self.desired.metadata_group}/{self.metadata_lv}" if self.desired.metadata_group else None

    @property
    def retained_lv(self) -> str:
        """What the LV is called after its DrbdVolume was deleted with the policy Retain."""
        return f"retained-{self.desired.logical_volume}-{self.desired.uid.replace('-', '')[:8]}"

    @property
    def device(self) -> str:
        return f"/dev/drbd{self.desired.minor}"


def assemble(
    resource: str,
    record: VolumeRecord | None,
    configuration: ResConfig | None,
    kernel: DrbdResource | None,
    kernel_known: bool,
    logical_volume: LogicalVolumeState | None,
    generation: GenerationIds | None,
    used_by: tuple[str, ...],
    problem: Refusal | None,
    fence: FenceView | None = None,
    node: str = "",
) -> VolumeState:
    """One VolumeState. `kernel_known` False: DRBD could not be read; what it said last is shown, with a problem."""
    desired = record.desired if record else None
    forced = record is not None and record.forced_by is not None
    content: ContentState = record.content if record else "unknown"
    if logical_volume is not None:
        forced = forced or has_tag(logical_volume, FORCED_TAG)
        if content == "none" and has_tag(logical_volume, CONTENT_TAG):
            content = "unknown"  # a journal before this one knew more
    minor, port = (desired.minor, desired.port) if desired else (None, None)
    if desired is None and configuration is not None:
        minor, port = min(configuration.minors, default=None), min(configuration.ports, default=None)
    return VolumeState(
        resource=resource,
        uid=desired.uid if desired else None,
        namespace=desired.namespace if desired else None,
        name=desired.name if desired else None,
        minor=kernel.minor if kernel is not None and kernel.minor is not None else minor,
        port=port,
        logical_volume=logical_volume,
        metadata=_metadata(record, kernel, logical_volume),
        configured=kernel is not None,
        role=kernel.role if kernel else "Secondary" if kernel_known else "Unknown",
        disk=kernel.disk if kernel else "Diskless",
        peer=kernel.peer if kernel else None,
        suspended=kernel.suspended if kernel else "no",
        size=kernel.size_kib * 1024 if kernel is not None and kernel.size_kib else None,
        generation=generation,
        forced=forced,
        content=content,
        content_detail=record.content_detail if record else "",
        options=record.options if record else "",
        fenced=record is not None and record.fenced,
        fence=fence.record.shown if fence is not None and fence.record is not None else FenceState(),
        fence_question=(fence or FenceView()).question(kernel, record.peer_of(node) if record else ""),
        used_by=tuple(sorted(used_by)),
        problem=problem,
    )


def _metadata(
    record: VolumeRecord | None, kernel: DrbdResource | None, volume: LogicalVolumeState | None
) -> MetadataState:
    if (record is not None and record.metadata == "created") or (kernel is not None and kernel.disk != "Diskless"):
        return "present"
    if record is not None and record.metadata == "none" and volume is None:
        return "none"
    return "unknown"


def generation_key(one: DrbdResource | None) -> tuple[object, ...]:
    """What a new data generation comes with."""
    if one is None:
        return ()
    peer = one.peer
    return (one.role, one.disk, peer and (peer.connection, peer.disk, peer.role, peer.replication == "Established"))


def has_tag(volume: LogicalVolumeState, tag: str) -> bool:
    """The tag itself, or with a value (`tag=...`)."""
    bare = tag.rstrip("=")
    return any(one == bare or one.startswith(bare + "=") for one in volume.tags)


def external_metadata_size(size: int) -> int:
    """Bytes of the LV for external metadata of `size` bytes of data (drbd.conf(5), meta-disk): 8.4's layout, one peer.

    A bit for every 4 KiB in a bitmap that is aligned to 4 KiB, 32 KiB of activity log, a block of 4 KiB; and a MiB to
    spare, because LVM rounds the data volume up to its extent.
    """
    bits = -(-size // 4096)
    bitmap = -(-(-(-bits // 64) * 8) // 4096) * 4096
    return bitmap + (32 << 10) + (4 << 10) + (1 << 20)
