"""DrbdVolume: whom a change concerns."""

from __future__ import annotations

from collections.abc import Iterator

from controller.api.common import ApiObject
from controller.api.drbdvolume import DrbdVolume
from controller.domain.actions import Decision, Refused
from controller.domain.volume import decide_volume
from controller.domain.world import World
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import ObjectKey


def decide(world: World, found: ApiObject, refused: tuple[Refused, ...]) -> Decision:
    assert isinstance(found, DrbdVolume)
    return decide_volume(world, found, refused)


def concerned(cache: Cache, change: Change) -> Iterator[ObjectKey]:
    """The VMs that have it as a disk; its hosts when it is gone, which may keep names for it."""
    _, namespace, name = change.key
    yield from cache.users((namespace, name))
    if change.new is None and isinstance(change.old, DrbdVolume):
        yield from (("XenNode", "", node) for node in change.old.status.nodes)
