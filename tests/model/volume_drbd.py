"""DRBD and LVM of a volume's world: metadata, generations, first and later synchronisations (reference 1.4 to 1.8)."""

from __future__ import annotations

from volume_world import GUEST, HOSTS, NOTHING, Kernel, Lv, VolumeWorld, with_host, with_lv


class Refusal(Exception):
    """A tool says no."""


def connected(world: VolumeWorld) -> bool:
    return world.link in ("Connected", "Syncing")


def _kernel(world: VolumeWorld, host: int, **update: object) -> VolumeWorld:
    kernel = world.hosts[host].kernel
    assert kernel is not None
    return with_host(world, host, kernel=kernel._replace(**update))  # type: ignore[arg-type]


def create_lv(world: VolumeWorld, host: int, uid: int) -> VolumeWorld:
    """lvcreate -W y: the first blocks are wiped; it carries its owner's tag from its first moment."""
    if world.hosts[host].lv is not None:
        raise Refusal
    return with_host(world, host, lvs=(*world.hosts[host].lvs, Lv(uid)))


def create_metadata(world: VolumeWorld, host: int) -> VolumeWorld:
    """create-md --force: what was known of data generations is gone."""
    return with_lv(world, host, metadata=True, generation="", consistent=False, ahead=False)


def up(world: VolumeWorld, host: int) -> VolumeWorld:
    """Attach and connect. Without its peer good data is only Consistent."""
    lv = world.hosts[host].lv
    if lv is None or not lv.metadata:
        raise Refusal
    disk = "Consistent" if lv.generation and lv.consistent else "Inconsistent"
    return connect(with_host(world, host, kernel=Kernel("Secondary", disk)))


def connect(world: VolumeWorld) -> VolumeWorld:
    """The handshake by generations: nothing, a resync from the one that is newer, or no connection at all."""
    first, second = (one.lv for one in world.hosts)
    if None in (first, second, *(one.kernel for one in world.hosts)) or not world.cable or world.link != "Off":
        return world
    assert first is not None
    assert second is not None
    if not (first.generation or second.generation):
        return world._replace(link="Connected")
    if first.generation and second.generation and first.generation != second.generation:
        return world._replace(link="StandAlone")  # Unrelated data, aborting!
    if first.ahead and second.ahead:
        return world._replace(link="StandAlone")
    newer = [host for host, one in enumerate((first, second)) if one.ahead]
    good = [host for host, one in enumerate((first, second)) if one.generation and one.consistent]
    if not good:
        return world._replace(link="Connected")
    if len(good) == 2 and not newer:
        for host in HOSTS:
            world = _kernel(world, host, disk="UpToDate")
        return world._replace(link="Connected")
    return _syncing(world, newer[0] if newer else good[0])


def _syncing(world: VolumeWorld, source: int) -> VolumeWorld:
    target = 1 - source
    of = world.hosts[source].lv
    assert of is not None
    world = _kernel(_kernel(world, source, disk="UpToDate"), target, disk="Inconsistent")
    world = with_lv(world, target, consistent=False, generation=of.generation)
    return world._replace(link="Syncing", source=source)


def synchronised(world: VolumeWorld) -> VolumeWorld:
    """What the target had is overwritten by what the source has."""
    source, target = world.hosts[world.source].lv, 1 - world.source
    assert source is not None
    world = with_lv(world, target, consistent=True, generation=source.generation, data=source.data, of=source.of,
                    ahead=False)  # fmt: skip
    world = with_lv(world, world.source, ahead=False)
    return _kernel(world, target, disk="UpToDate")._replace(link="Connected")


def force(world: VolumeWorld, host: int) -> VolumeWorld:
    """drbdadm primary --force: whatever is on this disk is good from now on, a generation of its own."""
    one, peer = world.hosts[host], world.hosts[1 - host].kernel
    if one.kernel is None or (connected(world) and peer is not None and peer.role == "Primary"):
        raise Refusal
    lv = one.lv
    assert lv is not None
    world = with_lv(world, host, generation=f"{lv.uid}{host}", consistent=True)
    world = _kernel(world, host, role="Primary", disk="UpToDate")
    return _syncing(world, host) if connected(world) else with_lv(world, host, ahead=True)


def promote(world: VolumeWorld, host: int) -> VolumeWorld:
    kernel, peer = world.hosts[host].kernel, world.hosts[1 - host].kernel
    if kernel is None or kernel.disk != "UpToDate" or not connected(world) or (peer and peer.role == "Primary"):
        raise Refusal
    return _kernel(world, host, role="Primary")


def demote(world: VolumeWorld, host: int) -> VolumeWorld:
    return _kernel(world, host, role="Secondary")


def down(world: VolumeWorld, host: int) -> VolumeWorld:
    return with_host(disconnect(world), host, kernel=None)


def disconnect(world: VolumeWorld) -> VolumeWorld:
    return world._replace(link="Off") if connected(world) else world


def write(world: VolumeWorld, host: int, data: int) -> VolumeWorld:
    """Through DRBD on the Primary: also on the peer while it is connected (a resync brings the rest)."""
    lv = world.hosts[host].lv
    assert lv is not None
    world = with_lv(world, host, data=data, of=lv.uid)
    if world.link == "Connected":
        return with_lv(world, 1 - host, data=data, of=lv.uid)
    return world if connected(world) else with_lv(world, host, ahead=True)


def signature(world: VolumeWorld, host: int) -> bool:
    """blkid finds something."""
    lv = world.hosts[host].lv
    return lv is not None and lv.data != NOTHING


def guest(world: VolumeWorld, host: int) -> VolumeWorld:
    """A VM had it as its disk on that host, and wrote."""
    return write(world, host, GUEST)._replace(used=True)
