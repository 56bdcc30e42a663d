"""What drbdsetup does to disks, connections, resyncs and IO of a resource."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.simulation import drbd_metadata as md
from agent.simulation import drbd_options, drbd_verify
from agent.simulation.drbd_arguments import Arguments, minor_of
from agent.simulation.drbd_handshake import Parting, settle
from agent.simulation.drbd_metadata import Metadata
from agent.simulation.drbd_resync import Resync
from agent.simulation.drbd_roles import can_resync, demote
from agent.simulation.drbd_state import PRIMARY, SECONDARY, Failure, StateError, connected, disk_rank
from agent.simulation.drbd_volume import Net, Volume
from agent.simulation.lvm import LogicalVolume

if TYPE_CHECKING:
    from agent.simulation.drbd_kernel import Kernel
    from agent.simulation.host import SimulatedHost


AGREED = ("protocol", "allow-two-primaries", "after-sb-0pri", "after-sb-1pri", "after-sb-2pri", "data-integrity-alg")
"""Options of a connection that its sides tell each other."""


class TimedOut(Exception):
    """wait-connect or wait-sync gave up (exit 5)."""


def endpoint(word: str) -> tuple[str, int]:
    """Of "ipv4:10.0.0.81:7789"."""
    address, _, port = word.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")
    return address.strip("[]"), int(port)


def logical_volume(host: SimulatedHost, path: str, code: int) -> LogicalVolume:
    block = host.devices.get(path)
    if not isinstance(block, LogicalVolume):
        raise Failure(code)
    return block


async def attach(kernel: Kernel, given: Arguments) -> str:
    """attach MINOR LOWER_DEVICE META_DEVICE META_INDEX"""
    volume = kernel.minor(_minor(given))
    _, lower, meta, _ = given.words[:4]
    backing = logical_volume(kernel.host, lower, 104)
    internal = lower == meta
    holder = backing if internal else logical_volume(kernel.host, meta, 105)
    metadata = Metadata(holder, backing.size, internal=internal)
    volume.attach(backing, metadata, given.take(drbd_options.DISK))
    session = volume.session
    if session is not None and connected(volume.state.cs):
        try:
            await settle(session)
        except Parting as parting:
            for line in parting.args:
                volume.log(line)
            volume.detach()
            raise StateError(-2) from None
    return ""


async def detach(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    session = volume.session
    if volume.primary and volume.state.peer_disk != "UpToDate" and volume.state.disk != "Diskless":
        raise StateError(-2)
    volume.detach()
    if session is not None:
        session.disk_lost(volume)
    return ""


async def disk_options(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    if "set-defaults" in given.options:
        volume.disk_options.clear()
    volume.disk_options.update(given.take(drbd_options.DISK))
    kernel.host.simulation.changed.notify()
    return ""


async def connect(kernel: Kernel, given: Arguments) -> str:
    """connect RESOURCE LOCAL REMOTE [--discard-my-data]"""
    volume = kernel.resource(given.words[0])
    local, remote = endpoint(given.words[1]), endpoint(given.words[2])
    if local in kernel.fabric.taken:  # also by this very connection
        raise Failure(102)
    if volume.net is not None:
        raise Failure(125)
    options = given.take(drbd_options.NET)
    discard = "discard-my-data" in given.options
    if discard and volume.primary:
        raise Failure(123)
    if options.get("allow-two-primaries") == "yes" and options.get("protocol", "C").upper() != "C":
        raise Failure(139)
    volume.net = Net(options, local, remote, discard)
    kernel.fabric.connect(volume)
    return ""


async def net_options(kernel: Kernel, given: Arguments) -> str:
    """net-options LOCAL REMOTE"""
    local, remote = endpoint(given.words[0]), endpoint(given.words[1])
    volume = next(
        (v for v in kernel.resources.values() if v.net is not None and (v.net.local, v.net.remote) == (local, remote)),
        None,
    )
    if volume is None or volume.net is None:
        raise Failure(162)
    options = given.take(drbd_options.NET)
    both = volume.primary and volume.state.peer_role == PRIMARY
    if options.get("allow-two-primaries") == "no" and both:
        raise Failure(164)
    if "set-defaults" in given.options:
        volume.net.options.clear()
    volume.net.options.update(options)
    session = volume.session
    if session is not None and connected(volume.state.cs) and (peer := session.peer(volume)).net is not None:
        # P_PROTOCOL_UPDATE: what both must agree in, the peer takes over (drbd_receiver.c, receive_protocol())
        told = {name: volume.net.value(name) for name in AGREED}
        peer.net.options.update(told)
    return ""


async def disconnect(kernel: Kernel, given: Arguments) -> str:
    """disconnect LOCAL REMOTE [--force]"""
    local, remote = endpoint(given.words[0]), endpoint(given.words[1])
    for volume in kernel.resources.values():
        if volume.net is not None and (volume.net.local, volume.net.remote) == (local, remote):
            await kernel.fabric.disconnect(volume, force="force" in given.options)
            return ""
    raise Failure(162, "unknown connection")


async def down(kernel: Kernel, given: Arguments) -> str:
    """Secondary, disconnected, detached, gone. Not there at all is as good."""
    name = given.words[0]
    if (volume := kernel.resources.get(name)) is None:
        return ""
    try:
        await demote(volume)
    except StateError as error:
        raise StateError(error.code, "failed to demote") from None
    try:
        await kernel.fabric.disconnect(volume)
    except StateError as error:
        raise StateError(error.code, "failed to disconnect") from None
    volume.detach()
    if volume.minor is not None:
        kernel.del_minor(volume.minor)
    kernel.del_resource(name)
    return ""


async def resize(kernel: Kernel, given: Arguments) -> str:
    """Take the backing devices' new size: connected, in sync, one Primary."""
    volume = kernel.minor(_minor(given))
    if connected(volume.state.cs) and volume.state.cs != "Connected":
        raise Failure(130)
    session = volume.session if connected(volume.state.cs) else None
    if volume.state.role == volume.state.peer_role == SECONDARY:
        raise Failure(131)
    if session is None:
        return _resize_alone(volume)
    peer = session.peer(volume)
    sizes = []
    for end in (volume, peer):
        if end.backing is None or end.metadata is None:
            raise Failure(138)
        sizes.append(md.usable_bytes(end.backing.size) if end.metadata.internal else end.backing.size)
    if "size" in given.options:
        sizes.append(drbd_options.number(given.options["size"], 512))
    peer.peer_known = volume.block.generation
    size = min(sizes) // md.BLOCK * md.BLOCK
    if size < volume.known_size:
        raise Failure(111)
    assume_clean = "assume-clean" in given.options
    for end in (volume, peer):
        end.grow(size, clean=assume_clean)
    if size > 0 and not assume_clean and volume.bitmap is not None and volume.bitmap.count:
        source, target = (volume, peer) if volume.primary else (peer, volume)
        session.resync = Resync(session, source, target, full=False)
        session.resync.start()
    return ""


