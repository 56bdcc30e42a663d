"""mkfs.ext4, mkfs.xfs, blkid, wipefs, blockdev: what is written is the signature that real tools look for.

They open devices as the real tools do, so that what mkfs writes goes through DRBD and is replicated, and blkid answers
from the bytes on the device.
"""

from __future__ import annotations

import errno
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation.process import Command, done, failed

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

EXT_OFFSET = 1024  # the superblock; its magic is 0x38 further on (ext4(5), kernel's ext4.h)
EXT_MAGIC_OFFSET = 0x438
EXT_MAGIC = 0xEF53
XFS_MAGIC = b"XFSB"
SIGNATURE_BYTES = 4096
EXT_BLOCK = 4096
BLOCKS_PER_GROUP = 32768


@dataclass(frozen=True)
class Signature:
    kind: str
    uuid: str
    label: str = ""


def parse(head: bytes) -> Signature | None:
    """What the first 4096 bytes of a device say it holds."""
    if head[:4] == XFS_MAGIC:
        return Signature("xfs", str(uuid.UUID(bytes=head[32:48])), head[108:120].rstrip(b"\0").decode("latin-1"))
    if len(head) > EXT_MAGIC_OFFSET + 2 and head[EXT_MAGIC_OFFSET : EXT_MAGIC_OFFSET + 2] == b"\x53\xef":
        extents = struct.unpack_from("<I", head, EXT_OFFSET + 96)[0] & 0x40
        label = head[EXT_OFFSET + 120 : EXT_OFFSET + 136].rstrip(b"\0").decode("latin-1")
        return Signature(
            "ext4" if extents else "ext2", str(uuid.UUID(bytes=head[EXT_OFFSET + 104 : EXT_OFFSET + 120])), label
        )
    if head[510:512] == b"\x55\xaa":
        return Signature("dos", head[440:444][::-1].hex())
    return None


def signature(read: Callable[[int, int], bytes]) -> str:
    found = parse(read(0, SIGNATURE_BYTES))
    return found.kind if found else ""


def wipe(write: Callable[[int, bytes], None]) -> None:
    write(0, bytes(SIGNATURE_BYTES))


