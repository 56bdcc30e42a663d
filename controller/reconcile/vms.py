"""XenVM: whom a change concerns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.api.common import ApiObject, condition
from controller.api.xenvm import XenVM
from controller.domain.actions import Decision, Refused
from controller.domain.slots import is_blocked, is_queued
from controller.domain.vm import decide_vm
from controller.domain.world import World
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import ObjectKey


def decide(world: World, found: ApiObject, refused: tuple[Refused, ...]) -> Decision:
    assert isinstance(found, XenVM)
    return decide_vm(world, found, refused)


def concerned(cache: Cache, change: Change) -> Iterator[ObjectKey]:
    """The volumes that are or were its disks: where they are needed follows from where it is; its hosts, when what they
    say of it changes; and those that wait for its turn to move to be over."""
    for found in (change.old, change.new):
        if isinstance(found, XenVM):
            for disk in found.spec.disks:
                yield "DrbdVolume", found.metadata.namespace, disk.volume
    before, after = (_told(found) if isinstance(found, XenVM) else None for found in (change.old, change.new))
    if before == after:
        return
    nodes = {node for told in (before, after) if told is not None for node in told.nodes}
    frees = before is not None and (
        after is None or (before.moving and not after.moving) or (after.blocked and not before.blocked)
    )
    for node in sorted(nodes):
        yield from _told_of_vms(cache, node, any(told is not None and told.fails_over for told in (before, after)))
        if frees:
            yield from (key for key in cache.placed(node) if (vm := cache.vm(key[1:])) is not None and is_queued(vm))


@dataclass(frozen=True, slots=True)
class _Told:
    """What others look at of a VM."""

    nodes: frozenset[str]
    moving: bool
    blocked: bool
    fails_over: bool


def _told(vm: XenVM) -> _Told:
    move, placement = vm.status.migration, vm.status.placement
    moving = move is not None and move.outcome is None
    nodes = {placement.node} if placement else set()
    nodes |= {move.source, move.target} if move and moving else set()
    return _Told(frozenset(nodes), moving, is_blocked(vm), vm.spec.on_node_failure == "FailOver")


def _told_of_vms(cache: Cache, node: str, fails_over: bool) -> Iterator[ObjectKey]:
    """The host, if it says how its VMs stand."""
    found = cache.node(node)
    if found is None:
        return
    if fails_over or found.spec.maintenance or condition(found.status.conditions, "FailoverReady"):
        yield "XenNode", "", node
