"""How a decision about a DrbdVolume is put together: status, conditions, events, one place for all branches."""

from __future__ import annotations

from typing import Literal

from agent.protocol import Refusal
from controller.api.common import OperationRecord
from controller.api.drbdvolume import DrbdVolumeStatus
from controller.domain.actions import (
    PASSING,
    Decision,
    Event,
    Request,
    due,
    refused_again,
    told_within,
)
from controller.domain.conditions import Conditions, timestamp
from controller.domain.engine import Plan
from controller.domain.volume_case import VolumeCase

RETRY_SECONDS = 15.0
"""A blocked operation is looked at again after this, though nothing told of a change."""

Finalizer = Literal["add", "remove"] | None


def operation_record(case: VolumeCase, plan: Plan[VolumeCase], step: str, message: str) -> OperationRecord:
    old = case.before.operation
    same = old is not None and old.plan == plan.id
    return OperationRecord(
        id=old.id if same and old else f"{plan.id.split('/')[0].replace('.', '-')}-{case.uid[:8].lower()}",
        plan=plan.id,
        step=step,
        started_at=old.started_at if same and old else timestamp(case.world.now),
        # A sync's percentage is in status.sync, quantised; here it would cost a write each time.
        message=message.partition(":")[0] if step == "Synchronise" else message,
    )


def conditions_of(case: VolumeCase) -> Conditions:
    return Conditions(case.before.conditions, case.volume.metadata.generation, case.world.now)


def report(
    case: VolumeCase,
    status: DrbdVolumeStatus,
    *,
    stalled: Refusal | None = None,
    progress: Refusal | None = None,
    phase: str | None = None,
    requests: tuple[Request, ...] = (),
    events: tuple[Event, ...] = (),
    finalizer: Literal["add", "remove"] | None = None,
) -> Decision:
    conditions = conditions_of(case)
    if stalled is not None and stalled.reason in PASSING:
        stalled, progress = None, stalled
    if stalled is not None:
        conditions.stalled(stalled.reason, stalled.message)
        if conditions.changed("Stalled"):
            events = (*events, Event("Warning", stalled.reason, stalled.message))
    elif progress is not None:
        message = progress.message.partition(":")[0] if progress.reason == "Synchronise" else progress.message
        conditions.progressing(progress.reason, message)
    if phase is None:
        phase = "Stalled" if stalled else "Pending"
    status = status.model_copy(update={"phase": phase})
    return decided(case, status, conditions, requests, events, finalizer, waiting=True)


def decided(
    case: VolumeCase,
    status: DrbdVolumeStatus,
    conditions: Conditions,
    requests: tuple[Request, ...],
    events: tuple[Event, ...],
    finalizer: Literal["add", "remove"] | None,
    waiting: bool,
) -> Decision:
    status = status.model_copy(
        update={"observed_generation": case.volume.metadata.generation, "conditions": tuple(conditions.result())}
    )
    return Decision(
        status=status,
        finalizer=finalizer,
        events=events,
        lazy=told_within(status) if _essence(status) == _essence(case.before) else 0.0,
        requests=due(requests, case.refused, case.world),
        look_again=(refused_again(case.refused) if case.refused else RETRY_SECONDS) if waiting else None,
    )


def _essence(status: DrbdVolumeStatus) -> object:
    """What may never wait to be written: intents, and what is true of the whole. The rest is for people."""
    truths = tuple((c.type, c.status, c.observed_generation) for c in status.conditions)
    sync, content, split = status.initial_sync, status.content, status.split_brain
    return (
        status.nodes,
        status.device,
        status.logical_volume,
        status.verdict,
        (split.id, split.survivor) if split else None,
        (sync.node, sync.operation, sync.completed) if sync else None,
        (content.node, content.operation) if content else None,
        status.observed_generation,
        truths,
    )
