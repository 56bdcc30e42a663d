"""Live moves in the cache, whom the end of one concerns, and what is counted of hosts that fail."""

from __future__ import annotations

from typing import Any

import pytest
from raw_objects import Raw, again, node, vm, volume

from controller.reconcile import vms
from controller.runtime.api_server import ApiServer
from controller.runtime.cache import Cache
from controller.runtime.metrics import Metrics
from controller.runtime.queue import ObjectKey, WorkQueue

WAITS: ObjectKey = ("XenVM", "default", "waits")
AT = "2031-02-01T10:00:00Z"


def condition(kind: str, status: str, reason: str) -> Raw:
    return {"type": kind, "status": status, "lastTransitionTime": AT, "reason": reason}


def status(move: str | None = None, outcome: str | None = None, **more: Any) -> Raw:
    """On mk1; `move`: to that host."""
    made: Raw = {"placement": {"node": "mk1", "epoch": 1}, **more}
    if move is not None:
        made["migration"] = {"id": "m", "source": "mk1", "target": move, "epoch": 2, "phase": "Transfer"}
        made["migration"] |= {"outcome": outcome} if outcome else {}
    return made


@pytest.fixture
def cache() -> Cache:
    made = Cache()
    made.upsert(node("mk1"))
    made.upsert(vm("waits", status=status(conditions=[condition("Placed", "False", "MoveQueued")])))
    made.upsert(vm("other", status=status()))
    return made


def concerned(cache: Cache, raw: Raw, **changes: Any) -> set[ObjectKey]:
    cache.upsert(raw)
    change = cache.upsert(again(raw, **changes))
    assert change is not None
    return set(vms.concerned(cache, change))


def test_moves_are_known_from_what_is_written_and_from_what_is_being_written(cache: Cache) -> None:
    raw = vm("a", status=status("mk2"))
    cache.upsert(raw)
    assert cache.moving == {("default", "a"): ("mk1", "mk2")}
    cache.upsert(volume("a"))  # of the same name
    assert ("default", "a") in cache.moving
    cache.upsert(again(raw, status=status("mk2", "Succeeded")))
    assert cache.moving == {}
    found = cache.vm(("default", "other"))
    begun = vm("a", status=status("mk3"))
    cache.upsert(begun)
    written = cache.vm(("default", "a"))
    assert found is not None
    assert written is not None
    cache.expect(("XenVM", "default", "other"), written.status)
    assert cache.moving[("default", "other")] == ("mk1", "mk3")
    cache.settle(("XenVM", "default", "other"))
    assert ("default", "other") not in cache.moving


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (status("mk2"), status("mk2", "Failed"), True),
        (status(), status(conditions=[condition("Placed", "False", "NoLogDirty")]), True),
        (status(), status("mk2"), False),
        (status(), status(phase="Running"), False),
    ],
    ids=["a move ended", "one is blocked", "a move begins", "nothing of it"],
)
def test_who_waits_for_his_turn_is_told_when_one_is_free(cache: Cache, before: Raw, after: Raw, told: bool) -> None:
    assert (WAITS in concerned(cache, vm("a", status=before), status=after)) == told


def test_a_host_is_told_of_its_vms_where_it_speaks_of_them(cache: Cache) -> None:
    host: ObjectKey = ("XenNode", "", "mk1")
    assert host not in concerned(cache, vm("a", status=status("mk2")), status=status("mk2", "Failed"))
    cache.upsert(node("mk1", status={"conditions": [condition("FailoverReady", "True", "Fits")]}))
    assert host in concerned(cache, vm("b", status=status("mk2")), status=status("mk2", "Failed"))


async def test_what_would_not_fit_and_what_is_away_is_counted() -> None:
    cache, metrics = Cache(), Metrics()
    metrics.watch(cache, WorkQueue(), ApiServer(), dict, lambda: 0)
    cache.upsert(node("mk1", status={"conditions": [condition("FailoverReady", "False", "InsufficientMemory")]}))
    cache.upsert(node("mk2"))
    for name in "ab":
        cache.upsert(vm(name, status=status(displaced={"from": "mk2", "reason": "Fenced", "since": AT})))
    value = metrics.registry.get_sample_value
    assert value("xentandem_node_failover_ready", {"host": "mk1"}) == 0
    assert value("xentandem_node_failover_ready", {"host": "mk2"}) is None
    assert value("xentandem_vms_displaced", {"reason": "Fenced"}) == 2
