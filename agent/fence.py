"""Fencing on this host: keeps verdicts, answers DRBD's handlers, lets frozen IO go on where a verdict says so.

What is to be done is decided in `agent.fence_records`; every effect is done from a fresh reading of DRBD, after what it
follows from is in the journal. Nothing is kept in memory that an effect depends on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.core import Context, Refused, time_text
from agent.drivers.drbd import DrbdResource
from agent.drivers.errors import DriverError
from agent.fence_door import Door, Question
from agent.fence_records import (
    FAILED,
    Answer,
    FenceFacts,
    FenceRecord,
    FenceView,
    GiveBack,
    Outdate,
    Rest,
    Resume,
    Wait,
    accept,
    frozen,
    holds,
    next_step,
    promotable,
    wrote_alone,
)
from agent.host import CommandTimedOut
from agent.protocol import FenceState, Refusal, VerdictDesired, VolumeState
from agent.watch import Watcher

IO_SECONDS = 60.0  # a handler waits: the kernel does not, IO is frozen meanwhile
PROMOTION_SECONDS = 20.0  # ... while drbdsetup primary does, which has 30 s
HANDLERS = 64  # at once: each is a process of this host. Others are refused, and resumed without them
SETTLED_AT_ONCE = 16  # volumes: all may be lost at the same moment
HANDLER_COMES = 3.0  # seconds after a freeze in which the handler is expected
DRBD_ACTS = 5.0  # seconds in which DRBD does what an answered handler told it
LOOK_SECONDS = 0.5  # while something waits


@dataclass(slots=True)
class _Open:
    """A volume that waits for something. Times are those of Host.monotonic, but for the one that is shown."""

    since: float
    shown_since: float
    handlers: list[asyncio.Future[Answer]] = field(default_factory=list)
    answered: float = float("-inf")

    @classmethod
    def now(cls, context: Context) -> _Open:
        return cls(context.host.monotonic(), context.host.now())


class Fence:
    """`agent.core.FenceService`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records: dict[str, FenceRecord] = {}
        self._open: dict[str, _Open] = {}
        self._door = Door(context, self._ask)
        self._watcher: Watcher | None = None
        self._settling: set[str] = set()
        self._gate = asyncio.Semaphore(SETTLED_AT_ONCE)
        self._again: set[str] = set()  # what could not be read or done
        self.heard: Callable[[], float] = context.host.monotonic  # of a controller, last; the server sets it

    # --- life ---------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the journal's records and show them."""
        for resource, value in self._context.journal.items("fences"):
            self._records[resource] = FenceRecord.model_validate(value)
            self._show(resource)

    async def start(self) -> None:
        """Install the handler, answer it, look after what was under way."""
        try:
            self._door.install()
            self._door.open()
        except OSError as error:  # IO that freezes is resumed without it
            self._context.log().error("fence handlers cannot be answered", problem=str(error))
        self._watcher = self._context.observer.watch.subscribe()
        self._context.tasks.spawn(self._follow(self._watcher), name="fence: volumes")
        self._context.tasks.spawn(self._keep(), name="fence: what waits")

    def abort(self) -> None:
        """Close the door at once."""
        self._door.close()

    # --- FenceService -------------------------------------------------------------------------------------------

    def record(self, resource: str) -> FenceRecord | None:
        return self._records.get(resource)

    def promotable(self, resource: str) -> Refusal | None:
        return promotable(self._records.get(resource), self._context.node, resource)

    def wrote_alone(self, resource: str) -> bool:
        """Also where DRBD does not freeze a Primary that lost its peer: nothing is recorded of it then."""
        volume = self._context.volumes.record(resource)
        frozen_alone = volume is not None and volume.freezes
        return not frozen_alone or wrote_alone(self._records.get(resource), self._context.node)

    def forget(self, resource: str) -> None:
        self._records.pop(resource, None)
        self._context.journal.delete("fences", resource)
        self._show(resource)

    async def put(self, resource: str, wanted: VerdictDesired) -> FenceState:
        """Take a verdict: on disk before anything follows from it. Raises Refused."""
        volume = self._context.observer.state.volumes.get(resource)
        if volume is None or volume.uid is None:
            raise Refused("UnknownVolume", f"{self._context.node} keeps no volume {resource}")
        if volume.uid != wanted.uid:
            raise Refused("UidMismatch", f"{resource} belongs to uid {volume.uid}, not {wanted.uid}")
        known = self._records.get(resource)
        record = accept(known if known is not None and known.uid == wanted.uid else None, wanted)
        if record != known:
            self._save(resource, record)
            self._context.log(object=resource).info("verdict", **wanted.verdict.model_dump())
        self._start(resource)
        return record.shown

    # --- handlers -----------------------------------------------------------------------------------------------

    async def _ask(self, question: Question) -> Answer:
        """A handler's question, until it is answered or its time is over."""
        resource, log = question.resource, self._context.log(object=question.resource)
        volume = self._context.observer.state.volumes.get(resource)
        if volume is None or volume.uid is None:
            return Answer(FAILED, f"{self._context.node} keeps no volume {resource}")
        if sum(len(one.handlers) for one in self._open.values()) >= HANDLERS:
            return Answer(FAILED, f"{HANDLERS} handlers wait already; the agent resumes IO itself")
        log.info("fence handler asks", peer=question.peer, role=volume.role)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        one = self._open.setdefault(resource, _Open.now(self._context))
        one.handlers.append(waiting)
        seconds = IO_SECONDS if volume.role == "Primary" else PROMOTION_SECONDS
        alarm = asyncio.ensure_future(self._context.host.sleep(seconds))
        try:
            self._show(resource)
            self._start(resource)
            both: set[asyncio.Future[Any]] = {waiting, alarm}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            answer = waiting.result() if waiting.done() else Answer(FAILED, f"no verdict within {seconds:g} s")
        finally:
            alarm.cancel()
            one.handlers.remove(waiting)
            self._show(resource)
        log.info("fence handler answered", exit=answer.exit, why=answer.why)
        return answer

    def _answer(self, resource: str, answer: Answer) -> None:
        one = self._open.get(resource)
        for waiting in one.handlers if one is not None else ():
            if not waiting.done():
                waiting.set_result(answer)
        if one is not None:
            one.answered = self._context.host.monotonic()

    # --- what follows -------------------------------------------------------------------------------------------

    async def _follow(self, watcher: Watcher) -> None:
        """Volumes whose state changed."""
        watch = self._context.observer.watch
        while True:
            event = await watcher.next(watch)
            changed = event.state.volumes if event.state is not None else event.volumes
            for resource, volume in changed.items():
                self._look(resource, volume)

    async def _keep(self) -> None:
        """What waits is looked at now and then: time alone may change what is to be done."""
        while True:
            await self._context.host.sleep(LOOK_SECONDS)
            for resource in {*self._open, *self._again}:
                self._look(resource, self._context.observer.state.volumes.get(resource))

    def _look(self, resource: str, volume: VolumeState | None) -> None:
        """Settle what has something to do by what was seen of it last: only then DRBD is asked."""
        waits = volume is not None and "fencing" in volume.suspended.split(",")
        one, now = self._open.get(resource), self._context.host.monotonic()
        if waits and one is None:
            self._open[resource] = _Open.now(self._context)
            self._show(resource)
        elif one is not None and not waits and not one.handlers and now - one.answered > DRBD_ACTS:
            del self._open[resource]
            self._show(resource)
        step = next_step(self._facts(resource, self._context.observer.seen(resource)))
        if not isinstance(step, Wait | Rest) or resource in self._again:
            self._start(resource)

    def _start(self, resource: str) -> None:
        if resource not in self._settling:
            self._settling.add(resource)
            self._context.tasks.spawn(self._settle(resource), name=f"fence {resource}")

    async def _settle(self, resource: str) -> None:
        """Do what is to be done, from a fresh reading. What follows is seen by what changes, or a little later."""
        try:
            async with self._gate:
                self._settling.discard(resource)  # what comes from here on is settled anew
                async with self._context.locks.hold(f"fence:{resource}"):
                    kernel = (await self._context.observer.read_resources([resource])).get(resource)
                    await self._do(resource, kernel)
            self._again.discard(resource)
        except (DriverError, CommandTimedOut) as error:
            self._again.add(resource)
            self._context.log(object=resource).warning("fence", problem=str(error))
        finally:
            self._settling.discard(resource)

    async def _do(self, resource: str, kernel: DrbdResource | None) -> None:
        """One step. No await from the facts to the journal: a verdict that comes meanwhile is seen by the next one."""
        step = next_step(self._facts(resource, kernel))
        log, record = self._context.log(object=resource), self._records.get(resource)
        match step:
            case Answer():
                self._answer(resource, step)
            case GiveBack():
                assert record is not None
                given = record.given_back or holds(record, self._context.node)
                self._save(resource, record.model_copy(update={"given_back": given, "continued_at": None}))
                log.info("both sides are whole: verdict given back")
            case Resume(by_policy=by_policy):
                if by_policy:
                    self._continue(resource)
                log.warning("frozen IO is resumed", by_policy=by_policy)
                assert kernel is not None
                assert kernel.minor is not None
                await self._context.drbd.resume_io(kernel.minor)
            case Outdate():
                log.info("this copy is recorded as stale: outdated")
                assert kernel is not None
                assert kernel.minor is not None
                await self._context.drbd.outdate(kernel.minor)
            case _:
                pass

    def _facts(self, resource: str, kernel: DrbdResource | None) -> FenceFacts:
        now, one = self._context.host.monotonic(), self._open.get(resource)
        if one is None and kernel is not None and frozen(kernel):
            one = self._open[resource] = _Open.now(self._context)
            self._show(resource)
        expected = one is not None and (now - one.since < HANDLER_COMES or now - one.answered < DRBD_ACTS)
        return FenceFacts(
            node=self._context.node,
            record=self._records.get(resource),
            kernel=kernel,
            asked=one is not None and any(not waiting.done() for waiting in one.handlers),
            answered=expected,
            continue_now=self._continue_now(resource),
        )

    def _continue_now(self, resource: str) -> bool:
        """Policy Continue: was no controller heard of for as long as it says?"""
        volume = self._context.volumes.record(resource)
        fencing = volume.desired.fencing if volume is not None else None
        after = fencing.continue_after if fencing is not None else None
        return after is not None and self._context.host.monotonic() - self.heard() >= after

    def _continue(self, resource: str) -> None:
        """In the journal before IO goes on without a verdict."""
        volume = self._context.observer.state.volumes[resource]
        assert volume.uid is not None
        record = self._records.get(resource) or FenceRecord(uid=volume.uid)
        self._save(resource, record.model_copy(update={"continued_at": self._context.now_text()}))

    # --- keeping ------------------------------------------------------------------------------------------------

    def _save(self, resource: str, record: FenceRecord) -> None:
        """On disk when this returns."""
        self._context.journal.put("fences", resource, record.model_dump(mode="json"))
        self._records[resource] = record
        self._show(resource)

    def _show(self, resource: str) -> None:
        record, one = self._records.get(resource), self._open.get(resource)
        view = None
        if record is not None or one is not None:
            since = time_text(one.shown_since) if one is not None else None
            view = FenceView(record, asked=one is not None and bool(one.handlers), since=since)
        self._context.observer.put_fence(resource, view)