def _resize_alone(volume: Volume) -> str:
    """How much room the peer has is not known: the size stays, internal metadata goes to the disk's new end."""
    if volume.backing is None:
        raise Failure(138)
    volume.grow(volume.known_size, clean=True)
    return ""


def _resync(source: Volume, target: Volume) -> None:
    """A full resync by command, both UpToDate before or not."""
    session = source.session
    assert session is not None
    for end in (source, target):
        if (refusal := can_resync(end)) is not None:
            raise StateError(refusal)
        if end.backing is None:
            raise StateError(-4 if end is source else -5)
    if disk_rank(source.state.disk) < disk_rank("UpToDate"):
        raise StateError(-2)
    session.resync = Resync(session, source, target, full=True, commanded=True)
    session.resync.start()


async def invalidate(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    session = volume.session
    if session is not None and connected(volume.state.cs):
        if not await session.reach(volume):
            raise StateError(-10)
        _resync(session.peer(volume), volume)
        return ""
    if volume.backing is None:
        raise StateError(-4)
    if volume.primary:
        raise StateError(-2)
    if volume.bitmap is not None:
        volume.mark_blocks(0, volume.bitmap.blocks, out_of_sync=True)
    volume.change(disk="Inconsistent")
    return ""


async def invalidate_remote(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    session = volume.session
    if session is None or not connected(volume.state.cs):
        raise StateError(-15)
    if not await session.reach(volume):
        raise StateError(-10)
    _resync(volume, session.peer(volume))
    return ""


async def outdate(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    if connected(volume.state.cs):
        return ""  # Outdated vanishes where the peers talk (the kernel's sanitize_state()): nothing to do
    if volume.primary:
        raise StateError(-2)
    if disk_rank(volume.state.disk) < disk_rank("Outdated"):
        raise StateError(-16)
    volume.change(disk="Outdated")
    return ""


async def pause_sync(kernel: Kernel, given: Arguments) -> str:
    kernel.minor(_minor(given)).change(paused_user=True)
    return ""


async def resume_sync(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    if not volume.state.paused_user:
        raise Failure(135)
    volume.change(paused_user=False)
    return ""


async def suspend_io(kernel: Kernel, given: Arguments) -> str:
    kernel.minor(_minor(given)).change(suspended_user=True)
    return ""


async def resume_io(kernel: Kernel, given: Arguments) -> str:
    """Also ends a freeze by fencing; this side then has data of its own: a new generation.

    What waits for data goes on, too: it fails.
    """
    volume = kernel.minor(_minor(given))
    if volume.new_uuid_due:
        volume.new_current_uuid()
    volume.thaw()
    volume.change(suspended_user=False, suspended_no_data=False)
    return ""


async def verify(kernel: Kernel, given: Arguments) -> str:
    """Compare both replicas; blocks that differ are marked, not repaired."""
    volume = kernel.minor(_minor(given))
    session = volume.session
    if session is None or volume.net is None or not connected(volume.state.cs):
        raise StateError(-15)
    if not volume.net.value("verify-alg"):
        raise StateError(-14)
    if volume.state.cs != "Connected":
        raise StateError(-8)
    drbd_verify.start(session, volume)
    return ""


async def wait_connect(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    await _wait(kernel, given, lambda: connected(volume.state.cs) or volume.state.cs == "StandAlone")
    return ""


async def wait_sync(kernel: Kernel, given: Arguments) -> str:
    volume = kernel.minor(_minor(given))
    await _wait(kernel, given, lambda: volume.state.cs in {"Connected", "StandAlone"})
    return ""


async def _wait(kernel: Kernel, given: Arguments, condition: Callable[[], bool]) -> None:
    seconds = float(given.options.get("wfc-timeout", given.options.get("t", "0")) or 0)
    waiting = kernel.host.simulation.changed.wait_until(condition)
    if not seconds:
        await waiting
        return
    try:
        await kernel.host.clock.wait_for(asyncio.ensure_future(waiting), seconds)
    except TimeoutError:
        raise TimedOut from None


def _minor(given: Arguments) -> int:
    return minor_of(given.words[0])
