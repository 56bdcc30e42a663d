"""Whether a volume may be handed from one host to the other, by what both sides' DRBD says. Pure.

The target is UpToDate and connected. So is the source; or its disk has failed and it writes through the target, which
then has every write: it may be left while they are connected. What it wrote without the target is another matter.
"""

from __future__ import annotations

from agent.protocol import Refusal, VolumeState
from controller.domain.alone import good, unproved
from controller.domain.verdict import Fencing
from controller.domain.volume_case import VolumeCase

LEFT_FROM = ("UpToDate", "Diskless")
"""Disk states of a source that a VM may leave, as the agents have it (agent.vm_disks)."""
LOST_ALONE = (
    "its disk has failed, and may have had writes that the other host lacks: what was written without it is on the"
    " failed disk only"
)


def against(volume: VolumeCase, source: str, target: str) -> Refusal | None:
    """None also for a side that cannot be seen: that is a reason of its own."""
    name, views = volume.volume.name, {node: volume.view(node) for node in (source, target)}
    good = {source: LEFT_FROM, target: ("UpToDate",)}
    for node, view in views.items():
        connection = view.peer.connection if view is not None and view.peer else "none"
        if view is not None and (view.disk not in good[node] or connection != "Connected"):
            return Refusal(
                reason="DiskNotUpToDate",
                message=f"{name} on {node} is {view.disk}, connection {connection}; {_needed(view, node, target)}",
            )
        if view is not None and view.suspended != "no":
            return Refusal(reason="Suspended", message=f"IO of {name} on {node} is frozen ({view.suspended})")
    for node, other in ((source, target), (target, source)):
        peer = view.peer if (view := views[node]) is not None else None
        if peer is not None and peer.disk not in good[other]:
            return Refusal(reason="DiskNotUpToDate", message=f"{node} sees its peer's {name} as {peer.disk}")
    return _lost_alone(volume, source)


def without_running(volume: VolumeCase, source: str, target: str) -> Refusal | None:
    """The same where nothing runs: nobody asks the source's agent, so a source without a disk takes more proof.

    DRBD connects a Secondary without a disk to older data, too; only a Primary is held to what it wrote last. With that
    proof it need not be connected any more: a verdict is given for the target as soon as it asks.
    """
    if not volume.everywhere():
        return Refusal(
            reason="ReplicaUnknown",
            message=f"{volume.volume.name} must be seen on {source} and {target}; seen: "
            f"{volume.volume.status.disk_state or 'nothing'}",
        )
    no, view = against(volume, source, target), volume.view(source)
    if view is None or view.disk != "Diskless":
        return no
    if no is not None:
        apart = (view.role, view.suspended) == ("Secondary", "no") and not _connected(view)
        return (good(volume, target) or unproved(volume, target)) if apart else no
    if not volume.volume.status.fenced or volume.volume.spec.protocol == "A":  # it need not be recorded
        return Refusal(reason="WroteAlone", message=f"{volume.volume.name} on {source}: {LOST_ALONE}")
    return None


def _connected(view: VolumeState) -> bool:
    return view.peer is not None and view.peer.connection == "Connected"


def _needed(view: VolumeState, node: str, target: str) -> str:
    if view.disk == "Diskless" and node == target:
        return f"its disk has failed: replace it on {target}, and the VM moves when it is UpToDate again"
    return "UpToDate and Connected are needed on both hosts"


def _lost_alone(volume: VolumeCase, source: str) -> Refusal | None:
    view, held = volume.view(source), Fencing(volume).held
    if view is None or view.disk != "Diskless":
        return None
    if (held is not None and held.survivor == source) or view.fence.continued_at is not None:
        return Refusal(reason="WroteAlone", message=f"{volume.volume.name} on {source}: {LOST_ALONE}")
    return None
