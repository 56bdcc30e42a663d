"""What xl and xenstore say, as typed values, and libxl's numbers of virtual disks. Pure: no I/O.

Sources: xl(1) and xl's list, xenstore-ls(1), xen-vbd-interface(7). Everything here raises Unreadable and nothing else
for text it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from agent.drivers.errors import DriverError, Unreadable
from agent.drivers.parsed import Parsed
from agent.protocol import DomainKind, DomainState

_State = Literal["running", "paused", "suspended", "poweroff", "reboot", "crashed", "dying"]

_LINE = re.compile(
    r"(?P<name>\S.*?)\s+(?P<domid>\d{1,10})\s+(?P<memory>\d{1,12})\s+(?P<vcpus>\d{1,5})\s+"
    r"(?P<flags>[-r][-b][-p][-s][-rscw?][-d])\s+(?P<seconds>\d{1,12}\.\d+)"
    r"(?:\s+(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s.*)?$"
)
_BACKEND = re.compile(r'^/local/domain/0/backend/vbd(?:/(\d{1,10}))?(?:/(\d{1,10}))?(?:/(\S+))? = "(.*)".*$', re.M)
_HEADER = re.compile(r"Name\s+ID\s+Mem\s+VCPUs\s+State\s+Time\(s\)")
# xl's fifth column says why a domain was shut down; a watchdog's and an unknown reason are treated as a crash
_SHUTDOWN: dict[str, _State] = {"-": "poweroff", "r": "reboot", "s": "suspended", "c": "crashed"}


@dataclass(frozen=True, slots=True)
class XenInfo:
    """Of `xl info`. Memory is MiB."""

    version: str  # "4.17.5"
    virt_caps: tuple[str, ...]  # pv hvm hap shadow ...
    hw_caps: str
    cpus: int
    memory_total_mib: int
    memory_free_mib: int


@dataclass(frozen=True, slots=True)
class Backend:
    """One virtual disk as its backend's place in xenstore describes it."""

    domid: int
    devid: int
    vdev: str
    device: str  # /dev/drbd1


ListParser = Parsed[str, DomainState]
"""Takes the lines of `xl list`, one a domain."""


def list_parser() -> ListParser:
    return Parsed(_domain)


def parse_list(text: str, parsed: ListParser | None = None) -> tuple[DomainState, ...]:
    """Output of `xl list` or `xl list -v`, without Domain-0. `disks` is None (not in it). Raises Unreadable."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not _HEADER.match(lines[0]):
        raise Unreadable(f"not xl's list of domains: {text[:200]!r}")
    domains = (parsed or list_parser())(lines[1:])
    if not any(domain.domid == 0 for domain in domains):
        raise Unreadable("xl's list of domains was cut off: Domain-0 is not in it")
    if len({domain.domid for domain in domains}) != len(domains):
        raise Unreadable("xl's list of domains has a domain twice")
    return tuple(domain for domain in domains if domain.domid != 0)


def _domain(line: str) -> DomainState:
    match = _LINE.match(line.rstrip())
    if match is None:
        raise Unreadable(f"xl list: unknown line {line[:200]!r}")
    uuid = match["uuid"]
    return DomainState(
        domid=int(match["domid"]),
        name=match["name"],
        uuid=None if uuid is None or set(uuid) == {"0", "-"} else uuid,
        kind=_kind(match["name"]),
        state=_state(match["flags"]),
        flags=match["flags"],
        memory_mib=int(match["memory"]),
        vcpus=int(match["vcpus"]),
        cpu_seconds=float(match["seconds"]),
    )


def _kind(name: str) -> DomainKind:
    if name == "(null)":  # xenstore forgot it, the hypervisor has not
        return "zombie"
    if name.endswith("--incoming"):
        return "incoming"
    if name.endswith("--migratedaway"):
        return "migratedaway"
    return "main"


def _state(flags: str) -> _State:
    """The flags r b p s X d. All clear means ready to run."""
    if flags[5] == "d":
        return "dying"
    if flags[3] == "s":
        return _SHUTDOWN.get(flags[4], "crashed")
    return "paused" if flags[2] == "p" else "running"


def parse_info(text: str) -> XenInfo:
    """Output of `xl info`. Raises Unreadable."""
    fields = dict(re.findall(r"^([a-z_]+)\s*:[ ]?(.*)$", text, re.M))
    try:
        numbers = [fields[key].strip() for key in ("nr_cpus", "total_memory", "free_memory")]
        version = fields["xen_version"].strip()
        caps, hardware = fields["virt_caps"], fields["hw_caps"].strip()
    except KeyError as error:
        raise Unreadable(f"xl info has no {error}") from error
    if not re.match(r"[0-9]+\.[0-9]+", version) or not all(re.fullmatch(r"[0-9]{1,12}", number) for number in numbers):
        raise Unreadable(f"xl info is unreadable: version {version[:40]!r}, cpus and memory {numbers}")
    return XenInfo(version, tuple(caps.split()), hardware, *map(int, numbers))


def parse_backends(text: str) -> tuple[Backend, ...]:
    """Output of `xenstore-ls -f /local/domain/0/backend/vbd`. Raises Unreadable."""
    disks: dict[tuple[int, int], dict[str, str]] = {}
    lines = 0
    for match in _BACKEND.finditer(text):
        lines += 1
        if match[2] and match[3] in ("dev", "params"):
            disks.setdefault((int(match[1]), int(match[2])), {})[match[3]] = match[4]
    if lines != len(text.splitlines()):
        unknown = next((line for line in text.splitlines() if _BACKEND.fullmatch(line) is None), text)
        raise Unreadable(f"xenstore: unknown line {unknown[:200]!r}")
    # A node without params is one that libxl is about to make or to remove
    return tuple(
        Backend(domid, devid, fields.get("dev", ""), fields["params"])
        for (domid, devid), fields in sorted(disks.items())
        if "params" in fields
    )


def device_number(vdev: str) -> int:
    """The number of a virtual disk, as libxl computes it: xvda 51712, hda1 769 (xen-vbd-interface(7)).

    Raises DriverError("InvalidDevice").
    """
    match = re.fullmatch(r"(xvd|hd|sd)([a-z]{1,4})([1-9][0-9]{0,2})?", vdev)
    if match is None:
        raise DriverError("InvalidDevice", f"{vdev!r} is not a virtual disk: write xvda, hda1, sdb ...")
    disk = -1
    for letter in match[2]:
        disk = (disk + 1) * 26 + ord(letter) - ord("a")
    partition = int(match[3] or 0)
    kind = match[1]
    if kind == "xvd" and partition <= 255 and disk < 1 << 20:
        if disk <= 15 and partition <= 15:
            return 202 << 8 | disk << 4 | partition
        return 1 << 28 | disk << 8 | partition
    if kind == "hd" and disk <= 3 and partition <= 63:
        return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition
    if kind == "sd" and disk <= 15 and partition <= 15:
        return 8 << 8 | disk << 4 | partition
    raise DriverError("InvalidDevice", f"{vdev} is beyond the disks and partitions that Xen numbers for {kind}")


def physical_device(minor: int) -> str:
    """xenstore's and sysfs's word for /dev/drbd<minor>: major 147 and the minor, both hexadecimal."""
    return f"93:{minor:x}"
