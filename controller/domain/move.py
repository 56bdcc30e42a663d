"""A live migration as one case: the VM, its source and target, and what both agents say of the operation."""

from __future__ import annotations

from dataclasses import dataclass

from agent.protocol import (
    MigrateReceive,
    MigrateSend,
    OperationCancel,
    OperationRequest,
    OperationState,
    PreflightRequest,
)
from controller.api.xenvm import Migration
from controller.domain.actions import Cancel, Operate, Request
from controller.domain.vm_case import VmCase
from controller.domain.world import Answer, HostView, Question, operation_on

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
        return operation_on(self.source_host, self.record.id) if self.record else None

    @property
    def receiving(self) -> OperationState | None:
        return operation_on(self.target_host, self.record.id) if self.record else None

    @property
    def questions(self) -> tuple[Question, ...]:
        leaving, coming = self.case.desired("Running"), self.case.desired("Running", self.epoch)
        return (
            Question(self.source, PreflightRequest(side="source", domain=leaving)),
            Question(self.target, PreflightRequest(side="target", domain=coming)),
        )

    def answer(self, question: Question) -> Answer | None:
        return self.case.world.answers.get(question)

    @property
    def epoch(self) -> int:
        """Of the target's placement: higher than any that this VM's agents were ever asked to promise."""
        if self.record:
            return self.record.epoch
        status = self.case.vm.status
        assert status.placement is not None
        return max(status.placement.epoch, status.migration.epoch if status.migration else 0) + 1

    def handing_over(self) -> bool:
        """Has the point passed after which the move can only go forward (as far as can be seen)?"""
        sending, receiving = self.sending, self.receiving
        return (sending is not None and sending.phase in SOURCE_HANDING_OVER) or (
            receiving is not None and receiving.phase in TARGET_HANDING_OVER
        )

    def receive(self) -> Request:
        assert self.record is not None
        domain = self.case.desired("Running", self.epoch)
        body = MigrateReceive(domain=domain, source=self.source)
        return Operate(self.target, OperationRequest(id=self.record.id, term=self.case.world.term, body=body))

    def send(self) -> Request:
        """Only while the source is still the placement: `domain.epoch` is the one that it runs at."""
        assert self.record is not None
        node = self.target_host.node
        assert node is not None
        body = MigrateSend(
            domain=self.case.desired("Running"),
            target=self.target,
            target_address=node.relocation_address,
            target_port=node.spec.relocation.port,
        )
        return Operate(self.source, OperationRequest(id=self.record.id, term=self.case.world.term, body=body))

    def cancel(self, host: str) -> Request:
        assert self.record is not None
        return Cancel(host, self.record.id, OperationCancel(term=self.case.world.term, uid=self.case.uid))
