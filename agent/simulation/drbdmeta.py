"""drbdmeta(8): metadata on a device that the kernel does not use now."""

from __future__ import annotations

import contextlib
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
    """drbdmeta's status, and what it says on standard error and output."""

    def __init__(self, exit: int, text: str = "", stdout: str = "") -> None:
        super().__init__(text)
        self.exit, self.stdout = exit, stdout


NO_METADATA = 255  # it returns -1
FORCED = "*** confirmation forced via --force option ***\n"
NOBODY = "stdin not a TTY, not waiting for confirmation\n"  # nothing is ever on standard input here
LAST_KNOWN = "/var/lib/drbd/drbd-minor-{}.lkbd"
CANCELLED = "Operation cancelled.\n"
LOOKED_AT = 68 << 10  # bytes at the beginning of a disk; anything there may be somebody's data


def run(host: SimulatedHost, part: HostPart, command: str, *, force: bool) -> tuple[str, str]:
    """What the command prints, on standard output and error. Raises MetaError."""
    backing = _device(host, part.disk)
    internal = part.meta_disk == "internal"
    try:
        holder = backing if internal else _device(host, part.meta_disk)
    except MetaError as error:
        raise MetaError(error.exit, str(error) * (2 if command == "create-md" else 1)) from None  # it tries twice
    if command in CHANGING and part.device in host.drbd.minors and holder.claimed_by is not None:
        doubts = ""
        if command == "create-md" and force:
            doubts = (
                f"open({holder.path}) failed: Device or resource busy\n"
                f"\nExclusive open failed. Do it anyways?\n{FORCED}"
                f"# Output might be stale, since minor {part.device} is attached\n"
            )
        raise MetaError(20, f"{doubts}Device '{part.device}' is configured!\n")
    try:
        metadata = md.Metadata(holder, backing.size, internal=internal)
        if command == "create-md":
            return _create(host, part, backing, metadata, force)
        return _run(host, part, metadata, command, force)
    except md.NoMetadata:
        if command == "wipe-md":
            return "", "There appears to be no drbd meta data to wipe out?\n"
        silent = command in {"get-gi", "show-gi", "outdate", "invalidate"}
        raise MetaError(NO_METADATA, "" if silent else "No valid meta data found\n") from None
    except OSError as error:
        raise MetaError(20, f"pread({part.disk}) failed: {error.strerror}\n") from None


def command_line(part: HostPart) -> str:
    """As drbdadm calls it and tells of it."""
    if part.meta_disk == "internal":
        return f"drbdmeta {part.device} v08 {part.disk} internal"
    return f"drbdmeta {part.device} v08 {part.meta_disk} flex-external"


def _device(host: SimulatedHost, path: str) -> LogicalVolume:
    block = host.devices.get(path)
    if not isinstance(block, LogicalVolume):
        raise MetaError(20, f"open({path}) failed: No such file or directory\n")
    return block


def _run(host: SimulatedHost, part: HostPart, metadata: md.Metadata, command: str, force: bool) -> tuple[str, str]:
    moved, said = "", ""
    try:
        block = metadata.read()
    except md.NoMetadata:
        if command not in {"apply-al", "dump-md"} or (earlier := _earlier(host, part, metadata)) is None:
            raise
        if command == "dump-md":
            return _dump(host, part, earlier, earlier.read(), expected=metadata), ""
        earlier.move(metadata)
        remember(host, part, metadata)
        moved = "Internal drbd meta data successfully moved.\n"
        said = "Moving the internal meta data to its proper location\n"
    if command in {"get-gi", "show-gi"}:
        return block.get_gi() + "\n", ""
    if command == "dstate":
        return disk_on_paper(block) + "\n", ""
    if command == "apply-al":
        metadata.apply_log()
    elif command == "wipe-md":
        asked = _confirmed("Do you really want to wipe out the DRBD meta data?", force, CANCELLED)
        metadata.wipe()
        host.files.remove(LAST_KNOWN.format(part.device))
        return "Wiping meta data...\nDRBD meta data block successfully wiped out.\n", asked
    elif command == "outdate":
        if disk_rank(disk_on_paper(block)) < disk_rank("Outdated"):
            raise MetaError(5, "Device is inconsistent.\n")
        metadata.write(replace(block, flags=block.flags & ~md.WAS_UP_TO_DATE))
    elif command == "invalidate":
        flags = block.flags & ~(md.CONSISTENT | md.WAS_UP_TO_DATE) | md.FULL_SYNC
        metadata.write(replace(block, flags=flags))
    elif command == "dump-md":
        return _dump(host, part, metadata, block), ""
    if command in CHANGING:
        remember(host, part, metadata)
    return moved, said


def remember(host: SimulatedHost, part: HostPart, metadata: md.Metadata) -> None:
    """Where internal metadata is: so it is found when the volume grows while DRBD is down."""
    path = LAST_KNOWN.format(part.device)
    if not metadata.internal:
        host.files.remove(path)
        return
    note = f"{metadata.size}\t{part.disk}\nuuid:\t{metadata.read().device_uuid:016X}\n"
    if not host.files.exists(path) or host.files.read(path) != note:
        host.files.write(path, note)


