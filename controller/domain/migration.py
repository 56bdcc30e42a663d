"""Decisions about a live migration: begin, follow, cancel, settle what went wrong. The facts decide, not the order
in which they arrived."""

from __future__ import annotations

from agent.protocol import OperationState, Refusal
from controller.api.xenvm_status import Migration, Placement
from controller.domain.actions import DEPOSED, Decision, Operate, Request, refusal_of
from controller.domain.alone import by_verdict, unproved
from controller.domain.conditions import timestamp
from controller.domain.engine import blocked, position, refusals
from controller.domain.migration_record import backoff, finish, measured, operation, progress
from controller.domain.move import TARGET_HANDING_OVER, Move
from controller.domain.plans.migrate_vm import MIGRATE_VM
from controller.domain.vm_case import VmCase
from controller.domain.vm_report import RETRY_SECONDS, Report
from controller.domain.wanted import belongs_at


def begin(case: VmCase, target: str, report: Report) -> Decision:
    """It is wanted on another host than the placement's: preflight, every reason at once, then the record."""
    assert case.placement is not None
    move = Move(case, case.placement.node, target)
    title = f"{MIGRATE_VM.title} to {target}"
    wait = backoff(case, target)
    if wait > 0:
        last = case.vm.status.last_migration
        report.not_placed("MigrationFailed", f"{title} failed: {last.message if last else ''}")
        report.look_again = wait
        return report.decision()
    why_not = refusals(MIGRATE_VM, move)
    unanswered = tuple(q for q in move.questions if move.answer(q) is None)
    if unanswered and not any(r.reason in ("NodeNotFound", "AgentUnreachable", "OutOfService") for r in why_not):
        return Decision(ask=unanswered)
    if why_not:
        reason = blocked(title, why_not)
        report.not_placed(reason.reason, reason.message, warn=True)
        report.look_again = RETRY_SECONDS
        return report.decision()
    now = case.world.now
    record = Migration(
        id=move.new_id(),
        source=move.source,
        target=target,
        epoch=move.epoch,
        phase="Transfer",
        started_at=timestamp(now),
        message=f"{target} gets ready to receive",
    )
    report.event("Normal", "MigrationStarted", f"moving live from {move.source} to {target}")
    return _go_on(Move(case.planned(migration=record), move.source, target, record), report)


def nonsense(case: VmCase) -> Refusal | None:
    """A record that this program never writes (status edited or restored by hand): nothing is done on its word."""
    record, placement = case.vm.status.migration, case.vm.status.placement
    sides = (record.source, record.target) if record else ()
    if placement is not None and placement.node in sides and len(set(sides)) == 2:
        return None
    return Refusal(
        reason="StatusContradicts",
        message="status.migration does not fit status.placement; compare with xl list on every host, then correct "
        "the status (kubectl edit --subresource=status)",
    )


def follow(case: VmCase, report: Report) -> Decision:
    """status.migration is open: go on from what both agents say."""
    record = case.vm.status.migration
    assert record is not None
    move = Move(case, record.source, record.target, record)
    sending, receiving = move.sending, move.receiving
    if move.arrived:
        return _arrived(move, report)
    if move.released and move.over_at_target:
        return _lost(move, report)
    if sending is not None and sending.outcome in ("Failed", "Cancelled"):
        return _give_up(move, report, sending)
    if move.source_host.off:
        return _source_off(move, report)
    if receiving is not None and receiving.outcome is not None:
        return _stop_source(move, report, receiving)
    if sending is not None and sending.refusal is not None and sending.refusal.reason == "HandOverUnclear":
        return _unclear(move, report, sending.refusal)
    if _cancel_wanted(case, record) and not move.handing_over():
        return _cancel(move, report)
    refused = _refused_to_begin(move)
    if refused is not None:
        return _abandon(move, report, refused)
    return _go_on(move, report)


