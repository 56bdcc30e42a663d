"""The guards of fencing and failover, each of which can be taken away: see `mutations`."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import environment
from mutations import Patches, _promoting, _without

from agent import fence_records, guards
from agent.drivers.drbd import DrbdResource
from agent.fence_records import STALE, Answer, FenceFacts, FenceRecord, Outdate, Rest, Resume, Step, Wait
from agent.protocol import VerdictDesired
from controller.api.volume_fencing import VerdictStatus
from controller.domain import takeover, verdict
from controller.domain.plans.fail_over import FAIL_OVER
from controller.domain.verdict import Fencing, Reason
from controller.domain.world import HostView

# --- controller.domain.verdict ----------------------------------------------------------------------------------------


def verdict_cas() -> Patches:
    """etcd: the verdict changes only by compare-and-swap."""
    return [patch.object(environment, "verdict_commits", lambda *_: True)]


def one_verdict() -> Patches:
    """A verdict is given only while none stands."""

    def decided(self: Fencing) -> VerdictStatus | None:
        standing = self.standing
        for node in self.askers:
            view = self.case.view(node)
            if view is None or view.disk != "UpToDate" or (standing is not None and standing.survivor == node):
                continue
            answer = self._as_primary(node) if view.role == "Primary" else self._as_secondary(node, view)
            if isinstance(answer, Reason):
                return self._next(node, self._other(node).name, answer.reason, answer.evidence)
        return standing

    return [patch.object(Fencing, "decided", property(decided)), patch.object(Fencing, "answer", _answer)]


def _answer(self: Fencing, node: str) -> object:
    view = self.case.view(node)
    assert view is not None
    return self._as_primary(node) if view.role == "Primary" else self._as_secondary(node, view)


def silence_gives_no_verdict() -> Patches:
    """An agent's silence is no evidence that its disk is not written."""
    real = Fencing._as_secondary

    def as_secondary(self: Fencing, node: str, view: object) -> object:
        if self._other(node).live is None:
            return Reason("Fenced", "it is silent")
        return real(self, node, view)  # type: ignore[arg-type]

    return [patch.object(Fencing, "_as_secondary", as_secondary)]


def verdict_given_back() -> Patches:
    """A verdict is held until its holder has given it back."""
    real = Fencing.__dict__["held"].func

    def held(self: Fencing) -> object:
        views = [self.case.view(node) for node in self.case.nodes]
        return None if all(view is not None and verdict._whole(view) for view in views) else real(self)

    return [patch.object(Fencing, "held", property(held))]


# --- agent.fence_records, agent.guards --------------------------------------------------------------------------------


def verdict_number() -> Patches:
    """An agent takes no lower verdict than it knows."""

    def accept(known: FenceRecord | None, wanted: VerdictDesired) -> FenceRecord:
        return FenceRecord(uid=wanted.uid, verdict=wanted.verdict)

    return [patch.object(fence_records, "accept", accept)]


def recorded_stale() -> Patches:
    """An agent promotes no copy that a verdict says is stale."""
    return _promoting(guards.not_recorded_stale)


def stale_outdated() -> Patches:
    """A stale copy is outdated in DRBD itself."""
    return _stepping(Outdate, Rest())


def stale_handler() -> Patches:
    """A stale side's handler hears no."""
    real = fence_records.next_step

    def step(facts: FenceFacts) -> Step:
        stale = fence_records.stale_here(facts.record, facts.node)
        return Answer(STALE, "") if facts.asked and stale else real(facts)

    return [patch.object(fence_records, "next_step", step)]


def frozen_waits() -> Patches:
    """Frozen IO waits for a verdict."""
    return _stepping(Wait, Resume())


def _stepping(kind: type[object], instead: Step) -> Patches:
    real = fence_records.next_step

    def step(facts: FenceFacts) -> Step:
        found = real(facts)
        if not isinstance(found, kind) or (isinstance(instead, Resume) and not _frozen(facts.kernel)):
            return found
        return instead

    return [patch.object(fence_records, "next_step", step)]


def _frozen(kernel: DrbdResource | None) -> bool:
    return kernel is not None and fence_records.frozen(kernel)


# --- a host that is off -----------------------------------------------------------------------------------------------


def silence_is_no_evidence() -> Patches:
    """A host that does not answer is not off."""
    return [patch.object(HostView, "off", property(lambda self: self.live is None))]


def answers_is_not_off() -> Patches:
    """A host that answers is not off, whatever was said of it."""

    def off(self: HostView) -> bool:
        return self.node is not None and (self.node.spec.out_of_service or self.node.status.fenced is not None)

    return [patch.object(HostView, "off", property(off))]


def _failing_over(name: str) -> Patches:
    guard = next(one for one in FAIL_OVER.guards if one.name == name)
    plan = replace(FAIL_OVER, guards=_without(FAIL_OVER.guards, guard))
    return [patch.object(takeover, "FAIL_OVER", plan)]


def off_to_take_over() -> Patches:
    """A VM is taken over only from a host that is known to be off."""
    return _failing_over("KnownOff")


def lost_by_drbd() -> Patches:
    """A VM is not taken over from a host that DRBD is connected with."""
    return _failing_over("LostByDrbd")


def disks_there() -> Patches:
    """A VM is taken over only where its disks are good, and proved to be the newest."""
    return _failing_over("DisksThere")
