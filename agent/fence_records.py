"""What the journal keeps of a volume's fencing, and what follows from it and from DRBD's facts. Pure.

docs/fencing.md has the table that `next_step` is. The rule behind it: a verdict is a token; the host that it names as
survivor holds it until it journals that it gave it back, and no other host gets one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from agent.core import Refused
from agent.protocol import FenceQuestion, FenceState, Refusal, Uid, Verdict, VerdictDesired

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

STALE, FENCED, FAILED = 4, 7, 1
"""Exit statuses of a fence-peer handler (drbd.conf(5)): the peer's disk is outdated; the peer was switched off; none of
that is known, IO stays frozen. Others are never given: 5 takes a silent peer for dead."""


class FenceRecord(BaseModel):
    """One resource in the journal (section `fences`, key = resource)."""

    model_config = ConfigDict(frozen=True)

    uid: Uid
    verdict: Verdict | None = None
    given_back: bool = False
    continued_at: str | None = None

    @property
    def shown(self) -> FenceState:
        return FenceState(verdict=self.verdict, given_back=self.given_back, continued_at=self.continued_at)


def accept(known: FenceRecord | None, wanted: VerdictDesired) -> FenceRecord:
    """The record that is to be journalled. Raises Refused("VerdictTooOld", "VerdictContradicts")."""
    new, old = wanted.verdict, known.verdict if known is not None else None
    if known is None or old is None:
        continued = known.continued_at if known else None
        return FenceRecord(uid=wanted.uid, verdict=new, continued_at=continued)
    if new.number < old.number:
        raise Refused(
            "VerdictTooOld", f"verdict {new.number} is over: this host knows {old.number} ({told(old)}) already"
        )
    if new.number == old.number:
        if new != old:
            raise Refused(
                "VerdictContradicts",
                f"verdict {new.number} is known here as: {told(old)}; this one says: {told(new)}. Two records have the"
                " same number (a status restored or edited by hand); give the volume a verdict with a higher one",
            )
        return known
    return known.model_copy(update={"verdict": new, "given_back": False})


def told(verdict: Verdict) -> str:
    if verdict.survivor is None:
        return f"ended, {verdict.reason}"
    return f"{verdict.survivor} goes on alone, {verdict.stale} is stale, {verdict.reason}"


def holds(record: FenceRecord | None, node: str) -> bool:
    """Does this host hold the verdict: may it go on without its peer?"""
    return (
        record is not None and record.verdict is not None and record.verdict.survivor == node and not record.given_back
    )


def wrote_alone(record: FenceRecord | None, node: str) -> bool:
    """May this host's disk have writes that its peer lacks? Over when both sides were seen whole since."""
    return record is not None and (holds(record, node) or record.continued_at is not None)


def stale_here(record: FenceRecord | None, node: str) -> bool:
    """Is this host's copy recorded as stale: must it never be promoted?"""
    return record is not None and record.verdict is not None and record.verdict.stale == node


def frozen(kernel: DrbdResource) -> bool:
    """events2's word may be several: "user,fencing"."""
    return "fencing" in kernel.suspended.split(",")


def connected(kernel: DrbdResource) -> bool:
    return kernel.peer is not None and kernel.peer.connection == "Connected"


def whole(kernel: DrbdResource) -> bool:
    """Connected, UpToDate on both sides, nothing being copied, nothing frozen."""
    peer = kernel.peer
    return (
        peer is not None
        and connected(kernel)
        and (kernel.disk, peer.disk, peer.replication, kernel.suspended)
        == ("UpToDate", "UpToDate", "Established", "no")
    )


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Journal that the verdict is not held any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell the handlers that wait."""

    exit: int
    why: str


@dataclass(frozen=True, slots=True)
class Resume:
    """IO goes on, by `drbdadm resume-io`."""

    by_policy: bool = False


@dataclass(frozen=True, slots=True)
class Outdate:
    """DRBD itself is told that this copy is stale."""


@dataclass(frozen=True, slots=True)
class Wait:
    """For a verdict."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do."""


