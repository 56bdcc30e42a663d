"""Each guard that is taken away, with what backs it, lets an accident happen, and the explorer finds it."""

from __future__ import annotations

from pathlib import Path

import mutations
import pytest
import scenarios
from accidents import ACCIDENTS, Accident, explored, table
from explorer import Violation, explore

pytestmark = pytest.mark.timeout(900)  # seconds on the clock, of a machine that may have much else to do
DOCUMENT = Path(__file__).parents[2] / "docs" / "exploration.md"


@pytest.mark.parametrize("one", ACCIDENTS, ids=lambda one: "+".join(lock.__name__ for lock in one.without))
def test_without_the_guard_the_accident_is_found(one: Accident) -> None:
    with pytest.raises(Violation) as caught:
        explored(one)
    assert caught.value.broken == one.found


@pytest.mark.parametrize(
    "one", [one for one in ACCIDENTS if len(one.without) > 1], ids=lambda one: one.without[0].__name__
)
def test_what_backs_the_guard_is_enough(one: Accident) -> None:
    """With the guard alone taken away the search from there, as far as it goes here, finds nothing."""
    assert explored(one, without=one.without[:1], most=1_000).states > 10


def test_the_table_is_what_is_tested() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")


def test_without_drbds_own_locks_the_others_keep_the_vm_on_one_host() -> None:
    """Placement, epochs and terms are enough by themselves for what they cover: no guest runs twice or on old data."""
    with mutations.without(mutations.drbd_two_primaries, mutations.peer_not_primary, mutations.drbd_fencing):
        for start in (scenarios.copying(1, 0), scenarios.running(1, 0), scenarios.known_off(0, 0)):
            assert explore(start, most=2_000, check=mutations.guests).states > 100
