"""The controller's runtime against a real API server: election, compare-and-swap, finalizers, events, lists."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import devcluster
import pytest
from api_objects import Objects, howto, kubectl

from controller.api.common import Condition
from controller.api.drbdvolume import DeviceStatus, DrbdVolume, DrbdVolumeStatus
from controller.runtime import events
from controller.runtime.api_server import ApiServer, Conflict, Invalid, Missing, login
from controller.runtime.cache import Cache, Change
from controller.runtime.events import Recorder
from controller.runtime.index import Claim
from controller.runtime.lease import Elector, LeadershipLost, Timing
from controller.runtime.queue import ObjectKey
from controller.runtime.resync import resync
from controller.runtime.status import Stale, Writer, differs, finalizers_after

QUICK = Timing(duration=1.0, renew_deadline=0.6, retry=0.1)
FINALIZER = "xentandem.io/protect"


@pytest.fixture
async def server(cluster: devcluster.Cluster) -> AsyncIterator[ApiServer]:
    made = ApiServer(str(cluster.kubeconfig))
    yield made
    await made.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - clocks ring no bell
            await asyncio.sleep(0.01)


# --- the election -----------------------------------------------------------------------------------------------------


async def lease(server: ApiServer, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = await server.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/xentandem-controller"
    )
    return found


async def test_the_first_leader_has_term_one_each_later_one_a_higher_term(server: ApiServer, namespace: str) -> None:
    first = Elector(server, namespace, "first", timing=QUICK)
    assert await first.acquire() == 1
    assert first.leading
    await first.release()
    assert not first.leading
    second = Elector(server, namespace, "second", timing=QUICK)
    assert await second.acquire() == 2
    again = Elector(server, namespace, "second", timing=QUICK)  # the same name after a restart is another leadership
    assert await again.acquire() == 3
    spec = (await lease(server, namespace))["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 3)


async def test_a_second_candidate_waits_until_the_holder_is_silent_for_the_leases_duration(
    server: ApiServer, namespace: str
) -> None:
    first, second = (Elector(server, namespace, name, timing=QUICK) for name in ("first", "second"))
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire())
    renewals = server.writes["put", "leases"]
    since = time.monotonic()
    await until(lambda: server.writes["put", "leases"] > renewals + 3 and time.monotonic() > since + 2 * QUICK.duration)
    assert not waiting.done(), "renewed again and again, the lease is never free"
    keeping.cancel()  # as if killed: it renews no more
    assert await asyncio.wait_for(waiting, 20) == 2
    assert not first.leading, "a leader stops by its own clock before another may begin"
    assert second.leading


async def test_a_holder_whose_lease_was_taken_loses_it_at_its_next_renewal(server: ApiServer, namespace: str) -> None:
    first, second = (Elector(server, namespace, name, timing=QUICK) for name in ("first", "second"))
    await first.acquire()
    assert await second.acquire(seize=True) == 2
    with pytest.raises(LeadershipLost, match="second holds the lease"):
        await asyncio.wait_for(first.keep(), 20)
    assert not first.leading
    assert second.leading


async def test_a_deleted_lease_ends_the_leadership(
    server: ApiServer, namespace: str, cluster: devcluster.Cluster
) -> None:
    first = Elector(server, namespace, "first", timing=QUICK)
    await first.acquire()
    kubectl(cluster, "delete", "lease", "-n", namespace, "xentandem-controller")
    with pytest.raises(LeadershipLost):
        await asyncio.wait_for(first.keep(), 20)


async def test_of_two_that_take_a_free_lease_at_once_one_gets_it(server: ApiServer, namespace: str) -> None:
    candidates = [Elector(server, namespace, f"c{n}", timing=QUICK) for n in range(5)]
    tasks = [asyncio.create_task(one.acquire()) for one in candidates]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    holder = (await lease(server, namespace))["spec"]["holderIdentity"]
    assert len(done) == 1
    assert [one.identity for one in candidates if one.leading] == [holder]
    for task in tasks:
        task.cancel()


async def test_the_term_rises_above_an_agents_promise_only_for_the_holder(server: ApiServer, namespace: str) -> None:
    first = Elector(server, namespace, "first", timing=QUICK)
    await first.acquire()
    assert await first.raise_term(41)
    assert first.term == 42
    assert (await lease(server, namespace))["spec"]["leaseTransitions"] == 42
    second = Elector(server, namespace, "second", timing=QUICK)
    assert await second.acquire(seize=True) == 43
    assert not await first.raise_term(100)
    assert not first.leading
    with pytest.raises(LeadershipLost):
        await first.keep()
    assert (await lease(server, namespace))["spec"]["leaseTransitions"] == 43


async def test_a_leader_cut_off_from_the_api_server_stops_by_its_own_clock(server: ApiServer, namespace: str) -> None:
    now = 100.0
    one = Elector(server, namespace, "one", timing=Timing(), clock=lambda: now)
    await one.acquire()
    assert one.leading
    now += Timing().renew_deadline
    assert not one.leading
    assert one.age is None


# --- writes -----------------------------------------------------------------------------------------------------------


class Stored:
    """The howto's volume on the API server, in a cache of ours."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.cache = Cache()
        self.changes: list[Change] = []
        self.freed: list[Claim] = []
        self.writer = Writer(server, self.cache, self.changes.append, lambda _, claims: self.freed.extend(claims))
        self.key: ObjectKey = ("DrbdVolume", namespace, "vm-shaolin")

    @property
    def volume(self) -> DrbdVolume:
        found = self.cache.get(self.key)
        assert isinstance(found, DrbdVolume)
        return found

    def status(self, minor: int) -> DrbdVolumeStatus:
        ready = Condition(type="Ready", status="False", last_transition_time="2031-02-01T10:00:00Z", reason="Placed")
        return DrbdVolumeStatus(
            observed_generation=1, conditions=(ready,), phase="Creating", device=DeviceStatus(minor=minor, port=7789)
        )


