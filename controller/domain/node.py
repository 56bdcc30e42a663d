"""Decisions about a XenNode: tell its agent what the spec says, show what the agent says."""

from __future__ import annotations

from agent.protocol import HostDesired, HostFacts, HostState, Refusal, VolumeRemoval, VolumeState
from controller.api.common import bytes_quantity, mib_quantity
from controller.api.xennode import NodeMemory, NodeVolumeGroup, XenNode, XenNodeStatus
from controller.domain.actions import (
    FINALIZER,
    Decision,
    DeleteVolume,
    Event,
    PutHost,
    Refused,
    Request,
    due,
    refusal_of,
)
from controller.domain.conditions import Conditions
from controller.domain.fencing import decide_fencing
from controller.domain.node_report import drained, failover_ready, silence
from controller.domain.world import NO_ANSWER_YET, World

MEMORY_STEP_MIB = 64
"""Free memory is shown rounded down to this."""
FOREIGN_RECEIVER = "ForeignReceiver"
"""The condition, and the agent's reason for it."""
FACTS_SECONDS = 15.0
"""Facts that only moved wait so long: an agent reads memory and space every ten seconds, so that what a new VM or a
move changed on its host, at once and at that reading, is one write."""


def decide_node(world: World, node: XenNode, refused: tuple[Refused, ...] = ()) -> Decision:
    """The next step for one host. Total: every world has a decision."""
    if node.deleting:
        return _delete(world, node)
    view = world.objects.host(node.name)
    conditions = Conditions(node.status.conditions, node.metadata.generation, world.now)
    status = node.status
    events: list[Event] = []
    requests: tuple[Request, ...] = ()
    live = view.live
    if node.spec.out_of_service:
        conditions.set("Ready", "False", "OutOfService", "off, by a person's word; nothing is started here")
        phase = "OutOfService"
    elif view.error == NO_ANSWER_YET:
        conditions.unknown("Connecting", "the agent has not answered yet")
        phase = "NotReady"
    elif view.off:
        conditions.set("Ready", "False", "Fenced", "off: its fence agent switched it off and confirmed it")
        phase = "Fenced"
    elif live is None and node.status.fenced is not None and node.status.fenced.power_on is not None:
        conditions.unknown("SwitchedOn", "its fence agent switches it on again; its agent has not answered yet")
        phase = "NotReady"
    elif live is None:
        why = silence(world, view)
        conditions.unknown(why.reason, why.message)
        if conditions.changed("Ready"):
            events.append(Event("Warning", why.reason, why.message))
        phase = "NotReady"
    else:
        desired = _desired(world, node)
        if live.desired != desired:
            requests = (PutHost(node.name, desired),)
        phase = _show(node, live, conditions, refusal_of(requests, refused), events)
        requests = (*requests, *_unreserve(world, node, live))
    events += _foreign_receiver(live, conditions)
    drained(world, node, conditions)
    if conditions.changed("Drained") and (told := conditions.of("Drained")) is not None:
        events.append(Event("Normal", told.reason, told.message))
    watched = failover_ready(world, node, conditions)
    if conditions.changed("FailoverReady") and (told := conditions.of("FailoverReady")) is not None:
        events.append(Event("Normal" if told.status == "True" else "Warning", told.reason, told.message))
    if live is not None:
        status = _facts(world, node, live)
    fencing = decide_fencing(world, node, conditions)
    status = fencing.into(status)
    status = status.model_copy(
        update={
            "phase": phase,
            "observed_generation": node.metadata.generation,
            "conditions": tuple(conditions.result()),
        }
    )
    soon = 15.0 if requests or watched or node.spec.maintenance or live is None else None
    return Decision(
        status=status,
        finalizer=None if FINALIZER in node.metadata.finalizers else "add",
        events=(*events, *fencing.events),
        requests=due(requests, refused, world),
        power=tuple(fencing.power),
        lazy=FACTS_SECONDS if _essence(status) == _essence(node.status) else 0.0,
        look_again=min((one for one in (soon, fencing.look_again) if one is not None), default=None),
    )


def _show(node: XenNode, live: HostState, conditions: Conditions, no: Refusal | None, events: list[Event]) -> str:
    problems = [one for one in live.problems if one.reason != FOREIGN_RECEIVER]
    if no is None and problems:
        no = Refusal(reason=problems[0].reason, message="; ".join(p.message for p in problems))
    if no is None and live.node != node.name:
        no = Refusal(
            reason="WrongHost",
            message=f"the agent at {node.spec.agent.address} is that of {live.node}; correct spec.agent or the name",
        )
    missing = _missing_groups(node, live.facts)
    if no is None and missing:
        no = Refusal(
            reason="VolumeGroupNotFound",
            message=f"spec.volumeGroups names {', '.join(missing)}, which the host does not have",
        )
    if no is None:
        no = _not_listening(node, live)
    if no is not None:
        conditions.stalled(no.reason, no.message)
        if conditions.changed("Stalled"):
            events.append(Event("Warning", no.reason, no.message))
        return "NotReady"
    conditions.ready("AgentAnswers", f"xentandem-agent {live.agent_version}")
    if conditions.changed("Ready"):
        events.append(Event("Normal", "AgentAnswers", f"xentandem-agent {live.agent_version} answers"))
    if node.spec.maintenance:
        return "Maintenance"
    return "Ready" if node.spec.schedulable else "Cordoned"


