"""Fencing in every order of events, by the real rules; the search finds the accident when one is taken away."""

from __future__ import annotations

from collections import deque

import pytest

from agent import fence_records
from agent.drivers.drbd import DrbdResource
from agent.fence_records import STALE, Answer, FenceFacts, FenceRecord, Step
from controller.api.volume_fencing import VerdictStatus
from controller.domain.verdict import Fencing, Reason
from tests.unit.domain.verdict_drbd import Accident, Host, Told, World
from tests.unit.domain.verdict_orders import decided, moves

SMALL = World(faults=1, wishes=2, writes=2, stills=0, silences=0)
FIRST = Told(1, 0)
GIVEN_BACK = World(  # mk1 went on alone, both are whole again, and nobody has recorded that it gave the verdict back
    hosts=(Host(role="Primary", verdict=FIRST, given_back=True), Host(verdict=FIRST)),
    status=FIRST, recorded=frozenset({FIRST}), faults=1, wishes=1, writes=1, stills=1, silences=1,
)  # fmt: skip


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


STARTS = [
    SMALL,
    SMALL._replace(wishes=1, writes=1, stills=1, silences=1),
    GIVEN_BACK,
    GIVEN_BACK._replace(hosts=(GIVEN_BACK.hosts[0], Host())),  # mk2 was never told of it
    GIVEN_BACK._replace(faults=2, stills=0, silences=0),
]


@pytest.mark.parametrize("start", STARTS)
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


def test_a_holder_that_goes_on_by_what_it_gave_back_is_an_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(record: FenceRecord | None, node: str) -> bool:
        return record is not None and record.verdict is not None and record.verdict.survivor == node

    monkeypatch.setattr(fence_records, "holds", careless)
    first = GIVEN_BACK.hosts[0]._replace(frozen=True, asked=True)
    parted = GIVEN_BACK._replace(hosts=(first, Host()), cable=False, link="Lost", writes=2, stills=0, silences=0)
    _, accident = explore(parted, 20_000)
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
