"""LVM: what there is, and making, growing, renaming, tagging and removing volumes.

Commands: vgs, lvs, lvcreate, lvextend, lvremove, lvrename, lvchange (lvm(8)). Sizes are bytes. LVM's exit statuses are
0, 3 (bad arguments) and 5 (failed); texts are not parsed, the caller reads the state again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Sequence

from agent.drivers.errors import DriverError, Unreadable, read, run_ok
from agent.drivers.parsed import Parsed
from agent.host import Host
from agent.protocol import LogicalVolumeState, VolumeGroupState

UID_TAG = "xentandem.uid="
"""With the owner's uid behind it: the volume is Xentandem's and of that object."""
RETAINED_TAG = "xentandem.retained"
FORCED_TAG = "xentandem.forced"
"""The replica on it did the resource's one initial forced promotion."""
CONTENT_TAG = "xentandem.content="
SNAPSHOT_TAG = "xentandem.snapshot-of="
"""With the uid of the volume behind it: a snapshot of one of its replicas."""

_TAG = re.compile(r"[A-Za-z0-9_+./=!:&#][A-Za-z0-9_+./=!:&#-]{0,1023}")
_JSON = ("--reportformat", "json", "--units", "b", "--nosuffix")


def owner_tag(uid: str) -> str:
    return UID_TAG + uid


def path(group: str, name: str) -> str:
    return f"/dev/{group}/{name}"


def snapshot_room(size: int) -> int:
    """Bytes that a snapshot of a volume of `size` bytes takes at least, if it must never overflow.

    For each block of 4 KiB an exception of 16 bytes, and a header.
    """
    return size + size // 256 + 8192


class Lvm:
    """One host's LVM. Changes to one volume group are made one after the other."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parse = volume_parser()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def volume_groups(self) -> tuple[VolumeGroupState, ...]:
        """Raises Unreadable, CommandTimedOut."""
        return parse_vgs(await read(self._host, ["vgs", *_JSON, "-o", "vg_name,vg_size,vg_free,vg_extent_size"]))

    async def logical_volumes(self) -> tuple[LogicalVolumeState, ...]:
        """Those of all groups, foreign ones too. Raises Unreadable, CommandTimedOut."""
        fields = "vg_name,lv_name,lv_size,lv_attr,lv_tags,lv_device_open"
        return parse_lvs(await read(self._host, ["lvs", *_JSON, "-o", fields]), self._parse)

    async def create(self, group: str, name: str, size: int, tags: Sequence[str]) -> None:
        """Make a thick volume of at least `size` bytes (LVM rounds up to the extent) with wiped signatures."""
        argv = ["lvcreate", "-y", "-W", "y", "-Z", "y", "-n", name, "-L", f"{size}b"]
        for tag in tags:
            argv += ["--addtag", checked_tag(tag)]
        await self._change(group, [*argv, group], "CreateFailed")

    async def snapshot(self, origin: LogicalVolumeState, name: str, tags: Sequence[str]) -> None:
        """A copy-on-write snapshot with room for a change of every block of its origin (lvcreate(8), -s).

        LVM lowers a size that is more than enough.
        """
        room = origin.size + origin.size // 128 + (1 << 20)
        argv = ["lvcreate", "-y", "-s", "-n", name, "-L", f"{room}b"]
        for tag in tags:
            argv += ["--addtag", checked_tag(tag)]
        await self._change(origin.group, [*argv, f"{origin.group}/{origin.name}"], "SnapshotFailed")

    async def extend(self, group: str, name: str, size: int) -> None:
        """Grow to at least `size` bytes. An equal size is an error to LVM, so compare first."""
        await self._change(group, ["lvextend", "-L", f"{size}b", f"{group}/{name}"], "ExtendFailed")

    async def remove(self, group: str, name: str) -> None:
        """Destroys the data. An open volume is refused by LVM."""
        await self._change(group, ["lvremove", "-y", f"{group}/{name}"], "RemoveFailed")

    async def rename(self, group: str, old: str, new: str) -> None:
        await self._change(group, ["lvrename", group, old, new], "RenameFailed")

    async def add_tag(self, group: str, name: str, tag: str) -> None:
        argv = ["lvchange", "--addtag", checked_tag(tag), f"{group}/{name}"]
        await self._change(group, argv, "TagFailed")

    async def del_tag(self, group: str, name: str, tag: str) -> None:
        argv = ["lvchange", "--deltag", checked_tag(tag), f"{group}/{name}"]
        await self._change(group, argv, "TagFailed")

    async def _change(self, group: str, argv: Sequence[str], reason: str) -> None:
        async with self._locks[group]:
            await run_ok(self._host, argv, timeout=120, reason=reason)


def checked_tag(tag: str) -> str:
    """The tag, if LVM allows it (lvm(8), TAGS). Raises DriverError("InvalidTag")."""
    if not _TAG.fullmatch(tag):
        raise DriverError("InvalidTag", f"{tag!r} can't be an LVM tag: use letters, digits and _ + . - / = ! : & #")
    return tag


def parse_vgs(text: str) -> tuple[VolumeGroupState, ...]:
    """Output of `vgs --reportformat json`. Raises Unreadable."""
    return tuple(
        VolumeGroupState(
            name=_word(row, "vg_name"),
            size=_number(row, "vg_size"),
            free=_number(row, "vg_free"),
            extent=_number(row, "vg_extent_size"),
        )
        for row in _rows(text, "vg")
    )


VolumeParser = Parsed[tuple[tuple[str, str], ...], LogicalVolumeState]
"""Takes the rows of `lvs`."""


def volume_parser() -> VolumeParser:
    return Parsed(_logical_volume)


def parse_lvs(text: str, parsed: VolumeParser | None = None) -> tuple[LogicalVolumeState, ...]:
    """Output of `lvs --reportformat json`. Raises Unreadable."""
    return tuple((parsed or volume_parser())(tuple(row.items()) for row in _rows(text, "lv")))


def _logical_volume(items: tuple[tuple[str, str], ...]) -> LogicalVolumeState:
    row = dict(items)
    tags = tuple(tag for tag in _word(row, "lv_tags").split(",") if tag)
    owners = {tag.removeprefix(UID_TAG) for tag in tags if tag.startswith(UID_TAG)}
    if len(owners) > 1:
        raise Unreadable(f"{row.get('lv_name')} is tagged with more than one owner: {', '.join(sorted(owners))}")
    return LogicalVolumeState(
        group=_word(row, "vg_name"),
        name=_word(row, "lv_name"),
        size=_number(row, "lv_size"),
        tags=tags,
        owner_uid=next(iter(owners), None),
        retained=RETAINED_TAG in tags,
        open={"open": True, "": False}.get(row.get("lv_device_open", "unknown")),
    )


def _rows(text: str, kind: str) -> list[dict[str, str]]:
    try:
        reports = json.loads(text)["report"]
        rows = [row for report in reports for row in report[kind]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(f"not a report of LVM's {kind}s: {text[:200]!r}") from error
    if not all(isinstance(row, dict) and all(isinstance(value, str) for value in row.values()) for row in rows):
        raise Unreadable(f"not a report of LVM's {kind}s: {text[:200]!r}")
    return rows


def _word(row: dict[str, str], field: str) -> str:
    try:
        return row[field]
    except KeyError:
        raise Unreadable(f"LVM's report has no field {field}") from None


def _number(row: dict[str, str], field: str) -> int:
    word = _word(row, field)
    if not re.fullmatch(r"[0-9]{1,20}", word):
        raise Unreadable(f"LVM says {field} is {word!r}, expected a number of bytes")
    return int(word)
