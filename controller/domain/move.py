"""A live migration as one case: the VM, its source and target, and what both agents say of the operation."""

from __future__ import annotations

from dataclasses import dataclass

from agent.protocol import (
    DomainDesired,
    MigrateReceive,
    MigrateSend,
    OperationCancel,
    OperationRequest,
    OperationState,
    PreflightRequest,
)
from controller.api.xenvm_status import Migration
from controller.domain.actions import Cancel, Operate, Request
from controller.domain.vm_case import VmCase
from controller.domain.world import Answer, HostView, Question, operation_on, vm_on

SOURCE_HANDING_OVER = ("HandOver", "Demoted", "Done")
TARGET_HANDING_OVER = ("Received", "Promoting", "Attaching", "Unpausing", "Done")


@dataclass(frozen=True)
class Move:
    """`record` is status.migration: written before anything was asked of an agent. None: only being considered."""

    case: VmCase
    source: str
    target: str
    record: Migration | None = None

    @property
    def source_host(self) -> HostView:
        return self.case.host(self.source)

    @property
    def target_host(self) -> HostView:
        return self.case.host(self.target)

    @property
    def sending(self) -> OperationState | None:
        return self._part_of(self.source_host)

    @property
    def receiving(self) -> OperationState | None:
        return self._part_of(self.target_host)

    def _part_of(self, host: HostView) -> OperationState | None:
        found = operation_on(host, self.record.id) if self.record else None
        return found if found is not None and found.subject_uid == self.case.uid else None

    @property
    def released(self) -> bool:
        """Did the source give the VM away for this move, durably? It never runs it again at that epoch."""
        promise = vm_on(self.source_host, self.case.uid)
        given = promise is not None and not promise.granted and promise.epoch >= self.epoch
        return given or (self.sending is not None and self.sending.outcome == "Succeeded")

    @property
    def taken(self) -> bool:
        """Does the target keep the VM as its own, durably?"""
        promise = vm_on(self.target_host, self.case.uid)
        return promise is not None and promise.granted and promise.epoch >= self.epoch

    @property
    def arrived(self) -> bool:
        """The VM runs at the target; also when the agent there has forgotten the operation."""
        if self.receiving is not None:
            return self.receiving.outcome == "Succeeded"
        promise = vm_on(self.target_host, self.case.uid)
        return self.taken and promise is not None and promise.status in ("running", "paused")

    @property
    def over_at_target(self) -> bool:
        """Has the target's part ended, is it off, or does the agent there (it answers) know nothing of it?"""
        if self.receiving is not None:
            return self.receiving.outcome is not None
        return self.target_host.live is not None or self.target_host.off

    @property
    def trace_at_target(self) -> bool:
        """Could a copy be on the target? False only if it answers, has no domain of the VM, and keeps nothing; or if it
        is known to be off, and cannot have written, for the source is still Primary.
        """
        if self.target_host.off:
            return bool(self.case.not_primary_at(self.source))
        return self.target_host.live is None or self.taken or bool(self.case.domains(self.target))

    @property
    def questions(self) -> tuple[Question, ...]:
        leaving, coming = self._domain(), self._domain(self.epoch)
        return (
            Question(self.source, PreflightRequest(side="source", domain=leaving)),
            Question(self.target, PreflightRequest(side="target", domain=coming)),
        )

    def answer(self, question: Question) -> Answer | None:
        return self.case.world.answers.get(question)

    @property
    def epoch(self) -> int:
        """Of the target's placement: the one after the source's, which is what the source gives away."""
        if self.record:
            return self.record.epoch
        assert self.case.placement is not None
        return self.case.placement.epoch + 1

    def new_id(self) -> str:
        """Of the next attempt: a repeated id would join the operation that has ended."""
        stem = f"move-{self.case.uid[:8].lower()}-{self.epoch}"
        last = self.case.vm.status.migration
        if last is None or not f"{last.id}-".startswith(f"{stem}-"):
            return stem
        attempt = last.id.removeprefix(stem).removeprefix("-")
        return f"{stem}-{int(attempt) + 1 if attempt.isdigit() else 2}"

    def _domain(self, epoch: int | None = None) -> DomainDesired:
        """What moves is the domain that is there, not what the spec says since."""
        return self.case.desired("Running", epoch, as_started=True)

    def handing_over(self) -> bool:
        """Has the point passed after which the move can only go forward (as far as can be seen)?"""
        sending, receiving = self.sending, self.receiving
        return (sending is not None and sending.phase in SOURCE_HANDING_OVER) or (
            receiving is not None and receiving.phase in TARGET_HANDING_OVER
        )

    def receive(self) -> Request:
        assert self.record is not None
        body = MigrateReceive(domain=self._domain(self.epoch), source=self.source)
        return Operate(self.target, OperationRequest(id=self.record.id, term=self.case.world.term, body=body))

    def send(self) -> Request:
        """Only while the source is still the placement: `domain.epoch` is the one that it runs at."""
        assert self.record is not None
        node = self.target_host.node
        assert node is not None
        body = MigrateSend(
            domain=self._domain(),
            target=self.target,
            target_address=node.relocation_address,
            target_port=node.spec.relocation.port,
        )
        return Operate(self.source, OperationRequest(id=self.record.id, term=self.case.world.term, body=body))

    def cancel(self, host: str) -> Request:
        assert self.record is not None
        body = OperationCancel(
            term=self.case.world.term,
            uid=self.case.uid,
            # Of a source that is off nothing is left but its disk, which may be newer than the copied memory.
            source_keeps=source_keeps(self.source_host, self.record.id) or self.source_host.off,
        )
        return Cancel(host, self.record.id, body)


def source_keeps(source: HostView, operation_id: str) -> bool:
    """Is it seen that the guest stays at the source, or waits there for the copy's end?"""
    part = operation_on(source, operation_id)
    if part is None:
        return False
    unclear = part.refusal is not None and part.refusal.reason == "HandOverUnclear"
    return part.outcome in ("Failed", "Cancelled") or (part.outcome is None and unclear)


def left_open(case: VmCase) -> tuple[Request, ...]:
    """Cancellations for parts of moves that are over: a host was silent when they ended, or a request came late."""
    record = case.vm.status.migration
    if record is not None and record.outcome is None:
        return ()
    done = record.id if record is not None and record.outcome == "Succeeded" else None
    hosts = case.world.objects.hosts()
    open_parts = [(name, part.id) for name, host in hosts.items() for part in host.moves_by_vm.get(case.uid, ())]
    return tuple(
        Cancel(
            name,
            part,
            OperationCancel(
                term=case.world.term,
                uid=case.uid,
                source_keeps=any(source_keeps(host, part) for other, host in hosts.items() if other != name),
            ),
        )
        for name, part in open_parts
        if part != done
    )
