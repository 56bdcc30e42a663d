"""lvs, vgs, pvs: reports as tables or JSON (lvmreport(7)), in LVM 2.03's layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from agent.simulation.lvm import EXTENT, LogicalVolume, Snapshot, VolumeGroup, VolumeGroups
from agent.simulation.lvm_arguments import FAILED, UNITS, Arguments, LvmError

Row = TypeVar("Row")
Size = int
Value = str | Size
"""A field's value: text, or a number of bytes that `--units` formats."""


def _attributes(lv: LogicalVolume) -> str:
    """lvs(8), "LV attributes": type, permissions, allocation, fixed minor, state, open, target."""
    kind = "s" if isinstance(lv, Snapshot) else "o" if lv.snapshots else "-"
    state = "I" if isinstance(lv, Snapshot) and lv.full else "a"
    return f"{kind}wi-{state}{'o' if lv.opens else '-'}{'s' if kind != '-' else '-'}---"


LV_FIELDS: dict[str, Callable[[LogicalVolume], Value]] = {
    "lv_name": lambda lv: lv.name,
    "vg_name": lambda lv: lv.group.name,
    "lv_attr": _attributes,
    "lv_size": lambda lv: lv.extents * EXTENT,
    "pool_lv": lambda lv: "",
    "origin": lambda lv: lv.origin.name if isinstance(lv, Snapshot) else "",
    "data_percent": lambda lv: f"{lv.used * 100:.2f}" if isinstance(lv, Snapshot) else "",
    "metadata_percent": lambda lv: "",
    "move_pv": lambda lv: "",
    "mirror_log": lambda lv: "",
    "copy_percent": lambda lv: "",
    "convert_lv": lambda lv: "",
    "lv_uuid": lambda lv: lv.uuid,
    "lv_path": lambda lv: lv.path,
    "lv_full_name": lambda lv: f"{lv.group.name}/{lv.name}",
    "lv_tags": lambda lv: ",".join(sorted(lv.tags)),
    "lv_active": lambda lv: "active",
    "lv_device_open": lambda lv: "open" if lv.opens else "",
}
VG_FIELDS: dict[str, Callable[[VolumeGroup], Value]] = {
    "vg_name": lambda vg: vg.name,
    "pv_count": lambda vg: "1",
    "lv_count": lambda vg: str(len(vg.volumes)),
    "snap_count": lambda vg: str(sum(isinstance(lv, Snapshot) for lv in vg.volumes.values())),
    "vg_attr": lambda vg: "wz--n-",
    "vg_size": lambda vg: vg.extents * EXTENT,
    "vg_free": lambda vg: vg.free * EXTENT,
    "vg_uuid": lambda vg: vg.uuid,
    "vg_extent_size": lambda vg: EXTENT,
    "vg_extent_count": lambda vg: str(vg.extents),
    "vg_free_count": lambda vg: str(vg.free),
    "vg_tags": lambda vg: "",
}
PV_FIELDS: dict[str, Callable[[VolumeGroup], Value]] = {
    "pv_name": lambda vg: vg.physical,
    "vg_name": lambda vg: vg.name,
    "pv_fmt": lambda vg: "lvm2",
    "pv_attr": lambda vg: "a--",
    "pv_size": lambda vg: vg.extents * EXTENT,
    "pv_free": lambda vg: vg.free * EXTENT,
}
HEADINGS = {
    "lv_name": "LV",
    "vg_name": "VG",
    "pv_name": "PV",
    "lv_attr": "Attr",
    "vg_attr": "Attr",
    "pv_attr": "Attr",
    "lv_size": "LSize",
    "vg_size": "VSize",
    "pv_size": "PSize",
    "vg_free": "VFree",
    "pv_free": "PFree",
    "pv_fmt": "Fmt",
    "pool_lv": "Pool",
    "origin": "Origin",
    "data_percent": "Data%",
    "metadata_percent": "Meta%",
    "move_pv": "Move",
    "mirror_log": "Log",
    "copy_percent": "Cpy%Sync",
    "convert_lv": "Convert",
    "pv_count": "#PV",
    "lv_count": "#LV",
    "snap_count": "#SN",
    "lv_uuid": "LV UUID",
    "lv_path": "Path",
    "lv_tags": "LV Tags",
    "lv_active": "Active",
    "lv_device_open": "DevOpen",
    "lv_full_name": "LV",
    "vg_uuid": "VG UUID",
    "vg_extent_size": "Ext",
    "vg_extent_count": "#Ext",
    "vg_free_count": "Free",
    "vg_tags": "VG Tags",
}
WIDTHS = {"lv_name": 4, "data_percent": 6, "metadata_percent": 6}
"""Columns that are never narrower."""
NUMERIC = {
    "lv_size",
    "vg_size",
    "vg_free",
    "pv_size",
    "pv_free",
    "vg_extent_size",
    "pv_count",
    "lv_count",
    "snap_count",
}


def size_text(size: int) -> str:
    """As LVM's messages have it: "64.00 MiB"."""
    for unit, word in (("t", "TiB"), ("g", "GiB"), ("m", "MiB")):
        if size >= UNITS[unit] and (unit != "m" or size < UNITS["g"]):
            return f"{size / UNITS[unit]:.2f} {word}"
    return f"{size / 1024:.2f} KiB"