def _foreign_receiver(live: HostState | None, conditions: Conditions) -> list[Event]:
    """A migration that somebody makes by hand ends there: the host is well, and takes no other meanwhile."""
    if live is None:
        conditions.keep(FOREIGN_RECEIVER)
        return []
    told = next((one for one in live.problems if one.reason == FOREIGN_RECEIVER), None)
    if told is None:
        return []
    conditions.set(FOREIGN_RECEIVER, "True", told.reason, told.message)
    return [Event("Warning", told.reason, told.message)] if conditions.changed(FOREIGN_RECEIVER) else []


def _not_listening(node: XenNode, live: HostState) -> Refusal | None:
    spec, told = node.spec.relocation, live.desired
    if not spec.enabled or live.facts.relocation_listening or told is None:
        return None
    if (told.relocation_enabled, told.relocation_address, told.relocation_port) != (True, spec.address, spec.port):
        return None  # it does not know yet
    return Refusal(
        reason="RelocationNotListening",
        message=f"the agent cannot listen on {spec.address or '*'}:{spec.port} for VMs that move here (its log says"
        " why); correct spec.relocation, or free the port",
    )


def _missing_groups(node: XenNode, facts: HostFacts) -> list[str]:
    if facts.volume_groups is None:
        return []
    there = {group.name for group in facts.volume_groups}
    return [name for name in node.spec.volume_groups if name not in there]


def _desired(world: World, node: XenNode) -> HostDesired:
    spec = node.spec
    return HostDesired(
        term=world.term,
        volume_groups=spec.volume_groups,
        replication_address=spec.replication.address,
        relocation_enabled=spec.relocation.enabled,
        relocation_address=spec.relocation.address,
        relocation_port=spec.relocation.port,
        relocation_allow_from=spec.relocation.allow_from,
    )


def _unreserve(world: World, node: XenNode, live: HostState) -> tuple[DeleteVolume, ...]:
    """Names kept here for a volume that is no more: a request was under way when its object went.

    Only where nothing was made for it; the agent looks again itself. Should the object be there after all, its names
    are reserved anew.
    """
    return tuple(
        DeleteVolume(node.name, view.resource, VolumeRemoval(term=world.term, uid=view.uid, policy="Unreserve"))
        for view in live.volumes.values()
        if view.uid is not None
        and (view.logical_volume, view.metadata, view.configured, view.forced) == (None, "none", False, False)
        and not _is_there(world, view)
    )


def _is_there(world: World, view: VolumeState) -> bool:
    volume = world.objects.volume((view.namespace or "", view.name or ""))
    return volume is not None and volume.metadata.uid == view.uid


def _facts(world: World, node: XenNode, live: HostState) -> XenNodeStatus:
    facts = live.facts
    memory = None
    if facts.memory_total_mib is not None and facts.memory_free_mib is not None:
        free = facts.memory_free_mib // MEMORY_STEP_MIB * MEMORY_STEP_MIB
        memory = NodeMemory(total=mib_quantity(facts.memory_total_mib), free=mib_quantity(free))
    groups = tuple(
        NodeVolumeGroup(name=g.name, size=bytes_quantity(g.size), free=bytes_quantity(g.free))
        for g in facts.volume_groups or ()
        if g.name in node.spec.volume_groups
    )
    return node.status.model_copy(
        update={
            "boot_id": live.boot_id,
            "agent_version": live.agent_version,
            "xen_version": facts.xen_version,
            "drbd_version": facts.drbd_version,
            "cpus": facts.cpus,
            "memory": memory,
            "volume_groups": groups,
            "domains": sum(1 for vm in live.vms.values() if vm.status in ("running", "paused")),
        }
    )


def _essence(status: XenNodeStatus) -> object:
    truths = tuple((c.type, c.status, c.reason, c.observed_generation) for c in status.conditions)
    fencing = status.fencing, status.fenced, status.fencing_device
    return status.observed_generation, status.phase, status.boot_id, truths, fencing


def _delete(world: World, node: XenNode) -> Decision:
    """A host with VMs, also one that moves there, or with replicas is not forgotten: nobody could say any more what
    runs there."""
    if FINALIZER not in node.metadata.finalizers:
        return Decision()
    vms = [vm.metadata.name for vm in world.objects.vms_on(node.name)]
    volumes = [volume.metadata.name for volume in world.objects.volumes_on(node.name)]
    if not vms and not volumes:
        return Decision(finalizer="remove")
    held = "; ".join(
        f"{kind} {', '.join(sorted(names)[:5])}{' ...' if len(names) > 5 else ''}"
        for kind, names in (("XenVM", vms), ("DrbdVolume", volumes))
        if names
    )
    conditions = Conditions(node.status.conditions, node.metadata.generation, world.now)
    conditions.stalled("InUse", f"still here: {held}; move or delete them first")
    told = Event("Warning", "InUse", f"deleting is blocked: still here: {held}")
    status = node.status.model_copy(
        update={
            "phase": "Deleting",
            "observed_generation": node.metadata.generation,
            "conditions": tuple(conditions.result()),
        }
    )
    return Decision(status=status, events=(told,) if conditions.changed("Stalled") else (), look_again=15.0)
