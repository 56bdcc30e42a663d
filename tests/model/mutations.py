"""The guards, each of which can be taken away: what the explorer then has to find is in `accidents`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import agents
import controllers
import environment
import moves
import objects
import observe
import pair_seen
import power
import safety
import storage
import volume_seen
from states import Host, Part, World, with_host

from agent import guards, preflight, vm_disks, vm_records, vm_steps
from agent.migration import recovery
from agent.protocol import DomainDesired, DomainState, Refusal
from controller.domain import vm as vm_decisions
from controller.domain.plans.start_vm import START_VM

Patches = list[AbstractContextManager[object]]


def _never(*_: object, **__: object) -> None:
    return None


def _no(*_: object, **__: object) -> bool:
    return False


def _nothing(*_: object, **__: object) -> list[Refusal]:
    return []


def _without(chain: tuple[Any, ...], guard: object) -> tuple[Any, ...]:
    assert guard in chain
    return tuple(one for one in chain if one is not guard)


# --- section 7: placement, promise, storage, term ---------------------------------------------------------------------


def placement_cas() -> Patches:
    """etcd: the placement changes only by compare-and-swap."""
    return [patch.object(environment, "commits", lambda *_: True)]


def term() -> Patches:
    """An agent refuses a deposed controller."""
    return [patch.object(guards, "term_not_lower", _never)]


_real_accept = vm_records.accept


def _accepting(**ignored: Callable[[vm_records.VmRecord, DomainDesired], object]) -> Patches:
    def accept(
        record: vm_records.VmRecord | None, desired: DomainDesired, *, boot_id: str, now: vm_records.Now
    ) -> vm_records.VmRecord:
        if record is not None:
            update = {field: value(record, desired) for field, value in ignored.items()}
            record = record.model_copy(update=update)
        return _real_accept(record, desired, boot_id=boot_id, now=now)

    return [patch.object(vm_records, "accept", accept)]


def epoch_too_old() -> Patches:
    """An agent refuses an epoch below the one that it promised."""
    return _accepting(epoch=lambda record, desired: min(record.epoch, desired.epoch))


def epoch_released() -> Patches:
    """An agent never takes an epoch back that it gave away."""
    return _accepting(granted=lambda *_: True)


def agent_epochs() -> Patches:
    """An agent refuses epochs that it gave away or that are over."""
    return _accepting(epoch=lambda record, desired: min(record.epoch, desired.epoch), granted=lambda *_: True)


def drbd_two_primaries() -> Patches:
    """DRBD: allow-two-primaries no."""
    return [patch.object(storage, "PROMOTION", _without(storage.PROMOTION, storage.two_primaries_refused))]


def drbd_fencing() -> Patches:
    """DRBD: no promotion while the peer, which may be newer, is away."""
    return [patch.object(storage, "peer_may_be_newer", _no)]


def drbd_open() -> Patches:
    """DRBD: no demotion of a device that blkback has open."""
    return [patch.object(storage, "demote", lambda world, host: with_host(world, host, role="Secondary"))]


def drbd_good_data() -> Patches:
    """DRBD: no promotion without access to good data."""
    return [patch.object(storage, "PROMOTION", _without(storage.PROMOTION, storage.no_good_data))]


# --- agent.guards: roles ----------------------------------------------------------------------------------------------


def _promoting(guard: object) -> Patches:
    return [patch.object(guards, "PROMOTE", _without(guards.PROMOTE, guard))]


def resource_is_up() -> Patches:
    return _promoting(guards.resource_is_up)


def disk_up_to_date() -> Patches:
    return _promoting(guards.disk_up_to_date)


def peer_not_primary() -> Patches:
    return _promoting(guards.peer_not_primary)


def no_domain_uses() -> Patches:
    return [patch.object(guards, "DEMOTE", _without(guards.DEMOTE, guards.no_domain_uses))]


def role_left_to_move() -> Patches:
    """agent.volumes: while the guest moves, no wish changes its disk's role."""
    return [patch.object(agents, "_leave_role_to_migration", _never)]


# --- agent.vm_disks, vm_records, vm_steps, domains, gone --------------------------------------------------------------


def disks_usable() -> Patches:
    """A domain is made and let run only on disks that are Primary and UpToDate here."""
    return [patch.object(vm_disks, "usable", _nothing), patch.object(observe, "usable", _nothing)]


def disk_attached() -> Patches:
    """A domain that is found paused is let run only with its disk attached."""
    return [patch.object(agents, "_attached", lambda *_: True)]


def nothing_in_the_way() -> Patches:
    """No domain is made beside a copy that a move left."""
    modules = (vm_records, vm_steps, preflight)
    return [patch.object(module, "in_the_way", _never) for module in modules]


def only_what_is_granted() -> Patches:
    """An agent runs nothing that it gave away."""
    real = vm_steps.next_step

    def step(record: vm_records.VmRecord, *rest: Any, **more: Any) -> vm_steps.Step:
        return real(record.model_copy(update={"granted": True}), *rest, **more)

    return [patch.object(vm_steps, "next_step", step)]


def asked_after_boot() -> Patches:
    """A host that was booted starts nothing before the controller asked."""
    return [patch.object(observe, "may_start", lambda one: one.promise is not None)]


def busy() -> Patches:
    """No wish changes a VM that moves."""
    return [patch.object(observe, "busy", _never)]


