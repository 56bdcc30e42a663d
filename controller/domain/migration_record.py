"""What a live migration's record in status says: progress, outcome, when a failed one is tried again."""

from __future__ import annotations

from controller.api.common import OperationRecord
from controller.api.xenvm_status import LastMigration, Migration
from controller.domain.actions import STEP_SECONDS
from controller.domain.conditions import seconds, timestamp
from controller.domain.move import Move
from controller.domain.plans.migrate_vm import MIGRATE_VM
from controller.domain.vm_case import VmCase
from controller.domain.vm_report import Report

PERCENT_STEP = 10
"""Progress is written when it crossed a step."""
FIRST_RETRY, LAST_RETRY = 30.0, 600.0
"""Seconds before a failed move is tried again: doubled each time."""


def finish(move: Move, report: Report, outcome: str, message: str) -> None:
    """The record is over; `outcome` as LastMigration.outcome."""
    record, case = move.record, move.case
    assert record is not None
    before = case.vm.status.last_migration
    failures = (before.failures if before and before.target == move.target else 0) + 1
    report.set(
        migration=record.model_copy(update={"phase": "Done", "outcome": outcome, "message": message[:1024]}),
        last_migration=LastMigration.model_validate(
            {
                "id": record.id,
                "source": move.source,
                "target": move.target,
                "outcome": outcome,
                "startedAt": record.started_at,
                "finishedAt": timestamp(case.world.now),
                "message": message[:1024],
                "failures": failures if outcome == "Failed" else 0,
            }
        ),
        operation=None,
    )


def backoff(case: VmCase, target: str) -> float:
    """Seconds until the move is tried again after a failure; a new edit of the spec tries at once."""
    last, status = case.vm.status.last_migration, case.vm.status
    if last is None or last.outcome != "Failed" or last.target != target or last.finished_at is None:
        return 0.0
    if status.observed_generation != case.vm.metadata.generation:
        return 0.0
    pause = min(FIRST_RETRY * float(2 ** min(max(last.failures - 1, 0), 10)), LAST_RETRY)
    return seconds(last.finished_at) + pause - case.world.now


def progress(move: Move, record: Migration) -> Migration:
    """With what the source's agent counted, if enough changed and enough time passed."""
    transfer = move.sending.transfer if move.sending else None
    if transfer is None:
        return record
    now = move.case.world.now
    old = record.percent
    if old is not None and record.observed_at is not None:
        small = transfer.percent < old + PERCENT_STEP
        if small or now - seconds(record.observed_at) < STEP_SECONDS:
            return record
    elif record.started_at is not None and now - seconds(record.started_at) < STEP_SECONDS:
        return record
    return record.model_copy(
        update={
            "percent": float(int(max(transfer.percent, old or 0.0))),
            "round": transfer.round,
            "rate": f"{transfer.rate_bytes_s / (1 << 20):.0f} MiB/s",
            "observed_at": timestamp(now),
        }
    )


def measured(move: Move) -> str:
    """How long it took, and how long the guest stood still, by the agents' own step times."""
    times = {step.name: seconds(step.at) for op in (move.sending, move.receiving) if op for step in op.steps}
    record = move.record
    told = ""
    if record and record.started_at and move.receiving and move.receiving.finished_at:
        told = f" in {seconds(move.receiving.finished_at) - seconds(record.started_at):.0f} s"
    if "StopAndCopy" in times and "Done" in times and move.receiving and move.receiving.finished_at:
        told += f", the guest paused for {seconds(move.receiving.finished_at) - times['StopAndCopy']:.2f} s"
    return told


def operation(move: Move, step: str, message: str) -> OperationRecord:
    """status.operation while it moves."""
    record = move.record
    assert record is not None
    return OperationRecord(
        id=record.id,
        plan=MIGRATE_VM.id,
        step=step,
        started_at=record.started_at or timestamp(move.case.world.now),
        message=message[:1024],
    )
