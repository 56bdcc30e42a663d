"""XenNode: whom a change concerns."""

from __future__ import annotations

from collections.abc import Iterator

from controller.api.common import ApiObject
from controller.api.xennode import XenNode
from controller.domain.actions import Decision, Refused
from controller.domain.node import decide_node
from controller.domain.world import World
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import ObjectKey


def decide(world: World, found: ApiObject, refused: tuple[Refused, ...]) -> Decision:
    assert isinstance(found, XenNode)
    return decide_node(world, found, refused)


def concerned(cache: Cache, change: Change) -> Iterator[ObjectKey]:
    """Everything on the node, and what waits for a place, for a new wish and for new evidence that the host is off.
    Nothing else in its status changes anything for them."""
    old, new = change.old, change.new
    assert old is None or isinstance(old, XenNode)
    assert new is None or isinstance(new, XenNode)
    if (
        old is None
        or new is None
        or old.metadata.generation != new.metadata.generation
        or old.deleting != new.deleting
        or old.status.fenced != new.status.fenced
    ):
        yield from cache.concerned(change.key[2])
        yield from unplaced(cache)


def unplaced(cache: Cache) -> Iterator[ObjectKey]:
    """Volumes and VMs for which no host was decided."""
    yield from (("DrbdVolume", *names) for names, volume in cache.volumes.items() if not volume.status.nodes)
    yield from (("XenVM", *names) for names, vm in cache.vms.items() if vm.status.placement is None)
