"""Breadth-first search over every order in which things can happen, with the shortest story of a violation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import environment
import liveness
import pair
import safety
import volume_model
from canonical import canonical
from states import Budget, World
from volume_world import VolumeWorld

Check = Callable[[Any, Any], str | None]
Steps = Callable[[Any], Iterator[tuple[str, Any]]]


TOLD_AFTER = 100_000


class Model(NamedTuple):
    """What can happen in one kind of world, and what must not."""

    progress: Steps
    faults: Steps
    edits: Steps
    broken: Check
    silent: Callable[[Any], str | None]
    canonical: Callable[[Any], Any]
    stalled: Callable[[Any], bool] = lambda _: False


MODELS = {
    World: Model(
        environment.progress, environment.faults, environment.edits, safety.broken, liveness.silent, canonical
    ),
    pair.Pair: Model(pair.progress, pair.faults, pair.edits, pair.broken, pair.silent, pair.canonical),
    VolumeWorld: Model(
        volume_model.progress,
        volume_model.faults,
        volume_model.edits,
        volume_model.broken,
        volume_model.silent,
        volume_model.canonical,
        volume_model.stalled,
    ),
}


class Violation(AssertionError):
    """What was broken, and the shortest way there."""

    def __init__(self, broken: str, story: list[str]) -> None:
        lines = "\n".join(f"{number:3}. {line}" for number, line in enumerate(story, 1))
        super().__init__(f"{broken}\n{lines}")
        self.broken, self.story = broken, story


@dataclass
class Found:
    """Of one exploration. `exhausted`: every state that the budget allows was seen."""

    states: int = 0
    steps: int = 0
    depth: int = 0
    seconds: float = 0.0
    exhausted: bool = False


def successors(world: Any) -> Iterator[tuple[str, Any, bool]]:
    """Everything that can happen next, its cost taken from the budget, and whether it happens by itself."""
    model, budget = MODELS[type(world)], world.budget
    for label, after in model.progress(world):
        yield label, after, True
    if budget.faults:
        cheaper = Budget(budget.faults - 1, budget.edits)
        for label, after in model.faults(world):
            yield f"FAULT: {label}", after._replace(budget=cheaper), False
    if budget.edits:
        cheaper = Budget(budget.faults, budget.edits - 1)
        for label, after in model.edits(world):
            yield f"PERSON: {label}", after._replace(budget=cheaper), False


class Explorer:
    """One search. Worlds are remembered by their hash alone, the way to them by their parents'."""

    def __init__(self, start: Any, check: Check | None = None, *, rests: bool = True) -> None:
        self._start, self._model = start, MODELS[type(start)]
        self._check, self._rests = check or self._model.broken, rests
        self._parents: dict[int, int] = {hash(start): 0}
        self._edges: dict[int, tuple[int, ...]] = {}
        self._ends: set[int] = set()
        self.found = Found()

    def run(self, most: int, tell: Callable[[Found], None] | None = None) -> Found:
        """Raises Violation. `most`: states after which it ends without having seen all. `tell`: now and then."""
        begun, found = time.monotonic(), self.found
        frontier = [self._start]
        while frontier and found.states < most:
            found.depth += 1
            coming: list[Any] = []
            for world in frontier[: most - found.states]:
                self._expand(world, coming)
                if tell is not None and found.states % TOLD_AFTER == 0:
                    found.seconds = time.monotonic() - begun
                    tell(found)
            frontier = coming if found.states < most else [*frontier, *coming]
        found.exhausted = not frontier
        if self._rests:
            self._check_liveness()
        found.seconds = time.monotonic() - begun
        return found

    def _expand(self, world: Any, coming: list[Any]) -> None:
        here, by_itself = hash(world), []
        self.found.states += 1
        for label, after, free in successors(world):
            self.found.steps += 1
            if after == world:
                continue
            broken = self._check(world, after)
            if broken is not None:
                raise Violation(broken, [*self.story(here), label])
            renamed = self._model.canonical(after)  # not before: two epochs are compared by their true numbers
            there = hash(renamed)
            if there == here:
                continue
            if free:
                by_itself.append(there)
            if there not in self._parents:
                self._parents[there] = here
                coming.append(renamed)
        self._edges[here] = tuple(by_itself)
        if self._model.stalled(world):
            self._ends.add(here)
        if not by_itself and self._rests:
            self._ends.add(here)
            why = self._model.silent(world)
            if why is not None:
                raise Violation(why, self.story(here))

    def _check_liveness(self) -> None:
        for world in self._parents:  # the nearest first
            if world in self._lost:
                raise Violation("it never comes to rest", self.story(world))

    @cached_property
    def _lost(self) -> set[int]:
        return liveness.lost(self._edges, self._ends)

    def story(self, end: int) -> list[str]:
        """The labels on the shortest way, found by walking it again."""
        path = [end]
        while path[-1] != hash(self._start):
            path.append(self._parents[path[-1]])
        world, story = self._start, []
        for wanted in reversed(path[:-1]):
            steps = ((label, self._model.canonical(after)) for label, after, _ in successors(world))
            label, world = next(step for step in steps if hash(step[1]) == wanted)
            story.append(label)
        return story


def explore(start: Any, *, most: int, check: Check | None = None, rests: bool = True) -> Found:
    """Raises Violation. `rests`: every world has to come to rest as it shall be, or say why it does not."""
    return Explorer(start, check, rests=rests).run(most)
