"""Fencing in every order of events, by the real rules; the search finds the accident when one is taken away."""

from __future__ import annotations

from collections import deque

import pytest

from agent import fence_records
from agent.drivers.drbd import DrbdResource
from agent.fence_records import STALE, Answer, FenceFacts, Step
from controller.api.volume_fencing import VerdictStatus
from controller.domain.verdict import Fencing, Reason
from tests.unit.domain.verdict_orders import Accident, World, decided, moves

SMALL = World(faults=1, wishes=2, writes=2, stills=0, silences=0)


def story(world: World, came: dict[World, tuple[World, str] | None], last: str) -> str:
    told = [last]
    while (step := came[world]) is not None:
        world, name = step
        told.append(name)
    return "\n".join(reversed(told))


def explore(start: World, limit: int) -> tuple[int, str]:
    """Worlds seen, breadth first, and the shortest story of an accident; empty: there is none among them."""
    decided.cache_clear()
    came: dict[World, tuple[World, str] | None] = {start: None}
    waiting = deque([start])
    while waiting and len(came) < limit:
        world = waiting.popleft()
        try:
            for name, after in moves(world):
                if after not in came:
                    came[after] = (world, name)
                    waiting.append(after)
        except Accident as accident:
            return len(came), story(world, came, f"ACCIDENT: {accident}")
    return len(came), ""


@pytest.mark.parametrize("start", [SMALL, SMALL._replace(wishes=1, writes=1, stills=1, silences=1)])
def test_no_order_of_events_loses_an_acknowledged_write(start: World) -> None:
    worlds, accident = explore(start, 8_000)
    assert not accident, accident
    assert worlds > 300


def test_a_stale_side_whose_handler_hears_4_is_an_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fence_records._stale

    def careless(facts: FenceFacts, kernel: DrbdResource) -> Step:
        return Answer(STALE, "") if facts.asked else kept(facts, kernel)

    monkeypatch.setattr(fence_records, "_stale", careless)
    _, accident = explore(SMALL, 20_000)
    assert "ACCIDENT" in accident


def test_a_second_verdict_while_one_stands_is_an_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Fencing) -> VerdictStatus | None:
        standing = self.standing
        for node in self.askers:
            view = self.case.view(node)
            if view is None or view.disk != "UpToDate" or (standing is not None and standing.survivor == node):
                continue
            answer = self._as_primary(node) if view.role == "Primary" else self._as_secondary(node, view)
            if isinstance(answer, Reason):
                return self._next(node, self._other(node).name, answer.reason, answer.evidence)
        return standing

    monkeypatch.setattr(Fencing, "decided", property(careless))
    _, accident = explore(SMALL, 20_000)
    assert "lacks" in accident or "both Primary" in accident
