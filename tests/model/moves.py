"""A move's two parts and the stream between them, step by step, as agent.migration.source and .target take them.

What the facts mean after a failure is judged by agent.migration.recovery; what may be handed over by agent.vm_disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import agents
import observe
import storage
import verdicts
from states import NAMES, Domain, Part, Promise, Stream, World, with_host, with_part

from agent import fence_records
from agent.migration.recovery import Arrived, Nothing, Over, Remove, Resume, RunsOn, Unclear, judge_source, judge_target
from agent.protocol import Refusal
from agent.vm_disks import against_hand_over

Steps = Iterator[tuple[str, World]]


def steps(world: World) -> Steps:
    """Everything that the agents and xl may do next for the moves that are open."""
    for host in (0, 1):
        one = world.hosts[host]
        if not (one.on and one.agent):
            continue
        for part in one.parts:
            if part.outcome is None:
                yield from _send(world, host, part) if part.kind == "send" else _receive(world, host, part)
    if world.stream is not None:
        yield from _stream(world, world.stream)


def late(world: World, *, sure: bool) -> Steps:
    """The target has waited too long for its source. `sure`: nobody comes any more; else the source is only slow."""
    for host in (0, 1):
        for part in world.hosts[host].parts:
            listens = (part.kind, part.outcome, part.phase) == ("receive", None, "Listening")
            if listens and sure == _nobody_comes(world, part):
                failed = _ended(world, host, part, "Failed", "SourceDidNotConnect")
                yield f"{NAMES[host]} (receives): waited too long", failed


def _nobody_comes(world: World, part: Part) -> bool:
    """Nobody has asked the source, or it has ended its part."""
    sending = agents.part_of(world.hosts[part.peer], part.id)
    asked = any(message.key[:2] == ("send", part.id) for message in world.wire)
    return not asked and (sending is None or sending.outcome is not None)


def _put(world: World, host: int, part: Part, **update: object) -> World:
    return with_part(world, host, part.id, part.kind, **update)


def _ended(world: World, host: int, part: Part, outcome: str, reason: str | None = None) -> World:
    stream = world.stream
    if part.kind == "send" and stream is not None and stream.id == part.id:
        world = world._replace(stream=None)
    return _put(world, host, part, outcome=outcome, reason=reason, cancelled=False, job=False, unclear=False)


def _mine(world: World, part: Part) -> Stream | None:
    return world.stream if world.stream is not None and world.stream.id == part.id else None


# --- the source -----------------------------------------------------------------------------------------------------


def _send(world: World, host: int, part: Part) -> Steps:
    one, stream, name = world.hosts[host], _mine(world, part), f"{NAMES[host]} (sends)"
    reported = stream is not None and stream.report == 0
    if part.released:
        yield from _let_go(world, host, part)
        return
    if agents.released(one, part):  # the journal has the release, the operation not yet
        yield f"{name}: HandOver", _put(world, host, part, phase="HandOver", released=True)
        return
    if reported:
        promise = one.promise
        assert promise is not None
        given = promise._replace(epoch=part.epoch + 1, granted=False, started=False, stopping=False, restarting=False)
        yield f"{name}: journals its release", with_host(world, host, promise=given)
        return
    if not part.this_boot:
        yield f"{name}: fails, rebooted", _ended(world, host, part, "Failed", "HostRebooted")
        return
    if part.phase == "Starting" and not part.job and stream is None:
        run = one.promise.run if one.promise else 1
        against = agents.against_move(world, host, part, run, own=part.id)
        if part.cancelled:
            yield f"{name}: cancelled", _ended(world, host, part, "Cancelled")
        elif against:
            yield f"{name}: fails, {against}", _ended(world, host, part, "Failed", against)
        else:
            begun = _put(world, host, part, job=True)
            yield (
                f"{name}: starts xl migrate",
                begun._replace(stream=Stream(part.id, host, part.peer, stage="connecting", receiver=False)),
            )
        return
    if stream is None or stream.cut or part.cancelled:
        yield from _take_back(world, host, part, stream)


def _take_back(world: World, host: int, part: Part, stream: Stream | None) -> Steps:
    """xl ended, or was ended, without a good report."""
    one, name = world.hosts[host], f"{NAMES[host]} (sends)"
    if stream is not None and not stream.cut and not part.unclear:
        if stream.go:
            return
        stream = stream._replace(cut=True)
        world = world._replace(stream=stream)
    decided = part.unclear and part.cancelled
    go, report = (stream.go, stream.report) if stream is not None else (False, None)
    verdict = judge_source(observe.domain_states(one.domains), go=go and not decided, report=report, node=NAMES[host])
    outcome = "Cancelled" if part.cancelled else "Failed"
    match verdict:
        case RunsOn():
            yield f"{name}: the guest goes on here", _ended(world, host, part, outcome, "TransferFailed")
        case Resume(copy):
            domains = list(one.domains)
            domains[copy.domid - 1] = domains[copy.domid - 1]._replace(kind="main", state="running", ran=True)
            resumed = storage.written(with_host(world, host, domains=tuple(domains)))
            yield f"{name}: resumes the guest", resumed
        case Unclear():
            if not part.unclear:
                unclear = _put(world, host, part, phase="HandOver", unclear=True, reason="HandOverUnclear")
                yield f"{name}: the hand-over is unclear", unclear
        case Over(why):
            yield f"{name}: the guest is gone", _ended(world, host, part, outcome, why.reason)


def _let_go(world: World, host: int, part: Part) -> Steps:
    """Demote, tell, see the domain gone: side by side, only forward."""
    one, name, stream = world.hosts[host], f"{NAMES[host]} (sends)", _mine(world, part)
    own = observe.domain_states(one.domains)
    xl_over = stream is None or stream.cut or stream.stage == "over"
    if part.phase == "HandOver":
        with suppress(storage.Refusal):
            yield f"{name}: demotes", _put(_demoted(world, host), host, part, phase="Demoted")
    for domain in own:
        if xl_over and domain.state == "suspended":
            yield f"{name}: destroys its old domain", agents.without(world, host, domain.domid)
    if not part.told:
        told = tell(world, host, part)
        if told is not None:
            yield f"{name}: tells {NAMES[part.peer]}", _put(told, host, part, told=True)
    if part.phase == "Demoted" and part.told and not own and xl_over:
        yield f"{name}: done", _ended(with_host(world, host, kept_role="Secondary"), host, part, "Succeeded")


def _demoted(world: World, host: int) -> World:
    """Of a host that came back from a power loss there may be nothing to demote."""
    return world if world.hosts[host].role == "Unknown" else storage.demote(world, host)


def tell(world: World, host: int, part: Part) -> World | None:
    """migration.target.Receive.released at the other agent; None: it does not hear."""
    other = world.hosts[part.peer]
    if not (other.on and other.agent and world.cable):
        return None
    receiving = agents.part_of(other, part.id)
    if receiving is None or receiving.kind != "receive" or receiving.outcome is not None or receiving.peer != host:
        return world
    if part.epoch + 1 < receiving.epoch or (receiving.phase == "Received" and receiving.cancel_asked):
        return world
    return _put(world, part.peer, receiving, released=True, alone=bool(observe.alone(world, host)))


# --- the target -----------------------------------------------------------------------------------------------------


def _receive(world: World, host: int, part: Part) -> Steps:
    name, stream, cancelled = f"{NAMES[host]} (receives)", _mine(world, part), part.cancelled or part.cancel_asked
    if not part.this_boot:
        yield f"{name}: fails, rebooted", _ended(world, host, part, "Failed", "HostRebooted")
    elif part.phase == "Listening":
        if cancelled:
            yield f"{name}: cancelled", _ended(world, host, part, "Cancelled")
        elif stream is not None and stream.stage == "connecting" and not stream.cut and world.cable:
            copy = Domain("incoming", "paused")
            begun = with_host(
                _put(world, host, part, phase="Receiving"), host, domains=(*world.hosts[host].domains, copy)
            )
            begun = _put(begun, stream.source, part._replace(kind="send"), phase="Precopy")
            yield f"{name}: the stream begins", begun._replace(stream=stream._replace(stage="precopy", receiver=True))
        elif stream is not None and stream.cut:
            yield f"{name}: nobody connected", _ended(world, host, part, "Failed", "SourceDidNotConnect")
    elif part.phase == "Receiving":
        if stream is not None and stream.receiver and (cancelled or stream.cut):
            yield f"{name}: ends the receiver", world._replace(stream=stream._replace(cut=True, receiver=False))
        elif stream is None or not stream.receiver:
            yield from _after_stream(world, host, part, cancelled=cancelled)
    else:
        yield from _finish(world, host, part, cancelled=cancelled)


def _after_stream(world: World, host: int, part: Part, *, cancelled: bool) -> Steps:
    name = f"{NAMES[host]} (receives)"
    verdict = judge_target(observe.domain_states(world.hosts[host].domains), node=NAMES[host])
    match verdict:
        case Arrived(copy) | Remove(copy):
            if isinstance(verdict, Arrived) and not (cancelled and part.phase == "Received"):
                arrived = _put(world, host, part, phase="Received", cancel_asked=False, cancelled=False)
                yield f"{name}: the copy is here, paused", arrived
            else:
                yield f"{name}: destroys the copy", agents.without(world, host, copy.domid)
        case Nothing():
            outcome, reason = ("Cancelled", None) if cancelled else ("Failed", "ReceiveFailed")
            yield f"{name}: nothing is here", _ended(world, host, part, outcome, reason)
        case _:
            yield f"{name}: {verdict.why.reason}", _ended(world, host, part, "Failed", verdict.why.reason)


def _finish(world: World, host: int, part: Part, *, cancelled: bool) -> Steps:
    one, name = world.hosts[host], f"{NAMES[host]} (receives)"
    main = next((number for number, one in enumerate(one.domains, 1) if one.kind == "main"), None)
    if part.phase == "Received":
        if cancelled:
            yield from _after_stream(world, host, part, cancelled=True)
        elif main is None:
            yield f"{name}: the copy is gone", _ended(world, host, part, "Failed", "DomainGone")
        elif may_take_over(world, host, part):
            promise = one.promise
            owned = Promise(
                "Running", part.epoch, part.epoch, True, promise.run if promise else 1, True, started=True, made=True
            )
            yield f"{name}: takes the VM over", with_host(_put(world, host, part, phase="Owned"), host, promise=owned)
    elif part.phase == "Owned":  # journalled, not yet told as a phase
        yield f"{name}: Promoting", _put(world, host, part, phase="Promoting")
    elif part.phase == "Promoting":
        yield from _promote(world, host, part)
    elif part.phase == "Attaching":
        if main is None:
            yield f"{name}: the copy is gone", _ended(world, host, part, "Failed", "DomainGone")
        elif not agents.usable(world, host):
            domains = list(one.domains)
            domains[main - 1] = domains[main - 1]._replace(attached=True)
            attached = with_host(world, host, domains=tuple(domains))
            yield f"{name}: attaches the disk", _put(attached, host, part, phase="Unpausing")
    elif part.phase == "Unpausing":
        if main is None:
            yield f"{name}: the copy is gone", _ended(world, host, part, "Failed", "DomainGone")
        else:
            running = with_host(agents.run(world, host, main), host, kept_role="Primary")
            yield f"{name}: unpauses the guest", _ended(running, host, part, "Succeeded")


def _promote(world: World, host: int, part: Part) -> Steps:
    """migration.target.Receive._promote: as often as it has to be tried."""
    name = f"{NAMES[host]} (receives)"
    if fence_records.promotable(verdicts.record(world.hosts[host].fence), NAMES[host], observe.RESOURCE) is not None:
        return
    with suppress(storage.Refusal):
        promoted = storage.promote(world, host)
        if promoted.hosts[host].role == "Primary":
            yield f"{name}: promotes", _put(promoted, host, part, phase="Attaching")
        elif promoted != world:
            yield f"{name}: its handler asks", promoted


def may_take_over(world: World, host: int, part: Part) -> bool:
    """migration.target.Receive._until_mine: the source's word, and this host's own DRBD."""
    return source_has_let_go(part) and not against_taking_over(world, host, part)


def source_has_let_go(part: Part) -> bool:
    return part.released


def against_taking_over(world: World, host: int, part: Part) -> list[Refusal]:
    seen = observe.kernel(observe.disk_of(world, host))
    alone = (observe.RESOURCE,) if part.alone else ()
    return against_hand_over(
        observe.CONFIG.disks, seen, NAMES[host], side="target", role="Secondary", peer_role="Secondary", alone=alone
    )


# --- xl and the relays ----------------------------------------------------------------------------------------------


def _stream(world: World, stream: Stream) -> Steps:
    """What passes between xl migrate and xl migrate-receive while nothing is cut."""
    if stream.cut:
        return
    source, target = world.hosts[stream.source], world.hosts[stream.target]
    receiving = agents.part_of(target, stream.id)
    if stream.stage == "connecting":
        if not (target.on and target.agent and receiving is not None and receiving.phase == "Listening"
                and receiving.outcome is None and not receiving.cancelled and not receiving.cancel_asked):  # fmt: skip
            yield "xl migrate: nobody listens", world._replace(stream=stream._replace(cut=True))
        return
    main = next((n for n, one in enumerate(source.domains) if one.kind in ("main", "migratedaway")), None)
    if main is None and stream.stage in ("precopy", "tail", "ready"):
        yield "xl migrate: the guest is gone", world._replace(stream=stream._replace(cut=True))
    elif stream.stage == "precopy":
        assert main is not None
        if source.domains[main].state in ("running", "paused"):
            yield "xl migrate: suspends the guest", _source(world, stream, main, "tail", state="suspended")
        else:
            yield "xl migrate: the guest ended", world._replace(stream=stream._replace(cut=True))
    elif stream.stage == "tail":
        assert main is not None
        yield "xl migrate: the receiver is ready", _source(world, stream, main, "ready", kind="migratedaway")
    elif stream.stage == "ready":
        yield (
            f"{NAMES[stream.source]}'s relay: records go",
            world._replace(stream=stream._replace(stage="go", go=True)),
        )
    elif stream.stage == "go":
        copy = next((n for n, one in enumerate(target.domains) if one.kind == "incoming"), None)
        if copy is not None:
            domains = list(target.domains)
            domains[copy] = domains[copy]._replace(kind="main")
            arrived = with_host(world, stream.target, domains=tuple(domains))
            done = stream._replace(stage="arrived", receiver=False)
            yield "xl migrate-receive: go, the copy has its name", arrived._replace(stream=done)
    elif stream.stage == "arrived":
        yield "the report passes", world._replace(stream=stream._replace(stage="reported", report=0))
    elif stream.stage == "reported":
        gone = tuple(one for one in source.domains if one.kind != "migratedaway")
        after = with_host(world, stream.source, domains=gone)
        yield "xl migrate: destroys the source's domain", after._replace(stream=stream._replace(stage="over"))


def _source(world: World, stream: Stream, index: int, stage: str, **update: object) -> World:
    domains = list(world.hosts[stream.source].domains)
    domains[index] = domains[index]._replace(**update)  # type: ignore[arg-type]
    changed = with_host(world, stream.source, domains=tuple(domains))
    part = agents.part_of(changed.hosts[stream.source], stream.id)
    if stage == "ready" and part is not None and part.outcome is None:
        changed = _put(changed, stream.source, part, phase="HandOver")
    return changed._replace(stream=stream._replace(stage=stage))
