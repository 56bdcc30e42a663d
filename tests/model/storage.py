"""DRBD 8.4 between two hosts, protocol C, `allow-two-primaries no`, `fencing resource-only` without a handler.

From the reference's sections 1.4 (roles), 1.8 (generation UUIDs) and 5. A guest writes all the time: whoever is Primary
with a running guest and has lost its peer is ahead of it at once.
"""

from __future__ import annotations

from collections.abc import Callable

from states import World, with_host


class Refusal(Exception):
    """drbdsetup says no."""


def connected(world: World) -> bool:
    return world.link in ("Connected", "Syncing")


def peer_role(world: World, host: int) -> str:
    return world.hosts[1 - host].role if connected(world) else "Unknown"


def peer_disk(world: World, host: int) -> str:
    return world.hosts[1 - host].disk if connected(world) else "DUnknown"


def two_primaries_refused(world: World, host: int) -> bool:
    """State change failed: (-1) Multiple primaries not allowed by config."""
    return connected(world) and world.hosts[1 - host].role == "Primary"


def peer_may_be_newer(world: World, host: int) -> bool:
    """(-7) Refusing to be Primary while peer is not outdated."""
    return not connected(world)


PROMOTION: tuple[Callable[[World, int], bool], ...] = (two_primaries_refused, peer_may_be_newer)


def has_good_data(world: World, host: int) -> bool:
    """(-2) Need access to UpToDate data: the peer's will do, of a SyncTarget and of one without its disk."""
    return "UpToDate" in (world.hosts[host].disk, peer_disk(world, host))


def promote(world: World, host: int) -> World:
    one = world.hosts[host]
    if one.role == "Primary":
        return world
    if one.role != "Secondary" or not has_good_data(world, host) or any(no(world, host) for no in PROMOTION):
        raise Refusal
    return written(with_host(world, host, role="Primary"))


def demote(world: World, host: int) -> World:
    """(-12) Device is held open by someone: blkback has it until its domain is gone."""
    one = world.hosts[host]
    if one.role == "Unknown" or any(domain.attached for domain in one.domains):
        raise Refusal
    return with_host(world, host, role="Secondary")


def written(world: World) -> World:
    """What the guests wrote until now. Without access to good data they see IO errors: nothing is acknowledged."""
    for host, one in enumerate(world.hosts):
        writes = any(domain.state == "running" and domain.attached for domain in one.domains)
        if not writes or one.role != "Primary":
            continue
        here = one.disk != "Diskless"
        there = connected(world) and world.hosts[1 - host].disk not in ("Diskless", "Inconsistent")
        both = connected(world) and world.hosts[1 - host].disk != "Diskless"  # a SyncTarget takes new writes, too
        if here and not both:
            world = with_host(with_host(world, host, ahead=True), 1 - host, whole=False)
        elif there and not here:
            world = with_host(with_host(world, 1 - host, ahead=True), host, whole=False)
    return world


def reads_old_data(world: World, host: int) -> bool:
    """Does whoever reads here miss writes that were acknowledged? A peer that is good is read where the disk is not."""
    one, other = world.hosts[host], world.hosts[1 - host]
    if one.disk in ("Diskless", "Inconsistent") and connected(world) and other.disk == "UpToDate":
        return not other.whole
    return one.disk != "Diskless" and not one.whole


def disk_failed(world: World, host: int) -> World:
    """An IO error: the kernel detaches the disk (on-io-error detach). It comes back when the host is booted again."""
    link = "Connected" if world.link == "Syncing" else world.link
    return written(with_host(world._replace(link=link), host, disk="Diskless"))


def disconnect(world: World) -> World:
    """The peer is lost: the Primary's IO goes on (resource-only), the other one keeps what it has."""
    return written(world._replace(link="Lost" if world.link != "StandAlone" else "StandAlone"))


def connect(world: World) -> World:
    """The handshake: Established, a resync from the one that was written alone, or split brain."""
    first, second = world.hosts
    if not world.cable or "Unknown" in (first.role, second.role) or world.link != "Lost":
        return world
    if "Diskless" in (first.disk, second.disk):
        # "Can only connect to data with current UUID" (drbd_receiver.c, receive_uuids): who wrote alone and lost its
        # disk is never given older data.
        lost = any((one.disk, one.role, one.ahead) == ("Diskless", "Primary", True) for one in world.hosts)
        return world._replace(link="StandAlone") if lost else written(world._replace(link="Connected"))
    if first.ahead and second.ahead:
        return world._replace(link="StandAlone")
    source = 0 if first.ahead else 1 if second.ahead else None
    if source is None:
        disks = {first.disk, second.disk}
        if "Inconsistent" not in disks:
            world = with_host(with_host(world, 0, disk="UpToDate"), 1, disk="UpToDate")
        return world._replace(link="Connected")
    world = with_host(with_host(world, source, disk="UpToDate"), 1 - source, disk="Inconsistent")
    return world._replace(link="Syncing", source=source)


def synchronised(world: World) -> World:
    source = world.source
    world = with_host(world, 1 - source, disk="UpToDate", whole=world.hosts[source].whole)
    return with_host(world, source, ahead=False)._replace(link="Connected")


def power_lost(world: World, host: int) -> World:
    """Everything in memory is gone; a peer notices."""
    return disconnect(with_host(world, host, role="Unknown", domains=()))


def attach(world: World, host: int) -> World:
    """`drbdadm up` after a boot: without its peer it does not know whether it is the newest."""
    disk = world.hosts[host].disk
    return with_host(world, host, role="Secondary", disk="Consistent" if disk in ("UpToDate", "Diskless") else disk)
