"""With the faults over and nobody's wish changing: every world comes to what was declared, or says why it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import environment
from controllers import Outcome
from states import NAMES, NODES, World

WAITED_FOR = ("Stalled=True", "Ready=Unknown", "Placed=False")
"""Conditions that tell a person what stands in the way."""


def silent(world: World) -> str | None:
    """Why a world at rest is not as it shall be, and does not say so; None: it is, or it does."""
    return unsaid(world, environment.leader_looks(world), environment.leader_looks_at_volume(world))


def unsaid(world: World, outcome: Outcome, looked: Outcome) -> str | None:
    """The same, by what decisions say of the VM and of its volume."""
    api, running = world.api, _with(world, "running")
    if (torn := _torn(world, looked)) is not None:
        return torn
    if not api.exists:
        return f"the VM was deleted, and {running} runs it" if running else None
    if any(one.startswith(WAITED_FOR) for one in outcome.explained):
        return None
    if not outcome.settled:
        told = " ".join(one.partition(":")[0] for one in outcome.explained)
        return f"nothing happens any more, and it is told as being on its way: {told}"
    if api.phase == "Halted" and not running:
        return None
    wanted = {"Running": ([NODES[api.node]], []), "Paused": ([], [NODES[api.node]]), "Stopped": ([], [])}[api.state]
    if (running, _with(world, "paused")) == wanted:
        return None
    return f"it is told as {api.phase}, {api.state} on {NAMES[api.node]} is wanted; it runs on {running}"


def _torn(world: World, looked: Outcome) -> str | None:
    """Is the volume not whole, or frozen, and its status does not say so?"""
    whole = world.link == "Connected" and all((one.disk, one.frozen) == ("UpToDate", False) for one in world.hosts)
    if whole or any(one.startswith("Degraded=True") for one in looked.explained):
        return None
    return f"the volume is not whole, and is told as {looked.explained}"


def _with(world: World, state: str) -> list[str]:
    return [NAMES[host] for host, one in enumerate(world.hosts) for domain in one.domains if domain.state == state]


def lost(edges: Mapping[int, Iterable[int]], ends: Iterable[int]) -> set[int]:
    """Worlds from which no end is reached by what happens by itself. An end: at rest, or not looked at any further."""
    back: dict[int, list[int]] = {}
    for world, afters in edges.items():
        for after in afters:
            back.setdefault(after, []).append(world)
    reached = set(ends) | {after for after in back if after not in edges}
    waiting = list(reached)
    while waiting:
        for world in back.get(waiting.pop(), ()):
            if world not in reached:
                reached.add(world)
                waiting.append(world)
    return set(edges) - reached
