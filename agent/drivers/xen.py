"""Xen on one host, by xl.

Commands: `xl list -v|info|create|destroy|shutdown|pause|unpause|rename|migrate|migrate-receive|resume` (xl(1)),
`xenstore-ls -f`, `xenstore-write`, `xenstore-watch`, agent/scripts/xentandem-resume. Files:
/sys/bus/xen-backend/devices, /sys/class/net, /proc/cpuinfo, /sys/module/drbd/parameters. xl's exit status of pause,
unpause and resume is always 0, so the domain is looked at afterwards; every failure of a migration is exit 1, so its
words prove no state.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.drivers.errors import DriverError, Unreadable, read, run, run_ok, said
from agent.drivers.xen_parse import (
    Backend,
    XenInfo,
    device_number,
    list_parser,
    parse_backends,
    parse_info,
    parse_list,
    physical_device,
)
from agent.host import Completed, Host
from agent.protocol import DomainDisk, DomainState, HostFacts

__all__ = ["RESUME_SCRIPT", "Xen", "XenInfo", "device_number"]

RESUME_SCRIPT = str(Path(__file__).resolve().parent.parent / "scripts" / "xentandem-resume")
Look = Callable[[], Awaitable[tuple[DomainState, ...]]]
"""Lists the domains from now on, as Xen.listed does: of whoever keeps for others, too, what is read after an effect."""
BACKENDS = "/local/domain/0/backend/vbd"
SYSFS_BACKENDS = "/sys/bus/xen-backend/devices"


class Xen:
    """One host's hypervisor. Domains are named by domid where a name could have changed owner meanwhile."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parse = list_parser()

    # --- looking ------------------------------------------------------------------------------------------------

    async def domains(self) -> tuple[DomainState, ...]:
        """All but Domain-0, managed or not, half-made and half-dead ones too. Raises Unreadable, CommandTimedOut.

        `disks` is None where xenstore could not be read.
        """
        domains = await self.listed()
        if not domains:
            return ()
        disks: dict[int, list[DomainDisk]] = {}
        try:
            for backend in await self._backends():
                attached = bool(await self._attached_to(backend.domid, backend.devid))
                disk = DomainDisk(vdev=backend.vdev, device=backend.device, attached=attached)
                disks.setdefault(backend.domid, []).append(disk)
        except Unreadable:
            return domains
        return tuple(domain.model_copy(update={"disks": tuple(disks.get(domain.domid, ()))}) for domain in domains)

    async def listed(self) -> tuple[DomainState, ...]:
        """As `domains`, but nothing was asked about disks: None. Raises Unreadable, CommandTimedOut."""
        return parse_list(await read(self._host, ["xl", "list", "-v"]), self._parse)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[str]]:
        """A line whenever a domain comes, shuts down or goes: a bell, then read `domains`. Not when one is paused."""
        async with self._host.follow(["xenstore-watch", "@introduceDomain", "@releaseDomain"]) as lines:
            yield lines

    async def info(self) -> XenInfo:
        """Raises Unreadable, CommandTimedOut."""
        return parse_info(await read(self._host, ["xl", "info"]))

    async def disk_attached(self, domid: int, vdev: str, minor: int | None = None) -> bool:
        """Whether blkback has the disk open (and, with `minor`, that it is this DRBD device). Raises Unreadable.

        xl's exit status does not tell: a domain whose disk could not be opened starts, and has a dead disk.
        """
        attached_to = await self._attached_to(domid, device_number(vdev))
        return bool(attached_to) if minor is None else attached_to == physical_device(minor)

    async def host_facts(self) -> HostFacts:
        """What this driver knows of HostFacts: Xen, CPUs, memory, bridges. A fact that can't be read stays None."""
        facts = HostFacts(
            cpu_vendor=await self._cpu_vendor(),
            bridges=await self._bridges(),
            drbd_disable_sendpage=await self._sendpage_disabled(),
        )
        try:
            info = await self.info()
        except DriverError:
            return facts
        return facts.model_copy(
            update={
                "xen_version": info.version,
                "virt_caps": info.virt_caps,
                "hw_caps": info.hw_caps,
                "cpus": info.cpus,
                "memory_total_mib": info.memory_total_mib,
                "memory_free_mib": info.memory_free_mib,
            }
        )

    # --- changing -----------------------------------------------------------------------------------------------

    async def create(self, config_path: str, *, paused: bool = False) -> None:
        """Build and start the domain; returns when it runs (or, `paused`, is ready to).

        Promote its disks first: on a Secondary xl exits 0 too. Raises DriverError("NameTaken"), ("OutOfMemory"),
        ("CreateFailed").
        """
        argv = ["xl", "create", "-e", *(["-p"] if paused else []), config_path]
        completed = await run(self._host, argv, timeout=120)
        if completed.exit == 0:
            return
        reason = "CreateFailed"
        if "already exists" in completed.stderr:
            reason = "NameTaken"
        elif "Out of memory" in completed.stderr or "Cannot allocate memory" in completed.stderr:
            reason = "OutOfMemory"
        raise DriverError(reason, f"xl create {config_path}: {_causes(completed) or said(completed)}", completed)

    async def destroy(self, domain: int | str) -> None:
        """Pull the plug. What is left ((null), its disks still open) shows in `domains`: look before going on."""
        await run_ok(self._host, ["xl", "destroy", str(domain)], timeout=60, reason="DestroyFailed")

    async def shutdown(self, name: int | str) -> None:
        """Ask the guest to power off; returns at once. A guest that does not listen: DriverError("ShutdownFailed")."""
        await run_ok(self._host, ["xl", "shutdown", str(name)], reason="ShutdownFailed")

    async def pause(self, domid: int, *, look: Look | None = None) -> None:
        """`look`: instead of `listed`. Raises DriverError("PauseFailed"), ("NoSuchDomain"), Unreadable."""
        await run(self._host, ["xl", "pause", str(domid)])
        await self._becomes(domid, "pause", lambda domain: domain.flags[2] == "p", look)

    async def unpause(self, domid: int, *, look: Look | None = None) -> None:
        """`look`: instead of `listed`. Raises DriverError("UnpauseFailed"), ("NoSuchDomain"), Unreadable."""
        await run(self._host, ["xl", "unpause", str(domid)])
        await self._becomes(domid, "unpause", lambda domain: domain.flags[2] != "p", look)

    async def rename(self, domid: int, new: str) -> None:
        """Raises DriverError("RenameFailed"), for one when the name is taken."""
        await run_ok(self._host, ["xl", "rename", str(domid), new], reason="RenameFailed")

    async def resume(self, domid: int, *, look: Look | None = None) -> None:
        """Let a domain that was suspended for a migration go on here. `look`: instead of `listed`.

        Only when no other copy of it runs or will run. xl knows `resume` from 4.20 on; before, libxl is asked directly.
        Raises DriverError("ResumeFailed"), ("NoSuchDomain"), Unreadable.
        """
        version = tuple(int(part) for part in re.findall(r"[0-9]+", (await self.info()).version)[:2])
        argv = ["xl", "resume", str(domid)] if version >= (4, 20) else [RESUME_SCRIPT, str(domid)]
        await run(self._host, argv)
        await self._becomes(domid, "resume", lambda domain: domain.state in ("running", "paused"), look)

    async def attach_disk(self, domid: int, vdev: str, minor: int, *, limit: float = 5.0) -> None:
        """Let blkback open /dev/drbd<minor>, which our hotplug script left unopened; Primary here is the premise.

        Raises DriverError("AttachFailed") when blkback has not opened it within `limit` seconds, Unreadable.
        """
        if await self.disk_attached(domid, vdev, minor):
            return
        backend = f"{BACKENDS}/{domid}/{device_number(vdev)}"
        argv = ["xenstore-write", f"{backend}/physical-device-path", f"/dev/drbd{minor}"]
        argv += [f"{backend}/physical-device", physical_device(minor)]
        await run_ok(self._host, argv, reason="AttachFailed")
        end = self._host.monotonic() + limit
        while not await self.disk_attached(domid, vdev, minor):
            if self._host.monotonic() >= end:
                raise DriverError(
                    "AttachFailed", f"blkback did not open /dev/drbd{minor} as {vdev} of domain {domid} in {limit:g} s"
                )
            await self._host.sleep(0.01)

    # --- migration ----------------------------------------------------------------------------------------------

    @staticmethod
    def migrate_argv(name: str, relay_command: str) -> list[str]:
        """The sender: live, left paused at the target, no monitor. `relay_command` is given to `sh -c exec` by xl."""
        return ["xl", "migrate", "-s", "", "-p", "-e", name, relay_command]

    @staticmethod
    def receive_argv() -> list[str]:
        """The receiver, its stream on standard input and output; the domain stays paused."""
        return ["xl", "migrate-receive", "-p", "-e"]

    # --- the parts ----------------------------------------------------------------------------------------------

    async def _becomes(
        self, domid: int, verb: str, is_so: Callable[[DomainState], bool], look: Look | None, limit: float = 2.0
    ) -> None:
        end = self._host.monotonic() + limit
        while True:
            domain = next((domain for domain in await (look or self.listed)() if domain.domid == domid), None)
            if domain is None:
                raise DriverError("NoSuchDomain", f"domain {domid} is not there any more")
            if is_so(domain):
                return
            if self._host.monotonic() >= end:
                raise DriverError(
                    f"{verb.capitalize()}Failed",
                    f"domain {domid} is {domain.flags} after xl {verb}, not what was asked",
                )
            await self._host.sleep(0.05)

    async def _backends(self) -> tuple[Backend, ...]:
        completed = await run(self._host, ["xenstore-ls", "-f", BACKENDS])
        if completed.exit == 0:
            return parse_backends(completed.stdout)
        if "No such file or directory" in completed.stderr:
            return ()
        raise Unreadable(f"xenstore-ls {BACKENDS}: {said(completed)}", completed)

    async def _attached_to(self, domid: int, devid: int) -> str:
        """sysfs's "93:1", or "" when blkback has not opened a device."""
        return await self._file(f"{SYSFS_BACKENDS}/vbd-{domid}-{devid}/physical_device") or ""

    async def _file(self, path: str) -> str | None:
        """Contents without the line end, None when it is not there. Raises Unreadable."""
        try:
            return (await self._host.read_text(path)).strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path}: {error}") from error

    async def _cpu_vendor(self) -> str | None:
        try:
            match = re.search(r"^vendor_id\s*: (\S+)$", await self._file("/proc/cpuinfo") or "", re.M)
        except Unreadable:
            return None
        return match[1] if match else None

    async def _bridges(self) -> tuple[str, ...] | None:
        try:
            names = await self._host.list_dir("/sys/class/net")
            return tuple([name for name in names if await self._host.exists(f"/sys/class/net/{name}/bridge")])
        except OSError:
            return None

    async def _sendpage_disabled(self) -> bool | None:
        try:
            word = await self._file("/sys/module/drbd/parameters/disable_sendpage")
        except Unreadable:
            return None
        return {"Y": True, "1": True, "N": False, "0": False}.get(word or "")


_PLACE = re.compile(r"^(?:xc|xl|libxl): error: (?:panic: )?(?:\w+\.c:\d+:\s?)?(?:\w+:\s?)?")
_NUMBER = re.compile(r"\bDomain \d+:|\s\[\d+\]")


def _causes(completed: Completed) -> str:
    """xl's first three complaints without its source lines, domain and process numbers: the rest follows from them.

    The same words each time that the same thing goes wrong.
    """
    lines = [line for line in completed.stderr.splitlines() if line and not line.startswith("Parsing config")]
    return "; ".join(_NUMBER.sub("", _PLACE.sub("", line)).strip() for line in lines[:3])[:400]
