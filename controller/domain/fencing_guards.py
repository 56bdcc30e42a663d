"""When a host may be switched off by its fence agent. Silence is a reason to ask, never evidence that it is off.

The guards are for the guests: a host that lives, or that only this controller cannot see, is not switched off. What
keeps data safe is not here but in what follows from a fencing: only its confirmation is evidence (HostView.off).
"""

from __future__ import annotations

from collections.abc import Callable

from agent.protocol import Refusal
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.conditions import seconds
from controller.domain.vm_case import ended_for_good
from controller.domain.world import HostView, World

FENCINGS_AN_HOUR = 3
"""Of all hosts together: more at once look like a fault of the network or of ours."""
HOUR = 3600.0
LOST = frozenset({"Unconnected", "Timeout", "BrokenPipe", "NetworkFailure", "ProtocolError", "TearDown", "Connecting"})
"""A replica in one of these looks for its peer and does not find it. StandAlone does not look, so that it proves
nothing."""

PASSING = frozenset({"Silent", "NobodyElseAnswers", "MostAreSilent", "NoWitness", "PartnerIsFenced"})
"""Refusals that may end without anything happening to the host: a fencing that was begun waits for them. The others
end it."""


def why_not(world: World, node: XenNode) -> Refusal | None:
    """The first guard that forbids to switch the host off; None: it may be. A fencing that is on its way meets the same
    guards at each attempt, but for the limit, which it has passed."""
    begun = node.status.fencing is not None
    guards = [*GUARDS] if begun else [*GUARDS, _limit]
    return next((no for guard in guards if (no := guard(world, node))), None)


def should_fence(world: World, node: XenNode) -> bool:
    return why_not(world, node) is None


def to_save(world: World, name: str) -> list[XenVM]:
    """VMs that run or shall run, are placed on the host, and may be started elsewhere when it is off."""
    return [
        vm
        for vm in world.objects.vms_on(name)
        if vm.status.placement is not None
        and vm.status.placement.node == name
        and vm.spec.on_node_failure == "FailOver"
        and vm.spec.state != "Stopped"
        and not (vm.deleting or ended_for_good(vm))
    ]


def partners(world: World, name: str) -> tuple[str, ...]:
    """Hosts that hold the other replica of a volume that the host has."""
    found = {node for volume in world.objects.volumes_on(name) for node in volume.status.nodes}
    return tuple(sorted(found - {name}))


def boot_of(view: HostView) -> str:
    """The host's last known boot; empty: none was ever seen."""
    if view.state is not None:
        return view.state.boot_id
    return (view.node.status.boot_id or "") if view.node else ""


# --- guards ---------------------------------------------------------------------------------------------------------


def _wanted(world: World, node: XenNode) -> Refusal | None:
    if world.objects.host(node.name).live is not None:
        return Refusal(reason="AgentAnswers", message="its agent answers")
    if node.deleting or node.spec.out_of_service or node.spec.maintenance:
        return Refusal(reason="TakenOut", message="a person has taken it out: it is in maintenance, off, or deleted")
    if not to_save(world, node.name):
        return Refusal(reason="NothingToSave", message="no VM that runs here has onNodeFailure: FailOver")
    return None


def _configured(world: World, node: XenNode) -> Refusal | None:
    if node.spec.fencing is None:
        return Refusal(
            reason="NotConfigured",
            message="it has no spec.fencing. If it is off, set outOfService: true, and its VMs are started elsewhere",
        )
    fenced = node.status.fenced
    if fenced is not None and fenced.contradicted_at is not None:
        return Refusal(
            reason="FencedButAlive",
            message=f"{node.spec.fencing.agent} said before that it had switched the host off, and it was not so",
        )
    if node.status.fencing_device != node.spec.fencing.device:
        return Refusal(
            reason="NotTested",
            message=f'{node.spec.fencing.agent} never said "on" while the agent here answered, so that nothing shows '
            "that spec.fencing is about this host. If it is off, set outOfService: true",
        )
    if not boot_of(world.objects.host(node.name)):
        return Refusal(
            reason="BootUnknown", message="no boot of it was ever seen: nobody could tell whether it came back"
        )
    return None


def _silent(world: World, node: XenNode) -> Refusal | None:
    """Counted from this controller's start at the earliest: one that has just begun to listen fences nobody."""
    after = node.spec.fencing.after_seconds if node.spec.fencing else 0
    if world.objects.silent(node.name) < after:
        return Refusal(reason="Silent", message=f"its agent is silent; it may be switched off after {after} s")
    return None


def _others_answer(world: World, node: XenNode) -> Refusal | None:
    """Whoever hears nobody is probably cut off himself."""
    others = [host for name, host in world.objects.hosts().items() if name != node.name and not host.off]
    answering = sum(host.live is not None for host in others)
    if not answering:
        return Refusal(
            reason="NobodyElseAnswers",
            message="no other host's agent answers: it may be the controller that is cut off",
        )
    if 1 + len(others) - answering > answering:
        return Refusal(
            reason="MostAreSilent",
            message=f"{1 + len(others) - answering} hosts are silent and {answering} answer: it may be the controller "
            "that is cut off",
        )
    return None


def _witnesses(world: World, node: XenNode) -> Refusal | None:
    """The hosts that replicate with it must miss it too."""
    lost = shared = False
    for volume in world.objects.volumes_on(node.name):
        for name in volume.status.nodes:
            if name == node.name:
                continue
            shared = True
            live = world.objects.host(name).live
            seen = live.volumes.get(volume.status.resource or volume.resource) if live else None
            if seen is None or seen.peer is None:
                continue
            if seen.peer.connection == "Connected":
                return Refusal(
                    reason="AgentDown",
                    message=f"the host lives: DRBD on {name} is connected with it ({volume.name}). What is silent is "
                    "its agent: look at xentandem-agent there. Its VMs run on",
                )
            lost = lost or seen.peer.connection in LOST
    if shared and not lost:
        return Refusal(
            reason="NoWitness", message="no host that replicates with it can say whether DRBD there still answers"
        )
    return None


def _partner(world: World, node: XenNode) -> Refusal | None:
    """Never both hosts of a pair."""
    for name in partners(world, node.name):
        other = world.objects.host(name).node
        if other is not None and (other.status.fencing is not None or other.status.fenced is not None):
            return Refusal(
                reason="PartnerIsFenced",
                message=f"{name}, which holds the other replica of its volumes, is fenced: never both",
            )
    return None


def _limit(world: World, node: XenNode) -> Refusal | None:
    begun = [
        time
        for host in world.objects.hosts().values()
        if host.node is not None
        for time in host.node.status.fencings
        if world.now - seconds(time) < HOUR
    ]
    if len(begun) >= FENCINGS_AN_HOUR:
        return Refusal(
            reason="TooMany",
            message=f"{len(begun)} fencings within an hour: no more than {FENCINGS_AN_HOUR}. If the host is off, set "
            "outOfService: true",
        )
    return None


GUARDS: tuple[Callable[[World, XenNode], Refusal | None], ...] = (
    _wanted, _configured, _silent, _others_answer, _witnesses, _partner,
)  # fmt: skip
