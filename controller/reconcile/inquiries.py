"""Live questions that a decision needs answered before it may be made: asked aside, answered to the next decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from controller.domain.world import Answer, Question
from controller.runtime.queue import ObjectKey, WorkQueue

FRESH_SECONDS = 5.0

Ask = Callable[[Question], Awaitable[Answer]]


@dataclass(slots=True)
class _Inquiry:
    task: asyncio.Task[None] | None = None
    answers: Mapping[Question, Answer] = field(default_factory=dict)
    at: float = float("-inf")


class Inquiries:
    """The questions of one decision are asked together; the object is looked at again when all are answered."""

    def __init__(self, queue: WorkQueue, ask: Ask, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue, self._ask, self._clock = queue, ask, clock
        self._inquiries: dict[ObjectKey, _Inquiry] = {}

    def answers(self, key: ObjectKey) -> Mapping[Question, Answer]:
        """What was answered a moment ago."""
        one = self._inquiries.get(key)
        return one.answers if one and self._clock() - one.at < FRESH_SECONDS else {}

    def ask(self, key: ObjectKey, questions: tuple[Question, ...]) -> None:
        """Ask, unless something is being asked for the object already."""
        one = self._inquiries.setdefault(key, _Inquiry())
        if one.task is None:
            one.task = asyncio.create_task(self._run(key, one, questions))

    def settle(self, key: ObjectKey) -> None:
        """A decision was made and committed: another one asks anew."""
        one = self._inquiries.get(key)
        if one is not None and one.task is None:
            del self._inquiries[key]

    def cancel(self) -> None:
        for one in self._inquiries.values():
            if one.task is not None:
                one.task.cancel()

    async def _run(self, key: ObjectKey, one: _Inquiry, questions: tuple[Question, ...]) -> None:
        try:
            answers = await asyncio.gather(*(self._ask(question) for question in questions))
            one.answers, one.at = dict(zip(questions, answers, strict=True)), self._clock()
        finally:
            one.task = None
            self._queue.add(key)
