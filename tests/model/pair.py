"""Two VMs, each with its volume on two of three hosts: two worlds of one VM that share hosts, controllers and people.

What happens to one VM's part of a host happens in its own world; what happens to the host itself, in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import canonical as names
import casting
import environment
import liveness
import observe
import pair_seen
import safety
from casting import At
from controllers import Outcome
from pair_seen import Seen, Told
from states import HOSTS, NODES, Budget, Host, Key, Leader, World, with_host

from agent.preflight import arriving, leaving
from agent.protocol import PreflightReport
from controller.domain.world import Answer, Question

Steps = Iterator[tuple[str, "Pair"]]
VMS = ("shaolin", "monk")


class Frozen(NamedTuple):
    """A second controller, and what it saw when it was stopped for a while."""

    term: int
    seen: Seen
    refused: tuple[tuple[tuple[int, Key, str], ...], ...]


class Pair(NamedTuple):
    worlds: tuple[World, World]
    at: tuple[At, At] = ((0, 1), (1, 2))
    memory: tuple[int, int, int] = (8192, 8192, 8192)
    told: tuple[Told, Told] = ((), ())
    frozen: Frozen | None = None
    off_for_good: bool = False  # hosts that are off do not come back
    budget: Budget = Budget()


def seen(pair: Pair) -> Seen:
    views = tuple(tuple(observe.view_key(world, host) for host in HOSTS) for world in pair.worlds)
    return Seen(pair.at, pair.memory, (pair.worlds[0].api, pair.worlds[1].api), pair.told, views)  # type: ignore[arg-type]


# --- what both worlds share -------------------------------------------------------------------------------------------


def with_world(pair: Pair, index: int, after: World) -> Pair:
    """The world of one VM has changed: what that did to a host it did to the other VM's part of the host, too."""
    before, other = pair.worlds[index], pair.worlds[1 - index]
    for host in HOSTS:
        there = pair.at[index][host]
        if there in pair.at[1 - index]:
            twin = pair.at[1 - index].index(there)
            other = _same(other, twin, before.hosts[host], after.hosts[host])
            other = other._replace(
                api=other.api._replace(
                    out_of_service=_put(other.api.out_of_service, twin, after.api.out_of_service[host]),
                    maintenance=_put(other.api.maintenance, twin, after.api.maintenance[host]),
                )
            )
    return pair._replace(worlds=(after, other) if index == 0 else (other, after))


def _put(pair: tuple[bool, bool], index: int, value: bool) -> tuple[bool, bool]:
    return (value, pair[1]) if index == 0 else (pair[0], value)


def _same(world: World, host: int, before: Host, after: Host) -> World:
    if before.on and not after.on:
        world = environment.power_lost(world, host)
    elif before.agent and not after.agent:
        world = environment.agent_killed(world, host)
    return with_host(world, host, on=after.on, agent=after.agent, heard=after.heard, term=after.term)


# --- what can happen --------------------------------------------------------------------------------------------------


def progress(pair: Pair) -> Steps:
    for index, world in enumerate(pair.worlds):
        for label, after in environment.on_hosts(world):
            if pair.off_for_good and label.endswith(" boots"):
                continue
            yield _label(pair, index, label), with_world(pair, index, after)
        yield from _looks(pair, index)
        if pair.frozen is not None:
            yield from _thawed(pair, index, pair.frozen)
    if pair.frozen is not None:
        yield "the other controller goes away", pair._replace(frozen=None)


def faults(pair: Pair) -> Steps:
    for index, world in enumerate(pair.worlds):
        for label, after in environment.faults_on_hosts(world):
            yield _label(pair, index, label), with_world(pair, index, after)
    if pair.worlds[0].leader.term == 1:
        first, second = (world._replace(leader=Leader(term=2)) for world in pair.worlds)
        yield "another controller leads", pair._replace(worlds=(first, second))
    if pair.frozen is None:
        refused = tuple(world.leader.refused for world in pair.worlds)
        frozen = Frozen(pair.worlds[0].leader.term, seen(pair), refused)
        yield "a controller looks, and stands still", pair._replace(frozen=frozen)


