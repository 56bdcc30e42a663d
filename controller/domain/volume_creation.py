"""Decisions about a DrbdVolume on its way from nothing to UpToDate/UpToDate: placed once, forced once, written once."""

from __future__ import annotations

from dataclasses import replace

from agent.protocol import OperationState, Refusal
from controller.api.drbdvolume import (
    ContentStatus,
    DeviceStatus,
    DrbdVolumeStatus,
    InitialSyncStatus,
    LogicalVolumeStatus,
)
from controller.domain.actions import FINALIZER, Decision, Event, PutVolume, refusal_of
from controller.domain.conditions import seconds
from controller.domain.engine import blocked, position, refusals
from controller.domain.placement import claimed_by_another, place_volume
from controller.domain.plans.create_volume import CREATE_VOLUME
from controller.domain.volume_case import OTHERS_PORTS, PORT_BASE, PORTS, VolumeCase, created, initial_sync_id
from controller.domain.volume_keeping import keep
from controller.domain.volume_report import Finalizer, operation_record, report
from controller.domain.volume_status import observed

WAITS = ("AgentUnreachable", "NodeNotFound", "VolumeGroupUnknown")
"""Reasons that pass without anybody touching the volume: in progress, not stalled."""

FIRST_RETRY, LAST_RETRY = 15.0, 600.0
"""Seconds before an operation that failed is asked for again: doubled each time."""


def create(case: VolumeCase) -> Decision:
    volume = case.volume
    finalizer: Finalizer = None if FINALIZER in volume.metadata.finalizers else "add"
    placed = _placed(case)
    if isinstance(placed, Refusal):
        return report(case, case.volume.status, stalled=placed, phase="Stalled", finalizer=finalizer)
    if placed != volume.status:
        case = case.planned(placed)
    why_not = refusals(CREATE_VOLUME, case)
    if why_not:
        # Not stalled: an agent that starts, or a node that is applied, lets it go on by itself.
        reason = blocked(CREATE_VOLUME.title, why_not, passing=WAITS)
        terminal = reason.reason not in WAITS
        return report(case, observed(case), stalled=reason if terminal else None, progress=reason, finalizer=finalizer)
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
    ports = set(objects.used_ports() | OTHERS_PORTS)
    if status.device and clashes:
        minors.add(status.device.minor)
        ports.add(status.device.port)
    for host in members:
        if host.node is not None:
            ports |= {host.node.spec.agent.port, host.node.spec.relocation.port}
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
    if not spec.port and (port in ports or port not in PORTS):
        free = next((p for p in PORTS if p not in ports), None)
        if free is None:
            return Refusal(reason="NoPortLeft", message=f"every port from {PORTS[0]} to {PORTS[-1]} is taken")
        port = free
    return DeviceStatus(minor=minor, port=port)


def _advance(case: VolumeCase, finalizer: Finalizer) -> Decision:
    """Run the plan: write the intents that its next step needs, then send its requests."""
    if case.volume.status.initial_sync is None:
        case = _found_again(case)
    at = position(CREATE_VOLUME, case)
    status, events = observed(case), []
    intent = status.initial_sync
    if intent is not None:
        intent = _told_to_start(case, intent)
        status = status.model_copy(update={"initial_sync": intent})
    elif not case.known or (at.step == "ForcePrimary" and case.fresh_everywhere() is None):
        # A new volume's first write holds what the later steps do; each is acted on only when its step and its proof
        # have come. Where an agent knows the volume already, its replicas first say what they are.
        status = status.model_copy(update=_intents(case, status))
    if at.step == "ForcePrimary":
        problem, status = _force_problem(case, status)
        if problem is not None:
            return report(case, status, stalled=problem, finalizer=finalizer)
    if at.step == "WriteContent":
        content = _content_intent(case)
        if isinstance(content, Refusal):
            return report(case, status, stalled=content, finalizer=finalizer)
        status = status.model_copy(update={"content": content})
    case = case.planned(status)
    at = position(CREATE_VOLUME, case)
    if intent and not intent.completed and at.step in ("Demote", None):
        status = status.model_copy(update={"initial_sync": intent.model_copy(update={"completed": True})})
        events.append(Event("Normal", "Synchronised", f"{' and '.join(case.nodes)} are UpToDate"))
        case = case.planned(status)
    if created(status, case.volume):
        decision = keep(case)
        return _with(decision, events, finalizer)
    no = refusal_of(at.requests, case.refused)
    progress = no or Refusal(reason=at.step or "Done", message=at.message)
    status = status.model_copy(
        update={"operation": operation_record(case, CREATE_VOLUME, at.step or "Done", at.message)}
    )
    phase = "Syncing" if at.step in ("Synchronise", "Demote") else "Creating"
    if at.step == "Synchronise" and case.before.phase != phase:
        events.append(Event("Normal", "SyncStarted", f"{case.first_source()} is the source of the first sync"))
    return report(
        case,
        status,
        stalled=no,
        progress=progress,
        phase=phase,
        requests=at.requests,
        events=tuple(events),
        finalizer=finalizer,
    )


