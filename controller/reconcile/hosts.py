"""Whom a change on a host concerns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.protocol import DomainState
from controller.agents.supervisor import HostChange
from controller.reconcile import nodes
from controller.runtime.cache import Cache
from controller.runtime.queue import ObjectKey


def concerned(cache: Cache, change: HostChange) -> Iterator[ObjectKey]:
    """The objects to look at again; may repeat a key."""
    node: ObjectKey = ("XenNode", "", change.node)
    if change.connection:
        yield node
        yield from cache.concerned(change.node)
        yield from nodes.unplaced(cache)
        return
    for section, name, old, new in change.entries:
        if section == "host" or (section == "domains" and (old is None) != (new is None)):
            yield node
        if section == "volumes" and new is not None and new.uid is not None and cache.by_uid(new.uid) is None:
            yield node  # which gives up the names that are kept for nobody
        if section != "host":
            yield from _entry(cache, section, name, old, new)


def may_wait(change: HostChange) -> bool:
    """Whether nothing but volumes changed: their steps come in bursts, and one look after a burst is enough."""
    return bool(change.entries) and all(section in ("volumes", "logical_volumes") for section, *_ in change.entries)


def _entry(cache: Cache, section: str, name: str, old: Any, new: Any) -> Iterator[ObjectKey]:
    one = new if new is not None else old
    if one is None:
        return
    match section:
        case "volumes" if one.uid is None:
            yield from cache.claimants(("resource", name))
        case "volumes":
            yield "DrbdVolume", one.namespace or "", one.name or ""
            yield from cache.users((one.namespace or "", one.name or ""))
        case "vms":
            yield from _vm(cache, ("XenVM", one.namespace, one.name))
        case "domains":
            if not _only_time_passed(old, new):
                yield from _domain(cache, one)
        case "gone":
            yield from _known(cache, name)
        case "operations":
            yield from _known(cache, one.subject_uid)
        case "logical_volumes":
            yield from _known(cache, one.owner_uid)
            yield from cache.claimants(("lv", name))


def _domain(cache: Cache, domain: DomainState) -> Iterator[ObjectKey]:
    yield from _known(cache, domain.uuid)
    base = domain.name.removesuffix("--incoming").removesuffix("--migratedaway")
    yield from cache.claimants(("domain", base))


def _known(cache: Cache, uid: str | None) -> Iterator[ObjectKey]:
    key = cache.by_uid(uid) if uid else None
    if key is not None and key[0] == "XenVM":
        yield from _vm(cache, key)
    elif key is not None:
        yield key


def _vm(cache: Cache, key: ObjectKey) -> Iterator[ObjectKey]:
    """The VM, and the volumes whose role follows from where it runs."""
    yield key
    vm = cache.vm((key[1], key[2]))
    if vm is not None:
        yield from (("DrbdVolume", key[1], disk.volume) for disk in vm.spec.disks)


def _only_time_passed(old: DomainState | None, new: DomainState | None) -> bool:
    """A domain that does nothing but use CPU time concerns nobody."""
    if old is None or new is None:
        return False
    return old.model_copy(update={"cpu_seconds": new.cpu_seconds}) == new