def edits(pair: Pair) -> Steps:
    for index, world in enumerate(pair.worlds):
        for label, after in environment.edits(world):
            yield _label(pair, index, label), with_world(pair, index, after)
        if world.api.exists and world.api.node != len(HOSTS):
            elsewhere = environment.edited(world, node=len(HOSTS))
            yield _label(pair, index, f"kubectl: spec.node is {NODES[-1]}"), with_world(pair, index, elsewhere)
        for host in HOSTS:
            kept = _put(world.api.maintenance, host, not world.api.maintenance[host])
            after = world._replace(api=world.api._replace(maintenance=kept))
            told = f"kubectl: {NODES[host]} is {'in maintenance' if kept[host] else 'good again'}"
            yield _label(pair, index, told), with_world(pair, index, after)


def _label(pair: Pair, index: int, label: str) -> str:
    return f"({VMS[index]}) {casting.outside(index, pair.at[index], label)}"


def _said(pair: Pair, index: int, outcome: Outcome) -> str:
    return casting.outside(index, pair.at[index], environment.said(outcome))


def look(
    pair: Pair, looked: Seen, index: int, term: int, refused: tuple[tuple[int, Key, str], ...]
) -> tuple[Outcome, Told]:
    """At one VM. Questions are answered by the hosts as they are now."""
    if not looked.apis[index].exists:
        return Outcome(None, ()), ()
    answers: tuple[tuple[Question, Answer], ...] = ()
    while True:
        found = pair_seen.decide(looked, index, term, refused, answers)
        if isinstance(found[0], Outcome):
            return found
        answers = tuple((one, _answer(pair, index, one)) for one in found)


def _answer(pair: Pair, index: int, question: Question) -> Answer:
    world, at, number = pair.worlds[index], pair.at[index], casting.HOSTS.index(question.host)
    if number in at:
        host = at.index(number)
        there, looked = world.hosts[host], observe.seen(world, host)
    else:  # nothing of this VM is there
        there = pair.worlds[1 - index].hosts[pair.at[1 - index].index(number)]
        looked = replace(observe.seen(world, 0), node=NODES[-1], domains=(), drbd={}, record=None, busy=None)
    if not (there.on and there.agent and there.heard):
        return "no answer"
    body = casting.model(index, at, question.body, outward=False)
    weigh = leaving if body.side == "source" else arriving
    facts = observe.FACTS.model_copy(update={"memory_free_mib": pair.memory[number] - used(pair, number)})
    no = weigh(replace(looked, facts=facts), body.domain)
    return PreflightReport(refusals=tuple(no))


def used(pair: Pair, number: int) -> int:
    """MiB that domains have there."""
    parts = [world.hosts[at.index(number)] for world, at in zip(pair.worlds, pair.at, strict=True) if number in at]
    return sum(observe.CONFIG.memory_mib for part in parts for _ in part.domains)


def leader_looks(pair: Pair, index: int) -> tuple[Outcome, Told]:
    leader = pair.worlds[index].leader
    return look(pair, seen(pair), index, leader.term, leader.refused)


def _looks(pair: Pair, index: int) -> Steps:
    world, leader, now = pair.worlds[index], pair.worlds[index].leader, seen(pair)
    outcome, told = look(pair, now, index, leader.term, leader.refused)
    after = world._replace(leader=leader._replace(refused=()))
    new = _with_told(_sent(pair, index, after, outcome, leader.term), index, told)
    if new != pair:
        yield f"the controller looks at {VMS[index]}{_said(pair, index, outcome)}", new
    looked = pair_seen.decide_of_volume(now, index, leader.term)
    if world.link == "StandAlone":
        looked = looked._replace(
            requests=tuple(one for one in looked.requests if environment.changes(world, leader.term, *one))
        )
    new = _sent(pair, index, world, looked, leader.term)
    if new != pair:
        yield f"the controller looks at the volume of {VMS[index]}", new


def _sent(pair: Pair, index: int, world: World, outcome: Outcome, term: int) -> Pair:
    if outcome.api is not None:
        world = world._replace(api=outcome.api)
    return with_world(pair, index, environment.send(world, term, outcome.requests))


def _with_told(pair: Pair, index: int, told: Told) -> Pair:
    return pair._replace(told=(told, pair.told[1]) if index == 0 else (pair.told[0], told))