Step = GiveBack | Answer | Resume | Outdate | Wait | Rest


@dataclass(frozen=True, slots=True)
class FenceFacts:
    """One volume on this host. `kernel`: None = not up here."""

    node: str
    record: FenceRecord | None
    kernel: DrbdResource | None
    asked: bool = False  # a handler waits
    answered: bool = False  # a handler was answered a moment ago: DRBD acts on it
    continue_now: bool = False  # policy Continue, and no controller was heard of for as long as it says


def next_step(facts: FenceFacts) -> Step:
    """The one thing to do now."""
    record, kernel = facts.record, facts.kernel
    if kernel is None:
        return Answer(FAILED, "the resource is not up") if facts.asked else Rest()
    if whole(kernel) and wrote_alone(record, facts.node):
        return GiveBack()
    if stale_here(record, facts.node):
        return _stale(facts, kernel)
    if holds(record, facts.node):
        return _held(facts, kernel)
    if connected(kernel):
        return Answer(FAILED, "the peer is connected again") if facts.asked else Rest()
    alone = kernel.role == "Primary" and kernel.disk == "UpToDate" and frozen(kernel)
    if alone and facts.continue_now:
        if facts.asked:
            return Answer(FAILED, "no controller is heard of: it goes on by its policy")
        return Rest() if facts.answered else Resume(by_policy=True)
    return Wait() if facts.asked or frozen(kernel) else Rest()


def _stale(facts: FenceFacts, kernel: DrbdResource) -> Step:
    if facts.asked:
        return Answer(FAILED, f"recorded as stale: {_why(facts)}")
    if kernel.role == "Secondary" and not connected(kernel) and kernel.disk in ("UpToDate", "Consistent"):
        return Outdate()
    return Rest()


def _held(facts: FenceFacts, kernel: DrbdResource) -> Step:
    assert facts.record is not None
    assert facts.record.verdict is not None
    if connected(kernel):
        return Answer(FAILED, "the peer is connected again") if facts.asked else Rest()
    if facts.asked:
        if kernel.disk not in ("UpToDate", "Consistent"):
            return Answer(FAILED, f"the disk here is {kernel.disk}")
        return Answer(FENCED if facts.record.verdict.reason == "Fenced" else STALE, _why(facts))
    if kernel.role == "Primary" and kernel.disk == "UpToDate" and frozen(kernel) and not facts.answered:
        return Resume()
    return Rest()


def _why(facts: FenceFacts) -> str:
    verdict = facts.record.verdict if facts.record is not None else None
    return f"verdict {verdict.number}: {told(verdict)}" if verdict is not None else "no verdict"


def promotable(record: FenceRecord | None, node: str, resource: str) -> Refusal | None:
    """A copy that is recorded as stale is never promoted, whoever asks."""
    if not stale_here(record, node):
        return None
    assert record is not None
    assert record.verdict is not None
    return Refusal(
        reason="RecordedStale",
        message=f"{resource} is recorded as stale on {node} (verdict {record.verdict.number}: {told(record.verdict)});"
        f" it is not promoted before it is UpToDate with {record.verdict.survivor} again and the controller has"
        " recorded that",
    )


Wants = Literal["io", "promotion"]


def wants(kernel: DrbdResource | None, *, asked: bool) -> Wants | None:
    """What the volume waits for, if it does."""
    if kernel is None or connected(kernel):
        return None
    if frozen(kernel):
        return "io"
    if asked:
        return "io" if kernel.role == "Primary" else "promotion"
    return None


@dataclass(frozen=True, slots=True)
class FenceView:
    """What VolumeState shows of fencing beside DRBD's own state."""

    record: FenceRecord | None = None
    asked: bool = False
    since: str | None = None

    def question(self, kernel: DrbdResource | None, peer: str) -> FenceQuestion | None:
        what = wants(kernel, asked=self.asked)
        return None if what is None else FenceQuestion(peer=peer, wants=what, since=self.since)
