"""Decisions about a DrbdVolume: create it once, keep it as it shall be, give it up."""

from __future__ import annotations

from dataclasses import replace

from agent.protocol import Refusal
from controller.api.drbdvolume import DrbdVolume
from controller.domain.actions import FINALIZER, Decision, Refused, due, refusal_of
from controller.domain.engine import blocked, position, refusals
from controller.domain.plans.delete_volume import DELETE_VOLUME
from controller.domain.verdict import Fencing
from controller.domain.volume_case import VolumeCase, created
from controller.domain.volume_creation import create
from controller.domain.volume_keeping import keep
from controller.domain.volume_report import operation_record, report
from controller.domain.volume_status import observed
from controller.domain.world import World


def decide_volume(world: World, volume: DrbdVolume, refused: tuple[Refused, ...] = ()) -> Decision:
    """The next step for one volume. Total: every world has a decision."""
    fencing = Fencing(VolumeCase(world, volume, refused))
    case = fencing.case.planned(fencing.recorded())
    return _with_verdict(_decide(case), fencing, case)


def _decide(case: VolumeCase) -> Decision:
    if case.volume.deleting:
        return _delete(case)
    if created(case.volume.status, case.volume):
        return keep(case)
    return create(case)


def _with_verdict(decision: Decision, fencing: Fencing, case: VolumeCase) -> Decision:
    """What is recorded is told, to each agent that does not have it yet: after the status that has it is written."""
    if decision.status is None:
        return decision
    requests = due(Fencing(case).requests(), case.refused, case.world)
    return replace(decision, events=(*fencing.events(), *decision.events), requests=(*requests, *decision.requests))


def _delete(case: VolumeCase) -> Decision:
    if FINALIZER not in case.volume.metadata.finalizers:
        return Decision()
    why_not = refusals(DELETE_VOLUME, case)
    if why_not:
        reason = blocked(DELETE_VOLUME.title, why_not)
        # VMs that are being deleted, too, let it go on by themselves.
        going = bool(case.consumers) and all(vm.deleting for vm in case.consumers)
        return report(case, observed(case), stalled=None if going else reason, progress=reason, phase="Deleting")
    at = position(DELETE_VOLUME, case)
    if at.step is None:
        return Decision(finalizer="remove")
    no = refusal_of(at.requests, case.refused)
    status = observed(case).model_copy(update={"operation": operation_record(case, DELETE_VOLUME, at.step, at.message)})
    progress = no or Refusal(reason=at.step, message=at.message)
    return report(case, status, stalled=no, progress=progress, phase="Deleting", requests=at.requests)
