"""What else may happen: messages on the wire, faults that strike and pass, what people do, what guests do."""

from __future__ import annotations

from collections.abc import Iterator

import agents
import controllers
import moves
import observe
import storage
from agents import No
from controllers import Outcome
from states import HOSTS, NAMES, Frozen, Key, Message, World, with_host

Steps = Iterator[tuple[str, World]]
WIRE = 3  # messages that are under way at the same time


def progress(world: World) -> Steps:
    """What happens by itself, and heals by itself: no fault and nobody's wish is needed."""
    yield from _deliveries(world)
    yield from _leader(world)
    yield from moves.steps(world)
    yield from moves.late(world, sure=True)
    for host in HOSTS:
        one = world.hosts[host]
        if one.on and one.agent:
            step = agents.work(world, host)
            if step is not None:
                yield step
            if one.role == "Unknown":
                yield f"{NAMES[host]}'s agent brings the volume up", storage.connect(storage.attach(world, host))
    yield from _healing(world)


def faults(world: World) -> Steps:
    """One unit of the budget each."""
    for message in dict.fromkeys(world.wire):
        after = _delivered(world, message)
        if after is not None:
            yield f"{_told(message)}; and once more, later", after
        yield f"lost: {_told(message)}", _taken(world, message)
    for host in HOSTS:
        one = world.hosts[host]
        if one.on:
            yield f"{NAMES[host]} loses power", _power_lost(world, host)
            if one.agent:
                yield f"{NAMES[host]}'s agent is killed", _agent_killed(world, host)
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
    if world.leader.term == 1:
        deposed = world._replace(leader=world.leader._replace(term=2, refused=()))
        yield "another controller leads", deposed
    if world.frozen is None:
        yield "a controller looks, and stands still", world._replace(frozen=_snapshot(world))


def edits(world: World) -> Steps:
    """What a person may do at any time."""
    api = world.api
    if api.exists and not api.deleting:
        other = 1 - api.node
        yield f"kubectl: spec.node is {NAMES[other]}", _edited(world, node=other)
        for state in ("Running", "Stopped", "Paused"):
            if state != api.state:
                yield f"kubectl: spec.state is {state}", _edited(world, state=state)
        yield "kubectl: delete", world._replace(api=api._replace(deleting=True))
    for host in HOSTS:
        if not world.hosts[host].on and not api.out_of_service[host]:
            said = tuple(True if one == host else api.out_of_service[one] for one in HOSTS)
            changed = api._replace(out_of_service=said)  # type: ignore[arg-type]
            yield f"kubectl: {NAMES[host]} is out of service", world._replace(api=changed)


def _edited(world: World, **spec: object) -> World:
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
            if message.term == world.leader.term and not message.mad:
                said = (message.host, message.key, no.reason)
                refusals = (*(one for one in refusals if one[:2] != said[:2]), said)
            leader = world.leader._replace(refused=refusals)
            yield f"{_told(message)}: refused, {no.reason}", left._replace(leader=leader)


def _send(world: World, term: int, requests: tuple[tuple[int, tuple[object, ...]], ...]) -> World:
    """On the wire, if the lane to that host is free."""
    mad = [one for one in world.wire if one.mad]
    wire = [one for one in world.wire if not one.mad]
    for message in controllers.messages(term, requests):
        about = message.key[0] == "volume"
        busy = any((one.host, one.term, one.key[0] == "volume") == (message.host, term, about) for one in wire)
        if not busy and len(wire) < WIRE:
            wire.append(message)
    return world._replace(wire=tuple(sorted(mad + wire, key=repr)))


# --- controllers ----------------------------------------------------------------------------------------------------


def _views(world: World) -> tuple[tuple[object, ...] | None, ...]:
    return tuple(observe.view_key(world, host) for host in HOSTS)


def _snapshot(world: World) -> Frozen:
    return Frozen(world.leader.term, world.api, _views(world), world.leader.refused)


def leader_looks(world: World) -> Outcome:
    return controllers.look_vm(world.api, _views(world), world.leader.term, world.leader.refused, world)


def _leader(world: World) -> Steps:
    views, term = _views(world), world.leader.term
    outcome = leader_looks(world)
    after = world._replace(leader=world.leader._replace(refused=()))
    if outcome.api is not None:
        after = after._replace(api=outcome.api)
    after = _send(after, term, outcome.requests)
    if after != world:
        yield f"the controller looks at the VM{_said(outcome)}", after
    requests = controllers.look_volume(world.api, views, term)
    if world.link == "StandAlone":
        requests = tuple(one for one in requests if _changes(world, term, *one))
    after = _send(world, term, requests)
    if after != world:
        yield "the controller looks at the volume", after
    if world.frozen is not None:
        yield from _thawed(world, world.frozen)


def _changes(world: World, term: int, host: int, key: Key) -> bool:
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
            after = after._replace(api=outcome.api)
        sent = _send(after, frozen.term, outcome.requests)
        if sent != after:
            yield f"the other controller goes on with the VM{_said(outcome)}", sent
    sent = _send(after, frozen.term, controllers.look_volume(frozen.api, frozen.views, frozen.term))
    if sent != after:
        yield "the other controller goes on with the volume", sent
    yield "the other controller goes away", after


def commits(world: World, frozen: Frozen, outcome: Outcome) -> bool:
    """Compare-and-swap; without a change nothing is compared."""
    return outcome.api is None or frozen.api == world.api


def _said(outcome: Outcome) -> str:
    asked = ", ".join(f"{NAMES[host]} {' '.join(str(word) for word in key)}" for host, key in outcome.requests)
    written = ""
    if outcome.api is not None:
        api = outcome.api
        where = f"{NAMES[api.placement.node]} epoch {api.placement.epoch}" if api.placement else "nowhere"
        move = f", move {api.move.id} {api.move.outcome or 'open'}" if api.move else ""
        written = f", writes {api.phase} on {where}{move}"
    return f"{written}{', asks ' + asked if asked else ''}"


# --- faults ---------------------------------------------------------------------------------------------------------


def _agent_killed(world: World, host: int) -> World:
    """kill -9: what was in memory only is gone; the stream that it carried to its receiver breaks."""
    parts = tuple(
        part._replace(
            cancelled=part.cancel_asked and part.outcome is None,
            told=False,
            phase="Received" if part.phase == "Owned" else part.phase,
        )
        for part in world.hosts[host].parts
    )
    world = with_host(world, host, agent=False, asked=False, parts=parts)
    stream = world.stream
    if stream is not None and stream.target == host and stream.stage != "over":
        world = world._replace(stream=stream._replace(cut=True, receiver=False))
    return world


def _power_lost(world: World, host: int) -> World:
    world = _agent_killed(storage.power_lost(world, host), host)
    one = world.hosts[host]
    promise = one.promise._replace(this_boot=False) if one.promise else None
    parts = tuple(part._replace(this_boot=False, job=False) for part in one.parts)
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
