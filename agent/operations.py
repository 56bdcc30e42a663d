"""Operations: long work with an id that a repeated request joins, journalled phase by phase.

A kind is a `Handler`, registered once. The registry owns the record: it is on disk before the handler acts, every
phase is on disk before the next effect, and after an agent's restart `resume` gets the same record again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from agent.core import Context, Refused
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.journal import JournalError
from agent.protocol import (
    OperationCancel,
    OperationKind,
    OperationRequest,
    OperationState,
    OperationStep,
    Outcome,
    Refusal,
    TransferProgress,
)

KEEP_FINISHED = 200  # ended operations that stay in journal and state, the newest


class Cancelled(Exception):
    """Raised by a handler that has undone its work because `cancel` asked for it: outcome Cancelled."""


class OperationRecord(BaseModel):
    """One operation in the journal (section `operations`, key = id)."""

    model_config = ConfigDict(frozen=True)

    request: OperationRequest
    state: OperationState
    notes: dict[str, Any] = {}
    cancel_requested: bool = False


class Operation:
    """One operation's durable record, as its handler sees it."""

    def __init__(self, context: Context, record: OperationRecord) -> None:
        self._context = context
        self._record = record
        self.task: asyncio.Task[None] | None = None

    @property
    def request(self) -> OperationRequest:
        return self._record.request

    @property
    def notes(self) -> dict[str, Any]:
        """What the handler wants to find again after a restart (journalled with every phase)."""
        return dict(self._record.notes)

    @property
    def state(self) -> OperationState:
        return self._record.state

    @property
    def id(self) -> str:
        return self._record.state.id

    @property
    def phase(self) -> str:
        return self._record.state.phase

    @property
    def running(self) -> bool:
        return self._record.state.outcome is None

    @property
    def cancel_requested(self) -> bool:
        """Journalled when DELETE asked: also true after a restart."""
        return self._record.cancel_requested

    def enter(self, phase: str, *, cancellable: bool | None = None, **notes: Any) -> None:
        """Go to `phase`: on disk (with `notes` merged) when this returns. Call it before the phase's effect."""
        steps = self.state.steps
        if not steps or steps[-1].name != phase:
            steps = (*steps, OperationStep(name=phase, at=self._context.now_text()))
        update: dict[str, Any] = {"phase": phase, "steps": steps}
        if cancellable is not None:
            update["cancellable"] = cancellable
        self._save(state=self.state.model_copy(update=update), notes={**self._record.notes, **notes})
        self._log().info("operation phase", phase=phase)

    def note(self, **notes: Any) -> None:
        """Merge `notes`: on disk when this returns."""
        self._save(notes={**self._record.notes, **notes})

    def progress(self, *, transfer: TransferProgress | None = None, percent: float | None = None) -> None:
        """Show progress in the state and the watch; not journalled before the next phase."""
        update = {"transfer": transfer, "percent": percent}
        state = self.state.model_copy(update={key: value for key, value in update.items() if value is not None})
        self._record = self._record.model_copy(update={"state": state})
        self._context.observer.put_operation(self.state)

    def trouble(self, refusal: Refusal | None) -> None:
        """What holds it up, shown while it goes on trying (None: nothing more); journalled with the next phase."""
        if self.state.refusal != refusal:
            self._record = self._record.model_copy(update={"state": self.state.model_copy(update={"refusal": refusal})})
            self._context.observer.put_operation(self.state)
            if refusal is not None:
                self._log().warning("operation held up", reason=refusal.reason, problem=refusal.message)

    def request_cancel(self) -> None:
        self._save(cancel_requested=True)

    def void_cancel(self) -> None:
        """The wish came too late: on disk when this returns. Another one may come."""
        self._save(cancel_requested=False)

    def finish(self, outcome: Outcome, refusal: Refusal | None = None) -> None:
        """The outcome, on disk when this returns."""
        at = self._context.now_text()
        update = {"outcome": outcome, "refusal": refusal, "finished_at": at, "cancellable": False}
        self._save(state=self.state.model_copy(update=update))
        said = {"reason": refusal.reason, "message": refusal.message} if refusal else {}
        self._log().info("operation ended", outcome=outcome, phase=self.phase, **said)

    def save(self) -> None:
        """The record as it is, on disk when this returns."""
        self._save()

    def _save(self, **update: Any) -> None:
        record = self._record.model_copy(update=update)
        self._context.journal.put("operations", self.id, record.model_dump(mode="json"))
        self._record = record
        self._context.observer.put_operation(self.state)

    def _log(self) -> Any:
        return self._context.log(operation=self.id, kind=self.state.kind, object=self.state.subject)


class Handler(Protocol):
    """What runs one kind of operation. `run` and `resume` end by returning (Succeeded), by `Refused`, DriverError or
    CommandTimedOut (Failed, with the reason), or by `Cancelled`. They run as tasks; a subject has one at a time.
    """

    first_phase: str  # "Starting"

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        """(resource or domain name, uid)."""
        ...

    async def check(self, request: OperationRequest) -> None:
        """Guards before anything is recorded: Refused = HTTP 409 and no record at all."""
        ...

    async def run(self, operation: Operation) -> None:
        """From the first phase. Must be safe to be killed at any await."""
        ...

    async def resume(self, operation: Operation) -> None:
        """After an agent's restart, from the journalled phase and the facts."""
        ...

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        """Asked to stop: raise Refused("NotCancellable", ...) or make `run` end (it raises Cancelled). Do not wait.

        The wish is journalled (`operation.cancel_requested`) after this returns.
        """
        ...


