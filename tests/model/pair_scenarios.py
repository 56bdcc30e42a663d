"""Where explorations of two VMs begin."""

from __future__ import annotations

import pair
import scenarios
from observe import CONFIG
from pair import Pair
from states import Budget, World

from agent.protocol import DOMAIN_OVERHEAD_MIB

ROOM_FOR_ONE = CONFIG.memory_mib + DOMAIN_OVERHEAD_MIB + 100


def _both(faults: int, edits: int, first: World, second: World, **more: object) -> Pair:
    return Pair(worlds=(first, second), budget=Budget(faults, edits), **more)  # type: ignore[arg-type]


def _one() -> World:
    return scenarios.protected(0, 0)


def struck(start: Pair, *labels: str) -> Pair:
    """After faults and edits of these names."""
    for label in labels:
        happens = (*pair.faults(start), *pair.edits(start))
        start = pair.canonical(next(after for name, after in happens if name == label))
    return start


def apart(faults: int, edits: int) -> Pair:
    """shaolin runs on mk1, monk on mk2; mk3 has monk's other replica."""
    return _both(faults, edits, _one(), _one())


def third_host(faults: int, edits: int) -> Pair:
    """... and shaolin's spec.node was changed to mk3, which has no replica of its disk."""
    return struck(apart(faults, edits), "(shaolin) kubectl: spec.node is mk3")


def draining(faults: int, edits: int) -> Pair:
    """Both run on mk1, which is in maintenance: shaolin has to go to mk2, monk, which is more important, to mk3."""
    monk = _one()
    monk = monk._replace(api=monk.api._replace(priority=1))
    start = _both(faults, edits, _one(), monk, at=((0, 1), (0, 2)))
    return struck(start, "(shaolin) kubectl: mk1 is in maintenance")


def one_moves(faults: int, edits: int) -> Pair:
    """... and monk's move has begun."""
    steps = pair.progress(draining(faults, edits))
    return next(after for label, after in steps if label.startswith("the controller looks at monk, writes Migrating"))


def one_fits(faults: int, edits: int) -> Pair:
    """Both ran on mk1, which is known to be off; mk2 has room for one of them, and monk is more important."""
    monk = _one()
    monk = monk._replace(api=monk.api._replace(priority=1))
    start = _both(
        faults, edits, _one(), monk, at=((0, 1), (0, 1)), memory=(8192, ROOM_FOR_ONE, 8192), off_for_good=True
    )
    return struck(start, "(shaolin) mk1 loses power", "(shaolin) kubectl: mk1 is out of service")


def two_hosts_lost(faults: int, edits: int) -> Pair:
    """shaolin ran on mk1, monk on mk3; both hosts are known to be off, and mk2 has room for one VM."""
    start = _both(
        faults, edits, _one(), _one(), at=((0, 1), (2, 1)), memory=(8192, ROOM_FOR_ONE, 8192), off_for_good=True
    )
    return struck(
        start, "(shaolin) mk1 loses power", "(monk) mk3 loses power",
        "(shaolin) kubectl: mk1 is out of service", "(monk) kubectl: mk3 is out of service",
    )  # fmt: skip