def _thawed(pair: Pair, index: int, frozen: Frozen) -> Steps:
    """It goes on with one VM, from what it saw."""
    world, kept = pair.worlds[index], frozen.seen.apis[index]
    outcome, told = look(pair, frozen.seen, index, frozen.term, frozen.refused[index])
    if outcome.api is None or (kept.of_vm, frozen.seen.told[index]) == (world.api.of_vm, pair.told[index]):
        if outcome.api is not None:
            outcome = outcome._replace(api=outcome.api.around(world.api))
        after = _sent(pair, index, world, outcome, frozen.term)._replace(frozen=None)
        if outcome.api is not None:
            after = _with_told(after, index, told)
        yield f"the other controller goes on with {VMS[index]}{_said(pair, index, outcome)}", after
    looked = pair_seen.decide_of_volume(frozen.seen, index, frozen.term)
    if looked.api is None or kept.verdict == world.api.verdict:
        if looked.api is not None:
            looked = looked._replace(api=world.api._replace(verdict=looked.api.verdict))
        after = _sent(pair, index, world, looked, frozen.term)._replace(frozen=None)
        yield f"the other controller goes on with the volume of {VMS[index]}", after


# --- what must not be -------------------------------------------------------------------------------------------------


def broken(before: Pair, after: Pair) -> str | None:
    for index, world in enumerate(after.worlds):
        rule = safety.broken(before.worlds[index], world)
        if rule is not None:
            return f"{VMS[index]}: {casting.outside(index, after.at[index], rule)}"
    return None


def at_once(before: Pair, after: Pair) -> str | None:
    """Also that no more moves begin, and no more memory is given away, than there is room for: what one controller
    that sees everything keeps to."""
    moving = sum(world.api.move is not None and world.api.move.outcome is None for world in after.worlds)
    if moving > pair_seen.LIMITS.per_cluster:
        return "more moves at once than the limit"
    if (first := _jumped(before, after)) is not None:
        return f"{first}, which is more important, waits, and the other one's move begins"
    for number, memory in enumerate(after.memory):
        if used(after, number) > memory:
            return f"more memory is given away than {casting.HOSTS[number]} has"
    return broken(before, after)


def _jumped(before: Pair, after: Pair) -> str | None:
    """The more important VM has to leave the same host, nothing is in its way, and the other one goes first."""
    first, second = sorted(range(len(VMS)), key=lambda index: -after.worlds[index].api.priority)
    waits, goes, old = after.worlds[first].api, after.worlds[second].api, before.worlds[second].api
    if waits.priority == goes.priority or goes.move is None or goes.move == old.move or goes.move.outcome is not None:
        return None
    if waits.placement is None or (waits.move is not None and waits.move.outcome is None):
        return None
    leaves = waits.maintenance[waits.placement.node]
    same = after.at[first][waits.placement.node] == after.at[second][goes.move.source]
    in_line = not any(status == "True" if kind == "Stalled" else status == "False" and reason != "MoveQueued"
                      for kind, status, reason in after.told[first])  # fmt: skip
    return VMS[first] if leaves and same and in_line and waits.last is None else None


def silent(pair: Pair) -> str | None:
    for index, world in enumerate(pair.worlds):
        looked = pair_seen.decide_of_volume(seen(pair), index, world.leader.term)
        why = liveness.unsaid(world, leader_looks(pair, index)[0], looked)
        if why is not None:
            return f"{VMS[index]}: {why}"
    return _outranked(pair)


def _outranked(pair: Pair) -> str | None:
    """Of two VMs that were lost together the less important one has the only room?"""
    first, second = sorted(range(len(VMS)), key=lambda index: -pair.worlds[index].api.priority)
    if pair.worlds[first].api.priority == pair.worlds[second].api.priority:
        return None
    waits = ("Stalled", "True", "InsufficientMemory") in pair.told[first]
    runs = any(host.domains for host in pair.worlds[second].hosts)
    return (
        f"{VMS[second]} has the room that {VMS[first]}, which is more important, waits for" if waits and runs else None
    )


def canonical(pair: Pair) -> Pair:
    """A controller that stands still holds the names of what it saw."""
    if pair.frozen is not None:
        return pair
    return pair._replace(worlds=(names.canonical(pair.worlds[0]), names.canonical(pair.worlds[1])))
