"""What else may happen: messages on the wire, faults that strike and pass, what people do, what guests do."""

from __future__ import annotations

from collections.abc import Iterator

import agents
import controllers
import fencing
import moves
import observe
import power
import storage
from agents import No
from controllers import Outcome
from states import HOSTS, NAMES, Frozen, Key, Leader, Message, World, with_host

Steps = Iterator[tuple[str, World]]
WIRE = 3  # messages that are under way at the same time


def progress(world: World) -> Steps:
    """What happens by itself, and heals by itself: no fault and nobody's wish is needed."""
    yield from on_hosts(world)
    yield from _leader(world)


def on_hosts(world: World) -> Steps:
    """Of what happens by itself all but what the controllers do."""
    yield from _deliveries(world)
    yield from moves.steps(world)
    yield from moves.late(world, sure=True)
    for host in HOSTS:
        one = world.hosts[host]
        if one.on and one.agent:
            step = agents.work(world, host)
            if step is not None:
                yield step
            fenced = fencing.work(world, host)
            if fenced is not None:
                yield fenced
            unheard = fencing.unheard(world, host)
            if unheard is not None:
                yield unheard
            if one.role == "Unknown":
                yield f"{NAMES[host]}'s agent brings the volume up", storage.connect(storage.attach(world, host))
    yield from _healing(world)


def faults(world: World) -> Steps:
    """One unit of the budget each."""
    yield from faults_on_hosts(world)
    for host in power.asked(world):
        yield f"the fence agent cannot switch {NAMES[host]} off", power.heard(world, host, "failed")
    if world.leader.term == 1:
        deposed = world._replace(leader=Leader(term=2))
        yield "another controller leads", deposed
    if world.frozen is None:
        yield "a controller looks, and stands still", world._replace(frozen=_snapshot(world))


def faults_on_hosts(world: World) -> Steps:
    """Of those all but the controllers' own."""
    for message in dict.fromkeys(world.wire):
        after = _delivered(world, message)
        if after is not None:
            yield f"{_told(message)}; and once more, later", after
        yield f"lost: {_told(message)}", _taken(world, message)
    for host in HOSTS:
        one = world.hosts[host]
        if one.on:
            yield f"{NAMES[host]} loses power", power_lost(world, host)
            if one.agent:
                yield f"{NAMES[host]}'s agent is killed", agent_killed(world, host)
        if one.heard:
            yield f"the controllers do not reach {NAMES[host]}", with_host(world, host, heard=False)
        for number, domain in enumerate(one.domains, 1):
            if domain.state == "running" and domain.kind == "main":
                for state in ("poweroff", "crashed"):
                    domains = list(one.domains)
                    domains[number - 1] = domain._replace(state=state)
                    yield f"the guest on {NAMES[host]}: {state}", with_host(world, host, domains=tuple(domains))
        if one.role != "Unknown" and one.disk != "Diskless":
            yield f"{NAMES[host]}'s disk fails", storage.disk_failed(world, host)
    if world.cable:
        yield "the replication link is cut", _cut(storage.disconnect(world._replace(cable=False)))
    if world.stream is not None and not world.stream.cut:
        yield "the stream is cut", _cut(world)
    yield from moves.late(world, sure=False)


def edits(world: World) -> Steps:
    """What a person may do at any time."""
    api = world.api
    if api.exists and not api.deleting:
        for other in HOSTS:
            if other != api.node:
                yield f"kubectl: spec.node is {NAMES[other]}", edited(world, node=other)
        for state in ("Running", "Stopped", "Paused"):
            if state != api.state:
                yield f"kubectl: spec.state is {state}", edited(world, state=state)
        yield "kubectl: delete", world._replace(api=api._replace(deleting=True))
    for host in HOSTS:
        off = api.out_of_service[host]
        if off or not world.hosts[host].on:  # said of a host that is off alone
            said = (not off, api.out_of_service[1]) if host == 0 else (api.out_of_service[0], not off)
            how = "in service again" if off else "out of service"
            yield f"kubectl: {NAMES[host]} is {how}", world._replace(api=api._replace(out_of_service=said))


def edited(world: World, **spec: object) -> World:
    return world._replace(api=world.api._replace(acted_on=False, **spec))  # type: ignore[arg-type]


# --- the wire -------------------------------------------------------------------------------------------------------


