"""All scenarios, in the order in which they are played: cheap ones first."""

from __future__ import annotations

from tests.conformance import agent_vms, agent_volumes, drbd_metadata, drbd_states, lvm, xen  # noqa: F401  # each enters its own
from tests.conformance.scenario import SCENARIOS, Level, Start

LAST = ("drbd-power",)  # a real host takes a minute to boot


def names(level: Level, *starts: Start) -> list[str]:
    """Of that level; `starts`: only those that begin so."""
    chosen = [name for name, one in SCENARIOS.items() if one.level == level and (not starts or one.start in starts)]
    return sorted(chosen, key=lambda name: name in LAST)


def in_order() -> list[str]:
    return names("tools") + names("agents")
