"""The controllers: the real `decide_vm` and `decide_volume`, commit by compare-and-swap, requests on the wire."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import objects
import observe
import verdicts
from objects import VM_KEY, VOLUME_KEY
from observe import NOW
from states import NAMES, Api, Key, Message
from states import World as State

from agent.preflight import arriving, leaving
from agent.protocol import MigrateReceive, MigrateSend, PreflightReport, Refusal
from controller.api.drbdvolume import DrbdVolumeStatus
from controller.domain.actions import (
    Cancel,
    Decision,
    DeleteDomain,
    Operate,
    PutDomain,
    PutVerdict,
    PutVolume,
    Refused,
    Request,
)
from controller.domain.vm import decide_vm
from controller.domain.volume import decide_volume
from controller.domain.world import Answer, Question, World

Views = tuple[Key | None, ...]
Refusals = tuple[tuple[int, Key, str], ...]
_requests: dict[tuple[int, int, Key], Request] = {}


class Outcome(NamedTuple):
    """Of one look: what etcd holds with the object as it is written (None: unchanged), what is asked of agents, what is
    said."""

    api: Api | None
    requests: tuple[tuple[int, Key], ...]
    explained: tuple[str, ...] = ()
    settled: bool = False


def key_of(request: Request) -> Key:
    match request:
        case PutVolume(body=body):
            return ("volume", body.role)
        case PutVerdict(body=body):
            return verdicts.key_of(body.verdict)
        case PutDomain(body=body):
            return ("domain", body.state, body.epoch, body.run)
        case DeleteDomain(body=body):
            return ("forget", body.epoch)
        case Cancel(operation=operation, body=cancel):
            return ("cancel", operation, cancel.source_keeps)
        case Operate(body=body):
            if isinstance(body.body, MigrateSend):
                return ("send", body.id, body.body.domain.epoch, NAMES.index(body.body.target), body.body.domain.run)
            assert isinstance(body.body, MigrateReceive)
            return ("receive", body.id, body.body.domain.epoch, NAMES.index(body.body.source), body.body.domain.run)
    raise AssertionError(request)


def noted(request: Request, term: int) -> tuple[int, Key]:
    host, key = NAMES.index(request.host), key_of(request)
    _requests.setdefault((term, host, key), request)
    return host, key


def also_known(term: int, host: int, key: Key, renamed: Key) -> None:
    """The request under other names for its epoch and its operation."""
    if (term, host, renamed) in _requests or (term, host, key) not in _requests:
        return
    old = _requests[term, host, key]
    match old:
        case PutDomain(where, body):
            new: Request = PutDomain(where, body.model_copy(update={"epoch": renamed[2]}))
        case PutVerdict(where, verdict):
            number = verdict.verdict.model_copy(update={"number": renamed[1]})
            new = PutVerdict(where, verdict.model_copy(update={"verdict": number}))
        case DeleteDomain(where, name, removal):
            new = DeleteDomain(where, name, removal.model_copy(update={"epoch": renamed[1]}))
        case Cancel(where, _, cancel):
            new = Cancel(where, str(renamed[1]), cancel)
        case Operate(where, request):
            part = request.body
            assert isinstance(part, MigrateSend | MigrateReceive)
            moved = part.model_copy(update={"domain": part.domain.model_copy(update={"epoch": renamed[2]})})
            new = Operate(where, request.model_copy(update={"id": renamed[1], "body": moved}))
        case _:
            raise AssertionError(old)
    _requests[term, host, renamed] = new


def refused(term: int, refusals: Refusals) -> tuple[Refused, ...]:
    """Said long ago: nothing is held back, the next try is due."""
    return tuple(
        Refused(_requests[term, host, key], Refusal(reason=reason, message=reason), NOW - 1000.0)
        for host, key, reason in refusals
    )


def look_vm(api: Api, views: Views, term: int, refusals: Refusals, state: State) -> Outcome:
    """One look at the XenVM. Questions are answered by the hosts as they are now."""
    if not api.exists:
        return Outcome(None, ())
    found = _decide_vm(api, views, term, refusals, ())
    if isinstance(found, Outcome):
        return found
    answers: list[tuple[Question, object]] = []
    for question in found:
        host = NAMES.index(question.host)
        one = state.hosts[host]
        if not (one.on and one.agent and one.heard):
            answers.append((question, "no answer"))
            continue
        seen = observe.seen(state, host)
        weigh = leaving if question.body.side == "source" else arriving
        answers.append((question, tuple((no.reason, no.message) for no in weigh(seen, question.body.domain))))
    done = _decide_vm(api, views, term, refusals, tuple(answers))
    assert isinstance(done, Outcome)
    return done


@cache
def _decide_vm(
    api: Api,
    views: Views,
    term: int,
    refusals: Refusals,
    answered: tuple[tuple[Question, object], ...],
) -> Outcome | tuple[Question, ...]:
    answers = {question: answer_of(said) for question, said in answered}
    world = World(objects.Objects(api, views), NOW, term, answers)
    vm = world.objects.vm(VM_KEY)
    assert vm is not None
    decision = decide_vm(world, vm, refused(term, refusals))
    if decision.ask:
        return decision.ask
    after: Api | None = None
    if decision.finalizer == "remove":
        after = removed(api)
    elif decision.status is not None:
        written = objects.api_of(api, vm.model_copy(update={"status": decision.status}))
        after = written if written != api else None
    requests = tuple(noted(request, term) for request in decision.requests)
    return Outcome(after, requests, explanations(decision), is_settled(decision))


def removed(api: Api) -> Api:
    """The XenVM is gone."""
    return api._replace(
        exists=False, placement=None, move=None, last=None, phase=None, run=0, last_state=None, displaced=None
    )


def answer_of(said: object) -> Answer:
    if isinstance(said, str):
        return said
    return PreflightReport(refusals=tuple(Refusal(reason=r, message=m) for r, m in said))  # type: ignore[attr-defined]


def explanations(decision: Decision) -> tuple[str, ...]:
    """Conditions that tell a person why it is not as declared."""
    if decision.status is None:
        return ()
    return tuple(
        f"{one.type}={one.status} {one.reason}: {one.message}"
        for one in decision.status.conditions
        if (one.type, one.status)
        in (("Stalled", "True"), ("Ready", "Unknown"), ("Placed", "False"), ("Ready", "False"))
    )


def is_settled(decision: Decision) -> bool:
    if decision.status is None:
        return True
    told = {one.type: one.status for one in decision.status.conditions}
    return told.get("Ready") == "True" and told.get("Placed", "True") == "True" and "Reconciling" not in told


@cache
def look_volume(api: Api, views: Views, term: int) -> Outcome:
    """One look at the DrbdVolume. Of its status the verdict alone is part of the explored world. What follows a split
    brain, which cannot come without a person or a policy that lets a side go on alone, is not explored."""
    world = World(objects.Objects(api, views), NOW, term)
    volume = world.objects.volume(VOLUME_KEY)
    assert volume is not None
    decision = decide_volume(world, volume)
    assert isinstance(decision.status, DrbdVolumeStatus)
    after = api._replace(verdict=verdicts.verdict_of(decision.status.verdict))
    requests = tuple(noted(request, term) for request in decision.requests if not isinstance(request, Operate))
    told = tuple(f"{one.type}={one.status} {one.reason}: {one.message}" for one in decision.status.conditions)
    return Outcome(after if after != api else None, requests, told)


def messages(term: int, requests: tuple[tuple[int, Key], ...]) -> tuple[Message, ...]:
    return tuple(Message(host, term, key) for host, key in requests)
