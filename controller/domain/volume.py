"""Decisions about a DrbdVolume: place it, create it once, keep it as it shall be, give it up."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from agent.protocol import Refusal
from controller.api.common import OperationRecord
from controller.api.drbdvolume import (
    ContentStatus,
    DeviceStatus,
    DrbdVolume,
    DrbdVolumeStatus,
    InitialSyncStatus,
    LogicalVolumeStatus,
)
from controller.domain.actions import (
    FINALIZER,
    LAZY_SECONDS,
    REFUSED_SECONDS,
    Decision,
    Event,
    PutVolume,
    Refused,
    Request,
    due,
    refusal_of,
)
from controller.domain.conditions import Conditions, seconds, timestamp
from controller.domain.engine import Plan, blocked, position, refusals
from controller.domain.placement import claimed_by_another, place_volume
from controller.domain.plans.create_volume import CREATE_VOLUME
from controller.domain.plans.delete_volume import DELETE_VOLUME
from controller.domain.volume_case import PORT_BASE, VolumeCase, initial_sync_id
from controller.domain.volume_status import COPYING, observed
from controller.domain.world import World

RETRY_SECONDS = 15.0
"""A blocked operation is looked at again after this, though nothing told of a change."""


def decide_volume(world: World, volume: DrbdVolume, refused: tuple[Refused, ...] = ()) -> Decision:
    """The next step for one volume. Total: every world has a decision."""
    case = VolumeCase(world, volume, refused)
    if volume.deleting:
        return _delete(case)
    if _created(volume.status, volume):
        return _keep(case)
    return _create(case)


def _created(status: DrbdVolumeStatus, volume: DrbdVolume) -> bool:
    content_done = volume.spec.content is None or (status.content is not None and status.content.state == "Written")
    return status.initial_sync is not None and status.initial_sync.completed and content_done


# --- creation -----------------------------------------------------------------------------------------------------


def _create(case: VolumeCase) -> Decision:
    volume = case.volume
    finalizer: Literal["add"] | None = None if FINALIZER in volume.metadata.finalizers else "add"
    placed = _placed(case)
    if isinstance(placed, Refusal):
        return _report(case, case.volume.status, stalled=placed, phase="Stalled", finalizer=finalizer)
    if placed != volume.status:
        case = case.planned(placed)
    why_not = refusals(CREATE_VOLUME, case)
    if why_not:
        # Not stalled: an agent that starts, or a node that is applied, lets it go on by itself.
        reason = blocked(CREATE_VOLUME.title, why_not)
        terminal = reason.reason not in ("AgentUnreachable", "NodeNotFound", "VolumeGroupUnknown")
        return _report(case, observed(case), stalled=reason if terminal else None, progress=reason, finalizer=finalizer)
    return _advance(case, finalizer)


def _placed(case: VolumeCase) -> DrbdVolumeStatus | Refusal:
    """Status with members and device decided, or why they cannot be."""
    status, spec = case.volume.status, case.volume.spec
    taken = claimed_by_another(case)
    if taken is not None:
        return taken
    if not status.nodes:
        nodes = spec.nodes or place_volume(case.world, case.volume)
        if isinstance(nodes, Refusal):
            return nodes
        status = status.model_copy(update={"nodes": nodes})
    device = _device(case, status)
    if isinstance(device, Refusal):
        return device
    return status.model_copy(
        update={
            "device": device,
            "resource": case.resource,
            "logical_volume": LogicalVolumeStatus(
                group=spec.logical_volume.group, name=case.volume.logical_volume_name
            ),
        }
    )


def _device(case: VolumeCase, status: DrbdVolumeStatus) -> DeviceStatus | Refusal:
    """Minor and port: declared, decided before, or the lowest that nothing here or on the members has.

    Two controllers may choose the same; each member's agent gives it to one of them only, and the other one, which
    made nothing yet, chooses again.
    """
    objects, spec = case.world.objects, case.volume.spec.device
    members = [objects.host(name) for name in status.nodes]
    clashes = [
        r for r in case.refused if isinstance(r.request, PutVolume) and r.refusal.reason in ("MinorTaken", "PortTaken")
    ]
    nothing_made = all(v.logical_volume is None for v in case.known)
    if status.device and not (clashes and nothing_made and None in (spec.minor, spec.port)):
        if clashes:
            return clashes[0].refusal
        return status.device
    minors = set(objects.used_minors())
    ports = set(objects.used_ports())
    if status.device and clashes:
        minors.add(status.device.minor)
        ports.add(status.device.port)
    for host in members:
        live = host.live
        for view in live.volumes.values() if live else ():
            if view.uid != case.uid:
                minors.add(-1 if view.minor is None else view.minor)
                ports.add(-1 if view.port is None else view.port)
    if spec.minor is not None:
        minor = spec.minor
    else:
        minor = next(m for m in range(1, 1 << 20) if m not in minors and (spec.port or PORT_BASE + m not in ports))
    port = spec.port or PORT_BASE + minor
    if not spec.port and port in ports:
        port = next(p for p in range(PORT_BASE + 1, 1 << 16) if p not in ports)
    return DeviceStatus(minor=minor, port=port)


def _advance(case: VolumeCase, finalizer: Literal["add", "remove"] | None) -> Decision:
    """Run the plan: write the intents that its next step needs, then send its requests."""
    at = position(CREATE_VOLUME, case)
    status, events = observed(case), []
    intent = status.initial_sync
    if at.step == "ForcePrimary" and intent is None and case.fresh_everywhere() is None:
        status = status.model_copy(update={"initial_sync": _sync_intent(case)})
        if case.volume.spec.content is not None and status.content is None:
            # The next step's intent in the same write; it is acted on only when that step has come.
            status = status.model_copy(update={"content": _first_content_intent(case)})
        events.append(Event("Normal", "SyncStarted", f"{case.first_source()} is the source of the first sync"))
    if at.step == "WriteContent":
        content = _content_intent(case)
        if isinstance(content, Refusal):
            return _report(case, status, stalled=content, finalizer=finalizer)
        status = status.model_copy(update={"content": content})
    if intent and not intent.completed and at.step in ("Demote", None):
        status = status.model_copy(update={"initial_sync": intent.model_copy(update={"completed": True})})
        events.append(Event("Normal", "Synchronised", f"{' and '.join(case.nodes)} are UpToDate"))
    case = case.planned(status)
    if _created(status, case.volume):
        decision = _keep(case)
        return _with(decision, events, finalizer)
    at = position(CREATE_VOLUME, case)
    no = refusal_of(at.requests, case.refused)
    progress = no or Refusal(reason=at.step or "Done", message=at.message)
    status = status.model_copy(update={"operation": _operation(case, CREATE_VOLUME, at.step or "Done", at.message)})
    return _report(
        case,
        status,
        stalled=no,
        progress=progress,
        phase="Syncing" if at.step in ("Synchronise", "Demote") else "Creating",
        requests=at.requests,
        events=tuple(events),
        finalizer=finalizer,
    )


def _sync_intent(case: VolumeCase) -> InitialSyncStatus:
    return InitialSyncStatus(
        node=case.first_source(), operation=initial_sync_id(case.uid), started_at=timestamp(case.world.now)
    )


def _first_content_intent(case: VolumeCase) -> ContentStatus:
    return ContentStatus(state="Writing", node=case.first_source(), operation=f"content-{case.uid[:36].lower()}-1")


def _content_intent(case: VolumeCase) -> ContentStatus | Refusal:
    """Who writes the content, by which operation; after a failure the next attempt has an id of its own."""
    old, node = case.volume.status.content, case.first_source()
    view = case.view(node)
    if view is not None and view.content == "written":
        base = old or ContentStatus(node=node)
        return base.model_copy(update={"state": "Written", "detail": view.content_detail})
    if old is None or old.operation is None:
        return _first_content_intent(case)
    done = case.operation(old.operation)
    if done is None or done.outcome is None or done.outcome == "Succeeded":
        return old
    ended = done.refusal or Refusal(reason="ContentFailed", message="writing the content failed")
    stem, _, attempt = old.operation.rpartition("-")
    due = done.finished_at is None or case.world.now >= seconds(done.finished_at) + min(15 * 2 ** int(attempt), 600)
    if not due:
        return ended
    return old.model_copy(update={"operation": f"{stem}-{int(attempt) + 1}"})


# --- steady state -------------------------------------------------------------------------------------------------


def _keep(case: VolumeCase) -> Decision:
    """Created: keep both members up, Secondary where nobody needs it; report what is not as it should be."""
    status = observed(case).model_copy(update={"operation": None})
    conditions = _conditions(case)
    requests: list[Request] = []
    migrating = case.busy_with_migration()
    for host in case.hosts:
        view = case.view(host.name)
        if host.live is None or view is None or not case.describable():
            continue
        needless = view.role == "Primary" and host.name != case.wanted_primary() and not view.used_by
        if not view.configured or (needless and not migrating):
            requests.append(case.put(host.name))
        elif (
            not migrating
            and view.options
            and view.options != (wish := case.desired(host.name, "Up", view.role)).options
        ):
            requests.append(PutVolume(host.name, wish))
    trouble = _trouble(case)
    phase = "Ready"
    if trouble is None:
        where = f"Primary on {status.primary}" if status.primary else "Secondary on both"
        conditions.ready("UpToDate", f"{status.disk_state}, {where}")
    else:
        usable = any(view.disk == "UpToDate" for view in case.known)
        conditions.set("Degraded", "True", trouble.reason, trouble.message)
        if usable:
            conditions.ready("Degraded", trouble.message)
        elif case.known:
            conditions.stalled(trouble.reason, trouble.message)
        else:
            conditions.unknown(trouble.reason, trouble.message)
        phase = "Syncing" if status.sync else "Degraded"
    events: list[Event] = []
    was_degraded = any(c.type == "Degraded" and c.status == "True" for c in case.before.conditions)
    if trouble and not was_degraded:
        events.append(Event("Warning", trouble.reason, trouble.message))
    if not trouble and was_degraded:
        events.append(Event("Normal", "Redundant", f"{' and '.join(case.nodes)} are UpToDate again"))
    status = status.model_copy(update={"phase": phase})
    finalizer: Literal["add"] | None = None if FINALIZER in case.volume.metadata.finalizers else "add"
    return _decision(case, status, conditions, tuple(requests), tuple(events), finalizer, bool(trouble))


def _trouble(case: VolumeCase) -> Refusal | None:
    """Why the volume is not redundant now, worst first; None when it is UpToDate/UpToDate."""
    if not case.known:
        return Refusal(
            reason="AgentUnreachable",
            message="no member's agent answers: " + "; ".join(f"{h.name}: {h.error}" for h in case.silent),
        )
    for host in case.hosts:
        if host.node is None:
            return Refusal(reason="NodeNotFound", message=f"there is no XenNode {host.name}; apply it again")
        if host.live is not None and case.view(host.name) is None:
            return Refusal(
                reason="ReplicaMissing", message=f"{host.name} no longer has the replica; nothing was made anew"
            )
    for node in case.nodes:
        view = case.view(node)
        if view is None:
            continue
        peer = view.peer
        if view.suspended != "no":
            return Refusal(reason="Suspended", message=f"IO on {node} is frozen ({view.suspended})")
        if peer is not None and peer.connection == "StandAlone":
            return Refusal(
                reason="StandAlone",
                message=f"{node} dropped the connection (split brain, or a refused handshake: see dmesg there)",
            )
        if peer is None or peer.connection != "Connected":
            how = peer.connection if peer else "not configured"
            return Refusal(
                reason="Disconnected", message=f"{node} is not connected to its peer ({how}); disk:{view.disk}"
            )
        if peer.replication in COPYING:
            return Refusal(
                reason="Resynchronising", message=f"{node}: {peer.replication}, disk:{view.disk}/{peer.disk}"
            )
    if not case.up_to_date():
        return Refusal(reason="NotUpToDate", message=f"disk states are {observed(case).disk_state}")
    return None


# --- deletion -----------------------------------------------------------------------------------------------------


def _delete(case: VolumeCase) -> Decision:
    if FINALIZER not in case.volume.metadata.finalizers:
        return Decision()
    why_not = refusals(DELETE_VOLUME, case)
    if why_not:
        reason = blocked(DELETE_VOLUME.title, why_not)
        return _report(case, observed(case), stalled=reason, phase="Deleting")
    at = position(DELETE_VOLUME, case)
    if at.step is None:
        return Decision(finalizer="remove")
    no = refusal_of(at.requests, case.refused)
    status = observed(case).model_copy(update={"operation": _operation(case, DELETE_VOLUME, at.step, at.message)})
    progress = no or Refusal(reason=at.step, message=at.message)
    return _report(case, status, stalled=no, progress=progress, phase="Deleting", requests=at.requests)


# --- reporting ----------------------------------------------------------------------------------------------------


def _operation(case: VolumeCase, plan: Plan[VolumeCase], step: str, message: str) -> OperationRecord:
    old = case.before.operation
    same = old is not None and old.plan == plan.id
    return OperationRecord(
        id=old.id if same and old else f"{plan.id.split('/')[0].replace('.', '-')}-{case.uid[:8].lower()}",
        plan=plan.id,
        step=step,
        started_at=old.started_at if same and old else timestamp(case.world.now),
        # A sync's percentage is in status.sync, quantised; here it would cost a write each time.
        message=message.partition(":")[0] if step == "Synchronise" else message,
    )


def _conditions(case: VolumeCase) -> Conditions:
    return Conditions(case.before.conditions, case.volume.metadata.generation, case.world.now)


def _report(
    case: VolumeCase,
    status: DrbdVolumeStatus,
    *,
    stalled: Refusal | None = None,
    progress: Refusal | None = None,
    phase: str | None = None,
    requests: tuple[Request, ...] = (),
    events: tuple[Event, ...] = (),
    finalizer: Literal["add", "remove"] | None = None,
) -> Decision:
    conditions = _conditions(case)
    if stalled is not None:
        conditions.stalled(stalled.reason, stalled.message)
        if conditions.changed("Stalled"):
            events = (*events, Event("Warning", stalled.reason, stalled.message))
    elif progress is not None:
        message = progress.message.partition(":")[0] if progress.reason == "Synchronise" else progress.message
        conditions.progressing(progress.reason, message)
    if phase is None:
        phase = "Stalled" if stalled else "Pending"
    status = status.model_copy(update={"phase": phase})
    return _decision(case, status, conditions, requests, events, finalizer, waiting=True)


def _decision(
    case: VolumeCase,
    status: DrbdVolumeStatus,
    conditions: Conditions,
    requests: tuple[Request, ...],
    events: tuple[Event, ...],
    finalizer: Literal["add", "remove"] | None,
    waiting: bool,
) -> Decision:
    status = status.model_copy(
        update={"observed_generation": case.volume.metadata.generation, "conditions": tuple(conditions.result())}
    )
    return Decision(
        status=status,
        finalizer=finalizer,
        events=events,
        lazy=LAZY_SECONDS if _essence(status) == _essence(case.before) else 0.0,
        requests=due(requests, case.refused, case.world),
        look_again=(REFUSED_SECONDS if case.refused else RETRY_SECONDS) if waiting else None,
    )


def _essence(status: DrbdVolumeStatus) -> object:
    """What may never wait to be written: intents, and what is true of the whole. The rest is for people."""
    truths = tuple((c.type, c.status, c.observed_generation) for c in status.conditions)
    return (
        status.nodes,
        status.device,
        status.logical_volume,
        status.initial_sync,
        status.content,
        status.observed_generation,
        truths,
    )


def _with(decision: Decision, events: list[Event], finalizer: Literal["add", "remove"] | None) -> Decision:
    return replace(decision, events=(*events, *decision.events), finalizer=finalizer or decision.finalizer)