def _human(size: int) -> str:
    """`--units r`, the default: two digits, `<` when rounded up."""
    for unit in ("t", "g", "m", "k"):
        if size >= UNITS[unit]:
            value = size / UNITS[unit]
            return f"{'<' if round(value, 2) > value else ''}{value:.2f}{unit}"
    return str(size)


def _formatted(value: Value, units: str, suffix: bool) -> str:
    if isinstance(value, str):
        return value
    if units in {"r", "h"}:
        return _human(value)
    text = str(value) if units == "b" else f"{value / UNITS[units.lower()]:.2f}"
    return text + (units.upper() if units in {"b", "s"} else units) if suffix else text


def lvs(groups: VolumeGroups, argv: list[str]) -> str:
    def rows(names: Sequence[str]) -> list[LogicalVolume]:
        found = [lv for name in sorted(groups.groups) for _, lv in sorted(groups.groups[name].volumes.items())]
        tags = {name[1:] for name in names if name.startswith("@")}  # lvm(8): @tag is everything with that tag
        for name in names:
            if name.startswith("@"):
                continue
            group, _, volume = name.removeprefix("/dev/").partition("/")
            _group(groups, group)
            if volume and volume not in groups.groups[group].volumes:
                raise LvmError(FAILED, f'  Failed to find logical volume "{group}/{volume}"\n')
        wanted = {name.removeprefix("/dev/") for name in names}
        return [
            lv
            for lv in found
            if not wanted or {lv.group.name, f"{lv.group.name}/{lv.name}"} & wanted or tags & set(lv.tags)
        ]

    return _report("lv", LV_FIELDS, 12, rows, argv)


def vgs(groups: VolumeGroups, argv: list[str]) -> str:
    def rows(names: Sequence[str]) -> list[VolumeGroup]:
        return [_group(groups, name) for name in names or sorted(groups.groups)]

    return _report("vg", VG_FIELDS, 7, rows, argv)


def pvs(groups: VolumeGroups, argv: list[str]) -> str:
    return _report("pv", PV_FIELDS, 6, lambda names: sorted(groups.groups.values(), key=lambda g: g.physical), argv)


def _group(groups: VolumeGroups, name: str) -> VolumeGroup:
    if name not in groups.groups:
        raise LvmError(FAILED, f'  Volume group "{name}" not found\n  Cannot process volume group {name}\n')
    return groups.groups[name]


@lru_cache
def _parser(kind: str) -> Arguments:
    parser = Arguments(f"{kind}s")
    parser.add_argument("--reportformat", choices=("basic", "json"), default="basic")
    parser.add_argument("--units", default="r")
    parser.add_argument("--nosuffix", action="store_true")
    parser.add_argument("--noheadings", action="store_true")
    parser.add_argument("-o", "--options", default="")
    parser.add_argument("names", nargs="*")
    return parser


def _report(
    kind: str,
    fields: dict[str, Callable[[Row], Value]],
    defaults: int,
    rows: Callable[[Sequence[str]], list[Row]],
    argv: list[str],
) -> str:
    given = _parser(kind).parsed(argv)
    chosen = list(fields)[:defaults]
    if given.options:
        extra = given.options.startswith("+")
        chosen = (chosen if extra else []) + given.options.removeprefix("+").split(",")
    for name in chosen:
        if name not in fields:
            raise LvmError(FAILED, f"  Unrecognised field: {name}\n")
    table = [
        [_formatted(fields[name](row), given.units, not given.nosuffix) for name in chosen] for row in rows(given.names)
    ]
    if given.reportformat == "json":
        return _json(kind, chosen, table)
    headings = [HEADINGS[name] for name in chosen] if not given.noheadings and table else []
    rows_shown = [headings, *table] if headings else table
    widths = [max([WIDTHS.get(name, 0), *(len(row[i]) for row in rows_shown)]) for i, name in enumerate(chosen)]
    lines = [[text.ljust(width) for text, width in zip(headings, widths, strict=True)]] if headings else []
    lines += [
        [
            text.rjust(width) if name in NUMERIC else text.ljust(width)
            for name, text, width in zip(chosen, row, widths, strict=True)
        ]
        for row in table
    ]
    return "".join("  " + " ".join(cells) + "\n" for cells in lines)


@lru_cache(1 << 14)  # most volumes of many hosts are reported again and again
def _json_row(names: tuple[str, ...], row: tuple[str, ...]) -> str:
    return "{" + ", ".join(f'"{name}":{json.dumps(text)}' for name, text in zip(names, row, strict=True)) + "}"


def _json(kind: str, names: list[str], table: list[list[str]]) -> str:
    lines = [_json_row(tuple(names), tuple(row)) for row in table]
    body = "".join(f"                  {line}{',' if i < len(lines) - 1 else ''}\n" for i, line in enumerate(lines))
    return (
        '  {\n      "report": [\n          {\n'
        f'              "{kind}": [\n{body}              ]\n          }}\n      ]\n  }}\n'
    )