@pytest.fixture
def stored(server: ApiServer, namespace: str, objects: Objects) -> Stored:
    made = Stored(server, namespace)
    made.cache.upsert(objects.create(howto("DrbdVolume")))
    return made


async def test_a_status_is_read_back_as_it_was_written_and_not_written_twice(stored: Stored, server: ApiServer) -> None:
    before = stored.volume
    written = await stored.writer.put_status(stored.key, before, stored.status(5))
    assert written is stored.volume, "the cache has the answer at once"
    assert stored.volume.status.device == DeviceStatus(minor=5, port=7789)
    assert not differs(stored.status(5), stored.volume)
    assert DrbdVolume.from_object(await server.get(stored.key)) == stored.volume
    assert stored.volume.spec == before.spec, "a status write changes nothing else"
    assert stored.volume.metadata.generation == before.metadata.generation
    assert server.writes == {("put", "drbdvolumes/status"): 1}


async def test_a_decision_from_an_old_version_is_dropped_and_the_cache_is_new_then(stored: Stored) -> None:
    old = stored.volume
    other = Cache()
    assert other.upsert({**json.loads(old.model_dump_json(by_alias=True)), "kind": "DrbdVolume"}) is not None
    await stored.writer.put_status(stored.key, old, stored.status(5))
    told: list[Change] = []
    freed: list[Claim] = []
    late = Writer(stored.writer._api, other, told.append, lambda _, claims: freed.extend(claims))
    with pytest.raises(Stale):
        await late.put_status(stored.key, old, stored.status(6))
    found = other.get(stored.key)
    assert isinstance(found, DrbdVolume)
    assert found.status.device == DeviceStatus(minor=5, port=7789)
    assert other.numbers("minor") == {1, 5}, "the names of the dropped status are free again"
    assert ("minor", "6") in freed, "and whoever waits for them hears it"
    assert [change.new for change in told] == [found], "the watch will not tell of that version again"


