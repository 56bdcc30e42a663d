"""Decisions about a DrbdVolume that was created: both members up, Secondary where nobody needs it, its trouble told."""

from __future__ import annotations

from agent.protocol import Refusal, VolumeState
from controller.domain.actions import FINALIZER, Decision, Event, PutVolume, refusal_of
from controller.domain.conditions import Conditions
from controller.domain.split_brain import SplitBrain
from controller.domain.verdict import Fencing
from controller.domain.volume_case import VolumeCase
from controller.domain.volume_report import Finalizer, conditions_of, decided
from controller.domain.volume_status import COPYING, observed
from controller.domain.world import HostView

TWO_PRIMARIES = "TwoPrimariesAllowed"
"""The condition, and the agents' reason for it."""


def keep(case: VolumeCase) -> Decision:
    """Created: keep both members up, Secondary where nobody needs it; report what is not as it should be."""
    split = SplitBrain(case)
    status = observed(case).model_copy(update={"operation": None, "split_brain": split.record})
    conditions = conditions_of(case)
    puts = tuple(put for host in case.hosts if (put := _due(case, host, meet=split.may_meet)) is not None)
    requests = (*puts, *split.requests())
    no = refusal_of(puts, case.refused)
    trouble = _trouble(case, split, no)
    phase = "Ready"
    if trouble is None:
        where = f"Primary on {status.primary}" if status.primary else "Secondary on both"
        conditions.ready("UpToDate", f"{status.disk_state}, {where}")
    else:
        usable = any(view.disk == "UpToDate" for view in case.known)
        conditions.set("Degraded", "True", trouble.reason, trouble.message)
        if trouble.reason == "ReplicaMissing" or (trouble.reason == "Adopting" and no is not None):
            conditions.stalled(trouble.reason, trouble.message)
        elif trouble.reason == "Adopting" or (trouble.reason == "Suspended" and not _refused(case)):
            conditions.progressing(trouble.reason, trouble.message)
        elif trouble.reason == "Suspended":
            conditions.stalled(trouble.reason, trouble.message)
        elif usable:
            conditions.ready("Degraded", trouble.message)
        elif case.known:
            conditions.stalled(trouble.reason, trouble.message)
        else:
            conditions.unknown(trouble.reason, trouble.message)
        phase = "Syncing" if status.sync else "Degraded"
    if no is not None:
        conditions.set("Reconciling", "True", no.reason, no.message)
    events = list(split.events())
    was_degraded = any(c.type == "Degraded" and c.status == "True" for c in case.before.conditions)
    if trouble and not was_degraded and not events:
        events.append(Event("Warning", trouble.reason, trouble.message))
    if not trouble and was_degraded:
        events.append(Event("Normal", "Redundant", f"{' and '.join(case.nodes)} are UpToDate again"))
    events += _two_primaries_allowed(case, conditions)
    status = status.model_copy(update={"phase": phase})
    finalizer: Finalizer = None if FINALIZER in case.volume.metadata.finalizers else "add"
    return decided(case, status, conditions, requests, tuple(events), finalizer, bool(trouble or no))


def _due(case: VolumeCase, host: HostView, *, meet: bool) -> PutVolume | None:
    """What one member is asked: to bring it up, to give up a role that nobody needs, to take changed settings, to
    connect."""
    view = case.view(host.name)
    if _adoptable(case, host) and case.describable():
        return _adopted(case, host)
    if host.live is None or view is None or not case.describable():
        return None
    if not view.configured:
        return case.put(host.name)
    if case.busy_with_migration() or view.role == "Unknown":
        return None
    unused = view.role == "Primary" and host.name != case.wanted_primary() and not view.used_by
    if unused and (_sees_peer(view) or view.disk == "Diskless"):
        return case.put(host.name)
    wish = case.desired(host.name, "Up", view.role)
    apart = meet and view.peer is not None and view.peer.connection == "StandAlone"
    return PutVolume(host.name, wish) if apart or (view.options and view.options != wish.options) else None


def _adoptable(case: VolumeCase, host: HostView) -> bool:
    """Is the replica there, by the tag that its logical volumes carry, and unknown to the host's agent: has the agent
    lost its journal? Told again what the volume shall be, it takes up what is there, and makes nothing anew."""
    if host.live is None or case.view(host.name) is not None:
        return False
    seen = host.live.volumes.get(case.resource)
    found = [host.live.logical_volumes.get(name) for name in case.volume.logical_volumes]
    return (seen is None or seen.uid is None) and all(lv is not None and lv.owner_uid == case.uid for lv in found)


def _adopted(case: VolumeCase, host: HostView) -> PutVolume | None:
    """In the role that it has: a guest may run on it."""
    seen = host.live.volumes.get(case.resource) if host.live is not None else None
    if case.busy_with_migration() or (seen is not None and seen.configured and seen.role == "Unknown"):
        return None
    return case.put(host.name, role="Primary" if seen is not None and seen.role == "Primary" else "Secondary")


def _missing(case: VolumeCase, host: HostView) -> Refusal:
    if _adoptable(case, host):
        wait = "once no VM moves that uses it" if case.busy_with_migration() else "now"
        return Refusal(
            reason="Adopting",
            message=f"the agent of {host.name} does not know its replica any more (a lost journal?), which is there: it"
            f" takes it up again {wait}",
        )
    names = " and ".join(case.volume.logical_volumes)
    return Refusal(
        reason="ReplicaMissing",
        message=f"{host.name} no longer has the replica, and nothing is made anew. If {names} is still there under"
        f" another name or without its tag, put that right: lvchange --addtag xentandem.uid={case.uid}. If it is lost:"
        " make it again as it was, with that tag, then drbdadm create-md and attach; DRBD copies the other side's data",
    )


