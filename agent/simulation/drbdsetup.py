"""drbdsetup(8) of drbd-utils 9.22 with the 8.4 kernel: each command talks to the host's kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from agent.host import Completed
from agent.simulation import drbd_admin as admin
from agent.simulation import drbd_events, drbd_options, drbd_proc
from agent.simulation.drbd_arguments import Arguments, UsageError, minor_of
from agent.simulation.drbd_roles import demote, new_current_uuid, promote
from agent.simulation.drbd_state import Failure, StateError
from agent.simulation.process import Process, done, failed

if TYPE_CHECKING:
    from agent.simulation.drbd_kernel import Kernel
    from agent.simulation.host import SimulatedHost

COMMANDS_SHOWN = (
    "primary", "secondary", "attach", "disk-options", "detach", "connect", "net-options", "disconnect", "resize",
    "resource-options", "new-current-uuid", "invalidate", "invalidate-remote", "pause-sync", "resume-sync",
    "suspend-io", "resume-io", "outdate", "verify", "down", "state", "role", "sh-status", "cstate", "dstate",
    "show-gi", "get-gi", "show", "status", "check-resize", "events", "events2", "wait-connect", "wait-sync",
    "new-resource", "new-minor", "del-minor", "del-resource",
)  # fmt: skip
USAGE_ERROR = 20


def usage() -> str:
    rows = [COMMANDS_SHOWN[i : i + 3] for i in range(0, len(COMMANDS_SHOWN), 3)]
    listed = "".join("    " + "".join(f"{name:<20}" for name in row) + "\n" for row in rows)
    return (
        "\nUSAGE: drbdsetup command device arguments options\n\nDevice is usually /dev/drbdX or /dev/drbd/X.\n\n"
        f"Commands are:\n{listed}\nTo get more details about a command issue 'drbdsetup help cmd'.\n\n"
    )


Function = Callable[["Kernel", Arguments], Awaitable[str]]


async def _primary(kernel: Kernel, given: Arguments) -> str:
    given.only("primary", "force", "overwrite-data-of-peer", "o", "f")
    await promote(kernel.minor(minor_of(given.words[0])), force=bool(given.options))
    return ""


async def _secondary(kernel: Kernel, given: Arguments) -> str:
    given.only("secondary")
    await demote(kernel.minor(minor_of(given.words[0])))
    return ""


async def _role(kernel: Kernel, given: Arguments) -> str:
    state = kernel.minor(minor_of(given.words[0])).state
    return f"{state.role}/{state.peer_role}\n"


async def _cstate(kernel: Kernel, given: Arguments) -> str:
    return kernel.minor(minor_of(given.words[0])).state.cs + "\n"


async def _dstate(kernel: Kernel, given: Arguments) -> str:
    state = kernel.minor(minor_of(given.words[0])).state
    return f"{state.disk}/{state.peer_disk}\n"


async def _get_gi(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(minor_of(given.words[0]))
    if volume.backing is None:
        raise Failure(138)
    return volume.block.get_gi() + "\n"


async def _status(kernel: Kernel, given: Arguments) -> str:
    given.only("status", "verbose", "statistics", "color", "v", "s")
    volumes = [kernel.resource(name) for name in given.words if name != "all"] or list(kernel.resources.values())
    return drbd_proc.status(
        sorted(volumes, key=lambda volume: volume.name),
        verbose=bool({"verbose", "v"} & set(given.options)),
        statistics=bool({"statistics", "s"} & set(given.options)),
    )


async def _show(kernel: Kernel, given: Arguments) -> str:
    given.only("show", "show-defaults", "D")
    names = [name for name in given.words if name != "all"]
    volumes = [kernel.minor(int(name)) if name.isdecimal() else kernel.resource(name) for name in names]
    return drbd_proc.show(volumes or sorted(kernel.resources.values(), key=lambda volume: volume.name))


async def _new_current_uuid(kernel: Kernel, given: Arguments) -> str:
    given.only("new-current-uuid", "clear-bitmap", "c")
    new_current_uuid(kernel.minor(minor_of(given.words[0])), clear_bitmap=bool(given.options))
    return ""


async def _new_resource(kernel: Kernel, given: Arguments) -> str:
    kernel.new_resource(given.words[0]).resource_options.update(given.take(drbd_options.RESOURCE))
    return ""


async def _new_minor(kernel: Kernel, given: Arguments) -> str:
    kernel.new_minor(given.words[0], minor_of(given.words[1]))
    return ""


async def _del_minor(kernel: Kernel, given: Arguments) -> str:
    kernel.del_minor(minor_of(given.words[0]))
    return ""


async def _del_resource(kernel: Kernel, given: Arguments) -> str:
    kernel.del_resource(given.words[0])
    return ""


FUNCTIONS: dict[str, tuple[Function, int]] = {
    "primary": (_primary, 1),
    "secondary": (_secondary, 1),
    "attach": (admin.attach, 4),
    "detach": (admin.detach, 1),
    "disk-options": (admin.disk_options, 1),
    "connect": (admin.connect, 3),
    "net-options": (admin.net_options, 2),
    "disconnect": (admin.disconnect, 2),
    "down": (admin.down, 1),
    "resize": (admin.resize, 1),
    "invalidate": (admin.invalidate, 1),
    "invalidate-remote": (admin.invalidate_remote, 1),
    "outdate": (admin.outdate, 1),
    "pause-sync": (admin.pause_sync, 1),
    "resume-sync": (admin.resume_sync, 1),
    "suspend-io": (admin.suspend_io, 1),
    "resume-io": (admin.resume_io, 1),
    "verify": (admin.verify, 1),
    "wait-connect": (admin.wait_connect, 1),
    "wait-sync": (admin.wait_sync, 1),
    "new-current-uuid": (_new_current_uuid, 1),
    "new-resource": (_new_resource, 1),
    "new-minor": (_new_minor, 3),
    "del-minor": (_del_minor, 1),
    "del-resource": (_del_resource, 1),
    "role": (_role, 1),
    "state": (_role, 1),
    "cstate": (_cstate, 1),
    "dstate": (_dstate, 1),
    "get-gi": (_get_gi, 1),
    "show-gi": (_get_gi, 1),
    "status": (_status, 0),
    "show": (_show, 0),
}
"""Function and how many arguments it needs."""
OF_CONNECTIONS = ("net-options", "disconnect")


async def run(host: SimulatedHost, argv: Sequence[str]) -> Completed:
    """A command that ends; `argv` with the program's name. Used by drbdadm too, as the real one does."""
    kernel = host.drbd
    if len(argv) < 2 or argv[1] not in FUNCTIONS:
        return failed(argv, USAGE_ERROR, "", usage() + "\ninvalid command\n")
    name = argv[1]
    function, needed = FUNCTIONS[name]
    given = Arguments.parse(argv[2:])
    subject = given.words[0] if given.words else name
    if name in OF_CONNECTIONS:
        subject = "??"  # it names minors and resources only
    try:
        if len(given.words) < needed:
            raise UsageError(f"{name}: missing arguments\n")
        return done(argv, await function(kernel, given))
    except UsageError as error:
        return failed(argv, USAGE_ERROR, str(error), usage())
    except (StateError, Failure) as error:
        info = f"additional info from kernel:\n{error.info}\n" if error.info else ""
        if name == "status" and isinstance(error, Failure):
            return failed(argv, 10, f"{subject}: No such resource\n")
        return failed(argv, error.exit, f"{subject}: {error}\n{info}")
    except admin.TimedOut:
        return failed(argv, 5, "")


