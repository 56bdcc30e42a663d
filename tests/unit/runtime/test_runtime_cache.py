"""The cache: the newest of each object, and indexes that always say what a look at all objects would say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from raw_objects import again, node, vm, volume

from controller.api.drbdvolume import DeviceStatus, DrbdVolume, DrbdVolumeStatus, LogicalVolumeStatus
from controller.api.xenvm_status import Placement, XenVMStatus
from controller.runtime.cache import Cache
from controller.runtime.queue import ObjectKey

V: ObjectKey = ("DrbdVolume", "default", "v")


def placed(host: str) -> dict[str, Any]:
    return {"placement": {"node": host, "epoch": 1}}


def holding(minor: int) -> dict[str, Any]:
    return {"device": {"minor": minor, "port": 7788 + minor}, "resource": "v", "nodes": ["mk1", "mk2"]}


def test_an_older_version_is_ignored_and_the_same_one_too() -> None:
    cache = Cache()
    old = volume()
    new = again(old, status=holding(3))
    assert cache.upsert(new) is not None
    assert cache.upsert(old) is None
    assert cache.upsert(new) is None
    assert cache.numbers("minor") == {3}


def test_an_event_from_before_the_deletion_does_not_bring_the_object_back() -> None:
    cache = Cache()
    raw = volume()
    cache.upsert(raw)
    assert cache.remove(raw) is not None
    assert cache.upsert(again(raw)) is None
    assert cache.get(V) is None


def test_the_deletion_of_a_predecessor_leaves_the_new_object_of_that_name() -> None:
    cache = Cache()
    first, second = volume(uid="1"), volume(uid="2")
    cache.upsert(first)
    change = cache.upsert(second)
    assert change is not None
    assert change.old is not None
    assert cache.remove(first) is None
    assert cache.get(V) is not None
    assert cache.by_uid("1") is None
    assert cache.by_uid("2") == V


def test_an_object_that_cannot_be_read_is_not_gone() -> None:
    cache = Cache()
    good = volume(status=holding(3))
    cache.upsert(good)
    bad = again(good, spec={"size": {"not": "a size"}})
    assert cache.upsert(bad) is None
    assert cache.unreadable == 1
    found = cache.get(V)
    assert isinstance(found, DrbdVolume)
    assert found.status.device == DeviceStatus(minor=3, port=7791)
    assert cache.upsert(again(good)) is not None
    assert cache.unreadable == 0


def test_who_uses_a_volume_and_who_is_on_a_node_follow_every_change() -> None:
    cache = Cache()
    a = vm("a", "v", "w")
    cache.upsert(a)
    cache.upsert(vm("b", "v", status=placed("mk2")))
    cache.upsert(vm("c", "v", namespace="other"))
    assert cache.users(("default", "v")) == (("XenVM", "default", "a"), ("XenVM", "default", "b"))
    assert cache.placed("mk1") == ()
    change = cache.upsert(again(a, spec={**a["spec"], "disks": []}, status=placed("mk1")))
    assert change is not None
    assert cache.users(("default", "w")) == ()
    assert cache.placed("mk1") == (("XenVM", "default", "a"),)
    cache.remove(a)
    assert cache.placed("mk1") == ()


def test_a_name_belongs_to_who_holds_it_in_status_then_to_the_oldest_that_declares_it() -> None:
    cache = Cache()
    young = volume("young", device={"minor": 1}, creationTimestamp="2031-02-03T00:00:00Z")
    old = volume("old", device={"minor": 1}, creationTimestamp="2031-02-01T00:00:00Z")
    cache.upsert(young)
    cache.upsert(old)
    assert [one.name for one in cache.holders(("minor", "1"))] == ["old", "young"]
    cache.upsert(again(young, status=holding(1)))
    assert [one.name for one in cache.holders(("minor", "1"))] == ["young", "old"]
    change = cache.remove(young)
    assert change is not None
    assert ("minor", "1") in change.freed
    assert cache.claimants(("minor", "1")) == (("DrbdVolume", "default", "old"),)


def test_names_of_a_status_on_its_way_are_held_until_it_is_settled() -> None:
    cache = Cache()
    cache.upsert(volume())
    device = DeviceStatus(minor=7, port=7795)
    cache.expect(V, DrbdVolumeStatus(device=device, logical_volume=LogicalVolumeStatus(group="vg0", name="v")))
    assert cache.numbers("minor") == {7}
    assert cache.numbers("port") == {7795}
    assert set(cache.settle(V)) >= {("minor", "7"), ("port", "7795")}
    assert cache.numbers("minor") == frozenset()
    assert cache.settle(V) == ()


def test_an_expected_placement_holds_the_domains_name() -> None:
    cache = Cache()
    cache.upsert(vm("a", namespace="one", creationTimestamp="2031-02-01T00:00:00Z"))
    cache.upsert(vm("a", namespace="two", creationTimestamp="2031-02-02T00:00:00Z"))
    cache.expect(("XenVM", "two", "a"), XenVMStatus(placement=Placement(node="mk1", epoch=1)))
    assert [one.namespace for one in cache.holders(("domain", "a"))] == ["two", "one"]


def test_a_host_has_a_vm_from_when_its_placement_or_its_move_there_is_being_written() -> None:
    cache = Cache()
    raw = vm("a", status=placed("mk1"))
    key = ("XenVM", "default", "a")
    cache.upsert(raw)
    cache.expect(key, XenVMStatus.model_validate({**placed("mk1"), "migration": move(None)}))
    assert cache.placed("mk1") == cache.placed("mk2") == (key,)
    cache.settle(key)
    assert cache.placed("mk2") == (), "the write failed"
    cache.upsert(again(raw, status={**placed("mk1"), "migration": move(None)}))
    assert cache.placed("mk2") == (key,)
    cache.upsert(again(raw, status={**placed("mk2"), "migration": move("Succeeded")}))
    assert (cache.placed("mk1"), cache.placed("mk2")) == ((), (key,))


def move(outcome: str | None) -> dict[str, Any]:
    return {"id": "m", "source": "mk1", "target": "mk2", "epoch": 2, "outcome": outcome}


def test_a_deleted_object_takes_what_was_expected_of_it_along() -> None:
    cache = Cache()
    raw = volume()
    cache.upsert(raw)
    cache.expect(V, DrbdVolumeStatus(device=DeviceStatus(minor=7, port=7795)))
    cache.remove(raw)
    assert cache.numbers("minor") == frozenset()


def test_everything_that_names_a_node_is_concerned_by_it() -> None:
    cache = Cache()
    cache.upsert(node("mk1"))
    cache.upsert(volume())
    cache.upsert(vm("a", node="mk3", status=placed("mk2")))
    cache.upsert(vm("b", node=None, status={"migration": {"id": "m", "source": "mk4", "target": "mk5", "epoch": 2}}))
    assert cache.concerned("mk1") == (V,)
    assert cache.concerned("mk2") == (V, ("XenVM", "default", "a"))
    assert cache.concerned("mk3") == (("XenVM", "default", "a"),)
    assert cache.concerned("mk5") == (("XenVM", "default", "b"),)


@pytest.mark.parametrize("seed", range(20))
def test_the_indexes_say_what_a_look_at_all_objects_says(seed: int) -> None:
    rng, cache = random.Random(seed), Cache()
    live: dict[str, Any] = {}
    for _ in range(300):
        name = f"n{rng.randrange(6)}"
        if name in live and rng.random() < 0.2:
            cache.remove(live.pop(name))
            continue
        status = holding(rng.randrange(4)) if rng.random() < 0.6 else {}
        device = {"minor": rng.randrange(4)} if rng.random() < 0.5 else {}
        made = volume(name, status=status, device=device, uid=live[name]["metadata"]["uid"] if name in live else None)
        made["metadata"]["uid"] = made["metadata"]["uid"] or f"{name}-{rng.random()}"
        live[name] = made
        cache.upsert(made)
        minors = {v.status.device.minor for v in cache.volumes.values() if v.status.device}
        minors |= {v.spec.device.minor for v in cache.volumes.values() if v.spec.device.minor is not None}
        assert cache.numbers("minor") == minors
        assert set(cache.volumes) == {("default", one) for one in live}
        for minor in range(4):
            claimed = {
                v.name
                for v in cache.volumes.values()
                if v.spec.device.minor == minor or (v.status.device and v.status.device.minor == minor)
            }
            assert {one.name for one in cache.holders(("minor", str(minor)))} == claimed
