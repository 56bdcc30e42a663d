"""Lanes and inquiries: one request at a time for each object and host, nothing held up by what hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from raw_objects import until

from agent.protocol import DomainDesired, DomainRemoval, PreflightReport, PreflightRequest, Refusal, VolumeRemoval
from controller.agents.client import Refused as AgentRefused
from controller.agents.client import Unreachable
from controller.domain.actions import DeleteDomain, DeleteVolume, Refused, Request
from controller.domain.world import Answer, Question
from controller.reconcile.inquiries import FRESH_SECONDS, Inquiries
from controller.reconcile.lanes import REFUSED_FOR, REPEAT_SECONDS, Deposed, Lanes
from controller.runtime.queue import ObjectKey, WorkQueue

A: ObjectKey = ("XenVM", "default", "a")
B: ObjectKey = ("XenVM", "default", "b")
NO = Refusal(reason="InUse", message="domain a has it")


def remove(host: str, resource: str = "r", term: int = 1) -> Request:
    return DeleteVolume(host, resource, VolumeRemoval(term=term, uid="11111111", policy="Retain"))


def forget(host: str) -> Request:
    return DeleteDomain(host, "a", DomainRemoval(term=1, uid="11111111", epoch=1))


class Setting:
    """Lanes whose requests end when the test says so, and how it says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.queue = WorkQueue()
        self.sent: list[tuple[ObjectKey, Request]] = []
        self.ends: dict[Request, asyncio.Future[None]] = {}
        self.answered = 0
        self.lanes = Lanes(self.queue, self._send, now=lambda: self.now)

    async def _send(self, key: ObjectKey, request: Request) -> None:
        self.sent.append((key, request))
        self.ends[request] = asyncio.get_running_loop().create_future()
        try:
            await self.ends[request]
        finally:
            self.answered += 1  # what the lane does next, it does before anybody else runs

    async def answer(self, request: Request, error: Exception | None = None) -> None:
        await until(lambda: request in self.ends)
        end, before = self.ends.pop(request), self.answered
        if error:
            end.set_exception(error)
        else:
            end.set_result(None)
        await until(lambda: self.answered > before)

    async def next(self) -> ObjectKey:
        key = await asyncio.wait_for(self.queue.get(), 20)
        self.queue.done(key)
        return key


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    yield made
    made.lanes.cancel()


