"""One look at one object: observe, decide, commit, act. The same for all kinds; what to do is decided elsewhere.

The order is what makes it safe to be killed anywhere: nothing is asked of an agent before the status that says so is
written against exactly the version that the decision saw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import structlog

from agent.protocol import PreflightReport
from controller.agents.client import Refused as AgentRefused
from controller.agents.client import Unreachable
from controller.agents.supervisor import Supervisors
from controller.api.common import ApiObject
from controller.domain.actions import FINALIZER, Decision, Operate, PutDomain, PutVerdict, PutVolume, Refused, Request
from controller.domain.power import PowerCommand, PowerOff, PowerOn, PowerResult
from controller.domain.world import Answer, Limits, Question, World
from controller.reconcile import nodes, vms, volumes
from controller.reconcile.inquiries import Inquiries
from controller.reconcile.lanes import Deposed, Lanes
from controller.reconcile.power import Fencer, Power
from controller.reconcile.view import View
from controller.runtime.api_server import ApiError, ApiServer, Invalid, Unanswered
from controller.runtime.cache import Cache, Change
from controller.runtime.events import Recorder
from controller.runtime.index import Claim
from controller.runtime.metrics import Metrics
from controller.runtime.queue import ObjectKey, WorkQueue
from controller.runtime.status import Stale, Writer, differs, finalizers_after

log = structlog.get_logger(__name__)

DEPOSED_SECONDS = 1.0

Step = Callable[[str, ObjectKey], Awaitable[None]]
"""Called with "before ..." and "after ..." of each commit and each request: where tests end the controller."""

Decide = Callable[[World, ApiObject, tuple[Refused, ...]], Decision]
DECIDE: Mapping[str, Decide] = {"XenNode": nodes.decide, "DrbdVolume": volumes.decide, "XenVM": vms.decide}


class Leadership(Protocol):
    """What the shell must know of the election."""

    @property
    def term(self) -> int: ...
    @property
    def leading(self) -> bool: ...


def step_name(request: Request) -> str:
    """What is asked of whom, the same in every run: "PutVolume mk1 Up Primary", "Operate mk2 migrate-receive"."""
    what = ""
    match request:
        case PutVolume(body=body):
            what = f" {body.level}" + (" Primary" if body.role == "Primary" else "")
        case PutVerdict(body=body):
            what = f" {body.verdict.number}"
        case PutDomain(body=body):
            what = f" {body.state}"
        case Operate(body=body):
            what = f" {body.body.kind}"
        case _:
            pass
    return f"{type(request).__name__} {request.host}{what}"


async def no_step(name: str, key: ObjectKey) -> None:
    """Nothing."""


class Shell:
    """Carries decisions out. `reconcile` is what the queue's workers call; it never raises."""

    def __init__(
        self,
        *,
        api: ApiServer,
        cache: Cache,
        queue: WorkQueue,
        supervisors: Supervisors,
        leadership: Leadership,
        recorder: Recorder,
        metrics: Metrics,
        fencer: Fencer,
        changed: Callable[[Change], None],
        on_step: Step = no_step,
        decide: Mapping[str, Decide] = DECIDE,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cache, self._queue, self._supervisors = cache, queue, supervisors
        self._leadership, self._recorder, self._metrics = leadership, recorder, metrics
        self._fencer = fencer
        self._changed, self._on_step, self._decide, self._now = changed, on_step, decide, now
        self._limits = limits or Limits()
        self._writer = Writer(api, cache, changed, self.free)
        self._view = View(cache, supervisors)
        self._lazy: dict[ObjectKey, float] = {}  # since when a lazy status waits
        self.lanes = Lanes(queue, self._send, now=now)
        self.inquiries = Inquiries(queue, self._answer)
        self.power = Power(queue, self._fence, now=now)

    async def reconcile(self, key: ObjectKey) -> None:
        """Look at one object, and say when to look again."""
        kind, namespace, name = key
        result = "failed"
        with structlog.contextvars.bound_contextvars(
            object=f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}", term=self._leadership.term
        ):
            try:
                result = await self._look(key)
                self._queue.forget(key)
            except Deposed:
                result = "deposed"
                self._queue.add_after(key, DEPOSED_SECONDS)  # the lease may yet be renewed: nothing must be forgotten
            except Stale as error:
                result = "stale"
                log.debug("changed meanwhile", error=str(error))
                self._queue.add_failed(key)
            except Invalid as error:
                # Our own status against our own schema: a defect that must be seen, and that no repetition cures.
                log.error("the API server refused our status", error=str(error))
                self._queue.add_failed(key)
            except (ApiError, Unanswered) as error:
                log.warning("the API server did not take it", error=str(error))
                self._queue.add_failed(key)
            except Exception:
                log.exception("reconciliation failed")
                self._queue.add_failed(key)
        self._metrics.reconciles.labels(kind, result).inc()

    async def _look(self, key: ObjectKey) -> str:
        self._check_leading()
        found = self._cache.get(key)
        if found is None:
            self.lanes.forget(key)
            self.inquiries.settle(key)
            self.power.forget(key)
            self._lazy.pop(key, None)
            return "gone"
        answers, power = self.inquiries.answers(key), self.power.results(key)
        world = World(self._view, self._now(), self._leadership.term, answers, self._limits, power)
        with self._metrics.deciding.labels(key[0]).time():
            decision = self._decide[key[0]](world, found, self.lanes.refused(key))
        if decision.ask:
            self.inquiries.ask(key, decision.ask)
            return "asking"
        return await self._commit(key, found, decision)

    async def finish(self, seconds: float) -> None:
        """Give what is asked of agents and fence agents that time to be answered, then let go of it."""
        await asyncio.gather(self.lanes.finish(seconds), self.power.finish(seconds))

    def cancel(self) -> None:
        """Let go of all that is being asked."""
        self.lanes.cancel()
        self.inquiries.cancel()
        self.power.cancel()

    # --- commit

    async def _commit(self, key: ObjectKey, found: ApiObject, decision: Decision) -> str:
        after = finalizers_after(found, decision.finalizer, FINALIZER) if decision.finalizer else None
        if after is not None:
            if decision.finalizer == "remove" and self.lanes.under_way(key):
                return "waiting"  # what is being asked could leave something behind that nobody looks after
            await self._write(key, "finalizer", partial(self._writer.put_finalizers, key, found, after))
            if decision.finalizer == "remove":
                return "released"
            self._queue.add(key)  # decided anew: another object may have taken the same minor meanwhile
            return "written"
        status = decision.status
        result = "unchanged"
        if status is not None and differs(status, found):
            if self._may_wait(key, decision.lazy):
                self._act(key, decision)  # without its events: the decision that is written says them
                return "waiting"
            found = await self._write(key, "status", partial(self._writer.put_status, key, found, status))
            result = "written"
        self._lazy.pop(key, None)
        self.inquiries.settle(key)
        for event in decision.events:
            self._recorder.record(found, event.type, event.reason, event.message)
            log.info("event", type=event.type, reason=event.reason, message=event.message)
        self._act(key, decision)
        return result

    def _may_wait(self, key: ObjectKey, seconds: float) -> bool:
        """A lazy status waits for so long in all, so that the quick steps of an operation are one write."""
        if not seconds:
            return False
        now = self._now()
        left = self._lazy.setdefault(key, now) + seconds - now
        if left > 0:
            self._queue.add_after(key, left)
        return left > 0

    async def _write(self, key: ObjectKey, what: str, write: Callable[[], Awaitable[ApiObject]]) -> ApiObject:
        await self._on_step(f"before {what}", key)
        self._check_leading()
        found = await write()
        await self._on_step(f"after {what}", key)
        return found

    def free(self, holder: ObjectKey, claims: tuple[Claim, ...]) -> None:
        """Names are free again: whoever else waits for one looks."""
        for claim in claims:
            for key in self._cache.claimants(claim):
                if key != holder:
                    self._queue.add(key)

    # --- act

    def _act(self, key: ObjectKey, decision: Decision) -> None:
        if decision.requests:
            self.lanes.start(key, decision.requests)
        if decision.power:
            self.power.start(key, decision.power)
        if decision.look_again is not None:
            self._queue.add_after(key, decision.look_again)

    async def _send(self, key: ObjectKey, request: Request) -> None:
        name = step_name(request)
        await self._on_step(f"before {name}", key)
        self._check_leading()
        supervisor = self._supervisors.get(request.host)
        if supervisor is None:
            raise Unreachable(f"{request.host}: no XenNode of this name")
        outcome, started = "failed", time.monotonic()
        try:
            await supervisor.client.send(request)
            outcome = "done"
        except AgentRefused:
            outcome = "refused"
            raise
        except Unreachable:
            outcome = "unanswered"
            raise
        finally:
            kind = type(request).__name__
            self._metrics.requests.labels(request.host, kind, outcome).inc()
            self._metrics.answering.labels(kind).observe(time.monotonic() - started)
        await self._on_step(f"after {name}", key)

    async def _fence(self, key: ObjectKey, command: PowerCommand) -> PowerResult:
        action = {PowerOff: "off", PowerOn: "on"}.get(type(command), "status")
        await self._on_step(f"before fence {command.host} {action}", key)
        self._check_leading()
        agent = command.device.agent
        log.info("a fence agent is asked", host=command.host, agent=agent, action=action)
        result = await self._fencer.perform(command)
        outcome = result.reason if result.state == "failed" else result.state
        self._metrics.fencing.labels(command.host, action, outcome).inc()
        log.info(
            "a fence agent answered", host=command.host, agent=agent, action=action, outcome=outcome, said=result.said
        )
        await self._on_step(f"after fence {command.host} {action}", key)
        return result

    async def _answer(self, question: Question) -> Answer:
        supervisor = self._supervisors.get(question.host)
        if supervisor is None:
            return f"{question.host}: no XenNode of this name"
        try:
            return await supervisor.client.preflight(question.body)
        except AgentRefused as no:
            return PreflightReport(refusals=(no.refusal,))
        except Unreachable as error:
            return str(error)

    def _check_leading(self) -> None:
        if not self._leadership.leading:
            raise Deposed