class Operations:
    """The registry. `context.operations.register("migrate-send", handler)` in the service's constructor."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handlers: dict[OperationKind, Handler] = {}
        self._repeatable: set[OperationKind] = set()
        self._operations: dict[str, Operation] = {}
        self._open: list[Operation] = []  # every one that has not ended, and some that have

    def register(self, kind: OperationKind, handler: Handler, *, repeatable: bool = False) -> None:
        """`repeatable`: one that failed runs again when its id is asked for again; by default it stays failed."""
        self._handlers[kind] = handler
        if repeatable:
            self._repeatable.add(kind)

    def load(self) -> None:
        """Read the journal and show every operation; nothing runs yet."""
        for key, value in self._context.journal.items("operations"):
            operation = Operation(self._context, OperationRecord.model_validate(value))
            self._operations[key] = operation
            self._open.append(operation)
            self._context.observer.put_operation(operation.state)

    def resume_all(self) -> None:
        """Take up every operation that had not ended."""
        for operation in self._operations.values():
            if operation.running and operation.task is None:
                operation._log().info("operation taken up again", phase=operation.phase)
                self._spawn(operation, resumed=True)

    async def submit(self, request: OperationRequest) -> OperationState:
        """Start it, or join the one with this id (running or ended). Raises Refused."""
        if (known := self._operations.get(request.id)) is not None and not self._to_repeat(known):
            return self._join(known, request)
        handler = self._handlers[request.body.kind]
        name, uid = handler.subject(request)
        async with self._context.locks.hold(f"operations:{uid}"):
            if (known := self._operations.get(request.id)) is not None:
                state = self._join(known, request)
                if not self._to_repeat(known):
                    return state
            if busy := self.running(uid):
                raise Refused(
                    "OperationRunning",
                    f"{name} is busy with operation {busy[0].id} ({busy[0].state.kind}, {busy[0].phase});"
                    " wait for it or cancel it",
                )
            await handler.check(request)
            operation = self._record(request, handler, name, uid)
        self._spawn(operation, resumed=False)
        return operation.state

    async def cancel(self, operation_id: str, request: OperationCancel) -> OperationState:
        """Ask an operation to stop; an ended one is returned as it is. Raises Refused."""
        operation = self._operations.get(operation_id)
        if operation is None:
            raise Refused("NoSuchOperation", f"there is no operation {operation_id} on {self._context.node}")
        if operation.state.subject_uid != request.uid:
            raise Refused("UidMismatch", f"operation {operation_id} belongs to uid {operation.state.subject_uid}")
        if operation.running and not operation.cancel_requested:
            await self._handlers[operation.state.kind].cancel(operation, request)
            if operation.running:
                operation.request_cancel()
        return operation.state

    def find(self, operation_id: str) -> Operation | None:
        return self._operations.get(operation_id)

    def running(self, subject_uid: str | None = None) -> list[Operation]:
        """Those that have not ended, of one subject or of all."""
        self._open = [operation for operation in self._open if operation.running]
        return [one for one in self._open if subject_uid in (None, one.state.subject_uid)]

    def _to_repeat(self, operation: Operation) -> bool:
        return operation.state.outcome == "Failed" and operation.state.kind in self._repeatable

    def _join(self, operation: Operation, request: OperationRequest) -> OperationState:
        if operation.request.body != request.body:
            raise Refused(
                "OperationIdTaken",
                f"operation {operation.id} was asked for with other values; a new wish needs a new id",
            )
        return operation.state

    def _record(self, request: OperationRequest, handler: Handler, name: str, uid: str) -> Operation:
        at = self._context.now_text()
        state = OperationState(
            id=request.id,
            kind=request.body.kind,
            subject=name,
            subject_uid=uid,
            phase=handler.first_phase,
            started_at=at,
            steps=(OperationStep(name=handler.first_phase, at=at),),
        )
        operation = Operation(self._context, OperationRecord(request=request, state=state))
        operation.save()
        self._operations[request.id] = operation
        self._open.append(operation)
        operation._log().info("operation accepted", term=request.term)
        self._forget_old()
        return operation

    def _spawn(self, operation: Operation, *, resumed: bool) -> None:
        operation.task = self._context.tasks.spawn(self._run(operation, resumed), name=f"operation {operation.id}")

    async def _run(self, operation: Operation, resumed: bool) -> None:
        handler = self._handlers[operation.state.kind]
        try:
            await (handler.resume(operation) if resumed else handler.run(operation))
        except Cancelled:
            operation.finish("Cancelled")
        except Refused as error:
            operation.finish("Failed", error.refusal)
        except DriverError as error:
            operation.finish("Failed", Refusal(reason=error.reason, message=error.message))
        except CommandTimedOut as error:
            operation.finish("Failed", Refusal(reason="TimedOut", message=str(error)))
        except JournalError:
            raise  # nothing can be recorded any more: the operation is taken up again after a restart
        except Exception as error:
            operation.finish("Failed", Refusal(reason="InternalError", message=f"{type(error).__name__}: {error}"))
            raise
        else:
            operation.finish("Succeeded")

    def _forget_old(self) -> None:
        ended = [key for key, operation in self._operations.items() if not operation.running]
        for key in ended[: max(0, len(ended) - KEEP_FINISHED)]:
            self._context.journal.delete("operations", key)
            del self._operations[key]
            self._context.observer.remove_operation(key)


__all__ = ["Cancelled", "Handler", "Operation", "OperationRecord", "Operations", "Refused"]
