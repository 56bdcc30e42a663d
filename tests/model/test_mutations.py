"""Each lock that is taken away lets an accident happen, and the explorer finds it: it can fail."""

from __future__ import annotations

from collections.abc import Callable

import mutations
import pytest
import scenarios
from explorer import Violation, explore
from states import World

Lock = Callable[[], mutations.Patches]

ACCIDENTS = [
    (mutations.placement_cas, scenarios.running(1, 1), "the placement's epoch went from 2 back to 1"),
    (mutations.agent_epochs, scenarios.new(1, 1), "mk1 forgot the epoch that it promised"),
    (mutations.term, scenarios.moving(1, 0), "mk2 forgot the term that it promised"),
    (mutations.drbd_two_primaries, scenarios.running(1, 1), "two Primaries"),
    (mutations.drbd_open, scenarios.running(1, 1), "the VM runs on mk1, whose disk is Secondary"),
    (mutations.release_journalled, scenarios.moving(1, 0), "it never comes to rest"),
    (mutations.busy, scenarios.moving(1, 0), "it never comes to rest"),
]


@pytest.mark.parametrize(("lock", "start", "accident"), ACCIDENTS, ids=[lock.__name__ for lock, *_ in ACCIDENTS])
def test_without_the_lock_the_accident_is_found(lock: Lock, start: World, accident: str) -> None:
    with mutations.without(lock), pytest.raises(Violation) as caught:
        explore(start, most=60_000)
    assert caught.value.broken == accident


def test_without_drbds_own_locks_the_others_keep_the_vm_on_one_host() -> None:
    """Placement, epochs and terms are enough by themselves for what they cover: no guest runs twice or on old data."""
    with mutations.without(mutations.drbd_two_primaries, mutations.drbd_fencing):
        for start in (scenarios.moving(1, 0), scenarios.running(1, 1)):
            assert explore(start, most=60_000, check=mutations.guests).exhausted
