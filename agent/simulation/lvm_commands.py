"""lvcreate, lvextend, lvremove, lvrename, lvchange with LVM 2.03's words and exit statuses (0, 3, 5)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation.drbd_metadata import Metadata, NoMetadata
from agent.simulation.filesystems import signature, wipe
from agent.simulation.lvm import EXTENT, LogicalVolume, VolumeGroup, VolumeGroups, extents_of
from agent.simulation.lvm_arguments import BAD_ARGUMENTS, FAILED, Arguments, LvmError, parse_size
from agent.simulation.lvm_report import lvs, pvs, size_text, vgs
from agent.simulation.process import Command, done, failed

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost


class LvmCommands:
    def __init__(self, host: SimulatedHost, groups: VolumeGroups) -> None:
        self._host = host
        self._groups = groups

    def install(self) -> None:
        functions: dict[str, Callable[[list[str]], str]] = {
            "lvcreate": self._create,
            "lvextend": self._extend,
            "lvremove": self._remove,
            "lvrename": self._rename,
            "lvchange": self._change,
            "lvs": lambda arguments: lvs(self._groups, arguments),
            "vgs": lambda arguments: vgs(self._groups, arguments),
            "pvs": lambda arguments: pvs(self._groups, arguments),
        }
        for name, function in functions.items():
            self._host.add_command(name, _command(function))

    def _group(self, name: str) -> VolumeGroup:
        if (group := self._groups.groups.get(name)) is None:
            raise LvmError(FAILED, f'  Volume group "{name}" not found\n  Cannot process volume group {name}\n')
        return group

    def _volume(self, path: str, missing: str = '  Failed to find logical volume "{group}/{name}"\n') -> LogicalVolume:
        group, _, name = path.removeprefix("/dev/").partition("/")
        volume = self._group(group).volumes.get(name)
        if volume is None:
            raise LvmError(FAILED, missing.format(group=group, name=name))
        return volume

    def _create(self, argv: list[str]) -> str:
        parser = Arguments("lvcreate")
        parser.add_argument("-L", "--size")
        parser.add_argument("-l", "--extents", type=int)
        parser.add_argument("-n", "--name", required=True)
        parser.add_argument("-W", "--wipesignatures", choices=("y", "n"), default="y")
        parser.add_argument("-Z", "--zero", choices=("y", "n"), default="y")
        parser.add_argument("--addtag", action="append", default=[])
        parser.add_argument("-s", "--snapshot", action="store_true")
        parser.add_argument("group")
        given = parser.parsed(argv)
        if (given.size is None) == (given.extents is None):
            raise LvmError(
                BAD_ARGUMENTS,
                "  No command with matching syntax recognised.  Run 'lvcreate --help' for more information.\n",
            )
        if "/" in given.name and (named := given.name.split("/")[0]) != given.group:
            raise LvmError(
                BAD_ARGUMENTS,
                f'  Inconsistent volume group names given: "{named}" and "{given.group}"\n'
                "  Run `lvcreate --help' for more information.\n",
            )
        if not re.fullmatch(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}", given.name):
            raise LvmError(
                BAD_ARGUMENTS, f'  Logical volume name "{given.name}" is invalid.\n  Run `lvcreate --help\'.\n'
            )
        output, extents = "", given.extents
        if given.size is not None:
            size = parse_size(given.size)
            extents = extents_of(size)
            if size % EXTENT:
                output += f"  Rounding up size to full physical extent {size_text(extents * EXTENT)}\n"
        if not extents:
            raise LvmError(BAD_ARGUMENTS, "  Please specify a size larger than zero.\n")
        origin = None
        if given.snapshot:
            origin = self._volume(given.group, "  Snapshot origin LV {name} not found in Volume group {group}.\n")
        group = self._group(given.group) if origin is None else origin.group
        if given.name in group.volumes:
            raise LvmError(FAILED, f'  Logical Volume "{given.name}" already exists in volume group "{group.name}"\n')
        if extents > group.free:
            raise LvmError(
                FAILED,
                f'  Volume group "{group.name}" has insufficient free space '
                f"({group.free} extents): {extents} required.\n",
            )
        if origin is not None:
            snapshot = self._groups.create_snapshot(origin, given.name, extents)
            snapshot.tags = given.addtag
            return output + f'  Logical volume "{snapshot.name}" created.\n'
        volume = self._groups.create(group, given.name, extents, given.addtag)
        if given.wipesignatures == "y":
            output += self._wiped(volume, answered=given.yes)
        if given.zero == "y":
            wipe(volume.write_now)
        self._host.truth.note(self._host.name, f"logical volume {group.name}/{volume.name} of {volume.size} bytes made")
        return output + f'  Logical volume "{volume.name}" created.\n'

    def _wiped(self, volume: LogicalVolume, *, answered: bool) -> str:
        """Signatures that an earlier owner of the extents left: LVM asks, and standard input says nothing."""
        output = ""
        metadata = Metadata(volume, volume.size, internal=True)
        found = [kind for kind in (signature(volume.read_now), "drbd" if _has_metadata(metadata) else "") if kind]
        for kind in found:
            if not answered:
                self._groups.remove(volume)
                raise LvmError(
                    FAILED,
                    f"WARNING: {kind} signature detected on {volume.path}. Wipe it? [y/n]: [n]\n"
                    f"  Aborted wiping of {kind}.\n  1 existing signature left on the device.\n"
                    f"  Failed to wipe signatures on logical volume {volume.group.name}/{volume.name}.\n"
                    "  Aborting. Failed to wipe start of new LV.\n",
                )
            output += f"  Wiping {kind} signature on {volume.path}.\n"
        if found:
            wipe(volume.write_now)
            metadata.wipe()
        return output

    def _extend(self, argv: list[str]) -> str:
        parser = Arguments("lvextend")
        parser.add_argument("-L", "--size", required=True)
        parser.add_argument("volume")
        given = parser.parsed(argv)
        volume = self._volume(given.volume, "  Logical volume {name} not found in volume group {group}.\n")
        added = given.size.startswith("+")
        size = parse_size(given.size.removeprefix("+"))
        before, after = volume.extents, extents_of(size + (volume.size if added else 0))
        output = ""
        if size % EXTENT:
            output += f"  Rounding size to boundary between physical extents: {size_text(after * EXTENT)}.\n"
        if after == before:
            raise LvmError(FAILED, f"  New size ({after} extents) matches existing size ({before} extents).\n")
        if after < before:
            raise LvmError(
                FAILED, f"  New size given ({after} extents) not larger than existing size ({before} extents)\n"
            )
        if after - before > volume.group.free:
            raise LvmError(
                FAILED,
                f"  Insufficient free space: {after - before} extents needed, but only {volume.group.free} available\n",
            )
        if volume.snapshots:
            raise LvmError(FAILED, "  Snapshot origin volumes can be resized only while inactive: try lvchange -an.\n")
        old = volume.size
        volume.file.resize(after * EXTENT)
        full = f"{volume.group.name}/{volume.name}"
        return (
            f"{output}  Size of logical volume {full} changed from {size_text(old)} ({before} extents) "
            f"to {size_text(volume.size)} ({after} extents).\n  Logical volume {full} successfully resized.\n"
        )

    def _remove(self, argv: list[str]) -> str:
        parser = Arguments("lvremove")
        parser.add_argument("-f", "--force", action="count", default=0)
        parser.add_argument("volume")
        given = parser.parsed(argv)
        volume = self._volume(given.volume)
        full = f"{volume.group.name}/{volume.name}"
        if volume.opens:
            raise LvmError(FAILED, f"  Logical volume {full} in use.\n")
        if not (given.yes or given.force):
            question = f"Do you really want to remove active logical volume {full}? [y/n]: [n]\n"
            raise LvmError(FAILED, f"{question}  Logical volume {full} not removed.\n")
        removed = [*volume.snapshots, volume]
        for one in removed:
            self._groups.remove(one)
        self._host.truth.note(self._host.name, f"logical volume {full} removed")
        return "".join(f'  Logical volume "{one.name}" successfully removed.\n' for one in removed)

    def _rename(self, argv: list[str]) -> str:
        parser = Arguments("lvrename")
        parser.add_argument("names", nargs="+")
        names = parser.parsed(argv).names
        if len(names) == 3:
            group, old, new = names
        elif len(names) == 2:
            group, _, old = names[0].removeprefix("/dev/").partition("/")
            new = names[1].removeprefix("/dev/").rpartition("/")[2]
        else:
            raise LvmError(BAD_ARGUMENTS, "  Old and new logical volume names required\n  Run `lvrename --help'.\n")
        old, new = old.rpartition("/")[2], new.rpartition("/")[2]
        volumes = self._group(group).volumes
        if old == new:
            raise LvmError(BAD_ARGUMENTS, "  Old and new logical volume names must differ\n  Run `lvrename --help'.\n")
        if new in volumes:
            raise LvmError(FAILED, f'  Logical Volume "{new}" already exists in volume group "{group}"\n')
        if old not in volumes:
            raise LvmError(FAILED, f'  Existing logical volume "{old}" not found in volume group "{group}"\n')
        self._groups.rename(volumes[old], new)
        return f'  Renamed "{old}" to "{new}" in volume group "{group}"\n'

    def _change(self, argv: list[str]) -> str:
        parser = Arguments("lvchange")
        parser.add_argument("--addtag", action="append", default=[])
        parser.add_argument("--deltag", action="append", default=[])
        parser.add_argument("volume")
        given = parser.parsed(argv)
        volume = self._volume(given.volume)
        if not given.addtag and not given.deltag:
            raise LvmError(BAD_ARGUMENTS, "  Need 1 or more of --addtag, --deltag.\n  Run `lvchange --help'.\n")
        volume.tags = [tag for tag in volume.tags if tag not in given.deltag]
        volume.tags += [tag for tag in given.addtag if tag not in volume.tags]
        return f"  Logical volume {volume.group.name}/{volume.name} changed.\n"


def _has_metadata(metadata: Metadata) -> bool:
    try:
        metadata.read()
    except NoMetadata:
        return False
    return True


def _command(function: Callable[[list[str]], str]) -> Command:
    async def command(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
        try:
            return done(argv, function(argv[1:]))
        except LvmError as error:
            return failed(argv, error.status, error.text)

    return command


def install(host: SimulatedHost) -> VolumeGroups:
    groups = VolumeGroups(host)
    host.devices.add_driver(groups.find)
    host.on_power_off.append(groups.power_off)
    LvmCommands(host, groups).install()
    return groups
