"""The explored world of one volume's life: made, synchronised, filled, deleted, and made anew under the same names.

Two hosts, their logical volumes with what is on them, DRBD's metadata and generations, the agents' journals, the
DrbdVolume, two controllers. No VM: that a guest had the disk is a step by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from states import Budget, Message, Placement

__all__ = ["Budget", "Message", "Placement"]

NAMES = ("mk1", "mk2")
HOSTS = (0, 1)
UIDS = (
    "aaaaaaaa-0000-4000-8000-000000000001",
    "aaaaaaaa-1111-4000-8000-000000000001",
    "aaaaaaaa-2222-4000-8000-000000000001",
)
"""Of the objects that have the name one after the other."""
NOTHING, PARTLY, CONTENT, GUEST = range(4)
"""What is on a disk, the worst to lose last."""


class Intent(NamedTuple):
    """status.initialSync, status.content: who, by which attempt, and whether it is done."""

    node: int
    attempt: int
    done: bool


class Volume(NamedTuple):
    """The DrbdVolume in etcd. `uid`: its number in UIDS."""

    uid: int = 0
    exists: bool = True
    deleting: bool = False
    deletes: bool = False  # deletionPolicy: Delete
    placed: bool = False  # members and device are decided
    sync: Intent | None = None
    content: Intent | None = None


class Lv(NamedTuple):
    """One logical volume, with DRBD's metadata at its end and what was written to it."""

    uid: int  # of its tag; -1: made by hand
    retained: bool = False  # renamed, and tagged so
    data: int = NOTHING
    of: int = -1  # whose data: the volume's number
    metadata: bool = False
    generation: str = ""  # "": as create-md leaves it
    consistent: bool = False
    ahead: bool = False  # written while its peer was away
    forced_tag: bool = False
    content_tag: bool = False


class Record(NamedTuple):
    """agent.records.VolumeRecord without what never differs here."""

    uid: int
    level: str = "Reserved"
    role: str = "Secondary"
    volume: str = "none"
    metadata: str = "none"
    up: bool = False  # up_in: this boot
    used: bool = False
    forced_by: int | None = None  # attempt
    content: str = "none"
    content_by: int | None = None
    removal: str | None = None  # policy


class Job(NamedTuple):
    """An operation in the agent's journal."""

    kind: str  # force, content
    uid: int
    attempt: int
    outcome: str | None = None
    reason: str | None = None


class Kernel(NamedTuple):
    """DRBD in the kernel of one host."""

    role: str = "Secondary"
    disk: str = "Inconsistent"


class VolumeHost(NamedTuple):
    on: bool = True
    agent: bool = True
    heard: bool = True
    term: int = 1
    record: Record | None = None
    configured: int | None = None  # the uid in /etc/drbd.d
    lvs: tuple[Lv, ...] = ()
    kernel: Kernel | None = None
    jobs: tuple[Job, ...] = ()
    gone: tuple[int, ...] = ()  # uids that were removed here, by its journal

    @property
    def lv(self) -> Lv | None:
        """The one that has the name now."""
        return next((one for one in self.lvs if not one.retained), None)


class Still(NamedTuple):
    """A second controller that stood still: what it saw, and goes on with."""

    term: int
    volume: Volume
    views: tuple[object, ...]


class VolumeWorld(NamedTuple):
    volume: Volume = Volume()
    hosts: tuple[VolumeHost, VolumeHost] = (VolumeHost(), VolumeHost())
    link: str = "Off"  # Off, Connected, Syncing, StandAlone
    source: int = 0  # of a resync
    cable: bool = True
    wire: tuple[Message, ...] = ()
    term: int = 1
    refused: tuple[tuple[int, tuple[object, ...], str], ...] = ()
    frozen: Still | None = None
    used: bool = False  # a guest wrote to it
    given_up: tuple[int, ...] = ()  # volumes whose data a person asked to be deleted
    budget: Budget = Budget()


def with_host(world: VolumeWorld, index: int, **update: object) -> VolumeWorld:
    host = world.hosts[index]._replace(**update)  # type: ignore[arg-type]
    return world._replace(hosts=(host, world.hosts[1]) if index == 0 else (world.hosts[0], host))


def with_record(world: VolumeWorld, index: int, **update: object) -> VolumeWorld:
    record = world.hosts[index].record
    assert record is not None
    return with_host(world, index, record=record._replace(**update))  # type: ignore[arg-type]


def with_lv(world: VolumeWorld, index: int, **update: object) -> VolumeWorld:
    """Of the logical volume that has the name."""
    old = world.hosts[index].lv
    assert old is not None
    kept = tuple(one for one in world.hosts[index].lvs if one is not old)
    return with_host(world, index, lvs=(*kept, old._replace(**update)))  # type: ignore[arg-type]


def with_job(world: VolumeWorld, index: int, job: Job, **update: object) -> VolumeWorld:
    same = (job.kind, job.uid, job.attempt)
    jobs = tuple(
        one._replace(**update) if (one.kind, one.uid, one.attempt) == same else one  # type: ignore[arg-type]
        for one in world.hosts[index].jobs
    )
    return with_host(world, index, jobs=jobs)