async def test_a_status_for_an_object_that_was_made_anew_under_its_name_is_dropped(
    stored: Stored, objects: Objects, cluster: devcluster.Cluster, namespace: str
) -> None:
    old = stored.volume
    kubectl(cluster, "delete", "dvol", "-n", namespace, "vm-shaolin")
    objects.create(howto("DrbdVolume"))
    with pytest.raises(Stale):
        await stored.writer.put_status(stored.key, old, stored.status(5))
    assert stored.volume.metadata.uid != old.metadata.uid
    assert stored.volume.status.device is None


async def test_a_status_that_the_schema_refuses_is_raised_loudly(stored: Stored) -> None:
    wrong = stored.status(5).model_copy(update={"phase": "Nonsense"})
    with pytest.raises(Invalid, match="Nonsense"):
        await stored.writer.put_status(stored.key, stored.volume, wrong)
    assert stored.cache.numbers("minor") == {1}


async def test_names_in_a_status_on_its_way_are_held_before_it_is_written(stored: Stored) -> None:
    writing = asyncio.create_task(stored.writer.put_status(stored.key, stored.volume, stored.status(5)))
    await asyncio.sleep(0)
    assert stored.cache.numbers("minor") == {1, 5}
    assert stored.cache.holders(("minor", "5"))[0].name == "vm-shaolin"
    await writing
    assert stored.cache.numbers("minor") == {1, 5}


async def test_the_finalizer_is_added_and_removed_without_touching_others(
    stored: Stored, server: ApiServer, cluster: devcluster.Cluster, namespace: str
) -> None:
    kubectl(cluster, "patch", "dvol", "-n", namespace, "vm-shaolin", "--type=merge",
            "-p", '{"metadata":{"finalizers":["example.org/theirs"]}}')  # fmt: skip
    await stored.writer.refresh(stored.key)
    after = finalizers_after(stored.volume, "add", FINALIZER)
    assert after == ("example.org/theirs", FINALIZER)
    await stored.writer.put_finalizers(stored.key, stored.volume, after)
    assert stored.volume.metadata.finalizers == after
    assert finalizers_after(stored.volume, "add", FINALIZER) is None
    old = stored.volume
    without = finalizers_after(stored.volume, "remove", FINALIZER)
    assert without == ("example.org/theirs",)
    await stored.writer.put_finalizers(stored.key, stored.volume, without)
    with pytest.raises(Stale):
        await stored.writer.put_finalizers(stored.key, old, ())
    assert (await server.get(stored.key))["metadata"]["finalizers"] == ["example.org/theirs"]
    await stored.writer.put_finalizers(stored.key, stored.volume, ())


async def test_removing_the_last_finalizer_of_a_deleted_object_removes_it_from_the_cache(
    stored: Stored, server: ApiServer, cluster: devcluster.Cluster, namespace: str
) -> None:
    await stored.writer.put_finalizers(stored.key, stored.volume, (FINALIZER,))
    kubectl(cluster, "delete", "dvol", "-n", namespace, "vm-shaolin", "--wait=false")
    await stored.writer.refresh(stored.key)
    assert stored.volume.deleting
    await stored.writer.put_finalizers(stored.key, stored.volume, ())
    assert stored.cache.get(stored.key) is None
    assert stored.changes[-1].new is None
    assert ("minor", "1") in stored.changes[-1].freed
    with pytest.raises(Missing):
        await server.get(stored.key)


# --- the list ---------------------------------------------------------------------------------------------------------


async def test_a_full_list_brings_the_cache_up_to_date_and_forgets_what_is_gone(
    stored: Stored, server: ApiServer, objects: Objects, cluster: devcluster.Cluster, namespace: str
) -> None:
    objects.create(howto("XenVM"))
    kubectl(cluster, "delete", "dvol", "-n", namespace, "vm-shaolin")
    changes = {change.key: change async for change in resync(server, stored.cache)}
    vm: ObjectKey = ("XenVM", namespace, "shaolin")
    assert changes[vm].old is None
    assert changes[stored.key].new is None
    assert stored.cache.get(stored.key) is None
    assert stored.cache.users((namespace, "vm-shaolin")) == (vm,)
    assert [change async for change in resync(server, stored.cache)] == []


