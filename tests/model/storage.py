"""DRBD 8.4 between two hosts, protocol C, `allow-two-primaries no`, `fencing resource-and-stonith` with a handler.

From the reference's sections 1.4 (roles), 1.7 (generation UUIDs), 1.9 (fencing) and 5. A guest writes all the time:
whoever is Primary with a running guest, and goes on without its peer, is ahead of it at once.
"""

from __future__ import annotations

from collections.abc import Callable

from states import HOSTS, World, with_host


class Refusal(Exception):
    """drbdsetup says no."""


def connected(world: World) -> bool:
    return world.link in ("Connected", "Syncing")


def peer_role(world: World, host: int) -> str:
    return world.hosts[1 - host].role if connected(world) else "Unknown"


def peer_disk(world: World, host: int) -> str:
    return world.hosts[1 - host].disk if connected(world) else world.hosts[host].peer_disk


def two_primaries_refused(world: World, host: int) -> bool:
    """State change failed: (-1) Multiple primaries not allowed by config."""
    return connected(world) and world.hosts[1 - host].role == "Primary"


def no_good_data(world: World, host: int) -> bool:
    """(-2) Need access to UpToDate data: the peer's will do, of a SyncTarget and of one without its disk. Consistent
    becomes UpToDate by the handler's word."""
    disk = world.hosts[host].disk
    return "UpToDate" not in (disk, peer_disk(world, host)) and (disk != "Consistent" or connected(world))


PROMOTION: tuple[Callable[[World, int], bool], ...] = (two_primaries_refused, no_good_data)


def peer_may_be_newer(world: World, host: int) -> bool:
    """(-7) Refusing to be Primary while peer is not outdated: the handler is called first, here as for Consistent."""
    one = world.hosts[host]
    return not connected(world) and (one.peer_disk == "DUnknown" or one.disk == "Consistent")


def promote(world: World, host: int) -> World:
    """Primary, or the handler is asked first. Raises Refusal."""
    one = world.hosts[host]
    if one.role == "Primary":
        return world
    if one.role != "Secondary" or any(no(world, host) for no in PROMOTION):
        raise Refusal
    if peer_may_be_newer(world, host):
        return with_host(world, host, fence=one.fence._replace(asked="promotion"))
    return written(with_host(world, host, role="Primary", ahead=one.ahead or not connected(world)))


def handler_heard(world: World, host: int, *, good: bool) -> World:
    """The handler exits: 4 or 7 (the peer is outdated), or 1."""
    one = world.hosts[host]
    wanted, quiet = one.fence.asked, one.fence._replace(asked="")
    if not good or connected(world):
        return with_host(world, host, fence=quiet)
    world = with_host(world, host, fence=quiet, peer_disk="Outdated")
    if wanted == "promotion" and one.role == "Secondary":
        return written(with_host(world, host, role="Primary", disk="UpToDate", ahead=True))
    return resume(world, host)


def resume(world: World, host: int) -> World:
    """IO goes on without the peer: by the handler's word, or by drbdsetup resume-io."""
    one = world.hosts[host]
    return written(with_host(world, host, frozen=False, ahead=one.ahead or one.frozen))


def outdate(world: World, host: int) -> World:
    return with_host(world, host, disk="Outdated")


def demote(world: World, host: int) -> World:
    """(-12) Device is held open by someone: blkback has it until its domain is gone."""
    one = world.hosts[host]
    if one.role == "Unknown" or any(domain.attached for domain in one.domains):
        raise Refusal
    return with_host(world, host, role="Secondary", frozen=False)


def written(world: World) -> World:
    """What the guests wrote until now. Frozen, or without access to good data, nothing is acknowledged."""
    for host, one in enumerate(world.hosts):
        writes = any(domain.state == "running" and domain.attached for domain in one.domains)
        if not writes or one.role != "Primary" or one.frozen:
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
    if one.frozen:
        return False
    if one.disk in ("Diskless", "Inconsistent") and connected(world) and other.disk == "UpToDate":
        return not other.whole
    return one.disk != "Diskless" and not one.whole


def disk_failed(world: World, host: int) -> World:
    """An IO error: the kernel detaches the disk (on-io-error detach). It comes back when the host is booted again."""
    link = "Connected" if world.link == "Syncing" else world.link
    return written(with_host(world._replace(link=link), host, disk="Diskless"))


def disconnect(world: World) -> World:
    """The peer is lost: a Primary that does not know its peer to be no good is frozen, and its handler asks."""
    if not connected(world):
        return world
    disks = [one.disk for one in world.hosts]
    for host, one in enumerate(world.hosts):
        there = disks[1 - host] if disks[1 - host] in ("Inconsistent", "Outdated") else "DUnknown"
        world = with_host(world, host, peer_disk=there)
        if (one.role, one.disk, there) == ("Primary", "UpToDate", "DUnknown"):
            asked = one.fence._replace(asked="io" if one.agent else "")
            world = with_host(world, host, frozen=True, fence=asked)
    return written(world._replace(link="Lost"))


def connect(world: World) -> World:
    """The handshake: Established, a resync from the one that was written alone, or split brain."""
    first, second = world.hosts
    if not world.cable or "Unknown" in (first.role, second.role) or world.link != "Lost":
        return world
    if "Diskless" in (first.disk, second.disk):
        # "Can only connect to data with current UUID" (drbd_receiver.c, receive_uuids): who wrote alone and lost its
        # disk is never given older data.
        lost = any((one.disk, one.role, one.ahead) == ("Diskless", "Primary", True) for one in world.hosts)
        if lost:
            return world._replace(link="StandAlone")
        for host in HOSTS:
            world = with_host(world, host, peer_disk="DUnknown", frozen=False)
        return written(world._replace(link="Connected"))
    source = 0 if first.ahead else 1 if second.ahead else None
    parted = first.ahead and second.ahead
    if source is not None and world.hosts[1 - source].role == "Primary":
        parted = parted or world.hosts[1 - source].disk != "Inconsistent"  # I shall become SyncTarget, but I am primary
    if parted:
        return world._replace(link="StandAlone")
    for host in HOSTS:
        world = with_host(world, host, peer_disk="DUnknown", frozen=False)
    if source is None:
        if "Inconsistent" not in (first.disk, second.disk):
            world = with_host(with_host(world, 0, disk="UpToDate"), 1, disk="UpToDate")
        return written(world._replace(link="Connected"))
    world = with_host(with_host(world, source, disk="UpToDate"), 1 - source, disk="Inconsistent")
    return written(world._replace(link="Syncing", source=source))


def synchronised(world: World) -> World:
    source = world.source
    world = with_host(world, 1 - source, disk="UpToDate", whole=world.hosts[source].whole)
    return with_host(world, source, ahead=False)._replace(link="Connected")


def power_lost(world: World, host: int) -> World:
    """Everything in memory is gone; a peer notices."""
    world = disconnect(with_host(world, host, role="Unknown", domains=()))
    return with_host(world, host, frozen=False)


def attach(world: World, host: int) -> World:
    """`drbdadm up` after a boot: without its peer it does not know whether it is the newest, unless it went on with
    that known to be no good."""
    one = world.hosts[host]
    good = "Consistent" if one.peer_disk == "DUnknown" else "UpToDate"
    disk = good if one.disk in ("UpToDate", "Consistent", "Diskless") else one.disk
    return with_host(world, host, role="Secondary", disk=disk)