def gone() -> Patches:
    """What was deleted never comes back."""
    return [patch.object(agents, "is_gone", _no)]


def domain_present() -> Patches:
    """A VM is neither given away nor forgotten while a domain of it is here."""
    return [patch.object(agents, "in_use", _no)]


def removal_epoch() -> Patches:
    """A VM is not forgotten by a removal of an older placement."""
    return [patch.object(agents, "epoch_over", _no)]


# --- agent.preflight, operations --------------------------------------------------------------------------------------


def _preflight(name: str) -> Patches:
    return [patch.object(preflight, name, _nothing)]


def preflight_disks() -> Patches:
    """A move begins only with both replicas whole and connected."""
    return _preflight("against_hand_over")


def preflight_names() -> Patches:
    """The target has nothing of the VM."""
    return _preflight("_names")


def preflight_runs() -> Patches:
    """What leaves is the running domain under its own name."""
    return _preflight("_runs")


def preflight_busy() -> Patches:
    """One operation at a time, on both sides."""
    return _preflight("_busy")


def preflight_granted() -> Patches:
    """Only the host that has the VM's epoch sends it."""
    real = preflight.leaving

    def leaving(*given: Any) -> list[Refusal]:
        return [one for one in real(*given) if one.reason != "NotGranted"]

    return [patch.object(module, "leaving", leaving) for module in (preflight, agents, controllers)]


def preflight_epoch() -> Patches:
    """Nothing is received at an epoch that is over, or is this host's own."""
    real = preflight.arriving

    def arriving(*given: Any, **more: Any) -> list[Refusal]:
        return [one for one in real(*given, **more) if one.reason != "EpochTooOld"]

    swapped = [patch.object(module, "arriving", arriving) for module in (preflight, agents, controllers)]
    return [*swapped, patch.object(agents, "keeps_it", _no)]


def operation_id() -> Patches:
    """A repeated id joins only the same operation."""
    return [patch.object(agents, "other_body", _no)]


# --- agent.migration: the judges of source and target, hand-over, cancellation ----------------------------------------


def judge_source() -> Patches:
    """After the permission to go nobody but who sees both hosts resumes the source's domain."""
    real = recovery.judge_source

    def judged(own: Any, *, go: bool, report: int | None, node: str) -> recovery.SourceVerdict:
        return real(own, go=False, report=report, node=node)

    return [patch.object(moves, "judge_source", judged)]


def judge_target() -> Patches:
    """A copy that has arrived may be the only one: it is no leftover."""
    real = recovery.judge_target

    def judged(own: list[DomainState], *, node: str) -> recovery.TargetVerdict:
        verdict = real(own, node=node)
        return recovery.Remove(verdict.domain) if isinstance(verdict, recovery.Arrived) else verdict

    return [patch.object(moves, "judge_target", judged)]


def source_let_go() -> Patches:
    """The target takes the VM over only when its source gave it away."""
    return [patch.object(moves, "source_has_let_go", lambda *_: True)]


def whole_at_take_over() -> Patches:
    """The target takes the VM over only when its own DRBD sees both disks whole, and both Secondary."""
    return [patch.object(moves, "against_taking_over", _nothing)]


def release_journalled() -> Patches:
    """The source finds its release again in its journal."""

    def only_by_the_operation(_: Host, part: Part) -> bool:
        return part.released

    return [patch.object(agents, "released", only_by_the_operation)]


def cancel_at_target() -> Patches:
    """What the target took over is not cancelled."""
    return [patch.object(agents, "taken_over", _no)]


def cancel_only_copy() -> Patches:
    """A copy that may be the only one is not destroyed by a cancellation."""
    return [patch.object(agents, "may_be_the_only_one", _no)]


def cancel_after_go() -> Patches:
    """The source is not cancelled after the permission to go."""
    return [patch.object(agents, "may_go", _no)]


# --- controller.domain ------------------------------------------------------------------------------------------------


def _start_vm(name: str) -> Patches:
    plan = START_VM
    guard = next(one for one in plan.guards if one.name == name)
    return [patch.object(vm_decisions, "START_VM", replace(plan, guards=_without(plan.guards, guard)))]


def start_up_to_date() -> Patches:
    return _start_vm("UpToDateHere")


def start_known_newest() -> Patches:
    return _start_vm("KnownNewest")


def start_no_open_move() -> Patches:
    return _start_vm("NoOpenMove")


def start_nowhere_else() -> Patches:
    return _start_vm("NowhereElse")


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
    decided = (controllers._decide_vm, controllers.look_volume, volume_seen.look, power._look)
    decided_of_two = (pair_seen.decide, pair_seen.decide_of_volume, pair_seen._host_view)
    for cached in (*decided, *decided_of_two, observe.host_state, objects._host_view):
        cached.cache_clear()


def accidents(before: World, after: World) -> str | None:
    """Every rule but those about who may run it: a controller that has gone mad promises the same epoch twice."""
    broken = safety.broken(before, after)
    return None if broken is not None and broken.startswith("both hosts may run") else broken


def guests(before: World, after: World) -> str | None:
    """Of the rules those about guests: for worlds whose DRBD lets more happen."""
    broken = safety.broken(before, after)
    return broken if broken is not None and broken.startswith("the VM runs") else None
