"""drbdadm(8) of drbd-utils 9.22 with the 8.4 kernel: reads the configuration, runs drbdsetup-84 and drbdmeta."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation import drbd_options, drbdmeta, drbdsetup
from agent.simulation.drbd_config import MAIN, ConfigError, ResourceConfig, parse
from agent.simulation.process import failed

if TYPE_CHECKING:
    from agent.simulation.drbd_volume import Volume
    from agent.simulation.host import SimulatedHost

USAGE = 1
BAD_CONFIG = 10
NO_FILE = 20
NO_HANDLER = 127
TOLD_OF = 10  # lower statuses of a tool underneath are passed on without a word
VERSION = """\
DRBDADM_BUILDTAG=GIT-hash:\\ 8c2a2bb5d8fcd60f3b7cd2db05ed4ee0a9b9cf1b\\ build\\ by\\ buildd@,\\ 2023-01-08\\ 11:00:00
DRBDADM_API_VERSION=1
DRBD_KERNEL_VERSION_CODE=0x08040b
DRBD_KERNEL_VERSION=8.4.11
DRBDADM_VERSION_CODE=0x091600
DRBDADM_VERSION=9.22.0
"""


@dataclass
class Call:
    """One run of drbdadm: what it collects on its outputs."""

    host: SimulatedHost
    options: list[str] = field(default_factory=list)  # for drbdsetup and drbdmeta
    stdout: str = ""
    stderr: str = ""

    async def setup(self, *words: str, quiet: bool = False, told: bool = True) -> int:
        """Run drbdsetup; says what failed as drbdadm does."""
        completed = await drbdsetup.run(self.host, ["drbdsetup", *words])
        if quiet and completed.exit:
            return completed.exit
        self.stdout += completed.stdout
        self.stderr += completed.stderr
        if completed.exit and told:
            self.stderr += f"Command 'drbdsetup-84 {' '.join(words)}' terminated with exit code {completed.exit}\n"
        return completed.exit

    def meta(self, resource: ResourceConfig, command: str) -> int:
        part = resource.hosts[self.host.name]
        try:
            out, err = drbdmeta.run(self.host, part, command, force="--force" in self.options)
        except drbdmeta.MetaError as error:
            if error.exit == drbdmeta.NO_METADATA:
                self.stderr += str(error)
                return 1
            self.stdout += error.stdout
            self.stderr += str(error)
            if error.exit >= TOLD_OF:
                words = " ".join([drbdmeta.command_line(part), command, *self.options])
                self.stderr += f"Command '{words}' terminated with exit code {error.exit}\n"
            return error.exit
        self.stdout += out
        self.stderr += err
        return 0


Function = Callable[[Call, ResourceConfig], Awaitable[int]]


def _options(options: dict[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]


def _minor(call: Call, resource: ResourceConfig) -> str:
    return str(resource.hosts[call.host.name].device)


def _endpoints(call: Call, resource: ResourceConfig) -> list[str]:
    ends = [resource.hosts[call.host.name]]
    if (peer := resource.peer_of(call.host.name)) is not None:
        ends.append(resource.hosts[peer])
    return [
        f"ipv6:[{end.address}]:{end.port}" if ":" in end.address else f"ipv4:{end.address}:{end.port}" for end in ends
    ]


def _on_minor(command: str) -> Function:
    async def function(call: Call, resource: ResourceConfig) -> int:
        return await call.setup(command, _minor(call, resource), *call.options)

    return function


def _on_minor_or_disk(command: str) -> Function:
    """The kernel is asked first; when it does not have the device, drbdmeta looks at the disk."""

    async def function(call: Call, resource: ResourceConfig) -> int:
        status = await call.setup(command, _minor(call, resource), *call.options, quiet=True)
        if status in {11, 17}:
            return await call.setup(command, _minor(call, resource), *call.options, told=command != "invalidate")
        on_disk = call.meta(resource, command) if status else 0
        return 5 if on_disk and status == 5 else on_disk

    return function


def _on_disk(command: str) -> Function:
    async def function(call: Call, resource: ResourceConfig) -> int:
        return call.meta(resource, command)

    return function


def _on_resource(command: str) -> Function:
    async def function(call: Call, resource: ResourceConfig) -> int:
        return await call.setup(command, resource.name, *call.options)

    return function


async def _attach(call: Call, resource: ResourceConfig) -> int:
    part = resource.hosts[call.host.name]
    minor = _minor(call, resource)
    volume = call.host.drbd.minors.get(part.device)
    if (volume is None or volume.backing is None) and (status := Call.meta(call, resource, "apply-al")):
        return status
    meta = part.disk if part.meta_disk == "internal" else part.meta_disk
    kind = "internal" if part.meta_disk == "internal" else "flexible"
    return await call.setup("attach", minor, part.disk, meta, kind, *_options(resource.disk), *call.options)


async def _connect(call: Call, resource: ResourceConfig) -> int:
    ends = _endpoints(call, resource)
    if len(ends) < 2:
        call.stderr += f"{resource.name}: no peer\n"
        return BAD_CONFIG
    return await call.setup("connect", resource.name, *ends, *_options(resource.net), *call.options)


async def _disconnect(call: Call, resource: ResourceConfig) -> int:
    return await call.setup("disconnect", *_endpoints(call, resource), *call.options)


async def _net_options(call: Call, resource: ResourceConfig) -> int:
    return await call.setup("net-options", *_endpoints(call, resource), *call.options)


async def _up(call: Call, resource: ResourceConfig) -> int:
    """Whatever fails on the way, 1."""
    return 1 if await _take_up(call, resource) else 0


async def _take_up(call: Call, resource: ResourceConfig) -> int:
    minor = _minor(call, resource)
    for words in (
        ("new-resource", resource.name, *_options(resource.options)),
        ("new-minor", resource.name, minor, "0"),
    ):
        if status := await call.setup(*words):
            return status
    return await _attach(call, resource) or await _connect(call, resource)


async def _adjust(call: Call, resource: ResourceConfig) -> int:
    """Make the kernel as the file says, changing what differs only."""
    part = resource.hosts[call.host.name]
    volume = call.host.drbd.resources.get(resource.name)
    if volume is None or volume.minor is None:
        return await _up(call, resource)
    if volume.minor != part.device:
        return await call.setup("down", resource.name) or await _up(call, resource)
    if volume.backing is None:
        if status := await _attach(call, resource):
            return status
    elif not _same(volume.disk_options, resource.disk, drbd_options.DISK):
        await call.setup("disk-options", str(volume.minor), "--set-defaults", *_options(resource.disk))
    if volume.net is not None and not _same(volume.net.options, resource.net, drbd_options.NET):
        ends = _endpoints(call, resource)
        if status := await call.setup("net-options", *ends, "--set-defaults", *_options(resource.net)):
            return status
    return await _connect(call, resource) if volume.net is None else 0


def _same(now: dict[str, str], wanted: dict[str, str], table: dict[str, drbd_options.Option]) -> bool:
    def shown(options: dict[str, str]) -> list[str]:
        return drbd_options.shown(options, table, "")

    return shown(now) == shown(wanted)


async def _new_current_uuid(call: Call, resource: ResourceConfig) -> int:
    return await call.setup("new-current-uuid", _minor(call, resource), *call.options)


async def _resize(call: Call, resource: ResourceConfig) -> int:
    if status := await call.setup("resize", _minor(call, resource), *call.options):
        return status
    part = resource.hosts[call.host.name]
    if (metadata := call.host.drbd.minors[part.device].metadata) is not None:
        drbdmeta.remember(call.host, part, metadata)
    return 0


async def _sh_minor(call: Call, resource: ResourceConfig) -> int:
    call.stdout += _minor(call, resource) + "\n"
    return 0


async def _sh_dev(call: Call, resource: ResourceConfig) -> int:
    call.stdout += f"/dev/drbd{_minor(call, resource)}\n"
    return 0


async def _sh_ll_dev(call: Call, resource: ResourceConfig) -> int:
    call.stdout += resource.hosts[call.host.name].disk + "\n"
    return 0


COMMANDS: dict[str, Function] = {
    "attach": _attach,
    "connect": _connect,
    "disconnect": _disconnect,
    "net-options": _net_options,
    "up": _up,
    "adjust": _adjust,
    "resize": _resize,
    "new-current-uuid": _new_current_uuid,
    "sh-minor": _sh_minor,
    "sh-dev": _sh_dev,
    "sh-ll-dev": _sh_ll_dev,
    **{name: _on_resource(name) for name in ("down", "status")},
    **{name: _on_disk(name) for name in ("create-md", "dump-md", "wipe-md", "apply-al")},
    **{name: _on_minor_or_disk(name) for name in ("dstate", "get-gi", "show-gi", "invalidate", "outdate")},
    **{
        name: _on_minor(name)
        for name in (
            "primary", "secondary", "detach", "disk-options", "role", "cstate", "verify", "pause-sync",
            "resume-sync", "suspend-io", "resume-io", "invalidate-remote", "wait-connect",
        )
    },
}  # fmt: skip


async def run(host: SimulatedHost, argv: list[str], stdin: bytes) -> Completed:
    """The whole program."""
    call = Call(host)
    if unknown := next((word for word in argv if word.split("=")[0] in ("-E", "--config-to-exclude")), ""):
        # 9's own: 8.4's drbdadm, to which 9.22 hands over before it reads its options, does not know it
        what = "invalid option -- 'E'" if unknown == "-E" else f"unrecognized option '{unknown}'"
        return failed(argv, USAGE, f"drbdadm: {what}\ntry 'drbdadm help'\n")
    command, names, files = _command_line(argv[1:], call)
    if command == "wipe-md" and call.options and "--" not in argv:
        what = f"drbdadm: unrecognized option '{call.options[0]}'\ntry 'drbdadm help wipe-md'\n"
        return failed(argv, USAGE, what)
    if command == "--version":
        return Completed(tuple(argv), 0, VERSION, "")
    if command not in COMMANDS and command not in {"sh-nop", "sh-resources"}:
        return failed(argv, USAGE, f"drbdadm: Unknown command '{command}'\n")
    try:
        resources = parse(host.files, files.get("c", MAIN), test=files.get("t"))
    except ConfigError as error:
        return failed(argv, error.exit, str(error))
    except FileNotFoundError as error:
        return failed(argv, NO_FILE, f"Can not open '{error.filename}'.\n.")
    if command == "sh-nop":
        return Completed(tuple(argv), 0, "", "")
    if command == "sh-resources":
        mine = [resource.name for resource in resources if host.name in resource.hosts]
        return Completed(tuple(argv), 0, " ".join(mine) + "\n", "")
    if not resources:
        return failed(argv, USAGE, "no resources defined!\n")
    if not names and command != "status":
        return failed(argv, USAGE, "", "No resource names specified\n")
    everything = not names or names == ["all"]
    chosen = [resource for resource in resources if host.name in resource.hosts] if everything else None
    status = await _each(call, command, chosen, names, resources)
    return Completed(tuple(argv), status, call.stdout, call.stderr)


async def _each(
    call: Call, command: str, chosen: list[ResourceConfig] | None, names: list[str], resources: list[ResourceConfig]
) -> int:
    status = 0
    if chosen is None:
        chosen = []
        for name in names:
            resource = _named(name, resources, call.host.name)
            if resource is None or call.host.name not in resource.hosts:
                call.stderr += f"'{name}' not defined in your config (for this host).\n"
                return USAGE
            chosen.append(resource)
    for resource in chosen:
        status = max(status, await COMMANDS[command](call, resource))
        if status >= 20:
            break
    return status


def _named(name: str, resources: list[ResourceConfig], host: str) -> ResourceConfig | None:
    """By RESOURCE, RESOURCE/0 or minor-N."""
    bare = name.removesuffix("/0")
    for resource in resources:
        if resource.name == bare:
            return resource
    minor = name.removeprefix("minor-")
    if minor == name or not minor.isdecimal():
        return None
    parts = ((resource, resource.hosts.get(host)) for resource in resources)
    return next((resource for resource, part in parts if part is not None and part.device == int(minor)), None)


def _command_line(argv: Sequence[str], call: Call) -> tuple[str, list[str], dict[str, str]]:
    """(command, resources, files given by -c and -t). Options for the tools underneath go to the call."""
    files: dict[str, str] = {}
    long_names = {"--config-file": "c", "--config-to-test": "t"}
    words = iter(argv)
    command, names = "", []
    for word in words:
        name, separator, value = word.partition("=")
        if word in {"-c", "-t"} or name in long_names:
            files[long_names.get(name, word[1:2])] = value if separator else next(words, "")
        elif word in {"--version", "-V"}:
            return "--version", [], files
        elif word == "--":
            continue
        elif word.startswith("-"):
            call.options.append(word)
        elif not command:
            command = word
        else:
            names.append(word)
    return command, names, files


async def run_handler(host: SimulatedHost, volume: Volume, name: str) -> int:
    """`drbdadm NAME minor-N` as the kernel calls it: the configured handler's status, 0 when there is none."""
    try:
        resources = parse(host.files)
    except (ConfigError, FileNotFoundError):
        return BAD_CONFIG
    resource = next((resource for resource in resources if resource.name == volume.name), None)
    text = "" if resource is None else resource.handlers.get(name, "")
    if resource is None or not text:
        return 0
    peer = resource.peer_of(host.name) or ""
    end = resource.hosts.get(peer)
    environment = {
        "DRBD_RESOURCE": volume.name,
        "DRBD_MINOR": str(volume.minor),
        "DRBD_PEER": peer,
        "DRBD_PEERS": peer,
        "DRBD_PEER_AF": "ipv4",
        "DRBD_PEER_ADDRESS": "" if end is None else end.address,
        "DRBD_CONF": MAIN,
        "DRBD_DONT_WARN_ON_VERSION_MISMATCH": "1",
    }
    try:
        process = host.processes.start(shlex.split(text), environment=environment)
    except FileNotFoundError:
        return NO_HANDLER
    return await process.wait() & 0xFF
