"""What must never be, in any world or by any step."""

from __future__ import annotations

import storage
from states import NAMES, World


def broken(before: World, after: World) -> str | None:
    """The rule that the step breaks; None: none."""
    running = [
        NAMES[host] for host, one in enumerate(after.hosts) for domain in one.domains if domain.state == "running"
    ]
    if len(running) > 1:
        return f"the VM runs twice: on {' and '.join(running)}"
    primaries = [NAMES[host] for host, one in enumerate(after.hosts) if one.role == "Primary"]
    if len(primaries) > 1:
        return "two Primaries"
    for host, one in enumerate(after.hosts):
        if any(domain.state == "running" for domain in one.domains) and storage.reads_old_data(after, host):
            return f"the VM runs on {NAMES[host]} without writes that were acknowledged"
        if any(domain.state == "running" and one.role != "Primary" for domain in one.domains):
            return f"the VM runs on {NAMES[host]}, whose disk is {one.role}"
        given_away = one.promise is None or not one.promise.granted
        if given_away and any((domain.kind, domain.state) == ("main", "running") for domain in one.domains):
            return f"the VM runs on {NAMES[host]}, which gave it away"
    if not any(one.whole for one in after.hosts):
        return "an acknowledged write is on neither disk"
    return _epochs(before, after)


def _epochs(before: World, after: World) -> str | None:
    old, new = before.api.placement, after.api.placement
    if old is not None and new is not None and new.epoch < old.epoch:
        return f"the placement's epoch went from {old.epoch} back to {new.epoch}"
    if old is not None and new is not None and new.epoch == old.epoch and new.node != old.node:
        return f"epoch {new.epoch} was placed on {NAMES[old.node]} and then on {NAMES[new.node]}"
    for host, (one, then) in enumerate(zip(before.hosts, after.hosts, strict=True)):
        if one.term > then.term:
            return f"{NAMES[host]} forgot the term that it promised"
        if one.promise is not None and then.promise is not None and then.promise.epoch < one.promise.epoch:
            return f"{NAMES[host]} forgot the epoch that it promised"
    promises = [one.promise for one in after.hosts if one.promise is not None and one.promise.granted]
    if len(promises) > 1 and promises[0].epoch == promises[1].epoch:
        return f"both hosts may run the VM at epoch {promises[0].epoch}"
    return None
