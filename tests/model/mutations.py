"""The locks, each of which can be taken away: what the explorer then has to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import agents
import controllers
import environment
import objects
import observe
import safety
import storage
from states import Host, Part, World, with_host

from agent import guards, vm_records
from agent.protocol import DomainDesired

Patches = list[AbstractContextManager[object]]


def _never(*_: object, **__: object) -> None:
    return None


def _without(chain: tuple[Any, ...], guard: object) -> tuple[Any, ...]:
    return tuple(one for one in chain if one is not guard)


_real_accept = vm_records.accept


def _accept_any(
    record: vm_records.VmRecord | None, desired: DomainDesired, *, boot_id: str, now: float
) -> vm_records.VmRecord:
    if record is not None:
        record = record.model_copy(update={"epoch": min(record.epoch, desired.epoch), "granted": True})
    return _real_accept(record, desired, boot_id=boot_id, now=now)


def placement_cas() -> Patches:
    """etcd: the placement changes only by compare-and-swap."""
    return [patch.object(environment, "commits", lambda *_: True)]


def agent_epochs() -> Patches:
    """An agent refuses epochs that it gave away or that are over."""
    return [patch.object(vm_records, "accept", _accept_any)]


def term() -> Patches:
    """An agent refuses a deposed controller."""
    return [patch.object(guards, "term_not_lower", _never)]


def drbd_two_primaries() -> Patches:
    """DRBD: allow-two-primaries no; and the agent's own look at its peer's role."""
    return [
        patch.object(storage, "PROMOTION", _without(storage.PROMOTION, storage.two_primaries_refused)),
        patch.object(guards, "PROMOTE", _without(guards.PROMOTE, guards.peer_not_primary)),
    ]


def drbd_fencing() -> Patches:
    """DRBD: no promotion while the peer, which may be newer, is away."""
    return [patch.object(storage, "PROMOTION", _without(storage.PROMOTION, storage.peer_may_be_newer))]


def drbd_open() -> Patches:
    """DRBD: no demotion of a device that blkback has open; and the agent's own look at its domains."""
    return [
        patch.object(storage, "demote", lambda world, host: with_host(world, host, role="Secondary")),
        patch.object(guards, "DEMOTE", _without(guards.DEMOTE, guards.no_domain_uses)),
    ]


def release_journalled() -> Patches:
    """The source finds its release again in its journal."""

    def only_by_the_operation(one: Host, part: Part) -> bool:
        return part.released

    return [patch.object(agents, "released", only_by_the_operation)]


def busy() -> Patches:
    """No wish changes a VM that moves."""
    return [patch.object(observe, "busy", _never)]


@contextmanager
def without(*locks: Callable[[], Patches]) -> Iterator[None]:
    """The world without those locks. Caches of decisions are emptied before and after."""
    with ExitStack() as stack:
        stack.callback(_forget)
        for lock in locks:
            for one in lock():
                stack.enter_context(one)
        _forget()
        yield


def _forget() -> None:
    for cached in (controllers._decide_vm, controllers.look_volume, observe.host_state, objects._host_view):
        cached.cache_clear()


def guests(before: World, after: World) -> str | None:
    """Of the rules those about guests: for worlds whose DRBD lets more happen."""
    broken = safety.broken(before, after)
    return broken if broken is not None and broken.startswith("the VM runs") else None