def _told(message: Message) -> str:
    return f"{NAMES[message.host]} gets {' '.join(str(word) for word in message.key)} (term {message.term})"


def _taken(world: World, message: Message) -> World:
    wire = list(world.wire)
    wire.remove(message)
    return world._replace(wire=tuple(wire))


def _delivered(world: World, message: Message) -> World | None:
    """The agent has handled it. None: nobody is there, or it says no."""
    one = world.hosts[message.host]
    if not (one.on and one.agent):
        return None
    try:
        return agents.handle(world, message)
    except No:
        return None


def _deliveries(world: World) -> Steps:
    for message in dict.fromkeys(world.wire):
        left, one = _taken(world, message), world.hosts[message.host]
        if not (one.on and one.agent):
            yield f"nobody hears: {_told(message)}", left
            continue
        try:
            yield _told(message), agents.handle(left, message)
        except No as no:
            refusals = world.leader.refused
            if message.term == world.leader.term and not message.mad and _lane(message) != "verdict":
                said = (message.host, message.key, no.reason)
                refusals = (*(one for one in refusals if one[:2] != said[:2]), said)
            leader = world.leader._replace(refused=refusals)
            yield f"{_told(message)}: refused, {no.reason}", left._replace(leader=leader)


def send(world: World, term: int, requests: tuple[tuple[int, tuple[object, ...]], ...]) -> World:
    """On the wire, if the lane to that host is free."""
    mad = [one for one in world.wire if one.mad]
    wire = [one for one in world.wire if not one.mad]
    for message in controllers.messages(term, requests):
        busy = any((one.host, one.term, _lane(one)) == (message.host, term, _lane(message)) for one in wire)
        if not busy and len(wire) < WIRE:
            wire.append(message)
    return world._replace(wire=tuple(sorted(mad + wire, key=repr)))


def _lane(message: Message) -> str:
    """controller.reconcile.lanes: verdicts have one of their own, for a promotion waits for one."""
    about = str(message.key[0])
    return about if about in ("volume", "verdict") else "domain"


# --- controllers ----------------------------------------------------------------------------------------------------


def _views(world: World) -> tuple[tuple[object, ...] | None, ...]:
    return tuple(observe.view_key(world, host) for host in HOSTS)


def _snapshot(world: World) -> Frozen:
    return Frozen(world.leader.term, world.api, _views(world), world.leader.refused)


def leader_looks(world: World) -> Outcome:
    return controllers.look_vm(world.api, _views(world), world.leader.term, world.leader.refused, world)


def leader_looks_at_volume(world: World) -> Outcome:
    return controllers.look_volume(world.api, _views(world), world.leader.term)


def _leader(world: World) -> Steps:
    term, views = world.leader.term, _views(world)
    outcome = controllers.look_vm(world.api, views, term, world.leader.refused, world)
    after = world._replace(leader=world.leader._replace(refused=()))
    if outcome.api is not None:
        after = after._replace(api=outcome.api)
    after = send(after, term, outcome.requests)
    if after != world:
        yield f"the controller looks at the VM{said(outcome)}", after
    looked = controllers.look_volume(world.api, views, term)
    requests = looked.requests
    if world.link == "StandAlone":
        requests = tuple(one for one in requests if changes(world, term, *one))
    after = send(world if looked.api is None else world._replace(api=looked.api), term, requests)
    if after != world:
        yield f"the controller looks at the volume{_decided(looked)}", after
    for host in HOSTS:
        after = power.look(world, views, host)
        if after != world:
            state = after.api.power[host].state
            yield f"the controller looks at {NAMES[host]}{f', records it as {state}' if state else ''}", after
    for host in power.asked(world):
        off = power_lost(world, host) if world.hosts[host].on else world
        yield f"the fence agent switches {NAMES[host]} off, and says so", power.heard(off, host, "off")
    if world.frozen is not None:
        yield from _thawed(world, world.frozen)


def changes(world: World, term: int, host: int, key: Key) -> bool:
    """Sides that were parted are asked to meet again now and then, as long as it takes: that alone keeps no world from
    coming to rest."""
    try:
        return agents.handle(world, Message(host, term, key)) != world
    except No:
        return True


