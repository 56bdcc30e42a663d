"""What a status says, in the plugin's words: pure functions of objects as the API server gives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]


def name_of(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def status_of(thing: Object) -> Object:
    return thing.get("status") or {}


def condition(thing: Object, kind: str) -> Object | None:
    return next((one for one in status_of(thing).get("conditions") or () if one["type"] == kind), None)


def current(thing: Object) -> bool:
    """Does the status speak of the spec as it is now? If not, its conditions are about an older one."""
    observed = status_of(thing).get("observedGeneration", -1)
    return bool(observed >= thing["metadata"].get("generation", 0))


@dataclass(frozen=True)
class Note:
    """Something that is not as it should be: how bad, and the controller's own words."""

    stalled: bool
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


def note(thing: Object) -> Note | None:
    """Why the object is not as it shall be; None when it is."""
    if not current(thing):
        return Note(False, "NotYetSeen", "the controller has not looked at the last change yet")
    stalled = condition(thing, "Stalled")
    if stalled and stalled["status"] == "True":
        return Note(True, stalled["reason"], stalled.get("message", ""))
    ready = condition(thing, "Ready")
    if ready is None:
        return Note(False, "NotYetSeen", "the controller has not looked at it yet")
    if ready["status"] == "True":
        # It can be used, and yet something is on its way or missing: a blocked move, a replica
        wrong = (
            *(("Degraded", "True"), ("Reconciling", "True"), ("Drained", "False"), ("FailoverReady", "False")),
            *(("TwoPrimariesAllowed", "True"), ("ForeignReceiver", "True")),
        )
        found = ((condition(thing, kind), status) for kind, status in wrong)
        open_ = next((one for one, status in found if one and one["status"] == status), None)
        return Note(False, open_["reason"], open_.get("message", "")) if open_ else None
    return Note(False, ready["reason"], ready.get("message", ""))


def disk_names(vm: Object) -> list[str]:
    return [str(disk["volume"]) for disk in vm["spec"].get("disks") or ()]


def storage(vm: Object, volumes: Iterable[Object]) -> str:
    """Disk states of the VM's volumes, the worst first: what redundancy it has now."""
    namespace = vm["metadata"].get("namespace")
    by_name = {name_of(one): one for one in volumes if one["metadata"].get("namespace") == namespace}
    states = []
    for volume in disk_names(vm):
        status = status_of(by_name[volume]) if volume in by_name else {}
        states.append(str(status.get("diskState") or ("missing" if volume not in by_name else "unknown")))
    states.sort(key=lambda state: state == "UpToDate/UpToDate")
    return ", ".join(dict.fromkeys(states)) or "-"


def migration(vm: Object) -> Object | None:
    """The move that is on its way, or None."""
    move: Object | None = status_of(vm).get("migration")
    return move if move and not move.get("outcome") else None


def move_text(move: Object) -> str:
    """`mk1 -> mk2 45%`"""
    arrow = f"{move['source']} -> {move['target']}"
    if phase_of_move(move) == "Transfer" and move.get("percent") is not None:
        return f"{arrow} {move['percent']:.0f}%"
    return f"{arrow} {phase_of_move(move)}"


def phase_of_move(move: Object) -> str:
    """What is at its default is left out of a status: a move begins with its preflight."""
    return str(move.get("phase") or "Preflight")


def displaced(vm: Object) -> str:
    """Why it is not where spec.node says: `from mk1, Maintenance`; empty when it is, or was asked to be."""
    away = status_of(vm).get("displaced")
    return f"from {away['from']}, {away['reason']}" if away else ""


def placed_on(vm: Object) -> str:
    return str((status_of(vm).get("placement") or {}).get("node") or "-")


def phase_of(thing: Object) -> str:
    return str(status_of(thing).get("phase") or "Pending")


def age(since: str | None, now: datetime | None = None) -> str:
    """How long ago, as kubectl writes it: 45s, 12m, 3h, 5d; empty when not known."""
    if not since:
        return ""
    seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(since)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def members(volume: Object) -> list[str]:
    """The hosts that hold a replica: as decided, or as the spec asks."""
    return list(status_of(volume).get("nodes") or volume["spec"].get("nodes") or ())


def owned_by_git(thing: Object) -> str:
    """The name of the GitOps tool that writes this object's spec, or empty."""
    metadata = thing["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    if any(key.startswith("argocd.argoproj.io/") for key in marks):
        return "Argo CD"
    if any(".toolkit.fluxcd.io/" in key for key in marks):
        return "Flux"
    return ""
