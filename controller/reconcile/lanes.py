"""Requests to agents, one lane for each object and host: what one host does not answer holds up nothing else.

In a lane one request is under way at a time, in the order of the decision, and the lane stops at the first that is not
answered well. While it is busy, decisions about the object go on, and the object is looked at again when it is free. A
request that was just sent is not sent again unchanged before its effect can have been seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from controller.agents.client import Refused as AgentRefused
from controller.agents.client import Unreachable
from controller.domain.actions import Cancel, Operate, PutVerdict, Refused, Request
from controller.runtime.queue import ObjectKey, WorkQueue, backoff

log = structlog.get_logger(__name__)

REPEAT_SECONDS = 1.0  # the same request again, at the earliest; doubles while it changes nothing
LONGEST_SECONDS = 30.0
REFUSED_FOR = 120.0  # how long a refusal is told to decisions, if the request is not made again

Send = Callable[[ObjectKey, Request], Awaitable[None]]
"""Sends one request. Raises client.Refused, client.Unreachable, Deposed."""


class Deposed(Exception):
    """Not the leader (any more): nothing was sent."""


@dataclass(slots=True)
class _Lane:
    task: asyncio.Task[None] | None = None
    wanted: bool = False  # a decision had something for it while it was busy
    last: tuple[Request, ...] = ()
    times: int = 0  # that `last` was sent
    not_before: float = 0.0


@dataclass(slots=True)
class _Object:
    lanes: dict[str, _Lane] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


class Lanes:
    """All lanes. `refused` is what the next decision about an object must know."""

    def __init__(self, queue: WorkQueue, send: Send, *, now: Callable[[], float] = time.time) -> None:
        self._queue, self._send, self._now = queue, send, now
        self._objects: dict[ObjectKey, _Object] = {}

    def refused(self, key: ObjectKey) -> tuple[Refused, ...]:
        """The agents' last words against requests of the object, the newest last."""
        one = self._objects.get(key)
        if one is None or not one.refused:
            return ()
        now = self._now()
        one.refused = [no for no in one.refused if now - no.at < REFUSED_FOR]
        return tuple(one.refused)

    def start(self, key: ObjectKey, requests: tuple[Request, ...]) -> None:
        """Send what a committed decision asks for; returns at once."""
        one = self._objects.setdefault(key, _Object())
        by_host: dict[str, list[Request]] = {}
        for request in requests:
            by_host.setdefault(_lane(request), []).append(request)
        for host, wanted in by_host.items():
            for request in wanted:
                _drop(one, request, unless=request)
            self._start(key, one, one.lanes.setdefault(host, _Lane()), tuple(wanted))

    def under_way(self, key: ObjectKey) -> bool:
        """Is anything being asked for the object? It is then looked at as soon as that is answered."""
        one = self._objects.get(key)
        busy = [lane for lane in one.lanes.values() if lane.task is not None] if one else []
        for lane in busy:
            lane.wanted = True
        return bool(busy)

    def forget(self, key: ObjectKey) -> None:
        """The object is gone. What is under way ends by itself."""
        self._objects.pop(key, None)

    def prune(self) -> None:
        """Forget what no decision needs to know any more."""
        now = self._now()
        for key, one in list(self._objects.items()):
            one.refused = [no for no in one.refused if now - no.at < REFUSED_FOR]
            one.lanes = {
                host: lane for host, lane in one.lanes.items() if lane.task or now < lane.not_before + REFUSED_FOR
            }
            if not one.refused and not one.lanes:
                del self._objects[key]

    @property
    def busy(self) -> int:
        return sum(lane.task is not None for one in self._objects.values() for lane in one.lanes.values())

    async def finish(self, seconds: float) -> None:
        """Give what is under way that time to be answered, then let go of it."""
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self) -> None:
        for task in self._tasks():
            task.cancel()

    # --- inside

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [lane.task for one in self._objects.values() for lane in one.lanes.values() if lane.task is not None]

    def _start(self, key: ObjectKey, one: _Object, lane: _Lane, requests: tuple[Request, ...]) -> None:
        if lane.task is not None:
            lane.wanted = True
            return
        wait = lane.not_before - self._now()
        if requests == lane.last and wait > 0:
            self._queue.add_after(key, wait)
            return
        lane.times = lane.times + 1 if requests == lane.last else 1
        lane.last = requests
        lane.task = asyncio.create_task(self._run(key, one, lane, requests))

    async def _run(self, key: ObjectKey, one: _Object, lane: _Lane, requests: tuple[Request, ...]) -> None:
        again: float | None = None
        try:
            for request in requests:
                with structlog.contextvars.bound_contextvars(host=request.host, **_said_of(request)):
                    await self._one(key, one, request)
        except AgentRefused:
            again = 0.0  # decide with the refusal, now
        except Unreachable:
            pass
        except Deposed:
            return
        except Exception:
            log.exception("request failed")
        finally:
            lane.task = None
            wait = backoff(lane.times - 1, REPEAT_SECONDS, LONGEST_SECONDS)
            lane.not_before = self._now() + wait
            # What the request changed is told by the watch; this is for what is never told.
            self._queue.add_after(key, 0.0 if lane.wanted else wait if again is None else again)
            lane.wanted = False

    async def _one(self, key: ObjectKey, one: _Object, request: Request) -> None:
        name = type(request).__name__
        try:
            await self._send(key, request)
        except AgentRefused as no:
            _drop(one, request)
            one.refused.append(Refused(request, no.refusal, self._now()))
            log.warning("refused", request=name, reason=no.refusal.reason, message=no.refusal.message)
            raise
        except Unreachable as error:
            log.warning("not answered", request=name, error=str(error))
            raise
        _drop(one, request)
        log.info("done", request=name)


def _lane(request: Request) -> str:
    """A verdict passes by a promotion that waits for it."""
    return f"{request.host} verdict" if isinstance(request, PutVerdict) else request.host


def _drop(one: _Object, request: Request, unless: Request | None = None) -> None:
    """A newer request of that kind to the host stands for the older ones, and so does its answer."""
    about = (request.host, type(request))
    one.refused = [no for no in one.refused if (no.request.host, type(no.request)) != about or no.request == unless]


def _said_of(request: Request) -> dict[str, str]:
    """For the log: the operation that the request belongs to, or what it wants."""
    if isinstance(request, Operate):
        return {"operation": request.body.id}
    if isinstance(request, Cancel):
        return {"operation": request.operation}
    wanted = next(
        (getattr(request.body, name) for name in ("state", "level", "policy") if hasattr(request.body, name)), ""
    )
    return {"wanted": wanted} if wanted else {}