def _go_on(move: Move, report: Report) -> Decision:
    at = position(MIGRATE_VM, move)
    record = move.record
    assert record is not None
    phase = "HandOver" if move.handing_over() else "Transfer"
    record = progress(move, record.model_copy(update={"phase": phase, "message": at.message}))
    report.set(migration=record, operation=operation(move, at.step or "Done", at.message), phase="Migrating")
    report.requests = at.requests
    report.not_placed("Migrating", f"moving live from {move.source} to {move.target}")
    silent = [h for h in (move.source_host, move.target_host) if h.live is None]
    if silent:
        why = "; ".join(f"the agent of {h.name} does not answer: {h.error}" for h in silent)
        runs = move.source_host.live is not None and not move.handing_over()
        report.conditions.set("Ready", "True" if runs else "Unknown", "AgentUnreachable", why)
    else:
        report.conditions.ready("Migrating", "runs on while its memory is copied")
    _reconciling(move, report, at.step or "Done", f"{MIGRATE_VM.title} to {move.target}")
    report.look_again = RETRY_SECONDS
    return report.decision()


def _reconciling(move: Move, report: Report, step: str, message: str) -> None:
    """Where it stands, with what holds it up: an agent's no, or what an agent's part is waiting for."""
    held = refusal_of(report.requests, move.case.refused)
    if held is None:
        parts = (part for part in (move.sending, move.receiving) if part is not None and part.outcome is None)
        held = next((part.refusal for part in parts if part.refusal is not None), None)
    told = f"{message}: {held.message}" if held else message
    report.conditions.set("Reconciling", "True", held.reason if held else step, told)


def _lost(move: Move, report: Report) -> Decision:
    """The source gave the VM away and no guest came out of it: the memory is lost, the disks are not.

    Where the target had taken it, its agent starts it again (onCrash); else the source takes it back, or it is placed
    on the target like a stopped one.
    """
    record, receiving = move.record, move.receiving
    assert record is not None
    if move.taken:
        report.set(placement=Placement(node=move.target, epoch=record.epoch))
    why = receiving.refusal.message if receiving and receiving.refusal else f"{move.target} knows nothing of it"
    finish(move, report, "Failed", why)
    told = f"the guest was lost at the hand-over to {move.target}, and is started anew: {why}"
    report.event("Warning", "MigrationFailed", told)
    report.progressing("Starting", "MigrationFailed", told)
    report.look_again = 1.0
    return report.decision()


def _arrived(move: Move, report: Report) -> Decision:
    """The VM runs on the target at its epoch: that is the placement, whatever is still to be cleared at the source."""
    record = move.record
    assert record is not None
    report.set(placement=Placement(node=move.target, epoch=record.epoch))
    at = position(MIGRATE_VM, move)
    if at.step is not None and move.source_host.live is not None:
        record = record.model_copy(update={"phase": "Done", "percent": 100.0, "message": at.message})
        report.set(migration=record, operation=operation(move, at.step, at.message), phase="Running")
        report.conditions.ready("Running", f"runs on {move.target}")
        report.conditions.set("Reconciling", "True", at.step, at.message)
        report.look_again = RETRY_SECONDS
        return report.decision()
    told = f"moved live from {move.source} to {move.target}{measured(move)}"
    report.event("Normal", "Migrated", told)
    finish(move, report, "Succeeded", told)
    report.set(phase="Running")
    report.conditions.ready("Running", f"runs on {move.target}")
    report.look_again = 1.0
    return report.decision()


def _give_up(move: Move, report: Report, ended: OperationState) -> Decision:
    """The source's agent saw the VM run on there: nothing of it may stay on the target."""
    receiving = move.receiving
    record = move.record
    assert record is not None
    if receiving is not None and receiving.outcome is None:
        return _ask(move, report, (move.cancel(move.target),), f"{move.target} destroys the incoming copy")
    outcome = "Cancelled" if ended.outcome == "Cancelled" or record.cancel_requested else "Failed"
    why = ended.refusal.message if ended.refusal else "cancelled"
    if record.cancel_requested:
        why = "cancelled before the hand-over"  # what both xl say of it is what was asked for
    elif receiving is not None and receiving.outcome == "Failed" and receiving.refusal is not None:
        why = f"{why}; {move.target}: {receiving.refusal.message}"
    return _ended_at_source(move, report, outcome, why)


