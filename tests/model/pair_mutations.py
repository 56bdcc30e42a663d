"""What couples two VMs, each of which can be taken away: see `mutations`."""

from __future__ import annotations

from unittest.mock import patch

from mutations import Patches

from controller.api.xenvm import XenVM
from controller.domain import slots, spare
from controller.domain import vm as vm_decisions
from controller.domain.plans import fail_over
from controller.domain.world import World


def moves_in_turn() -> Patches:
    """Moves that nobody asked for by name wait for their turn."""
    return [patch.object(vm_decisions, "queued", lambda *_: None)]


def turn_by_priority() -> Patches:
    """Of the moves that wait the most important one is next."""
    return [patch.object(slots, "_ahead", lambda *_: iter(()))]


def room_by_priority() -> Patches:
    """Of the VMs of a lost host the most important one gets the room that there is."""
    real = spare._heirs

    def heirs(world: World, lost: str) -> list[XenVM]:
        return list(reversed(real(world, lost)))

    return [patch.object(spare, "_heirs", heirs)]


def room_is_counted() -> Patches:
    """A VM fails over only to where its memory is free."""
    return [patch.object(module, "free_memory", lambda *_: (8192, 8192)) for module in (spare, fail_over)]