def _intents(case: VolumeCase, status: DrbdVolumeStatus) -> dict[str, object]:
    """Which member is forced Primary and writes the content, by which operations."""
    sync = InitialSyncStatus(node=case.first_source(), operation=initial_sync_id(case.uid))
    if case.volume.spec.content is None or status.content is not None:
        return {"initial_sync": sync}
    return {"initial_sync": sync, "content": _first_content_intent(case)}


def _told_to_start(case: VolumeCase, intent: InitialSyncStatus) -> InitialSyncStatus:
    operation = case.operation(intent.operation)
    return intent.model_copy(update={"started_at": operation.started_at}) if operation else intent


def _found_again(case: VolumeCase) -> VolumeCase:
    """The status was lost (restored without it): a replica that was forced once says which was the source."""
    forced = [node for node in case.nodes if (view := case.view(node)) and view.forced]
    if len(forced) != 1 or not case.everywhere():
        return case
    intent = InitialSyncStatus(
        node=forced[0], operation=initial_sync_id(case.uid), completed=case.up_to_date(), started_at=None
    )
    return case.planned(case.volume.status.model_copy(update={"initial_sync": intent}))


def _force_problem(case: VolumeCase, status: DrbdVolumeStatus) -> tuple[Refusal | None, DrbdVolumeStatus]:
    """What a person must look at before the first sync, and the status with the id of the next attempt, if one is due.

    The node never changes; the agent itself refuses to force what was forced under another id.
    """
    intent = status.initial_sync
    done = case.operation(intent.operation) if intent else None
    if done is not None and done.outcome in (None, "Succeeded"):
        return None, status
    if intent is not None and done is None and any(view.forced for view in case.known):
        return None, status
    not_fresh = case.fresh_everywhere()
    if not_fresh is not None and not_fresh.reason == "NotFresh":
        return not_fresh, status
    if intent is None or done is None:
        return None, status
    attempt = _attempt(intent.operation, initial_sync_id(case.uid))
    if not _again(case, done, attempt):
        return done.refusal or Refusal(reason="ForceFailed", message="the first promotion failed"), status
    operation = f"{initial_sync_id(case.uid)}-{attempt + 1}"
    return None, status.model_copy(update={"initial_sync": intent.model_copy(update={"operation": operation})})


def _attempt(operation: str, stem: str) -> int:
    number = operation.removeprefix(stem).removeprefix("-")
    return int(number) if number.isdigit() else 1


def _again(case: VolumeCase, done: OperationState, attempt: int) -> bool:
    """Has an operation that failed waited long enough?"""
    pause = min(FIRST_RETRY * 2 ** min(attempt, 10), LAST_RETRY)
    return done.finished_at is None or case.world.now >= seconds(done.finished_at) + pause


def _first_content_intent(case: VolumeCase) -> ContentStatus:
    return ContentStatus(node=case.first_source(), operation=f"content-{case.uid[:36].lower()}-1")


def _content_intent(case: VolumeCase) -> ContentStatus | Refusal:
    """Who writes the content, by which operation; after a failure the next attempt has an id of its own."""
    old, node = case.volume.status.content, case.first_source()
    view = case.view(node)
    if view is not None and view.content == "written":
        base = old or ContentStatus(node=node)
        return base.model_copy(update={"state": "Written", "detail": view.content_detail})
    intent = old if old is not None and old.operation is not None else _first_content_intent(case)
    intent = intent.model_copy(update={"state": "Writing"})
    operation = intent.operation or ""
    done = case.operation(operation)
    if done is None or done.outcome is None or done.outcome == "Succeeded":
        return intent
    ended = done.refusal or Refusal(reason="ContentFailed", message="writing the content failed")
    stem, _, attempt = operation.rpartition("-")
    if not _again(case, done, int(attempt)):
        # spec.content is for a new volume only: what is wrong in it takes a new DrbdVolume
        message = f"{node}: {ended.message}. It is tried again; to change spec.content, delete this DrbdVolume and make"
        return Refusal(reason=ended.reason, message=f"{message} it anew")
    return intent.model_copy(update={"operation": f"{stem}-{int(attempt) + 1}"})


def _with(decision: Decision, events: list[Event], finalizer: Finalizer) -> Decision:
    return replace(decision, events=(*events, *decision.events), finalizer=finalizer or decision.finalizer)
