"""The watch: changes by value, in order, bounded for a watcher who does not read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agent_facts import domain

from agent import watch as watch_module
from agent.host import Host
from agent.protocol import DomainState, HostState, Refusal
from agent.simulation.cluster import Simulation
from agent.watch import Watch, difference


def state(**changes: object) -> HostState:
    return HostState(node="mk1", boot_id="b", revision=1, agent_version="1", agent_started_at="t", term=0).model_copy(
        update=changes
    )


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    return Simulation(tmp_path, clock="virtual").hosts["mk1"]


def domains(*domids: int, **changes: Any) -> dict[str, DomainState]:
    return {str(one): domain(one, **changes) for one in domids}


def test_equal_states_have_no_difference() -> None:
    assert difference(state(domains=domains(1)), state(domains=domains(1), revision=9)) is None


def test_only_what_changed_is_told() -> None:
    before = state(domains=domains(1, 2), term=1)
    after = state(domains=domains(2, 3) | domains(1, state="paused"), term=1)
    event = difference(before, after)
    assert event is not None
    assert event.model_fields_set == {"type", "boot_id", "revision", "domains"}
    assert set(event.domains) == {"1", "3"}
    gone = difference(after, state(domains={}, term=2))
    assert gone is not None
    assert gone.domains == {"1": None, "2": None, "3": None}
    assert gone.term == 2


async def test_problems_that_end_are_told(host: Host) -> None:
    watch = Watch(host, state(problems=(Refusal(reason="A", message="b"),)))
    watcher = watch.subscribe()
    assert (await watcher.next(watch)).type == "snapshot"
    watch.publish(state(problems=()))
    event = await watcher.next(watch)
    assert event.problems == ()
    assert "problems" in event.model_dump_json(exclude_unset=True)


async def test_revisions_grow_by_one_with_every_change(host: Host) -> None:
    watch = Watch(host, state())
    watcher = watch.subscribe()
    await watcher.next(watch)
    for term in (1, 1, 2, 2, 3):
        watch.publish(watch.state.model_copy(update={"term": term}))
    seen = [await watcher.next(watch) for _ in range(3)]
    assert [(event.revision, event.term) for event in seen] == [(2, 1), (3, 2), (4, 3)]
    assert watch.state.revision == 4


async def test_a_watcher_that_does_not_read_gets_a_new_snapshot(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "QUEUE_LIMIT", 5)
    watch = Watch(host, state())
    slow, quick = watch.subscribe(), watch.subscribe()
    for one in (slow, quick):
        assert (await one.next(watch)).type == "snapshot"
    for term in range(1, 20):
        watch.publish(watch.state.model_copy(update={"term": term}))
        assert (await quick.next(watch)).term == term
    event = await slow.next(watch)
    assert event.type == "snapshot"
    assert event.state is not None
    assert event.state.term == 19
    watch.publish(watch.state.model_copy(update={"term": 20}))
    assert (await slow.next(watch)).term == 20


async def test_a_watcher_that_waits_is_woken(host: Host) -> None:
    watch = Watch(host, state())
    watcher = watch.subscribe()
    await watcher.next(watch)
    waiting = asyncio.ensure_future(watcher.next(watch))
    await asyncio.sleep(0)
    watch.publish(watch.state.model_copy(update={"term": 5}))
    assert (await waiting).term == 5


async def test_silence_is_a_heartbeat_after_ten_seconds(host: Host) -> None:
    watch = Watch(host, state())
    watcher = watch.subscribe()
    await watcher.next(watch)
    begun = host.now()
    assert (await watcher.next(watch)).type == "heartbeat"
    assert host.now() - begun == pytest.approx(10.0)


async def test_nobody_is_told_twice_after_leaving(host: Host) -> None:
    watch = Watch(host, state())
    watcher = watch.subscribe()
    await watcher.next(watch)
    watch.unsubscribe(watcher)
    watch.publish(watch.state.model_copy(update={"term": 5}))
    assert (await watcher.next(watch)).type == "heartbeat"
