"""DRBD 8.4 and 9 on one host.

Commands: drbdadm (drbdadm(8)) where the configuration file is needed, drbdsetup (drbdsetup(8)) where speed counts or
the kernel is asked: `drbdsetup events2 [--now --statistics]`, `drbdsetup primary|secondary`, `drbdadm -t FILE sh-nop`,
`drbdadm get-gi|dump-md|create-md|up|down|adjust|connect|disconnect|primary --force`. Files: /proc/drbd, /etc/drbd.conf,
/etc/drbd.d.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from agent.drivers import drbd_config
from agent.drivers.drbd_config import Dialect
from agent.drivers.drbd_files import ResConfig, parse_config
from agent.drivers.drbd_parse import (
    DrbdEvent,
    DrbdResource,
    ProcDevice,
    dump_parser,
    parse_dump,
    parse_event,
    parse_generations,
    parse_proc,
    parse_received,
    parse_two_primaries,
    proc_version,
)
from agent.drivers.errors import DriverError, Unreadable, read, run, said
from agent.host import Completed, Host
from agent.protocol import GenerationIds, VolumeDesired

__all__ = ["Dialect", "Drbd", "DrbdEvent", "DrbdResource", "ResConfig", "detect_dialect", "kernel_version"]

PROC = "/proc/drbd"
CONFIG = "/etc/drbd.conf"
FOLDER = "/etc/drbd.d"

# drbdsetup's numbers of refused state changes (drbd_strings.c of the kernel module)
STATE_REASONS = {
    -1: "MultiplePrimaries",
    -2: "NeedUpToDate",
    -4: "NoLocalDisk",
    -5: "NoRemoteDisk",
    -7: "PeerNotOutdated",
    -8: "ResyncRunning",
    -10: "RefusedByPeer",
    -11: "Diskless",
    -12: "DeviceOpen",
    -15: "NeedConnection",
    -16: "AlreadyInconsistent",
    -18: "InTransient",
    -19: "InTransient",
}
# ... and of refused configuration changes
FAILURE_REASONS = {
    119: "NoValidMetadata",
    127: "MinorNotAllocated",
    130: "ResyncRunning",
    158: "UnknownResource",
    165: "UncleanMetadata",
}
LAST_PLACE = "/var/lib/drbd/drbd-minor-{}.lkbd"
_NO_METADATA = "No valid meta data found"


async def kernel_version(host: Host) -> str:
    """Version of the loaded kernel module, "8.4.11" or "9.1.23". Raises Unreadable (also: not loaded)."""
    try:
        return proc_version(await host.read_text(PROC))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unreadable(f"{PROC}: {error}") from error
    said_version = await read(host, ["drbdadm", "--version"])
    match = re.search(r"^DRBD_KERNEL_VERSION_CODE=0x([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$", said_version, re.M)
    if match is None or int(match[1], 16) == 0:
        raise Unreadable("DRBD's kernel module is not loaded on this host: load it with `modprobe drbd`")
    return ".".join(str(int(part, 16)) for part in match.groups())


async def detect_dialect(host: Host) -> Dialect:
    """The syntax and words this host's DRBD has. Raises Unreadable (also: a version that is neither 8.4 nor 9)."""
    version = await kernel_version(host)
    if version.startswith("8.4."):
        return "8.4"
    if version.startswith("9."):
        return "9"
    raise Unreadable(f"DRBD {version} is neither 8.4 nor 9: this host can't hold replicas")


