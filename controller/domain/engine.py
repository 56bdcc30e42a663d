"""Plans as data, and the small pure engine that finds where an operation stands.

A plan is an ordered chain of guards, then steps. Where it stands is never stored: it is the first step that the
observations do not confirm. So a crash anywhere, a lost reply or a second controller only means: observe again.
The id of the running plan, with its version, is persisted in status, and read by people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.protocol import Refusal
from controller.domain.actions import Request

C = TypeVar("C")
"""The case: one object with everything that the decision about it may look at."""


@dataclass(frozen=True, slots=True)
class Guard(Generic[C]):
    """A reason not to begin. `check` gives the refusal (reason, message with the numbers), or None."""

    name: str
    says: str
    check: Callable[[C], Refusal | None]


def _always(_: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Step(Generic[C]):
    """One step: what it asks of the agents, and by which observation it is confirmed.

    `requests` gives at most one request for each agent, only those still needed; all are idempotent. `record` is the
    intent that status holds before any request of the step is sent, in words. `interrupted` says what follows if
    everything stops here.
    """

    name: str
    does: str
    confirmed: Callable[[C], bool]
    requests: Callable[[C], tuple[Request, ...]]
    waiting: Callable[[C], str]
    interrupted: str
    record: str = ""
    applies: Callable[[C], bool] = _always


@dataclass(frozen=True, slots=True)
class Plan(Generic[C]):
    """An operation. `id` ends in its version and is what status.operation.plan holds."""

    id: str
    title: str
    guards: tuple[Guard[C], ...]
    steps: tuple[Step[C], ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a plan stands: the step's name and message, and the requests it still needs; `step` None: done."""

    step: str | None
    message: str
    requests: tuple[Request, ...]


DONE = Position(None, "", ())


def refusals(plan: Plan[C], case: C) -> tuple[Refusal, ...]:
    """Every guard's refusal, in order: all reasons at once."""
    return tuple(refusal for guard in plan.guards if (refusal := guard.check(case)) is not None)


def position(plan: Plan[C], case: C) -> Position:
    """The first step that applies and is not confirmed."""
    for step in plan.steps:
        if step.applies(case) and not step.confirmed(case):
            return Position(step.name, step.waiting(case), step.requests(case))
    return DONE


def blocked(title: str, reasons: tuple[Refusal, ...], passing: tuple[str, ...] = ()) -> Refusal:
    """One refusal for a person: `Live migration to mk2 is blocked: ...`, several reasons numbered (1), (2).

    Its reason is the first one that is not in `passing`, for that one needs somebody.
    """
    messages = list(dict.fromkeys(reason.message for reason in reasons))
    told = messages[0] if len(messages) == 1 else "; ".join(f"({n}) {text}" for n, text in enumerate(messages, 1))
    first = next((one for one in reasons if one.reason not in passing), reasons[0])
    return Refusal(reason=first.reason, message=f"{title} is blocked: {told}")