def _earlier(host: SimulatedHost, part: HostPart, metadata: md.Metadata) -> md.Metadata | None:
    """Where the metadata was when the volume was smaller, if it is still there."""
    path = LAST_KNOWN.format(part.device)
    if not metadata.internal or not host.files.exists(path):
        return None
    size, _, _, uuid = host.files.read(path).split()
    if int(size) >= metadata.size:
        return None
    earlier = md.Metadata(metadata.volume, int(size), internal=True)
    try:
        return earlier if earlier.read().device_uuid == int(uuid, 16) else None
    except md.NoMetadata:
        return None


def _confirmed(question: str, force: bool, refused: str, before: str = "") -> str:
    """The question on standard error; who is not asked to do it by force gets an answer from nobody."""
    if not force:
        raise MetaError(1, f"{before}\n{question}\n{NOBODY}", refused)
    return f"{before}\n{question}\n{FORCED}"


def disk_on_paper(block: md.SuperBlock) -> str:
    """The disk state that the flags tell, as `drbdmeta dstate` names it."""
    if not block.flag(md.CONSISTENT):
        return "Inconsistent"
    if not block.flag(md.WAS_UP_TO_DATE):
        return "Outdated"
    return "UpToDate" if block.flag(md.PEER_OUTDATED) else "Consistent"


def _create(
    host: SimulatedHost, part: HostPart, backing: LogicalVolume, metadata: md.Metadata, force: bool
) -> tuple[str, str]:
    found, asked = "", ""
    with contextlib.suppress(md.NoMetadata):
        metadata.read()
        asked = _overwrite(metadata, force)
    if any(metadata.volume.read_now(0, LOOKED_AT)):
        found = f"{metadata.places}\nFound some data\n\n ==> This might destroy existing data! <==\n"
        asked += _confirmed("Do you want to proceed?", force, f"{found}Operation canceled.\n")
    metadata.create(host.simulation.random.getrandbits(64))
    remember(host, part, metadata)
    kib = md.bitmap_bytes(metadata.usable) // 1024
    host.truth.note(host.name, f"metadata created on {part.disk}")
    made = "initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n"
    return found + made, f"{asked}initializing bitmap ({kib} KB) to all zero\n"


def _overwrite(metadata: md.Metadata, force: bool) -> str:
    """What create-md asks where there is metadata already."""
    question = "Do you really want to overwrite the existing meta-data?"
    if not metadata.internal:
        question = "Valid meta data seems to be in place.\nDo you really want to overwrite?"
        return _confirmed(question, force, CANCELLED)
    there = (
        "You want me to create a v08 style flexible-size internal meta data block.\n"
        "There appears to be a v08 flexible-size internal meta data block\n"
        f"already in place on {metadata.volume.path} at byte offset {metadata.begin}\n"
    )
    return _confirmed(question, force, CANCELLED, there)


def _dump(
    host: SimulatedHost,
    part: HostPart,
    metadata: md.Metadata,
    block: md.SuperBlock,
    *,
    expected: md.Metadata | None = None,
) -> str:
    if not block.flag(md.AL_CLEAN):
        raise MetaError(NO_METADATA, 'Found meta data is "unclean", please apply-al first\n')
    generation = block.generation
    now = host.clock.now()
    uuids = " ".join(f"0x{uuid:016X};" for uuid in (generation.current, generation.bitmap, *generation.history))
    bits = metadata.read_bitmap()
    size = md.bitmap_bytes(block.agreed_size)
    return (
        f"# DRBD meta data dump\n# {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now))} +0000 [{int(now)}]\n"
        f"# {host.name}> {command_line(part)} dump-md\n#\n\n"
        f'version "v08";\n\n# md_size_sect {metadata.sectors}\n'
        + (_resized(part, metadata, expected) if expected is not None else "")
        + "".join(f"# {line}\n" for line in metadata.places.splitlines())
        + f"\nuuid {{\n    {uuids}\n    flags 0x{block.flags & ~md.AL_CLEAN:08X};\n}}\n"
        f"# al-extents {block.al_extents};\nla-size-sect {block.agreed_size // 512};\nbm-byte-per-bit 4096;\n"
        f"device-uuid 0x{block.device_uuid:016X};\nla-peer-max-bio-size {block.peer_bio};\n"
        "al-stripes 1;\nal-stripe-size-4k 8;\n"
        f"# bm-bytes {size};\nbm {{\n{md.dump_words(bits.dump()[:size].ljust(size, bytes(1)))}}}\n"
        f"# bits-set {bits.count};\n"
    )


def _resized(part: HostPart, metadata: md.Metadata, expected: md.Metadata) -> str:
    return (
        "#\n### Device seems to have been resized!\n### dumping meta data from the last known position\n"
        f"### current size of {part.disk}: {expected.size} byte\n### expected position of meta data:\n"
        + "".join(f"## {line}\n" for line in expected.places.splitlines())
        + f"### last known size of {part.disk}: {metadata.size} byte\n### adjusted position of meta data:\n"
    )


__all__ = ["JUST_CREATED", "MetaError", "disk_on_paper", "run"]