def _ended_at_source(move: Move, report: Report, outcome: str, why: str) -> Decision:
    finish(move, report, outcome, why)
    here = move.case.here
    runs = here is not None and here.status in ("running", "paused")
    if outcome == "Failed":
        where = f"; the VM runs on {move.source}" if runs else ""
        report.event("Warning", "MigrationFailed", f"{move.target}: {why}{where}")
        report.not_placed("MigrationFailed", f"{MIGRATE_VM.title} to {move.target} failed: {why}")
    else:
        report.event("Normal", "MigrationCancelled", f"the VM stays on {move.source}")
    if runs:
        report.set(phase="Running")
        report.conditions.ready("Running", f"runs on {move.source}")
    else:
        report.progressing("Starting", "MigrationFailed", f"{why}; what became of the guest is looked at")
    report.look_again = 1.0
    return report.decision()


def _source_off(move: Move, report: Report) -> Decision:
    """The source is known to be off, and the VM does not run at the target: over when no copy is left there.

    A target that was told of the release refuses to give up its copy: it goes on by itself once it has seen both disks
    whole, which it may have missed; or by a verdict for it, which is given because the source is off.
    """
    receiving = move.receiving
    if move.target_host.live is None and not move.target_host.off:
        return _ask(move, report, (), f"{move.source} is off; {move.target}, which may have the VM, does not answer")
    if receiving is not None and receiving.outcome is None:
        if receiving.phase in TARGET_HANDING_OVER and receiving.phase != "Received":
            return _ask(move, report, (), f"{move.source} is off; {move.target} has taken the VM over, and finishes")
        cancel = move.cancel(move.target)
        decision = _ask(move, report, (cancel,), f"{move.source} is off; {move.target} gives up its copy")
        no = refusal_of((cancel,), move.case.refused)
        if no is None or no.reason != "NotCancellable":
            return decision
        why = _goes_on_alone(move, receiving)
        if why is None:
            return _ask(move, report, (), f"{move.source} is off; {move.target} goes on with the guest's memory")
        told = (
            f"{move.source} is off, and {move.target} holds the suspended guest, but never saw that both disks were "
            f"whole; it waits for {move.source} ({why}). To start the VM from its disk instead, without its memory: "
            f"xl destroy {move.case.name}--incoming (or {move.case.name}) on {move.target}"
        )
        return report.stalled("Migrating", Refusal(reason="CopyWaits", message=told)).decision()
    if move.trace_at_target and not move.target_host.off:
        return _ask(move, report, (), f"{move.source} is off; a copy is left on {move.target}")
    return _ended_at_source(move, report, "Failed", f"{move.source} is off")


def _goes_on_alone(move: Move, receiving: OperationState) -> str | None:
    """Why a copy that was let go of cannot go on without its source; None: it will, once the verdicts are there."""
    for volume in move.case.volume_cases:
        no, view = unproved(volume, move.target), volume.view(move.target)
        if no is not None:
            return f"{no.reason}: {no.message}"
        if view is None or not by_verdict(volume, move.target) or view.fence.verdict is None:
            return None
    held = receiving.refusal
    return None if held is None or held.reason == "DiskNotConnected" else f"{held.reason}: {held.message}"


def _stop_source(move: Move, report: Report, ended: OperationState) -> Decision:
    """The target's part failed or was cancelled, its copy is gone: the source ends its part and runs on."""
    why = ended.refusal.message if ended.refusal else "the target gave up"
    if move.sending is None:
        if move.source_host.live is None:
            return _ask(move, report, (), f"{move.source} does not answer")
        outcome = "Cancelled" if ended.outcome == "Cancelled" else "Failed"
        return _ended_at_source(move, report, outcome, why)
    unclear = move.sending.refusal is not None and move.sending.refusal.reason == "HandOverUnclear"
    if unclear and move.trace_at_target:
        copies = ", ".join(f"{one.name} (id {one.domid})" for one in move.case.domains(move.target)) or "the VM"
        refusal = Refusal(
            reason="CopyLeft",
            message=f"{move.target} could not remove its copy ({why}); the guest stays suspended on {move.source} "
            f"until {copies} is gone there (xl destroy)",
        )
        return report.stalled("Migrating", refusal).decision()
    return _ask(move, report, (move.cancel(move.source),), f"{move.target}: {why}; {move.source} takes the VM back")


