"""Two hosts with one volume, as small as they can be told: DRBD, its disks and what a guest wrote on them."""

from __future__ import annotations

from typing import Any, NamedTuple

NAMES = ("mk1", "mk2")
RESOURCE = "vm_shaolin"


class Told(NamedTuple):
    """A verdict: number and survivor (None: ended)."""

    number: int
    survivor: int | None


class Host(NamedTuple):
    on: bool = True
    up: bool = True  # DRBD has the resource
    role: str = "Secondary"
    disk: str = "UpToDate"
    peer_disk: str = "DUnknown"  # while not connected
    frozen: bool = False
    asked: bool = False  # a handler waits
    unasked: bool = False  # frozen, and DRBD has yet to call its handler
    writes: tuple[int, ...] = ()
    generation: int = 0
    verdict: Told | None = None  # journal
    given_back: bool = False


class Silent(NamedTuple):
    """A host that says nothing now: perhaps known to be off, perhaps with what its journal was seen to hold last."""

    off: bool
    verdict: Told | None = None
    given_back: bool = False


class Seen(NamedTuple):
    """What a controller knows: the record, and of each host what it says, or that it is silent."""

    status: Told | None
    views: tuple[tuple[Any, ...], ...]


class World(NamedTuple):
    hosts: tuple[Host, Host] = (Host(), Host())
    cable: bool = True
    link: str = "Connected"  # Connected, Syncing, Lost
    source: int = 0
    off_for_good: tuple[bool, bool] = (False, False)
    status: Told | None = None
    recorded: frozenset[Told] = frozenset()
    seen: Seen | None = None  # what a controller looked at, before it stood still
    acknowledged: tuple[int, ...] = ()
    generations: int = 0
    faults: int = 3
    wishes: int = 3  # promotions and demotions that somebody asks for
    writes: int = 3
    stills: int = 1  # times that a controller stands still between its look and its write
    silences: int = 1  # looks that miss an agent that is there


class Accident(Exception):
    pass


Move = tuple[str, World]


def put(world: World, host: int, **update: Any) -> World:
    hosts = list(world.hosts)
    hosts[host] = hosts[host]._replace(**update)
    return world._replace(hosts=(hosts[0], hosts[1]))


def linked(world: World) -> bool:
    return world.link != "Lost"


# --- DRBD ---------------------------------------------------------------------------------------------------------


def lose(world: World) -> World:
    """The connection ends: a Primary that does not know its peer to be no good is frozen."""
    if not linked(world):
        return world
    for host, one in enumerate(world.hosts):
        known = world.hosts[1 - host].disk
        peer_disk = known if known in ("Inconsistent", "Outdated") else "DUnknown"
        world = put(world, host, peer_disk=peer_disk)
        if one.up and one.role == "Primary" and one.disk == "UpToDate" and peer_disk == "DUnknown":
            world = put(world, host, frozen=True, unasked=True)
    return world._replace(link="Lost")


def connect(world: World) -> World | None:
    """The handshake, by generations: nothing to do, or a resync to the side that lacks writes. Frozen IO thaws."""
    first, second = world.hosts
    if linked(world) or not world.cable or not (first.up and second.up):
        return None
    if first.role == second.role == "Primary":
        raise Accident("both Primary at the handshake")
    ahead = [host for host in (0, 1) if world.hosts[host].generation > world.hosts[1 - host].generation]
    for host in (0, 1):
        world = put(world, host, frozen=False, unasked=False, asked=False)
    if not ahead and "Inconsistent" not in (first.disk, second.disk):
        for host in (0, 1):
            world = put(world, host, disk="UpToDate")
        return world._replace(link="Connected")
    source = ahead[0] if ahead else 0 if second.disk == "Inconsistent" else 1
    if world.hosts[source].disk == "Inconsistent" or world.hosts[1 - source].role == "Primary":
        return None
    world = put(world, source, disk="UpToDate")
    return put(world, 1 - source, disk="Inconsistent")._replace(link="Syncing", source=source)


def synchronised(world: World) -> World:
    source = world.hosts[world.source]
    target = 1 - world.source
    return put(world, target, disk="UpToDate", writes=source.writes, generation=source.generation)._replace(
        link="Connected"
    )


def alone(world: World, host: int, **update: Any) -> World:
    """It goes on without its peer: a new generation."""
    new = world.generations + 1
    return put(world, host, generation=new, frozen=False, unasked=False, **update)._replace(generations=new)


def power_off(world: World, host: int) -> World:
    one = world.hosts[host]
    world = lose(world)
    disk = one.disk
    if disk == "UpToDate" and world.hosts[host].peer_disk != "Outdated":
        disk = "Consistent"
    return put(world, host, on=False, up=False, role="Secondary", disk=disk, frozen=False, asked=False, unasked=False)


def write(world: World, host: int) -> World:
    one = world.hosts[host]
    if one.writes != world.acknowledged:
        raise Accident(f"{NAMES[host]} acknowledges a write and lacks {world.acknowledged[len(one.writes) :]}")
    new = (*world.acknowledged, len(world.acknowledged) + 1)
    world = put(world, host, writes=new)
    if world.link == "Connected":
        world = put(world, 1 - host, writes=new)
    return world._replace(acknowledged=new, writes=world.writes - 1)


# --- the agent ----------------------------------------------------------------------------------------------------
