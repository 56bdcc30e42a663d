"""XenVM: whom a change concerns."""

from __future__ import annotations

from collections.abc import Iterator

from controller.api.common import ApiObject
from controller.api.xenvm import XenVM
from controller.domain.actions import Decision, Refused
from controller.domain.vm import decide_vm
from controller.domain.world import World
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import ObjectKey


def decide(world: World, found: ApiObject, refused: tuple[Refused, ...]) -> Decision:
    assert isinstance(found, XenVM)
    return decide_vm(world, found, refused)


def concerned(cache: Cache, change: Change) -> Iterator[ObjectKey]:
    """The volumes that are or were its disks: where they are needed follows from where it is."""
    for found in (change.old, change.new):
        if isinstance(found, XenVM):
            for disk in found.spec.disks:
                yield "DrbdVolume", found.metadata.namespace, disk.volume
