"""Worlds that nobody would build: every field of every object and of every agent's state is arbitrary.

Made from the models' own fields, so that a field that is new tomorrow is arbitrary as well. Words, numbers and times
come from small pools, so that things meet by name; what meets need not fit together. Times, quantities and names can be
read: the CRDs let nothing else in.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent.protocol import HostState, PreflightReport, Refusal
from controller.api.common import ApiObject, ObjectMeta
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.actions import FINALIZER, Decision, Refused
from controller.domain.node import decide_node
from controller.domain.vm import decide_vm
from controller.domain.volume import decide_volume
from controller.domain.world import Answer, HostView, Question, World
from controller.reconcile.view import View
from controller.runtime.cache import Cache

NOW = 1_800_000_000.0
NODES = ("mk1", "mk2", "mk3", "gone")
VM_UIDS = ("bbbbbbbb-0000-4000-8000-000000000002", "bbbbbbbb-1111-4000-8000-000000000002")
VOLUME_UIDS = ("aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-1111-4000-8000-000000000001")
UIDS = (*VM_UIDS, *VOLUME_UIDS, "dddddddd-0000-4000-8000-000000000009")
VMS, VOLUMES = ("shaolin", "monk"), ("vm-shaolin", "vm-monk")
RESOURCES = ("vm_shaolin", "vm_monk", "other")
OPERATIONS = (
    *("move-bbbbbbbb-2", "move-bbbbbbbb-3", "move-bbbbbbbb-2-2", "x"),
    *(f"initial-sync-{VOLUME_UIDS[0]}", f"initial-sync-{VOLUME_UIDS[0]}-2", f"content-{VOLUME_UIDS[0]}-1"),
)
TIMES = ("2027-01-15T08:00:00Z", "2026-12-31T23:59:59.999999Z", "2027-01-15T13:30:00+05:30", "0001-01-01T00:00:00Z",
         "9999-12-31T23:59:59Z")  # fmt: skip
SIZES = ("4Mi", "512Mi", "1Gi", "1Pi", "536870912")
WORDS = ("", "x", "Received", "HandOver", "HandOverUnclear", "Demoted", "Done", "Primary", "UpToDate", "fencing", "no",
         "SyncSource", "Established", "NoSuchWord", "Ünïcode \u2028 and more")  # fmt: skip

POOLS: Mapping[str, tuple[object, ...]] = {
    "node": NODES, "source": NODES, "target": NODES, "members": NODES, "relocation_allow_from": NODES,
    "allow_from": NODES, "primary": ("", *NODES),
    "uid": UIDS, "owner_uid": UIDS, "subject_uid": UIDS, "uuid": UIDS,
    "namespace": ("default", "else"), "volume": (*VOLUMES, "vm-gone"),
    "name": (*VMS, *VOLUMES, "shaolin--incoming", "shaolin--migratedaway", "(null)", "vg0"),
    "used_by": (*VMS, "shaolin--incoming", "other"), "subject": (*VMS, *RESOURCES),
    "resource": RESOURCES, "group": ("vg0", "vg1"), "volume_groups": ("vg0", "vg1"), "minor": (0, 1, 2, 1048575),
    "port": (1024, 7789, 7790, 65535), "id": OPERATIONS, "operation": OPERATIONS,
    "current": ("0000000000000004", "A1B2C3D4E5F60718", "0"),
    "survivor": ("", *NODES), "stale": ("", *NODES), "number": (1, 2, 3, (1 << 52) - 4),
    "xen_version": ("4.17.5", "4.18", "4", "", "x.y", "4.17.5-rc1"), "hw_caps": ("1:2", "3:2", "1", "", "zz:1"),
    "cpu_vendor": ("GenuineIntel", "AuthenticAMD", ""), "device": ("hda1", "xvda", "sda2"), "vdev": ("hda1", "xvda"),
    "bridge": ("xenbr0",), "bridges": ("xenbr0",), "mac": ("a0:00:00:01:00:01",), "mode": ("r", "w"),
    "address": ("10.0.0.81", "10.0.0.82", "127.0.0.1"), "relocation_address": ("", "10.0.0.81"),
    "replication_address": ("10.0.0.81",), "sha256": ("0" * 64,), "size": SIZES, "free": SIZES, "memory": SIZES[:3],
    "max_memory": SIZES[:3], "rate": ("500M", "1G", "1K"), "options": ("", "C 500M sha1 10.0.0.81 10.0.0.82"),
    "epoch": (1, 2, 3, 4, (1 << 52) - 4), "run": (0, 1, 2, (1 << 52) - 4), "generation": (0, 1, 2),
    "observed_generation": (-1, 0, 1, 2), "domid": (1, 2, 3), "virt_caps": ("pv", "hvm", "hap", "shadow"),
    "reason": ("HandOverUnclear", "MinorTaken", "TermTooOld", "OperationRunning", "NotEnoughMemory", "Gone"),
    "suspended": ("no", "no", "fencing", "user", "NoSuchWord"), "kernel": ("/boot/vmlinuz",),
    "ramdisk": ("/boot/initrd",),
    "bootloader": ("pygrub",), "path": ("/srv/guest.img",), "url": ("https://images.example.org/guest.img",),
    "cpu_seconds": (0.0, 1.0), "percent": (0.0, 45.5, 100.0), "done_percent": (0.0, 45.5, 100.0),
    "phase": ("Starting", "Listening", "Receiving", "Received", "HandOver", "Demoted", "Done", "NoSuchWord"),
    "LogicalVolumeRef.name": ("vm_shaolin", "vm_monk", "other"),
    "type": ("pv", "pvh", "hvm", "Internal", "Ready", "Placed", "Stalled", "Degraded", "Reconciling", "RestartNeeded"),
    "total": SIZES, "out_of_sync": SIZES,
}  # fmt: skip
"""By a field's name (its model's before it where that differs): what it may hold, if it is a text or a number."""


def like(model: type[BaseModel], **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any value of a model; `fixed` overrides fields. What is optional is left out now and then."""
    fields = {name: fixed.get(name, _field(model, name)) for name in model.model_fields}
    required = {name: one for name, one in fields.items() if model.model_fields[name].is_required() or name in fixed}
    optional = {name: one for name, one in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: _checked(model, given))