def _thawed(world: World, frozen: Frozen) -> Steps:
    """It goes on from what it saw: its write succeeds only if the object is what it saw, or so the API server says."""
    outcome = controllers.look_vm(frozen.api, frozen.views, frozen.term, frozen.refused, world)
    after = world._replace(frozen=None)
    if commits(world, frozen, outcome):
        if outcome.api is not None:
            after = after._replace(api=outcome.api.around(world.api))
        sent = send(after, frozen.term, outcome.requests)
        if sent != after:
            yield f"the other controller goes on with the VM{said(outcome)}", sent
    after = world._replace(frozen=None)
    looked = controllers.look_volume(frozen.api, frozen.views, frozen.term)
    if verdict_commits(world, frozen, looked):
        if looked.api is not None:
            after = after._replace(api=world.api._replace(verdict=looked.api.verdict))
        sent = send(after, frozen.term, looked.requests)
        if sent != after:
            yield f"the other controller goes on with the volume{_decided(looked)}", sent
    after = world._replace(frozen=None)
    yield "the other controller goes away", after


def commits(world: World, frozen: Frozen, outcome: Outcome) -> bool:
    """Compare-and-swap of the XenVM; without a change nothing is compared."""
    return outcome.api is None or frozen.api.of_vm == world.api.of_vm


def verdict_commits(world: World, frozen: Frozen, looked: Outcome) -> bool:
    """The same of the DrbdVolume."""
    return looked.api is None or frozen.api.verdict == world.api.verdict


def _decided(looked: Outcome) -> str:
    verdict = looked.api.verdict if looked.api is not None else None
    if verdict is None:
        return ""
    who = "nobody goes" if verdict.survivor is None else f"{NAMES[verdict.survivor]} goes"
    return f", writes verdict {verdict.number}: {who} on alone, {verdict.reason}"


def said(outcome: Outcome) -> str:
    asked = ", ".join(f"{NAMES[host]} {' '.join(str(word) for word in key)}" for host, key in outcome.requests)
    written = ""
    if outcome.api is not None:
        api = outcome.api
        where = f"{NAMES[api.placement.node]} epoch {api.placement.epoch}" if api.placement else "nowhere"
        move = f", move {api.move.id} {api.move.outcome or 'open'}" if api.move else ""
        written = f", writes {api.phase} on {where}{move}"
    return f"{written}{', asks ' + asked if asked else ''}"


# --- faults ---------------------------------------------------------------------------------------------------------


def agent_killed(world: World, host: int) -> World:
    """kill -9: what was in memory only is gone; the stream that it carried to its receiver breaks."""
    parts = tuple(
        part._replace(
            cancelled=part.cancel_asked and part.outcome is None,
            told=False,
            phase="Received" if part.phase == "Owned" else part.phase,
        )
        for part in world.hosts[host].parts
    )
    unanswered = world.hosts[host].fence._replace(asked="")  # its handler exits 1 in a while
    world = with_host(world, host, agent=False, asked=False, parts=parts, fence=unanswered)
    stream = world.stream
    if stream is not None and stream.target == host and stream.stage != "over":
        world = world._replace(stream=stream._replace(cut=True, receiver=False))
    return world


def power_lost(world: World, host: int) -> World:
    world = agent_killed(storage.power_lost(world, host), host)
    one = world.hosts[host]
    promise = one.promise._replace(this_boot=False) if one.promise else None
    parts = tuple(part._replace(this_boot=False, job=False) for part in one.parts)
    if world.api.power[host].device:
        world = world._replace(api=world.api.with_power(host, same_boot=False, known=False))
    world = with_host(world, host, on=False, promise=promise, parts=parts)
    stream = world.stream
    return _cut(world) if stream is not None and stream.source == host else world


def _cut(world: World) -> World:
    return world if world.stream is None else world._replace(stream=world.stream._replace(cut=True))


def _healing(world: World) -> Steps:
    for host in HOSTS:
        one = world.hosts[host]
        if not one.on:
            yield f"{NAMES[host]} boots", with_host(world, host, on=True, agent=True)
        elif not one.agent:
            yield f"{NAMES[host]}'s agent starts", with_host(world, host, agent=True)
        if not one.heard:
            yield f"the controllers reach {NAMES[host]}", with_host(world, host, heard=True)
    if not world.cable:
        yield "the replication link is back", storage.connect(world._replace(cable=True))
    elif world.link == "Lost":
        connected = storage.connect(world)
        if connected != world:
            yield "DRBD connects", connected
    if world.link == "Syncing":
        yield "DRBD has synchronised", storage.synchronised(world)