async def events2(process: Process) -> int:
    """Lines as they come; with --now only what there is."""
    given = Arguments.parse(process.argv[2:])
    try:
        given.only("events2", "now", "timestamps", "statistics", "n", "T", "s")
    except UsageError as error:
        process.stdout.put(usage())
        process.stderr.put(str(error))
        return USAGE_ERROR
    kernel = process.host.drbd
    bell = asyncio.Event()
    only = next((word for word in given.words if word != "all"), None)
    once = bool({"now", "n"} & set(given.options))
    if once and not {"timestamps", "T"} & set(given.options):
        names = sorted(kernel.resources) if only is None else {only} & kernel.resources.keys()
        statistics = bool({"statistics", "s"} & set(given.options))
        texts = [drbd_events.dump(kernel.resources[name], statistics=statistics) for name in names]
        process.stdout.put("".join(texts) + "exists -\n")
        return 0
    listener = drbd_events.Listener(
        statistics=bool({"statistics", "s"} & set(given.options)),
        timestamps=bool({"timestamps", "T"} & set(given.options)),
        only=only,
        wake=bell.set,
    )
    now = process.host.clock.now()
    for name, volume in sorted(kernel.resources.items()):
        for event in drbd_events.existing(volume):
            listener.tell(event, name, now)
    listener.tell(drbd_events.Event("exists"), only or "", now)
    if once:
        process.stdout.put(listener.take())
        return 0
    kernel.listeners.add(listener)
    try:
        while True:
            await process.stdout.write(listener.take())
            await bell.wait()
            bell.clear()
    finally:
        kernel.listeners.discard(listener)


async def program(process: Process) -> int:
    if process.argv[1:2] == ["events2"]:
        return await events2(process)
    completed = await run(process.host, process.argv)
    process.stdout.put(completed.stdout)
    process.stderr.put(completed.stderr)
    return completed.exit
