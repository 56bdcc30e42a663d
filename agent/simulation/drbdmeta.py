"""drbdmeta(8): metadata on a device that the kernel does not use now."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md
from agent.simulation.drbd_config import HostPart
from agent.simulation.drbd_generation import JUST_CREATED
from agent.simulation.drbd_state import disk_rank
from agent.simulation.lvm import LogicalVolume

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

CHANGING = {"create-md", "wipe-md", "apply-al", "outdate", "invalidate", "set-gi", "check-resize"}


class MetaError(Exception):
    """drbdmeta's status and what it says on standard error."""

    def __init__(self, exit: int, text: str = "") -> None:
        super().__init__(text)
        self.exit = exit


NO_METADATA = 255  # it returns -1
FORCED = "*** confirmation forced via --force option ***\n"
LOOKED_AT = 68 << 10  # bytes at the beginning of a disk; anything there may be somebody's data


def run(host: SimulatedHost, part: HostPart, command: str, *, force: bool) -> tuple[str, str]:
    """What the command prints, on standard output and error. Raises MetaError."""
    backing = _device(host, part.disk)
    internal = part.meta_disk == "internal"
    holder = backing if internal else _device(host, part.meta_disk)
    if command in CHANGING and part.device in host.drbd.minors and holder.claimed_by is not None:
        doubts = (
            ""
            if command != "create-md" or not force
            else (
                f"open({holder.path}) failed: Device or resource busy\n"
                f"\nExclusive open failed. Do it anyways?\n{FORCED}"
                f"# Output might be stale, since minor {part.device} is attached\n"
            )
        )
        raise MetaError(20, f"{doubts}Device '{part.device}' is configured!\n")
    try:
        metadata = md.Metadata(holder, backing.size, internal=internal)
        if command == "create-md":
            return _create(host, part, backing, metadata, force)
        return _run(host, part, metadata, command, force), ""
    except OSError as error:
        raise MetaError(20, f"pread({part.disk}) failed: {error.strerror}\n") from None


def _device(host: SimulatedHost, path: str) -> LogicalVolume:
    block = host.devices.get(path)
    if not isinstance(block, LogicalVolume):
        raise MetaError(20, f"open({path}) failed: No such file or directory\n")
    return block


def _run(host: SimulatedHost, part: HostPart, metadata: md.Metadata, command: str, force: bool) -> str:
    try:
        block = metadata.read()
    except md.NoMetadata:
        silent = command in {"get-gi", "show-gi", "dstate", "outdate", "invalidate"}
        raise MetaError(NO_METADATA, "" if silent else "No valid meta data found\n") from None
    if command in {"get-gi", "show-gi"}:
        return block.get_gi() + "\n"
    if command == "dstate":
        return disk_on_paper(block) + "\n"
    if command == "apply-al":
        metadata.apply_log()
    elif command == "wipe-md":
        if not force:
            raise MetaError(1, "Do you really want to wipe out the DRBD meta data?\n[need to type 'yes' to confirm] \n")
        metadata.wipe()
        return "Wiping meta data...\nDRBD meta data block successfully wiped out.\n"
    elif command == "outdate":
        if disk_rank(disk_on_paper(block)) < disk_rank("Outdated"):
            raise MetaError(5, "Device is inconsistent.\n")
        metadata.write(replace(block, flags=block.flags & ~md.WAS_UP_TO_DATE))
    elif command == "invalidate":
        flags = block.flags & ~(md.CONSISTENT | md.WAS_UP_TO_DATE) | md.FULL_SYNC
        metadata.write(replace(block, flags=flags))
    elif command == "dump-md":
        return _dump(host, part, metadata, block)
    return ""


def disk_on_paper(block: md.SuperBlock) -> str:
    """The disk state that the flags tell, as `drbdmeta dstate` names it."""
    if not block.flag(md.CONSISTENT):
        return "Inconsistent"
    return "Consistent" if block.flag(md.WAS_UP_TO_DATE) else "Outdated"


def _create(
    host: SimulatedHost, part: HostPart, backing: LogicalVolume, metadata: md.Metadata, force: bool
) -> tuple[str, str]:
    found, asked = "", ""
    try:
        metadata.read()
    except md.NoMetadata:
        if any(backing.read_now(0, LOOKED_AT)):
            found = f"{metadata.places}\nFound some data\n\n ==> This might destroy existing data! <==\n"
            asked = f"\nDo you want to proceed?\n{FORCED}"
    else:
        if not force:
            raise MetaError(
                1,
                "You want me to create a v08 style flexible-size internal meta data block.\n"
                "There appears to be a v08 flexible-size internal meta data block\n"
                f"already in place on {part.disk}\n\nDo you really want to overwrite the existing meta-data?\n"
                "[need to type 'yes' to confirm] \nOperation canceled.\n",
            )
    metadata.create(host.simulation.random.getrandbits(64))
    kib = md.bitmap_bytes(metadata.usable) // 1024
    host.truth.note(host.name, f"metadata created on {part.disk}")
    made = "initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n"
    return found + made, f"{asked}initializing bitmap ({kib} KB) to all zero\n"


def _dump(host: SimulatedHost, part: HostPart, metadata: md.Metadata, block: md.SuperBlock) -> str:
    if not block.flag(md.AL_CLEAN):
        raise MetaError(NO_METADATA, 'Found meta data is "unclean", please apply-al first\n')
    generation = block.generation
    now = host.clock.now()
    uuids = "\n".join(f"    0x{uuid:016X};" for uuid in (generation.current, generation.bitmap, *generation.history))
    bits = metadata.read_bitmap()
    words = int.from_bytes(bits.dump()[:8], "little")
    return (
        f"# DRBD meta data dump\n# {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now))} +0000 [{int(now)}]\n"
        f"# {host.name}> drbdmeta {part.device} v08 {part.disk} {part.meta_disk} dump-md\n#\n\n"
        f'version "v08";\n\n# md_size_sect {md.metadata_bytes(metadata.volume.size) // 512}\n'
        f"la-size-sect {block.agreed_size // 512};\nbm-byte-per-bit 4096;\n"
        f"device-uuid 0x{block.device_uuid:016X};\nla-peer-max-bio-size 1048576;\n"
        f"uuid {{\n{uuids}\n    flags 0x{block.flags:08X};\n}}\n"
        f"# bm-bytes {-(-bits.blocks // 8)};\nbm {{\n   # at 0kB\n    0x{words:016X};\n}}\n# bits-set {bits.count};\n"
    )


__all__ = ["JUST_CREATED", "MetaError", "disk_on_paper", "run"]