async def test_a_large_list_comes_in_pages(
    server: ApiServer, objects: Objects, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.runtime.api_server.PAGE", 2)
    for n in range(5):
        manifest = howto("XenVM", f"vm{n}")
        objects.create(manifest)
    pages = [items async for _, items in server.pages("XenVM")]
    names = {item["metadata"]["name"] for items in pages for item in items}
    assert {f"vm{n}" for n in range(5)} <= names
    assert all(len(items) <= 2 for items in pages)


# --- events and the login ---------------------------------------------------------------------------------------------


async def events_of(server: ApiServer, namespace: str) -> list[dict[str, Any]]:
    found = await server.request("GET", f"/api/v1/namespaces/{namespace}/events")
    return [one for one in found["items"] if one["source"].get("component") == "xentandem-controller"]


async def test_an_event_is_posted_once_and_its_repetitions_are_counted(
    stored: Stored, server: ApiServer, namespace: str
) -> None:
    now = 0.0
    recorder = Recorder(server, "test", clock=lambda: now)
    posting = asyncio.create_task(recorder.run())
    for _ in range(3):
        recorder.record(stored.volume, "Normal", "Placed", "on mk1 and mk2")
    recorder.record(stored.volume, "Warning", "Degraded", "mk2 is lost")
    await recorder.flush(20)
    posted = {one["reason"]: one for one in await events_of(server, namespace)}
    assert set(posted) == {"Placed", "Degraded"}
    assert posted["Placed"]["involvedObject"]["uid"] == stored.volume.metadata.uid
    now = 61.0
    recorder.record(stored.volume, "Normal", "Placed", "on mk1 and mk2")
    await recorder.flush(20)
    posted = {one["reason"]: one for one in await events_of(server, namespace)}
    assert posted["Placed"]["count"] == 4
    assert server.writes["post", "events"] == 2
    assert recorder.dropped == 0
    posting.cancel()


async def test_the_last_repetition_is_told_though_nothing_follows_it(
    stored: Stored, server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REFRESH", 0.2)
    recorder = Recorder(server, "test")
    posting = asyncio.create_task(recorder.run())
    for _ in range(3):
        recorder.record(stored.volume, "Normal", "Placed", "on mk1 and mk2")
    await until(lambda: server.writes["patch", "events"] == 1)
    await recorder.flush(20)
    (posted,) = await events_of(server, namespace)
    assert posted["count"] == 3
    assert server.writes["post", "events"] == 1
    posting.cancel()


async def test_an_object_that_makes_too_many_events_is_cut_short(stored: Stored, server: ApiServer) -> None:
    recorder = Recorder(server, "test", clock=lambda: 0.0)
    for n in range(100):
        recorder.record(stored.volume, "Normal", "Noise", f"{n}")
    assert recorder.dropped == 75


async def test_an_event_that_cannot_be_posted_is_dropped_and_the_next_one_is_posted(
    stored: Stored, server: ApiServer, namespace: str
) -> None:
    recorder = Recorder(server, "test")
    posting = asyncio.create_task(recorder.run())
    nowhere = stored.volume.metadata.model_copy(update={"namespace": "not-there"})
    recorder.record(stored.volume.model_copy(update={"metadata": nowhere}), "Normal", "Lost", "in no namespace")
    recorder.record(stored.volume, "Normal", "Placed", "on mk1 and mk2")
    await recorder.flush(20)
    assert [one["reason"] for one in await events_of(server, namespace)] == ["Placed"]
    assert recorder.dropped == 1
    posting.cancel()


async def test_the_login_is_the_kubeconfigs(cluster: devcluster.Cluster, server: ApiServer) -> None:
    found = await login(str(cluster.kubeconfig), None)
    assert found.server.startswith("https://")
    assert found.ca_path
    assert found.token or found.certificate_path
    with pytest.raises(Conflict):
        await server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
