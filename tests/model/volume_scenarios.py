"""Where explorations of a volume's life begin."""

from __future__ import annotations

from volume_world import (
    CONTENT,
    GUEST,
    HOSTS,
    Budget,
    Intent,
    Kernel,
    Lv,
    Message,
    Record,
    Volume,
    VolumeHost,
    VolumeWorld,
    with_host,
)


def creating(faults_: int, edits_: int) -> VolumeWorld:
    """A DrbdVolume was just applied; nothing of it is on the hosts."""
    return VolumeWorld(budget=Budget(faults_, edits_))


def leftover(faults_: int, edits_: int) -> VolumeWorld:
    """... and mk1 has a logical volume of that name with the data of an older object, which was never told to go."""
    old = Lv(2, data=GUEST, of=2, metadata=True, generation="20", consistent=True)
    return with_host(creating(faults_, edits_), 0, lvs=(old,))


def retained(faults_: int, edits_: int) -> VolumeWorld:
    """... and both hosts keep the renamed logical volumes of an older object, with its data."""
    old = Lv(2, retained=True, data=GUEST, of=2, metadata=True, generation="20", consistent=True)
    world = creating(faults_, edits_)
    return with_host(with_host(world, 0, lvs=(old,)), 1, lvs=(old,))


def by_hand(faults_: int, edits_: int) -> VolumeWorld:
    """... and mk2 has a logical volume of that name that somebody made by hand, with data."""
    return with_host(creating(faults_, edits_), 1, lvs=(Lv(-1, data=GUEST, of=-1),))


def whole(faults_: int, edits_: int) -> VolumeWorld:
    """It was made, and a guest has written to it; both replicas are UpToDate and Secondary."""
    lv = Lv(0, False, GUEST, 0, metadata=True, generation="00", consistent=True)
    record = Record(0, "Up", "Secondary", "made", "created", up=True)
    hosts = (
        VolumeHost(
            record=record._replace(used=True, forced_by=1, content="written", content_by=1),
            configured=0,
            lvs=(lv._replace(forced_tag=True, content_tag=True),),
            kernel=Kernel("Secondary", "UpToDate"),
        ),
        VolumeHost(record=record, configured=0, lvs=(lv,), kernel=Kernel("Secondary", "UpToDate")),
    )
    intent = Intent(0, 1, True)
    volume = Volume(placed=True, sync=intent, content=intent)
    return VolumeWorld(volume, hosts, link="Connected", used=True, budget=Budget(faults_, edits_))


def asking_anything(start: VolumeWorld) -> VolumeWorld:
    """The same world, and a controller that has gone mad has asked the agents for whatever could do harm."""
    uid = start.volume.uid
    asked: list[tuple[int, tuple[object, ...]]] = []
    for host in HOSTS:
        asked += [(host, ("force", uid, attempt)) for attempt in (1, 2)]
        asked += [
            (host, ("content", uid, 2)),
            (host, ("put", uid, "Up", "Primary")),
            (host, ("put", 1, "Up", "Secondary")),
        ]
    return start._replace(wire=tuple(sorted((Message(host, 1, key, mad=True) for host, key in asked), key=repr)))


def mad_at_new(faults_: int, edits_: int) -> VolumeWorld:
    return asking_anything(creating(faults_, edits_))


def connected(faults_: int, edits_: int) -> VolumeWorld:
    """Both replicas are new, Inconsistent and connected: the first synchronisation is the next thing."""
    record = Record(0, "Up", "Secondary", "made", "created", up=True)
    one = VolumeHost(record=record, configured=0, lvs=(Lv(0, metadata=True),), kernel=Kernel())
    volume = Volume(placed=True, sync=Intent(0, 1, False), content=Intent(0, 1, False))
    return VolumeWorld(volume, (one, one), link="Connected", budget=Budget(faults_, edits_))


def mad_at_connected(faults_: int, edits_: int) -> VolumeWorld:
    """... and both shall be forced Primary."""
    forced = tuple(Message(host, 1, ("force", 0, attempt), mad=True) for host in HOSTS for attempt in (1, 2))
    return connected(faults_, edits_)._replace(wire=tuple(sorted(forced, key=repr)))


def mad_at_whole(faults_: int, edits_: int) -> VolumeWorld:
    return asking_anything(whole(faults_, edits_))


def mad_at_leftover(faults_: int, edits_: int) -> VolumeWorld:
    return asking_anything(leftover(faults_, edits_))


def mad_at_by_hand(faults_: int, edits_: int) -> VolumeWorld:
    return asking_anything(by_hand(faults_, edits_))


def mad_without_journal(faults_: int, edits_: int) -> VolumeWorld:
    """... and both agents have lost their journals."""
    world = asking_anything(whole(faults_, edits_))
    return with_host(with_host(world, 0, record=None), 1, record=None)


def _down(world: VolumeWorld, host: int, lv: Lv) -> VolumeWorld:
    """That host's DRBD is down, and its logical volume is another one."""
    return with_host(world, host, kernel=None, lvs=(lv,))._replace(link="Off")


def late_put(faults_: int, edits_: int) -> VolumeWorld:
    """The volume is deleted, mk1 has given it up, mk2 not yet; and mk1 is told late to bring it up."""
    world = whole(faults_, edits_)._replace(link="Off")
    kept = world.hosts[0].lvs[0]._replace(retained=True)
    world = with_host(world, 0, record=None, configured=None, kernel=None, lvs=(kept,), gone=(0,))
    deleting = world.volume._replace(deleting=True)
    return world._replace(volume=deleting, wire=(Message(0, 1, ("put", 0, "Up", "Secondary")),))


def wiped(faults_: int, edits_: int) -> VolumeWorld:
    """A guest wrote on mk1 alone, then somebody wiped the metadata there; the host comes up again."""
    world = whole(faults_, edits_)
    older = world.hosts[1].lvs[0]._replace(data=CONTENT)
    lv = world.hosts[0].lvs[0]._replace(metadata=False, generation="", consistent=False)
    world = _down(with_host(world, 1, lvs=(older,), kernel=Kernel("Secondary", "Consistent")), 0, lv)
    return world._replace(wire=(Message(0, 1, ("put", 0, "Up", "Secondary")),))


def foreign_metadata(faults_: int, edits_: int) -> VolumeWorld:
    """mk1's new logical volume holds the image of another DRBD disk before metadata was made."""
    record = Record(0, "Provisioned", "Secondary", "made", "none")
    lv = Lv(0, data=GUEST, of=2, metadata=True, generation="20", consistent=True)
    return with_host(creating(faults_, edits_), 0, record=record, configured=0, lvs=(lv,))


def exchanged(faults_: int, edits_: int) -> VolumeWorld:
    """mk1's logical volume was exchanged by hand for another one of its name, and the volume is deleted."""
    world = _down(whole(faults_, edits_), 0, Lv(-1, data=GUEST, of=-1))
    deleting = world.volume._replace(deleting=True, deletes=True)
    return world._replace(volume=deleting, given_up=(0,))