class Drbd:
    """One host's DRBD. Raises DriverError with a reason of STATE_REASONS or FAILURE_REASONS, else "CommandFailed"."""

    def __init__(self, host: Host, dialect: Dialect) -> None:
        self._host = host
        self._parse = dump_parser()
        self.dialect = dialect

    # --- looking ------------------------------------------------------------------------------------------------

    async def snapshot(self) -> dict[str, DrbdResource]:
        """Every resource the kernel has, by name. Raises Unreadable, CommandTimedOut."""
        text = await read(self._host, ["drbdsetup", "events2", "--now", "--statistics"])
        resources = parse_dump(text, self._parse)
        return await self._with_progress(resources)

    async def resource(self, name: str) -> DrbdResource | None:
        """One resource alone, at the same cost however many there are. None proves nothing: read `snapshot` then.

        Raises Unreadable, CommandTimedOut.
        """
        argv = ["drbdsetup", "events2", "--now", "--statistics", name]
        return (await self._with_progress(parse_dump(await read(self._host, argv)))).get(name)

    async def two_primaries(self) -> frozenset[str]:
        """Resources whose connection allows two Primaries, in the kernel, now. Raises Unreadable, CommandTimedOut."""
        return parse_two_primaries(await read(self._host, ["drbdsetup", "show"]))

    async def received_kib(self, resource: str) -> int | None:
        """KiB that the peer has sent for it since it is up; None: not told. Raises Unreadable, CommandTimedOut."""
        argv = ["drbdsetup", "events2", "--now", "--statistics", resource]
        return parse_received(await read(self._host, argv), resource)

    async def _with_progress(self, resources: dict[str, DrbdResource]) -> dict[str, DrbdResource]:
        """8.4 tells percent and speed of a resync in /proc/drbd only, which is read only while there is one."""
        resyncing = [one for one in resources.values() if one.resyncing] if self.dialect == "8.4" else []
        if not resyncing:
            return resources
        devices = parse_proc(await self._read_file(PROC), {one.minor for one in resyncing if one.minor is not None})
        return resources | {one.name: _with_proc(one, devices) for one in resyncing}

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[DrbdEvent]]:
        """Changes as they come, after a dump that the event of object "-" ends. Use it as a bell: read `snapshot`.

        It ends when drbdsetup does (the module was unloaded, the process killed): start again, with a pause.
        Raises DriverError("ToolMissing"), Unreadable.
        """
        async with AsyncExitStack() as stack:
            try:
                lines = await stack.enter_async_context(self._host.follow(["drbdsetup", "events2"]))
            except FileNotFoundError as error:
                raise DriverError("ToolMissing", "drbdsetup is not installed on this host") from error

            async def parsed() -> AsyncIterator[DrbdEvent]:
                async for line in lines:
                    if line.strip():
                        yield parse_event(line)

            yield parsed()

    async def configured_resources(self) -> dict[str, ResConfig]:
        """What /etc/drbd.conf and /etc/drbd.d/*.res configure, foreign ones too. Raises Unreadable."""
        found: dict[str, ResConfig] = {}
        waiting = [f"{FOLDER}/{name}" for name in await self._host.list_dir(FOLDER) if name.endswith(".res")]
        if await self._host.exists(CONFIG):
            waiting.insert(0, CONFIG)
        seen: set[str] = set()
        while waiting:
            path = waiting.pop(0)
            if path in seen:
                continue
            seen.add(path)
            resources, includes = parse_config(path, await self._read_file(path))
            for resource in resources:
                if resource.name in found:
                    raise Unreadable(f"{path} and {found[resource.name].path} both configure {resource.name}")
                found[resource.name] = resource
            for pattern in includes:
                waiting += await self._matching(posixpath.join(posixpath.dirname(path), pattern))
        return found

    async def metadata(self, resource: str) -> GenerationIds | None:
        """The generation identifiers on the configured resource's backing device; works up and down.

        None only when DRBD says in words that there is no metadata: get-gi exits 1 without a word then, so dump-md is
        asked.
        A replaced disk reads as None, too, and so does metadata that LVM moved away from the end of the device, unless
        drbdmeta has noted its place (then Unreadable, until `up` moves it): None alone is no leave to create metadata.
        Raises Unreadable, CommandTimedOut, DriverError("ToolMissing").
        """
        completed = await run(self._host, ["drbdadm", "get-gi", resource])
        if completed.exit == 0:
            return parse_generations(completed.stdout)
        if _NO_METADATA not in completed.stderr:
            completed = await run(self._host, ["drbdadm", "dump-md", resource])
        if completed.exit != 0 and _NO_METADATA in completed.stderr:
            return None
        raise Unreadable(f"the metadata of {resource} can't be read: {said(completed)}", completed)

    # --- configuration ------------------------------------------------------------------------------------------

    async def validate(self, path: str, *, base: str | None = None) -> None:
        """Check a file together with the configuration in use (or with `base` in its place).

        One bad file makes every drbdadm call on the host fail, the kernel's handlers among them.
        Raises DriverError("InvalidConfiguration").
        """
        argv = ["drbdadm", *(["-c", base] if base else []), "-t", path, "sh-nop"]
        completed = await run(self._host, argv)
        if completed.exit != 0:
            raise DriverError("InvalidConfiguration", f"drbdadm refuses {path}: {said(completed)}", completed)

    async def install(
        self, desired: VolumeDesired, *, fence_handler: str | None = None, shared_secret: str | None = None
    ) -> None:
        """Write /etc/drbd.d/<resource>.res, checked first; nothing happens when it is there as it shall be.

        Raises DriverError("InvalidConfiguration"), DriverError("ForeignConfiguration") when somebody else wrote it.
        """
        text = drbd_config.render(desired, self.dialect, fence_handler=fence_handler, shared_secret=shared_secret)
        path = f"{FOLDER}/{desired.resource}.res"
        replaces = await self._host.exists(path)
        if replaces:
            present = await self._read_file(path)
            if present == text:
                return
            if not present.startswith(f"{drbd_config.OWNER_COMMENT}{desired.uid}\n"):
                raise DriverError("ForeignConfiguration", f"{path} is not of the volume {desired.uid}: move it away")
        new, others = f"{path}.new", f"{path}.others"
        try:
            await self._host.write_text(new, text)
            if replaces:
                # The parser refuses a resource that is there twice, so the one in use is left out; --config-to-exclude
                # would do that, too, but 8.4's drbdadm does not know it
                await self._host.write_text(others, await self._all_but(path))
            await self.validate(new, base=others if replaces else None)
            await self._host.write_text(path, text)
        finally:
            await self._host.remove(new)
            await self._host.remove(others)

    async def uninstall(self, resource: str) -> None:
        """Remove the resource's file. Take it down first: drbdadm does not know it afterwards."""
        for suffix in ("", ".new", ".others"):  # the last two are left when `install` was interrupted
            await self._host.remove(f"{FOLDER}/{resource}.res{suffix}")

    async def forget_place(self, minor: int) -> None:
        """Before a volume is made: where the metadata of that minor was last is where another volume's was.

        drbdmeta notes it, looks there in a disk that has none at its end (it may have grown), and would find what the
        removed volume left: then neither get-gi nor dump-md says that there is none.
        """
        await self._host.remove(LAST_PLACE.format(minor))

    async def create_metadata(self, resource: str) -> None:
        """Write fresh metadata where none is; destroys the data generation that was there.

        Refuses with DriverError("MetadataExists") when metadata is found, Unreadable when that can't be told. The
        caller also has to know that the volume is its own and new (`metadata` says why).
        """
        present = await self.metadata(resource)
        if present is not None:
            raise DriverError("MetadataExists", f"{resource} has metadata already (generation {present.current})")
        await self._do(["drbdadm", "create-md", "--force", resource], timeout=120)

    # --- changing -----------------------------------------------------------------------------------------------

    async def up(self, resource: str) -> None:
        """Attach and connect."""
        await self._do(["drbdadm", "up", resource])

    async def down(self, resource: str) -> None:
        """Disconnect and detach. Refused with "DeviceOpen" while something has the device open."""
        await self._do(["drbdadm", "down", resource])

    async def adjust(self, resource: str) -> None:
        """Make the kernel as the file says."""
        await self._do(["drbdadm", "adjust", resource])

    async def connect(self, resource: str) -> None:
        await self._do(["drbdadm", "connect", resource])

    async def connect_discarding(self, resource: str) -> None:
        """Connect as the side of a split brain that gives up what it wrote alone. DRBD refuses on a Primary; where it
        finds no split brain at the handshake, it gives up nothing.
        """
        await self._do(["drbdadm", "connect", "--discard-my-data", resource])

    async def disconnect(self, resource: str) -> None:
        await self._do(["drbdadm", "disconnect", resource])

    async def primary(self, resource: str, minor: int, *, patience: float = 5.0) -> None:
        """Promote, never by force. Tries again for `patience` seconds while a state change is under way."""
        await self._patiently(["drbdsetup", "primary", self._target(resource, minor)], {"InTransient"}, patience)

    async def force_primary(self, resource: str) -> None:
        """Declare this side's data valid. Only ever right once in a resource's life, on a brand-new one."""
        await self._do(["drbdadm", "primary", "--force", resource])

    async def secondary(self, resource: str, minor: int, *, patience: float = 5.0) -> None:
        """Demote; success proves that nothing has the device open any more.

        Tries again for `patience` seconds while the device is open: udev's probes open it for a moment, and blkback
        closes it a little after its domain has gone. Raises DriverError("DeviceOpen") after that.
        """
        argv = ["drbdsetup", "secondary", self._target(resource, minor)]
        await self._patiently(argv, {"InTransient", "DeviceOpen"}, patience)

    async def resume_io(self, minor: int) -> None:
        """Let frozen IO go on; this side begins a new data generation. Never where the other side may have one."""
        await self._do(["drbdsetup", "resume-io", str(minor)])

    async def outdate(self, minor: int) -> None:
        """Mark this disk as outdated. DRBD refuses on a Primary and while connected."""
        await self._do(["drbdsetup", "outdate", str(minor)])

    # --- the parts ----------------------------------------------------------------------------------------------

    def _target(self, resource: str, minor: int) -> str:
        """8.4's drbdsetup takes the minor, 9's the resource."""
        return str(minor) if self.dialect == "8.4" else resource

    async def _do(self, argv: list[str], *, timeout: float = 60.0) -> None:
        completed = await run(self._host, argv, timeout=timeout)
        if completed.exit != 0:
            raise DriverError(reason_of(completed), f"{' '.join(argv)}: {said(completed)}", completed)

    async def _patiently(self, argv: list[str], passing: set[str], patience: float) -> None:
        end = self._host.monotonic() + patience
        while True:
            try:
                return await self._do(argv, timeout=30)
            except DriverError as error:
                if error.reason not in passing or self._host.monotonic() >= end:
                    raise
            await self._host.sleep(0.02)

    async def _read_file(self, path: str) -> str:
        try:
            return await self._host.read_text(path)
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path}: {error}") from error

    async def _matching(self, pattern: str) -> list[str]:
        folder, name = posixpath.split(pattern)
        return [
            posixpath.join(folder, entry)
            for entry in await self._host.list_dir(folder)
            if fnmatch.fnmatchcase(entry, name)
        ]

    async def _all_but(self, path: str) -> str:
        """A configuration with everything in /etc/drbd.d but one file."""
        names = await self._host.list_dir(FOLDER)
        files = [f"{FOLDER}/{name}" for name in names if name.endswith(".res") or name == "global_common.conf"]
        return "".join(f'include "{file}";\n' for file in files if file != path)


def reason_of(completed: Completed) -> str:
    """The reason in what drbdadm or drbdsetup said, "CommandFailed" when it gave no number that is known."""
    words = completed.stderr + completed.stdout
    if match := re.search(r"State change failed: \((-[0-9]{1,4})\)", words):
        return STATE_REASONS.get(int(match[1]), "StateChangeFailed")
    if match := re.search(r"Failure: \(([0-9]{1,4})\)", words):
        return FAILURE_REASONS.get(int(match[1]), "CommandFailed")
    return "CommandFailed"


def _with_proc(resource: DrbdResource, devices: dict[int, ProcDevice]) -> DrbdResource:
    device = devices.get(resource.minor) if resource.minor is not None else None
    if device is None or resource.peer is None or device.done_percent is None:
        return resource
    update = {"done_percent": device.done_percent, "speed_kib_s": device.speed_kib_s}
    return replace(resource, peer=resource.peer.model_copy(update=update))