def _checked(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    return model.model_validate(given, by_name=True)


@cache
def _any_of(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: like(model))


@cache
def _field(model: type[BaseModel], name: str) -> st.SearchStrategy[Any]:
    info = model.model_fields[name]
    own = f"{model.__name__}.{name}"
    return _of(info.annotation, own if own in POOLS else name, tuple(info.metadata))


def _of(kind: Any, name: str, limits: tuple[object, ...]) -> st.SearchStrategy[Any]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        extra = [one for found in inner[1:] for one in (found.metadata if isinstance(found, FieldInfo) else [found])]
        return _of(inner[0], name, (*limits, *extra))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, UnionType):
        return st.one_of([_of(one, name, limits) for one in inner])
    if kind is NoneType:
        return st.none()
    if origin is tuple:
        if len(inner) == 2 and inner[1] is Ellipsis:
            most = min([3, *(one.max_length for one in limits if isinstance(one, MaxLen))])
            least = max([0, *(one.min_length for one in limits if isinstance(one, MinLen))])
            return st.lists(_of(inner[0], name, ()), min_size=least, max_size=most).map(tuple)
        return st.tuples(*(_of(one, name, ()) for one in inner))
    if origin is dict:
        return st.dictionaries(_of(inner[0], "reason", ()), _of(inner[1], name, ()), max_size=2)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _any_of(kind)
    return _scalar(kind, name, limits)