async def test_hosts_are_asked_at_the_same_time_and_one_host_in_order(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"), forget("mk1"), remove("mk2")))
    await until(lambda: len(setting.sent) == 2)
    assert {request for _, request in setting.sent} == {remove("mk1"), remove("mk2")}
    await setting.answer(remove("mk1"))
    await until(lambda: len(setting.sent) == 3)
    assert setting.sent[2] == (A, forget("mk1"))


async def test_a_host_that_hangs_holds_up_neither_another_host_nor_another_object(setting: Setting) -> None:
    setting.lanes.start(A, (remove("hung"),))
    setting.lanes.start(B, (remove("hung", "other"),))
    setting.lanes.start(A, (forget("mk1"),))
    await until(lambda: len(setting.sent) == 3)


async def test_what_is_wanted_while_a_lane_is_busy_is_decided_again_when_it_is_free(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"),))
    setting.lanes.start(A, (forget("mk1"),))
    await setting.answer(remove("mk1"))
    assert setting.sent == [(A, remove("mk1"))]
    assert await setting.next() == A


async def test_a_request_that_was_just_answered_is_not_sent_again_unchanged(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"),))
    await setting.answer(remove("mk1"))
    setting.lanes.start(A, (remove("mk1"),))
    setting.lanes.start(A, (remove("mk1", term=2),))
    await until(lambda: len(setting.sent) == 2)
    assert setting.sent[1] == (A, remove("mk1", term=2)), "another term is another request"
    await setting.answer(remove("mk1", term=2))
    setting.now += REPEAT_SECONDS + 0.01
    setting.lanes.start(A, (remove("mk1", term=2),))
    await until(lambda: len(setting.sent) == 3)


async def test_a_refusal_is_told_at_once_and_ends_the_lane(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"), forget("mk1")))
    await setting.answer(remove("mk1"), AgentRefused(NO))
    assert await setting.next() == A
    assert setting.lanes.refused(A) == (Refused(remove("mk1"), NO, 1000.0),)
    assert setting.lanes.refused(B) == ()
    assert len(setting.sent) == 1


async def test_a_refusal_stands_until_the_host_is_asked_something_else_of_that_kind_or_answers(
    setting: Setting,
) -> None:
    setting.lanes.start(A, (remove("mk1"), remove("mk2")))
    await setting.answer(remove("mk1"), AgentRefused(NO))
    await setting.answer(remove("mk2"), AgentRefused(NO))
    setting.now += 6
    setting.lanes.start(A, (remove("mk1"), forget("mk2")))
    assert len(setting.lanes.refused(A)) == 2, "asked again unchanged, it is not answered yet"
    await setting.answer(remove("mk1"))
    assert [no.request for no in setting.lanes.refused(A)] == [remove("mk2")]
    await setting.answer(forget("mk2"))
    setting.lanes.start(A, (remove("mk2", term=2),))
    assert setting.lanes.refused(A) == ()


async def test_an_old_refusal_is_forgotten(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"),))
    await setting.answer(remove("mk1"), AgentRefused(NO))
    setting.now += REFUSED_FOR
    assert setting.lanes.refused(A) == ()


async def test_what_is_not_answered_is_looked_at_again_but_not_at_once(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"), forget("mk1")))
    await setting.answer(remove("mk1"), Unreachable("no answer"))
    assert len(setting.sent) == 1
    assert setting.queue.delayed == 1
    assert len(setting.queue) == 0
    assert setting.lanes.refused(A) == ()


async def test_nothing_more_is_sent_by_who_is_deposed(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"), forget("mk1")))
    await setting.answer(remove("mk1"), Deposed())
    assert len(setting.sent) == 1
    assert setting.lanes.busy == 0


async def test_finish_waits_for_what_is_under_way_and_lets_go_of_what_hangs(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"), remove("hung")))
    finishing = asyncio.create_task(setting.lanes.finish(0.2))
    await setting.answer(remove("mk1"))
    await asyncio.wait_for(finishing, 20)
    assert setting.lanes.busy == 0


async def test_pruning_forgets_what_is_over_and_keeps_what_is_under_way(setting: Setting) -> None:
    setting.lanes.start(A, (remove("mk1"),))
    setting.lanes.start(B, (remove("mk1"),))
    await until(lambda: len(setting.sent) == 2)
    setting.ends.pop(remove("mk1")).set_result(None)
    await until(lambda: setting.lanes.busy == 1)
    setting.now += 10 * REFUSED_FOR
    setting.lanes.prune()
    assert len(setting.lanes._objects) == 1


# --- inquiries --------------------------------------------------------------------------------------------------------


class Asked:
    def __init__(self) -> None:
        self.now = 0.0
        self.queue = WorkQueue()
        self.asked: list[Question] = []
        self.release = asyncio.Event()
        self.inquiries = Inquiries(self.queue, self._ask, clock=lambda: self.now)

    async def _ask(self, question: Question) -> Answer:
        self.asked.append(question)
        await self.release.wait()
        return "no answer" if question.host == "mk2" else PreflightReport()


def question(host: str, domain: DomainDesired) -> Question:
    return Question(host, PreflightRequest(side="target", domain=domain))


@pytest.fixture
def domain() -> DomainDesired:
    config = {"memory_mib": 64, "max_memory_mib": 64}
    return DomainDesired.model_validate(
        {"term": 1, "epoch": 1, "uid": "11111111", "namespace": "default", "name": "a", "state": "Running"}
        | {"config": config}
    )


async def test_all_questions_are_asked_together_and_answered_to_the_next_decision(domain: DomainDesired) -> None:
    asked = Asked()
    both = (question("mk1", domain), question("mk2", domain))
    asked.inquiries.ask(A, both)
    await until(lambda: len(asked.asked) == 2)
    asked.inquiries.ask(A, both)
    assert asked.inquiries.answers(A) == {}
    asked.release.set()
    assert await asyncio.wait_for(asked.queue.get(), 20) == A
    assert asked.inquiries.answers(A) == {both[0]: PreflightReport(), both[1]: "no answer"}
    assert len(asked.asked) == 2
    asked.inquiries.settle(A)
    assert asked.inquiries.answers(A) == {}


async def test_an_answer_grows_old(domain: DomainDesired) -> None:
    asked = Asked()
    asked.release.set()
    asked.inquiries.ask(A, (question("mk1", domain),))
    await until(lambda: asked.inquiries.answers(A) != {})
    asked.now = FRESH_SECONDS
    assert asked.inquiries.answers(A) == {}