def _unclear(move: Move, report: Report, why: Refusal) -> Decision:
    """The last words between both xl were lost: the guest is suspended at the source, perhaps paused at the target.

    The target destroys its copy first and says so durably; only then the source resumes (xl gives up at this point
    and says "check at both ends").
    """
    if move.target_host.live is not None and move.receiving is not None:
        return _ask(
            move,
            report,
            (move.cancel(move.target),),
            f"hand-over unclear ({why.message}); {move.target} gives up its copy",
        )
    if not move.trace_at_target:
        return _ask(move, report, (move.cancel(move.source),), f"{move.target} has no copy; {move.source} resumes")
    silent = f"the agent of {move.target} does not answer; the guest stays suspended on {move.source} until it does"
    left = ", ".join(f"{one.name} (id {one.domid})" for one in move.case.domains(move.target)) or "the VM"
    forgot = (
        f"the agent of {move.target} answers, does not know the move any more, and still has {left}; the guest stays"
        f" suspended on {move.source} until that is gone (there: xl destroy)"
    )
    told = silent if move.target_host.live is None else forgot
    message = f"hand-over unclear ({why.message}), and {told}, for the copy there could run"
    report.stalled("Migrating", Refusal(reason=why.reason, message=message))
    return report.decision()


def _cancel(move: Move, report: Report) -> Decision:
    """Not wanted any more before the hand-over: the source first, which decides whether it is too late."""
    record = move.record
    assert record is not None
    if not record.cancel_requested:
        report.event("Normal", "MigrationCancelling", f"it shall stay on {move.source} after all")
    record = record.model_copy(update={"cancel_requested": True, "phase": "Cancelling"})
    move = Move(move.case.planned(migration=record), move.source, move.target, record)
    sending, receiving = move.sending, move.receiving
    if sending is not None and sending.outcome is None:
        return _ask(move, report, (move.cancel(move.source),), f"{move.source} ends the transfer")
    if any(host.live is None and not host.off for host in (move.source_host, move.target_host)):
        return _ask(move, report, (), "waiting for both agents to cancel")
    if receiving is not None:
        return _ask(move, report, (move.cancel(move.target),), f"{move.target} forgets the operation")
    return _ended_at_source(move, report, "Cancelled", "cancelled before it began")


def _abandon(move: Move, report: Report, refused: Refusal) -> Decision:
    """An agent refused its part: whoever has begun stops."""
    if move.sending is None and move.receiving is None:
        return _ended_at_source(move, report, "Failed", refused.message)
    if move.receiving is not None and move.receiving.outcome is None:
        return _ask(move, report, (move.cancel(move.target),), refused.message)
    return _ended_at_source(move, report, "Failed", refused.message)


def _refused_to_begin(move: Move) -> Refusal | None:
    for no in move.case.refused:
        body = no.request.body if isinstance(no.request, Operate) else None
        if body is None or move.record is None or body.id != move.record.id or no.refusal.reason == DEPOSED:
            continue
        begun = move.receiving if no.request.host == move.target else move.sending
        if begun is None:
            return Refusal(reason=no.refusal.reason, message=f"{no.request.host}: {no.refusal.message}")
    return None


def _cancel_wanted(case: VmCase, record: Migration) -> bool:
    return record.cancel_requested or case.vm.deleting or belongs_at(case, record.source)


def _ask(move: Move, report: Report, requests: tuple[Request, ...], message: str) -> Decision:
    record = move.record
    assert record is not None
    report.set(
        migration=record.model_copy(update={"message": message[:1024]}),
        operation=operation(move, record.phase, message),
        phase="Migrating",
    )
    report.not_placed("Migrating", f"{move.source} -> {move.target}: {message}")
    report.requests = requests
    report.conditions.progressing(record.phase, message)
    _reconciling(move, report, record.phase, message)
    report.look_again = RETRY_SECONDS
    return report.decision()
