"""What must never be, in any world or by any step."""

from __future__ import annotations

import storage
from states import NAMES, Host, World


def broken(before: World, after: World) -> str | None:
    """The rule that the step breaks; None: none."""
    running = [
        NAMES[host] for host, one in enumerate(after.hosts) for domain in one.domains if domain.state == "running"
    ]
    if len(running) > 1:
        return f"the VM runs twice: on {' and '.join(running)}"
    primaries = [NAMES[host] for host, one in enumerate(after.hosts) if one.role == "Primary" and not one.frozen]
    if len(primaries) > 1:
        return "two Primaries"
    by_policy = went_on_unrecorded(before)
    for host, one in enumerate(after.hosts):
        runs = any(domain.state == "running" for domain in one.domains)
        if runs and not (by_policy or storage.reads_old_data(before, host)) and storage.reads_old_data(after, host):
            return f"the VM runs on {NAMES[host]} without writes that were acknowledged"
        if any(domain.state == "running" and one.role != "Primary" for domain in one.domains):
            return f"the VM runs on {NAMES[host]}, whose disk is {one.role}"
        given_away = one.promise is None or not one.promise.granted
        if given_away and any((domain.kind, domain.state) == ("main", "running") for domain in one.domains):
            return f"the VM runs on {NAMES[host]}, which gave it away"
    if not any(one.whole for one in after.hosts) and not (by_policy or not any(one.whole for one in before.hosts)):
        return "an acknowledged write is on neither disk"
    if all(one.ahead for one in after.hosts) and not (by_policy or all(one.ahead for one in before.hosts)):
        return "split brain: both sides went on alone"
    return _verdicts(before, after) or _epochs(before, after)


def _verdicts(before: World, after: World) -> str | None:
    known = [(one.api.verdict, *(host.fence.verdict for host in one.hosts)) for one in (before, after)]
    for who, old, new in zip(("the status", *NAMES), *known, strict=True):
        if old is not None and (new is None or new.number < old.number):
            return f"{who} forgot verdict {old.number}"
    survivors = {(one.number, one.survivor) for pair in known for one in pair if one is not None}
    for number in {number for number, _ in survivors}:
        if len([one for one, _ in survivors if one == number]) > 1:
            return "one verdict's number was given to both sides"
    held = [host for host, one in enumerate(after.hosts) if holds(one, host)]
    return "both sides hold a verdict" if len(held) > 1 else None


def went_on_unrecorded(world: World) -> bool:
    """Did a side go on by its policy Continue, and no verdict says so yet? Its words say that this can be lost."""
    verdict = world.api.verdict
    recorded = verdict.survivor if verdict is not None else None
    return any(one.fence.continued and host != recorded for host, one in enumerate(world.hosts))


def holds(one: Host, host: int) -> bool:
    verdict = one.fence.verdict
    return verdict is not None and verdict.survivor == host and not one.fence.given_back


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