def ext4_superblock(size: int, identity: uuid.UUID, label: str) -> bytes:
    """The primary superblock of an empty filesystem (struct ext4_super_block), 1024 bytes."""
    blocks = size // EXT_BLOCK
    block = bytearray(1024)
    struct.pack_into("<IIIIIII", block, 0, max(16, blocks // 4), blocks, blocks // 20, blocks, blocks // 4, 0, 2)
    struct.pack_into("<IIII", block, 28, 2, BLOCKS_PER_GROUP, BLOCKS_PER_GROUP, 8192)
    struct.pack_into("<HHH", block, 56, EXT_MAGIC, 1, 1)  # magic, clean, errors: continue
    struct.pack_into("<I", block, 76, 1)  # revision 1: dynamic
    struct.pack_into("<IHH", block, 84, 11, 256, 0)
    struct.pack_into("<III", block, 92, 0x3C, 0x2C2, 0x46B)  # features of mke2fs.conf(5)'s ext4
    block[104:120] = identity.bytes
    block[120:136] = label.encode()[:16].ljust(16, b"\0")
    return bytes(block)


def xfs_superblock(size: int, identity: uuid.UUID, label: str) -> bytes:
    """Superblock of allocation group 0 (struct xfs_dsb), one sector."""
    block = bytearray(512)
    struct.pack_into(">4sIQQQ", block, 0, XFS_MAGIC, 4096, size // 4096, 0, 0)
    block[32:48] = identity.bytes
    struct.pack_into(">H", block, 100, 0xB4B5)
    struct.pack_into(">HHH", block, 102, 512, 512, 8)
    block[108:120] = label.encode()[:12].ljust(12, b"\0")
    return bytes(block)


def _options(argv: list[str], with_value: str) -> tuple[dict[str, str], list[str]]:
    """Short options (those of `with_value` take an argument) and the rest of a command line."""
    given: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word.startswith("-") and len(word) == 2:
            given[word[1]] = next(words, "") if word[1] in with_value else ""
        elif word.startswith("-") and word[1] in with_value:
            given[word[1]] = word[2:]
        elif word.startswith("-") and not word.startswith("--"):
            given.update(dict.fromkeys(word[1:], ""))
        else:
            rest.append(word)
    return given, rest


async def _make(host: SimulatedHost, device: str, at: int, block: bytes, wiped: int) -> int:
    """Write a superblock; returns the device's size. Raises OSError."""
    handle = host.open_device(device, "w")
    try:
        await handle.write(0, bytes(wiped))
        await handle.write(at, block)
        return handle.size
    finally:
        handle.close()


async def mkfs_ext4(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    given, rest = _options(argv[1:], "LbEOtTImNiUJ")
    banner = "mke2fs 1.47.0 (5-Feb-2023)\n"
    if len(rest) != 1:
        return failed(
            argv, 1, "Usage: mkfs.ext4 [-c|-l filename] [-b block-size] [-L volume-label] device [blocks-count]\n"
        )
    identity = uuid.UUID(host.simulation.random_uuid())
    try:
        size = host.device_size(rest[0])
        await _make(host, rest[0], EXT_OFFSET, ext4_superblock(size, identity, given.get("L", "")), SIGNATURE_BYTES)
    except OSError as error:
        what = f"The file {rest[0]} does not exist and no size was specified.\n"
        if error.errno != errno.ENOENT:
            what = f"{rest[0]}: {error.strerror} while setting up superblock\n"
        return failed(argv, 1, f"{banner}{what}")
    if "q" in given:
        return done(argv)
    blocks = size // EXT_BLOCK
    return Completed(
        tuple(argv),
        0,
        f"Creating filesystem with {blocks} 4k blocks and {max(16, blocks // 4)} inodes\n"
        f"Filesystem UUID: {identity}\n\nAllocating group tables: done\n"
        "Writing inode tables: done\nCreating journal (4096 blocks): done\n"
        "Writing superblocks and filesystem accounting information: done\n\n",
        banner,
    )


async def mkfs_xfs(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    given, rest = _options(argv[1:], "Lbdilmnrsp")
    if len(rest) != 1:
        return failed(argv, 1, "no device name given in argument list\n")
    identity = uuid.UUID(host.simulation.random_uuid())
    try:
        if "f" not in given and (found := await probe(host, rest[0])):
            return failed(
                argv,
                1,
                f"mkfs.xfs: {rest[0]} appears to contain an existing filesystem ({found.kind}).\n"
                "mkfs.xfs: Use the -f option to force overwrite.\n",
            )
        size = host.device_size(rest[0])
        await _make(host, rest[0], 0, xfs_superblock(size, identity, given.get("L", "")), SIGNATURE_BYTES)
    except OSError as error:
        return failed(argv, 1, f"mkfs.xfs: cannot open {rest[0]}: {error.strerror}\n")
    if "q" in given:
        return done(argv)
    blocks = size // 4096
    return done(
        argv,
        f"meta-data={rest[0]:<22} isize=512    agcount=4, agsize={blocks // 4} blks\n"
        f"data     =                       bsize=4096   blocks={blocks}, imaxpct=25\n",
    )


async def probe(host: SimulatedHost, device: str) -> Signature | None:
    """Raises OSError as open(2) and read(2) do."""
    handle = host.open_device(device, "r")
    try:
        return parse(await handle.read(0, SIGNATURE_BYTES))
    finally:
        handle.close()


async def blkid(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    """blkid(8), low-level probing: 2 when nothing was found, also when the device could not be opened."""
    given, rest = _options(argv[1:], "sotu")
    if not rest:
        return failed(argv, 4, "The low-level probing mode requires a device\n")
    try:
        found = await probe(host, rest[0])
    except OSError as error:
        return failed(argv, 2, f"error: {rest[0]}: {error.strerror}\n")
    if found is None:
        return failed(argv, 2, "")
    if found.kind == "dos":
        tags = {"PTUUID": found.uuid, "PTTYPE": "dos"}
    else:
        tags = {"LABEL": found.label} if found.label else {}
        tags |= {"UUID": found.uuid, "BLOCK_SIZE": "512" if found.kind == "xfs" else "4096"}
        tags |= {"TYPE": found.kind, "USAGE": "filesystem"}
    if "s" in given:
        tags = {name: value for name, value in tags.items() if name == given["s"]}
    style = given.get("o", "full")
    if style == "value":
        return done(argv, "".join(f"{value}\n" for value in tags.values()))
    if style == "export":
        return done(argv, f"DEVNAME={rest[0]}\n" + "".join(f"{name}={value}\n" for name, value in tags.items()))
    return done(argv, f"{rest[0]}: " + " ".join(f'{name}="{value}"' for name, value in tags.items()) + "\n")


async def blockdev(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    if len(argv) != 3 or argv[1] not in {"--getsize64", "--getsz"}:
        return failed(argv, 1, "blockdev: unknown command\n")
    try:
        handle = host.open_device(argv[2], "r")
        size = handle.size
        handle.close()
    except OSError as error:
        return failed(argv, 1, f"blockdev: cannot open {argv[2]}: {error.strerror}\n")
    return done(argv, f"{size if argv[1] == '--getsize64' else size // 512}\n")


PROGRAMS: dict[str, Command] = {
    "mkfs.ext4": mkfs_ext4,
    "mkfs.xfs": mkfs_xfs,
    "blkid": blkid,
    "blockdev": blockdev,
}


def install(host: SimulatedHost) -> None:
    for name, function in PROGRAMS.items():
        host.add_command(name, function)