def _scalar(kind: type, name: str, limits: tuple[object, ...]) -> st.SearchStrategy[Any]:
    if kind is bool:
        return st.booleans()
    words = TIMES if name.endswith(("_at", "_time", "_timestamp", "since")) else WORDS
    for pool in (POOLS.get(name, ()), words):
        if fitting := [one for one in pool if type(one) is kind and _within(one, limits)]:
            return st.sampled_from(fitting)
    assert kind in (int, float), f"{name}: {kind} has no strategy"
    odd = (0, 1, 2, 100, 4096, 1 << 40, (1 << 53) - 1)
    return st.sampled_from([kind(one) for one in odd if _within(one, limits)])


def _within(value: Any, limits: tuple[object, ...]) -> bool:
    for one in limits:
        match one:
            case Ge(ge=least) if value < least:
                return False
            case Gt(gt=less) if value <= less:
                return False
            case Le(le=most) if value > most:
                return False
            case Lt(lt=more) if value >= more:
                return False
            case MaxLen(max_length=length) if len(value) > length:
                return False
            case MinLen(min_length=length) if len(value) < length:
                return False
        pattern = getattr(one, "pattern", None)  # pydantic's own metadata has no public type
        if pattern is not None and re.search(pattern, value) is None:
            return False
    return True


# --- whole worlds -------------------------------------------------------------------------------------------------