def _sees_peer(view: VolumeState) -> bool:
    """Alone, a Primary with a disk stays what it is: to promote it again would take proof that its peer has nothing
    newer."""
    return view.peer is not None and view.peer.connection == "Connected"


def _two_primaries_allowed(case: VolumeCase, conditions: Conditions) -> list[Event]:
    """Somebody let DRBD take a second Primary: what each agent says of it. The volume is as good as before."""
    found = [view.problem for view in case.known if view.problem is not None and view.problem.reason == TWO_PRIMARIES]
    if not found:
        return []
    told = "; ".join(one.message for one in found)
    conditions.set(TWO_PRIMARIES, "True", TWO_PRIMARIES, told)
    return [Event("Warning", TWO_PRIMARIES, told)] if conditions.changed(TWO_PRIMARIES) else []


def _trouble(case: VolumeCase, split: SplitBrain, no: Refusal | None) -> Refusal | None:
    """Why the volume is not redundant now, with what an agent ran into; None when it is UpToDate/UpToDate."""
    trouble = _not_redundant(case, split)
    cause = no or next((view.problem for view in case.known if view.problem is not None), None)
    if trouble is None or cause is None:
        return trouble
    return Refusal(reason=trouble.reason, message=f"{trouble.message}: {cause.message}")


def _not_redundant(case: VolumeCase, split: SplitBrain) -> Refusal | None:
    """What is seen of it, worst first."""
    if not case.known:
        return Refusal(
            reason="AgentUnreachable",
            message="no member's agent answers: " + "; ".join(f"{h.name}: {h.error}" for h in case.silent),
        )
    for host in case.hosts:
        if host.node is None:
            return Refusal(reason="NodeNotFound", message=f"there is no XenNode {host.name}; apply it again")
        if host.live is not None and case.view(host.name) is None:
            return _missing(case, host)
    fencing = Fencing(case)
    if (trouble := split.trouble() or _frozen(case, fencing) or _apart(case, fencing)) is not None:
        return trouble
    if not case.up_to_date():
        return Refusal(reason="NotUpToDate", message=f"disk states are {observed(case).disk_state}")
    if fencing.contradiction is not None:
        return fencing.contradiction
    if fencing.standing is not None and fencing.standing.survivor:
        return Refusal(reason="VerdictStands", message=f"{observed(case).disk_state}{_verdict(fencing)}")
    return None


def _frozen(case: VolumeCase, fencing: Fencing) -> Refusal | None:
    """IO that stands still, and what it waits for."""
    for node in case.nodes:
        view = case.view(node)
        if view is not None and _no_data(view):
            other = next((name for name in case.nodes if name != node), "its peer")
            how = view.peer.connection if view.peer else "not configured"
            return Refusal(
                reason="Suspended",
                message=f"IO on {node} waits (no-data): its disk is {view.disk}, and {other}, which has the data, is"
                f" not connected ({how}). It goes on when both see each other: mend the network, or start {other}",
            )
        if view is not None and view.suspended != "no":
            why = f": {fencing.told(node)}" if node in fencing.askers else ""
            return Refusal(reason="Suspended", message=f"IO on {node} is frozen ({view.suspended}){why}")
    return None


def _no_data(view: VolumeState) -> bool:
    """Does IO wait for any disk at all (on-no-data-accessible suspend-io)?"""
    return "no-data" in view.suspended.split(",")


def _refused(case: VolumeCase) -> bool:
    """Does IO stand still because nobody may go on, or nobody has the data?"""
    fencing = Fencing(case)
    refused = any(isinstance(fencing.answer(node), Refusal) for node in fencing.askers)
    return refused or any(_no_data(view) for view in case.known)


def _apart(case: VolumeCase, fencing: Fencing) -> Refusal | None:
    """Members that don't see each other, or of which one is behind."""
    for node in case.nodes:
        view = case.view(node)
        if view is None:
            continue
        peer = view.peer
        if peer is not None and peer.connection == "StandAlone":
            return Refusal(
                reason="StandAlone",
                message=f"{node} dropped the connection (a refused handshake: see dmesg there)",
            )
        if peer is None or peer.connection != "Connected":
            how = peer.connection if peer else "not configured"
            other = next((name for name in case.nodes if name != node), "its peer")
            return Refusal(
                reason="Disconnected",
                message=f"{node} is not connected to {other} ({how}); disk:{view.disk}{_verdict(fencing)}",
            )
        if peer.replication in COPYING:
            return Refusal(
                reason="Resynchronising", message=f"{node}: {peer.replication}, disk:{view.disk}/{peer.disk}"
            )
    return None


def _verdict(fencing: Fencing) -> str:
    """Who goes on alone, or who asks to and why it may not."""
    standing = fencing.standing
    survivor = standing.survivor if standing is not None else ""
    told = [f"{node} asks to go on alone: {fencing.told(node)}" for node in fencing.askers if node != survivor]
    if standing is not None and survivor:
        told.append(
            f"verdict {standing.number}: {survivor} goes on alone ({standing.reason}), {standing.stale} is not promoted"
            f" until the agent of {survivor} has seen both sides UpToDate"
        )
    return "".join(f"; {one}" for one in told)
