"""Whether one replica may be used without the other: by a verdict that stands, or is given once it is asked for."""

from __future__ import annotations

from agent.protocol import Refusal
from controller.domain.verdict import NOT_UP_TO_DATE, PEER_DISKLESS, Fencing, Reason
from controller.domain.volume_case import VolumeCase

PENDING = "VerdictPending"


def by_verdict(volume: VolumeCase, node: str) -> bool:
    """Does a verdict stand that says this host goes on alone, and that it did not give back?"""
    held = Fencing(volume).held
    return held is not None and held.survivor == node


def good(volume: VolumeCase, node: str) -> Refusal | None:
    """Why its disk is no good data there; None: it is. Consistent was good when it lost a peer that is now behind."""
    view, name = volume.view(node), volume.volume.name
    if view is None:
        return Refusal(reason="ReplicaMissing", message=f"{node} does not show the replica of {name}")
    if view.disk == "UpToDate" or (view.disk == "Consistent" and by_verdict(volume, node)):
        return None
    told = f"{name} is {view.disk} on {node}, not UpToDate"
    if view.disk != "Consistent":
        return Refusal(reason="DiskNotUpToDate", message=told)
    answer, other = Fencing(volume).answer(node), next((one for one in volume.nodes if one != node), "its peer")
    if isinstance(answer, Reason):
        return Refusal(reason=PENDING, message=f"{told}: the verdict that {other} is behind comes first")
    if answer.reason != NOT_UP_TO_DATE:
        return Refusal(reason=answer.reason, message=f"{told}: {answer.message}")
    return Refusal(
        reason="DiskNotUpToDate",
        message=f"{told}: it was good when it lost {other}, which may have newer data. It is used when they see each"
        f" other again, or when {other} is off for good and you say so: outOfService: true on XenNode {other}",
    )


def good_once_placed(volume: VolumeCase, node: str) -> Refusal | None:
    """The same for a VM that is to be placed there: what waits for its placement alone is no reason against it."""
    no = good(volume, node)
    return None if no is not None and no.reason == PENDING else no


def unproved(volume: VolumeCase, node: str) -> Refusal | None:
    """Why nothing proves that the other replica has nothing newer.

    None: its host is off, its disk has failed and it answers, or a verdict stands.
    """
    answer = Fencing(volume).answer(node)
    if isinstance(answer, Refusal):
        return Refusal(reason=answer.reason, message=f"{volume.volume.name} on {node}: {answer.message}")
    if (
        by_verdict(volume, node)
        or answer.reason == PEER_DISKLESS
        or all(host.off for host in volume.hosts if host.name != node)
    ):
        return None
    return Refusal(reason="ReplicaMayBeStale", message=f"{volume.volume.name} on {node} is not connected to its peer")
