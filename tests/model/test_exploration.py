"""Every order of events that the budgets allow, by the project's own decisions and guards: never two, never lost."""

from __future__ import annotations

from collections.abc import Callable

import mutations
import pytest
import safety
import scenarios
from canonical import canonical
from explorer import Violation, explore
from states import Budget, World

Start = Callable[[int, int], World]


@pytest.mark.parametrize(
    ("start", "faults", "edits"),
    [
        (scenarios.running, 1, 1),
        (scenarios.running, 2, 0),
        (scenarios.running, 0, 3),
        (scenarios.moving, 1, 0),
        (scenarios.new, 1, 1),
        (scenarios.new, 2, 0),
        (scenarios.stopped, 1, 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_all_of_it(start: Start, faults: int, edits: int) -> None:
    """To the end: there is no other order of events with so many faults and edits."""
    found = explore(start(faults, edits), most=200_000)
    assert found.exhausted
    assert found.states > 100


@pytest.mark.parametrize(
    ("start", "faults", "edits"),
    [(scenarios.moving, 2, 0), (scenarios.moving, 1, 1), (scenarios.stopped, 1, 2)],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_the_nearest_of_more(start: Start, faults: int, edits: int) -> None:
    """More may go wrong than can be seen to the end here: `hack/explore --deep` goes on."""
    assert explore(start(faults, edits), most=20_000).states == 20_000


def test_a_search_finds_again_what_it_found() -> None:
    """The story of a violation is a way that can be walked, and its last step breaks the rule."""
    with mutations.without(mutations.drbd_two_primaries), pytest.raises(Violation) as caught:
        explore(scenarios.running(1, 1), most=20_000)
    story = caught.value.story
    assert caught.value.broken == "two Primaries"
    assert any(line.startswith(("FAULT", "PERSON")) for line in story)
    assert str(caught.value).splitlines()[1].endswith(story[0])


def test_worlds_that_differ_only_in_names_are_one() -> None:
    world = scenarios.running(0, 0)
    higher = world._replace(
        api=world.api._replace(placement=world.api.placement._replace(epoch=7)),  # type: ignore[union-attr]
        hosts=(
            world.hosts[0]._replace(promise=world.hosts[0].promise._replace(epoch=7, asked_epoch=7)),  # type: ignore[union-attr]
            world.hosts[1],
        ),
    )

    assert canonical(higher) == world
    assert safety.broken(world, higher) is None
    assert "back" in (safety.broken(higher, world) or "")
    assert world.budget == Budget(0, 0)
