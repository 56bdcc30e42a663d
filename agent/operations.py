"""Operations: long work with an id that a repeated request joins, journalled phase by phase.

A kind is a `Handler`, registered once. The registry owns the record: it is on disk before the handler acts, every
phase is on disk before the next effect, and after an agent's restart `resume` gets the same record again.
"""

from __future__ import annotations

from typing import Any, Protocol

from agent.core import Context, Refused
from agent.protocol import (
    OperationCancel,
    OperationKind,
    OperationRequest,
    OperationState,
    TransferProgress,
)


class Cancelled(Exception):
    """Raised by a handler that has undone its work because `cancel` asked for it: outcome Cancelled."""


class Operation:
    """One operation's durable record, as its handler sees it."""

    request: OperationRequest
    notes: dict[str, Any]
    """What the handler wants to find again after a restart (journalled with every phase)."""

    @property
    def id(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def state(self) -> OperationState: ...
    @property
    def cancel_requested(self) -> bool:
        """Journalled when DELETE asked: also true after a restart."""
        ...

    def enter(self, phase: str, *, cancellable: bool | None = None, **notes: Any) -> None:
        """Go to `phase`: on disk (with `notes` merged) when this returns. Call it before the phase's effect."""
        ...

    def progress(self, *, transfer: TransferProgress | None = None, percent: float | None = None) -> None:
        """Show progress in the state and the watch; not journalled."""
        ...


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

    async def cancel(self, operation: Operation) -> None:
        """Asked to stop: raise Refused("NotCancellable", ...) or make `run` end (it raises Cancelled). Do not wait."""
        ...


class Operations:
    """The registry. `context.operations.register("migrate-send", handler)` in the service's constructor."""

    def __init__(self, context: Context) -> None: ...
    def register(self, kind: OperationKind, handler: Handler) -> None: ...
    async def submit(self, request: OperationRequest) -> OperationState: ...
    async def cancel(self, operation_id: str, request: OperationCancel) -> OperationState: ...
    def find(self, operation_id: str) -> Operation | None: ...
    def running(self, subject_uid: str) -> list[Operation]: ...


__all__ = ["Cancelled", "Handler", "Operation", "Operations", "Refused"]
