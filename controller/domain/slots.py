"""Which of the moves that nobody asked for by name may begin: so many at a time, the more important ones first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import get_args

from agent.protocol import Refusal
from controller.api.common import condition
from controller.api.xenvm import XenVM
from controller.domain.vm_case import VmCase
from controller.domain.wanted import Cause, wanted

QUEUED = "MoveQueued"
"""Reason of Placed=False while a move waits for its turn."""
_IN_LINE = frozenset({QUEUED, *get_args(Cause)})


def queued(case: VmCase, source: str, target: str) -> Refusal | None:
    """Why a move by itself does not begin yet; None: it may. Moves that were asked for by name count, too."""
    limits, moves = case.world.limits, case.world.objects.moving()
    busiest = max(sum(node in move for move in moves.values()) for node in (source, target))
    free = min(limits.per_host - busiest, limits.per_cluster - len(moves))
    if free > 0 and len(list(islice(_ahead(case, source), free))) < free:
        return None
    return Refusal(
        reason=QUEUED,
        message=f"it waits for its turn to move to {target}: at most {limits.per_host} moves at a time on a host, "
        f"{limits.per_cluster} in all, those of higher priority first",
    )


def _ahead(case: VmCase, source: str) -> Iterator[XenVM]:
    """VMs of that host that come first and could begin; what is blocked holds up nobody."""
    moves, mine = case.world.objects.moving(), _rank(case.vm)
    before = (vm for vm in case.world.objects.vms_on(source) if _rank(vm) < mine)
    for vm in sorted(before, key=_rank):
        if (vm.metadata.namespace, vm.metadata.name) not in moves and _in_line(VmCase(case.world, vm), source):
            yield vm


def _rank(vm: XenVM) -> tuple[int, str, str]:
    return -vm.spec.priority, vm.metadata.namespace, vm.metadata.name


def _in_line(case: VmCase, source: str) -> bool:
    vm = case.vm
    if vm.deleting or case.placement is None or case.placement.node != source or is_blocked(vm):
        return False
    want = wanted(case)
    return want.unasked and want.node != source


def is_blocked(vm: XenVM) -> bool:
    """By what the last decision about it found: something stands in its way, or needs a person."""
    placed, stalled = (condition(vm.status.conditions, kind) for kind in ("Placed", "Stalled"))
    if stalled is not None and stalled.status == "True":
        return True
    return placed is not None and placed.status == "False" and placed.reason not in _IN_LINE


def is_queued(vm: XenVM) -> bool:
    placed = condition(vm.status.conditions, "Placed")
    return placed is not None and placed.reason == QUEUED
