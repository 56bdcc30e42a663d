"""Whom a change concerns: what changes on a host or in an object reaches every object that depends on it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from raw_objects import again, node, vm, volume

from agent.protocol import (
    DomainState,
    HostState,
    LogicalVolumeState,
    OperationState,
    VmState,
    VolumeState,
    WatchEvent,
)
from controller.agents.client import ClientTls
from controller.agents.supervisor import HostChange, Supervisor, Supervisors
from controller.domain.world import HostView
from controller.reconcile import hosts, nodes, vms, volumes
from controller.reconcile.view import View
from controller.runtime.cache import Cache, Change
from controller.runtime.queue import ObjectKey

A: ObjectKey = ("XenVM", "default", "a")
V: ObjectKey = ("DrbdVolume", "default", "v")
MK1: ObjectKey = ("XenNode", "", "mk1")
UID = "aaaaaaaa-0000-0000-0000-000000000000"
VOLUME_UID = "bbbbbbbb-0000-0000-0000-000000000000"


@pytest.fixture
def cache() -> Cache:
    made = Cache()
    made.upsert(node("mk1"))
    made.upsert(volume("v", uid=VOLUME_UID))
    made.upsert(vm("a", "v", uid=UID, status={"placement": {"node": "mk1", "epoch": 1}}))
    made.upsert(volume("elsewhere"))
    return made


def told(cache: Cache, section: str, key: str, new: Any, old: Any = None) -> set[ObjectKey]:
    return set(hosts.concerned(cache, HostChange("mk1", ((section, key, old, new),))))


def domain(name: str = "a", uuid: str | None = UID, cpu: float = 1.0, state: str = "running") -> DomainState:
    return DomainState.model_validate(
        {"domid": 3, "name": name, "uuid": uuid, "kind": "main", "state": state, "flags": "r-----", "memory_mib": 512}
        | {"vcpus": 1, "cpu_seconds": cpu}
    )


def test_a_volume_on_a_host_concerns_the_volume_and_the_vms_that_use_it(cache: Cache) -> None:
    found = VolumeState(resource="v", uid=VOLUME_UID, namespace="default", name="v")
    assert told(cache, "volumes", "v", found) == {V, A}
    assert told(cache, "volumes", "v", None, found) == {V, A}


def test_a_foreign_resource_concerns_who_wants_its_name(cache: Cache) -> None:
    assert told(cache, "volumes", "v", VolumeState(resource="v")) == {V}


def test_a_vm_on_a_host_concerns_the_vm_and_its_volumes(cache: Cache) -> None:
    found = VmState(
        uid=UID, namespace="default", name="a", epoch=1, granted=True, desired="Running", run=1, status="running"
    )
    assert told(cache, "vms", UID, found) == {A, V}


@pytest.mark.parametrize("name", ["a", "a--incoming", "a--migratedaway", "(null)"])
def test_a_domain_concerns_its_vm_and_when_it_comes_or_goes_the_node(cache: Cache, name: str) -> None:
    assert told(cache, "domains", "3", domain(name)) == {A, V, MK1}
    assert told(cache, "domains", "3", domain(name, state="paused"), domain(name)) == {A, V}


def test_an_unmanaged_domain_of_the_name_concerns_who_wants_the_name(cache: Cache) -> None:
    assert told(cache, "domains", "3", domain(uuid=None)) == {A, MK1}


def test_cpu_time_concerns_nobody(cache: Cache) -> None:
    assert told(cache, "domains", "3", domain(cpu=2.0), domain(cpu=1.0)) == set()


def test_an_operation_and_a_logical_volume_concern_their_objects(cache: Cache) -> None:
    operation = OperationState(
        id="m", kind="migrate-send", subject="a", subject_uid=UID, phase="Precopy", started_at="2031-02-01T10:00:00Z"
    )
    assert told(cache, "operations", "m", operation) == {A, V}
    assert told(cache, "operations", "i", operation.model_copy(update={"subject_uid": VOLUME_UID})) == {V}
    ours = LogicalVolumeState(group="vg0", name="x", size=1, owner_uid=VOLUME_UID)
    assert told(cache, "logical_volumes", "vg0/x", ours) == {V}
    foreign = LogicalVolumeState(group="vg0", name="v", size=1)
    assert told(cache, "logical_volumes", "vg0/v", foreign) == {V}


def test_a_lost_connection_concerns_everything_there_and_what_waits_for_a_place(cache: Cache) -> None:
    cache.upsert(vm("waiting", node=None))
    everything = {MK1, A, V, ("DrbdVolume", "default", "elsewhere"), ("XenVM", "default", "waiting")}
    assert set(hosts.concerned(cache, HostChange("mk1", connection=True))) == everything


def test_a_nodes_new_wish_concerns_what_is_there_and_its_status_nobody(cache: Cache) -> None:
    raw = node("mk1")
    first = cache.upsert(again(raw, status={"phase": "Ready"}))
    assert first is not None
    assert set(nodes.concerned(cache, first)) == set()
    wish = again(raw, status={"phase": "Ready"})
    wish["metadata"]["generation"] = 2
    second = cache.upsert(wish)
    assert second is not None
    assert A in set(nodes.concerned(cache, second))


def test_evidence_that_a_host_is_off_concerns_what_is_there(cache: Cache) -> None:
    fenced = {"at": "2031-02-01T10:00:00Z", "bootID": "b", "operation": "fence-1", "evidence": "fence_test: off"}
    recorded = cache.upsert(again(node("mk1"), status={"fenced": fenced}))
    assert recorded is not None
    assert A in set(nodes.concerned(cache, recorded))
    contradicted = cache.upsert(again(node("mk1"), status={"fenced": fenced | {"contradictedAt": fenced["at"]}}))
    assert contradicted is not None
    assert A in set(nodes.concerned(cache, contradicted))


def test_a_vm_concerns_the_volumes_it_had_and_has(cache: Cache) -> None:
    raw = vm("a", "other", uid=UID)
    change = cache.upsert(raw)
    assert change is not None
    assert set(vms.concerned(cache, change)) == {V, ("DrbdVolume", "default", "other")}


def test_a_volume_concerns_the_vms_that_name_it(cache: Cache) -> None:
    assert set(volumes.concerned(cache, Change(V, None, None))) == {A}


def test_names_that_are_kept_for_nobody_concern_the_host(cache: Cache) -> None:
    late = VolumeState(resource="v", uid="dddddddd-0000-0000-0000-000000000000", namespace="default", name="v")
    assert MK1 in told(cache, "volumes", "v", late)
    assert MK1 not in told(cache, "volumes", "v", None, late)
    gone = cache.upsert(volume("w", status={"nodes": ["mk1", "mk2"]}))
    assert gone is not None
    gone = cache.remove_key(gone.key, gone.new.metadata.uid if gone.new else "")
    assert gone is not None
    assert set(volumes.concerned(cache, gone)) == {MK1, ("XenNode", "", "mk2")}


# --- the view ---------------------------------------------------------------------------------------------------------


class Silent(Supervisors):
    """No connections."""

    def __init__(self) -> None:
        super().__init__(ClientTls.__new__(ClientTls), lambda change: None)


def test_a_host_without_an_agent_is_not_connected_and_says_why(cache: Cache) -> None:
    view = View(cache, Silent())
    assert (view.host("mk1").live, view.host("mk1").node) == (None, cache.node("mk1"))
    assert view.host("nowhere").error == "no XenNode of this name"
    assert list(view.hosts()) == ["mk1"]


def test_the_view_of_a_host_is_the_same_until_something_changes(cache: Cache) -> None:
    class One:
        state: HostState | None = None
        connected = True
        error = ""
        heard = 0
        versions: ClassVar[dict[str, int]] = {}

    supervisors = Silent()
    one = One()
    supervisors._by_node["mk1"] = one  # type: ignore[assignment]
    view = View(cache, supervisors)
    first = view.host("mk1")
    assert view.host("mk1") is first
    one.connected = False
    assert view.host("mk1") is not first
    assert view.host("mk1").error == "the agent is silent"


def test_a_view_follows_its_domains_and_works_nothing_out_again_for_other_news(cache: Cache) -> None:
    supervisors = Silent()
    one = Supervisor("mk1", None, lambda change: None)  # type: ignore[arg-type]
    supervisors._by_node["mk1"] = one
    view = View(cache, supervisors)
    domain = DomainState(
        domid=1, name="a", uuid=None, kind="main", state="running", flags="-b----", memory_mib=1, vcpus=1, cpu_seconds=1
    )

    def tell(revision: int, **values: object) -> HostView:
        one.take(WatchEvent.model_validate({"type": "changed", "boot_id": "b", "revision": revision, **values}))
        return view.host("mk1")

    state = HostState(
        node="mk1", boot_id="b", revision=1, agent_version="", agent_started_at="", term=1, domains={"1": domain}
    )
    one.take(WatchEvent(type="snapshot", boot_id="b", revision=1, state=state))
    index = view.host("mk1").domains_by_name
    assert index["a"] == (domain,)
    assert tell(2, volumes={"r": VolumeState(resource="r")}).domains_by_name is index
    assert "a" not in tell(3, domains={"1": None}).domains_by_name
    one.take(
        WatchEvent(type="snapshot", boot_id="c", revision=1, state=state.model_copy(update={"domains": {"1": domain}}))
    )
    assert view.host("mk1").domains_by_name["a"] == (domain,)


def test_what_changes_volumes_alone_may_wait_for_the_end_of_its_burst() -> None:
    volumes = ("volumes", "r", None, VolumeState(resource="r"))
    domains = ("domains", "1", None, None)
    assert hosts.may_wait(HostChange("mk1", (volumes,)))
    assert not hosts.may_wait(HostChange("mk1", (volumes, domains)))
    assert not hosts.may_wait(HostChange("mk1", connection=True))


def test_the_view_reads_the_indexes(cache: Cache) -> None:
    view = View(cache, Silent())
    assert [found.name for found in view.vms_using(("default", "v"))] == ["a"]
    assert [found.name for found in view.vms_on("mk1")] == ["a"]
    assert view.volumes_on("mk1") == ()
    assert view.claims("resource", "v") == (("default", "v", VOLUME_UID),)