def _keyed(model: type[BaseModel], by: str, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """As an agent's state has them: by their own name."""
    many = st.lists(_any_of(model), max_size=most)
    return many.map(lambda found: {str(getattr(one, by)): one for one in found})


@cache
def _host_states() -> st.SearchStrategy[HostState]:
    sections = {}
    for name, by, most in (("volumes", "resource", 2), ("vms", "uid", 2), ("domains", "domid", 3),
                           ("operations", "id", 3)):  # fmt: skip
        value = typing.get_args(HostState.model_fields[name].annotation)[1]
        sections[name] = _keyed(value, by, most)
    return like(HostState, node=st.sampled_from(NODES), **sections)


@cache
def _objects(kind: type[ApiObject], namespace: str, name: str, uid: str) -> st.SearchStrategy[ApiObject]:
    meta = st.fixed_dictionaries(
        {
            "name": st.just(name),
            "namespace": st.just(namespace),
            "uid": st.just(uid),
            "resource_version": st.just("1"),
            "generation": st.integers(1, 2),
            "creation_timestamp": st.sampled_from(TIMES),
            "finalizers": st.sampled_from([(FINALIZER,), (), ("other",)]),
        },
        optional={"deletion_timestamp": st.sampled_from(TIMES)},
    ).map(ObjectMeta.model_validate)
    return like(kind, metadata=meta, status=_any_of(kind.model_fields["status"].annotation))  # type: ignore[arg-type]


class Told(NamedTuple):
    """What an agent told."""

    state: HostState | None
    connected: bool


class Objects(View):
    """The controller's own view of its cache; the hosts as they were told."""

    def __init__(self, cache: Cache, told: Mapping[str, Told]) -> None:
        super().__init__(cache, told)  # type: ignore[arg-type]  # no supervisor is asked: `host` is answered here
        self._cached, self._told = cache, told

    def host(self, name: str) -> HostView:
        node, told = self._cached.node(name), self._told.get(name)
        if told is None:
            return HostView(name, node, error="no answer yet")
        return HostView(name, node, told.state, told.connected and told.state is not None, "no answer")

    def silent(self, name: str) -> float:
        told = self._told.get(name)
        return 0.0 if told is not None and told.connected else 1000.0


class Arbitrary(NamedTuple):
    """Objects as the API server has them, and what each host's agent told."""

    objects: tuple[ApiObject, ...]
    told: Mapping[str, Told]
    now: float
    term: int

    def cache(self) -> Cache:
        cache = Cache()
        for one in self.objects:
            assert cache.upsert(one.model_dump(mode="json")) is not None, one
        return cache

    def world(self, cache: Cache, answers: Mapping[Question, Answer] | None = None) -> World:
        return World(Objects(cache, self.told), self.now, self.term, answers or {})


def decide(world: World, found: ApiObject, refused: tuple[Refused, ...] = ()) -> Decision:
    match found:
        case XenVM():
            return decide_vm(world, found, refused)
        case DrbdVolume():
            return decide_volume(world, found, refused)
        case XenNode():
            return decide_node(world, found, refused)
    raise AssertionError(found)


@st.composite
def worlds(draw: st.DrawFn) -> Arbitrary:
    objects: list[ApiObject] = []
    told = {}
    for number, name in enumerate(NODES[:3], 1):
        if draw(st.integers(0, 5)):
            objects.append(draw(_objects(XenNode, "", name, f"cccccccc-0000-4000-8000-00000000000{number}")))
        if draw(st.integers(0, 5)):
            state = draw(st.none() | _host_states() | _host_states())
            told[name] = Told(state, draw(st.integers(0, 4)) > 0)
    for name, uid in zip(VOLUMES, VOLUME_UIDS, strict=True):
        if not objects or draw(st.integers(0, 3)):
            objects.append(draw(_objects(DrbdVolume, "default", name, uid)))
    for name, uid in zip(VMS, VM_UIDS, strict=True):
        if draw(st.integers(0, 5)):
            objects.append(draw(_objects(XenVM, "default", name, uid)))
    now = NOW + draw(st.sampled_from([0.0, 1e5, -1.8e9, 2e11]))
    return Arbitrary(tuple(objects), told, now, draw(st.sampled_from([1, 2, 1 << 40])))


REFUSALS = like(Refusal)
ANSWERS = st.just(PreflightReport()) | st.just("timed out") | like(PreflightReport)


# --- worlds that were good ------------------------------------------------------------------------------------------


@st.composite
def spoilt(draw: st.DrawFn, good: st.SearchStrategy[Arbitrary]) -> Arbitrary:
    """A world that can be, with a few fields of its objects and of its agents' states made arbitrary."""
    base = draw(good)
    objects, told = list(base.objects), dict(base.told)
    for _ in range(draw(st.integers(0, 5))):
        number = draw(st.integers(0, len(objects) + len(told) - 1))
        if number < len(objects):
            objects[number] = _with_status(draw, objects[number])
        else:
            name = sorted(told)[number - len(objects)]
            state, connected = told[name]
            told[name] = Told(_spoilt(draw, state), connected) if state is not None else Told(None, not connected)
    return base._replace(objects=tuple(objects), told=told)


def _with_status(draw: st.DrawFn, one: ApiObject) -> ApiObject:
    """Its names and uid stay what they are: they are the API server's."""
    part = draw(st.sampled_from(("spec", "status", "status", "metadata")))
    if part == "metadata":
        update = {"deletion_timestamp": TIMES[0]} if draw(st.booleans()) else {"finalizers": ()}
        return one.model_copy(update={"metadata": one.metadata.model_copy(update=update)})
    return one.model_copy(update={part: _spoilt(draw, getattr(one, part))})


def _spoilt(draw: st.DrawFn, value: Any) -> Any:
    """One field somewhere in it is arbitrary."""
    model: type[BaseModel] = type(value)
    names = sorted(model.model_fields)
    filled = [name for name in names if isinstance(getattr(value, name), BaseModel | dict) and getattr(value, name)]
    name = draw(st.sampled_from(filled * 3 + names))
    inner = getattr(value, name)
    if isinstance(inner, BaseModel) and draw(st.integers(0, 3)):
        return value.model_copy(update={name: _spoilt(draw, inner)})
    if isinstance(inner, dict) and inner:
        key = draw(st.sampled_from(sorted(inner)))
        left = {one: other for one, other in inner.items() if one != key}
        if isinstance(inner[key], BaseModel) and draw(st.integers(0, 4)):
            left[key] = _spoilt(draw, inner[key])
        return value.model_copy(update={name: left})
    return value.model_copy(update={name: draw(_field(model, name))})
