"""Which side of a volume may go on without the other: given, refused with its reason, or ended. Pure; docs/fencing.md.

A verdict is a token. It is given only while none is held, so that one host at most holds it; it is held until its
holder's agent has journalled that it gave it back. Silence and time are never evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from agent.protocol import FenceState, GenerationIds, Refusal, Verdict, VerdictDesired, VolumeState
from controller.api.drbdvolume import DrbdVolumeStatus
from controller.api.volume_fencing import VerdictStatus
from controller.domain.actions import Event, PutVerdict
from controller.domain.conditions import timestamp
from controller.domain.volume_case import VolumeCase
from controller.domain.world import HostView, operation_on, vm_on

ENDED = "Redundant"
PEER_DISKLESS = "PeerDiskless"
NOT_UP_TO_DATE = "NotUpToDate"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one side may go on alone, with the evidence for people."""

    reason: str
    evidence: str


@dataclass(frozen=True)
class Fencing:
    """One volume's fencing, as it was observed and as it is recorded in `case`'s status."""

    case: VolumeCase

    # --- what is recorded

    @cached_property
    def standing(self) -> VerdictStatus | None:
        """The newest verdict that the status or an agent's journal has; None: there never was one."""
        newest = self.case.volume.status.verdict
        for host in self.case.hosts:
            told = self._durable(host)
            if told is not None and (newest is None or told.number > newest.number):
                newest = VerdictStatus(
                    number=told.number,
                    survivor=told.survivor or "",
                    stale=told.stale or "",
                    reason=told.reason,
                    message=f"found in the journal of {host.name}",
                    at=timestamp(self.case.world.now),
                )
        return newest

    @cached_property
    def held(self) -> VerdictStatus | None:
        """The verdict that stands, unless its holder's journal says that it gave it back: also as it was last seen, and
        whoever else is silent. It does so when it sees both sides whole, and acts by that number never again: from then
        on its disk freezes as any other, and each side is judged by its own."""
        standing = self.standing
        if standing is None or not standing.survivor:
            return None
        fences = [self._fence(host) for host in self.case.hosts if host.name == standing.survivor]
        over = any(one is not None and one.given_back and one.verdict == wire(standing) for one in fences)
        return None if over else standing

    @cached_property
    def contradiction(self) -> Refusal | None:
        """Two verdicts of one number: nothing is given or ended on the word of either."""
        known = {self._durable(host) for host in self.case.hosts}
        if self.standing is not None:
            known.add(wire(self.standing))
        newest = {one for one in known if one is not None and self.standing and one.number == self.standing.number}
        if len(newest) < 2:
            return None
        return Refusal(
            reason="VerdictContradicts",
            message="verdict "
            + " and ".join(sorted(f"{one.number} says {one.survivor or 'nobody'} goes on alone" for one in newest))
            + "; compare dmesg and drbdadm get-gi on both hosts, then write status.verdict with a higher number"
            " (kubectl edit --subresource=status)",
        )

    def _fence(self, host: HostView) -> FenceState | None:
        """What the agent's journal has of it, also as it was last seen."""
        view = host.state.volumes.get(self.case.resource) if host.state is not None else None
        return view.fence if view is not None and view.uid == self.case.uid else None

    def _durable(self, host: HostView) -> Verdict | None:
        """In the agent's journal, also as it was last seen: numbers only grow."""
        fence = self._fence(host)
        return fence.verdict if fence is not None else None

    # --- who asks

    @cached_property
    def askers(self) -> tuple[str, ...]:
        """Members that must not go on before a verdict, or went on without one."""
        if len(set(self.case.nodes)) != 2:
            return ()
        return tuple(
            node
            for node in self.case.nodes
            if self._asks(node) or self._alone(node) or self._copy_waits(node) or self._came_back(node)
        )

    def _asks(self, node: str) -> bool:
        view = self.case.view(node)
        return view is not None and view.fence_question is not None

    def _alone(self, node: str) -> bool:
        """A Primary that writes without its peer, and nobody says that the peer's copy is no good."""
        view = self.case.view(node)
        return (
            view is not None
            and view.fenced
            and (view.role, view.disk, view.suspended) == ("Primary", "UpToDate", "no")
            and view.peer is not None
            and view.peer.connection != "Connected"
            and view.peer.disk == "DUnknown"
        )

    def _copy_waits(self, node: str) -> bool:
        """A move's target that holds the guest its source let go of, and only misses that source, which is off."""
        view, other = self.case.view(node), self._other(node)
        if view is None or not other.off or (view.peer is not None and view.peer.connection == "Connected"):
            return False
        moves = [vm.status.migration for vm in self.case.consumers]
        return any(
            move is not None
            and (move.outcome, move.source, move.target) == (None, other.name, node)
            and (part := operation_on(self.case.world.objects.host(node), move.id)) is not None
            and (part.phase, part.outcome) == ("Received", None)
            and part.refusal is not None
            and part.refusal.reason == "DiskNotConnected"
            for move in moves
        )

    def _came_back(self, node: str) -> bool:
        """Both hosts lost power, and this one alone came back: its VM waits, and nobody asks DRBD before a verdict."""
        if not self._good_without(node):
            return False
        placed = [vm.status.placement for vm in self.case.consumers]
        return any(one is not None and one.node == node for one in placed)

    def _good_without(self, node: str) -> bool:
        """Good when it lost a peer that is off now, and never wrote without a record: it has every write (row 23)."""
        view = self.case.view(node)
        return (
            view is not None
            and (view.role, view.disk) == ("Secondary", "Consistent")
            and self._other(node).off
            and (view.peer is None or view.peer.connection != "Connected")
        )

    def answer(self, node: str) -> Reason | Refusal:
        """To one asker, as the record and the facts are now."""
        held, view = self.held, self.case.view(node)
        if self.contradiction is not None:
            return self.contradiction
        if held is not None and held.survivor == node:
            return Reason(held.reason, held.message)
        if held is not None:
            return Refusal(
                reason="RecordedStale",
                message=f"verdict {held.number} stands for {held.survivor} ({held.reason}):"
                f" {node} may lack what was written there",
            )
        if view is None or (view.disk != "UpToDate" and not self._good_without(node)):
            disk = view.disk if view is not None else "unknown"
            return Refusal(reason=NOT_UP_TO_DATE, message=f"the disk of {node} is {disk}, not UpToDate")
        if view.role == "Primary":
            return self._as_primary(node)
        return self._as_secondary(node, view)

    def _other(self, node: str) -> HostView:
        return next(host for host in self.case.hosts if host.name != node)

    def _as_primary(self, node: str) -> Reason | Refusal:
        other = self._other(node)
        seen = self.case.view(other.name)
        if seen is not None and seen.role == "Primary":
            return Refusal(
                reason="TwoPrimaries",
                message=f"{node} and {other.name} are both Primary and don't see each other; a person must choose",
            )
        if self._alone(node):
            return Reason("WroteAlone", f"{node} is Primary, UpToDate and writes without {other.name}")
        placed = self._placed(node)
        if isinstance(placed, Refusal):
            return placed
        return Reason("PeerLost", f"{node} is Primary, UpToDate, its IO frozen; {placed}")

    def _placed(self, node: str) -> str | Refusal:
        """Whether the VM that uses the volume belongs where its disk is frozen."""
        elsewhere = ""
        for vm in self.case.consumers:
            placement, move = vm.status.placement, vm.status.migration
            if placement is not None and placement.node == node:
                return f"XenVM {vm.metadata.name} is placed there"
            if move is not None and move.outcome is None and move.target == node:
                return f"XenVM {vm.metadata.name} moves there"
            if placement is not None:
                elsewhere = f"XenVM {vm.metadata.name} is placed on {placement.node}, not on {node}"
        return Refusal(reason="PlacedElsewhere", message=elsewhere) if elsewhere else "no VM is placed elsewhere"

    def _as_secondary(self, node: str, view: VolumeState) -> Reason | Refusal:
        other = self._other(node)
        if other.off:
            if not self.case.volume.status.fenced:
                return Refusal(
                    reason="NotFenced",
                    message=f"{other.name} is off, but was not seen under fencing together with {node}: it may have"
                    " written alone",
                )
            fence = self._fence(other)
            if fence is not None and fence.continued_at is not None:
                return Refusal(
                    reason="WroteAlone",
                    message=f"{other.name} is off, and was last seen to have gone on alone by its policy: {node} may"
                    " lack what was written there",
                )
            return Reason("Fenced", f"{other.name} is known to be off; {node} is {view.disk}")
        if (handed := self._handed_over(node)) is not None:
            return handed
        seen = self.case.view(other.name)
        if other.live is None:
            return Refusal(
                reason="AgentUnreachable",
                message=f"the agent of {other.name} does not answer, and silence is no evidence that it is off."
                f" If it is off and stays off: set outOfService: true on XenNode {other.name}",
            )
        if seen is None:
            return Refusal(reason="ReplicaUnknown", message=f"{other.name} does not say what its replica is")
        if seen.role != "Secondary":
            return Refusal(reason="PeerIsPrimary", message=f"{other.name} is {seen.role}")
        if self._never_alone(seen):
            return Reason(PEER_DISKLESS, f"{other.name} answers, is Secondary, and its disk has failed")
        if view.generation is None or seen.generation is None:
            return Refusal(reason="ReplicaUnknown", message="the generation UUIDs are being read")
        if _current(view.generation) != _current(seen.generation):
            return Refusal(
                reason="DataDiffers",
                message=f"{node} and {other.name} have different generations ({view.generation.current},"
                f" {seen.generation.current}); connect them first",
            )
        return Reason("Identical", f"both agents answer, neither is Primary, both have {view.generation.current}")

    def _never_alone(self, seen: VolumeState) -> bool:
        """A side whose disk has failed, and that wrote nothing which the other one lacks: none of it without a record,
        as both were seen under fencing; none with one, as no verdict stands and none was done without by policy."""
        recorded = self.case.volume.status.fenced and self.case.volume.spec.protocol != "A"
        return seen.disk == "Diskless" and seen.configured and recorded and seen.fence.continued_at is None

    def _handed_over(self, node: str) -> Reason | None:
        """A move's target took the VM over: its agent journals that only after the source gave the VM away and both
        disks were seen whole and Secondary (agent/migration/target.py)."""
        source = self._other(node)
        seen = self.case.view(source.name)
        if seen is not None and seen.role == "Primary":
            return None
        for vm in self.case.consumers:
            move = vm.status.migration
            if move is None or move.outcome is not None or (move.target, move.source) != (node, source.name):
                continue
            promise = vm_on(self.case.world.objects.host(node), vm.metadata.uid)
            if promise is not None and promise.granted and promise.epoch == move.epoch:
                return Reason("HandedOver", f"{node} took XenVM {vm.metadata.name} over from {source.name}")
        return None

    # --- the record

    @cached_property
    def decided(self) -> VerdictStatus | None:
        """The verdict as it is to be recorded: `standing`, or one with a higher number."""
        standing = self.standing
        if self.contradiction is not None:
            return self.case.volume.status.verdict
        if self.held is not None:
            return standing
        for node in self.askers:
            answer = self.answer(node)
            if isinstance(answer, Reason):
                return self._next(node, self._other(node).name, answer.reason, answer.evidence)
        if standing is not None and standing.survivor:
            seen = f"{standing.survivor} gave it back: it saw both sides connected and UpToDate"
            return self._next("", "", ENDED, seen)
        return standing

    def _next(self, survivor: str, stale: str, reason: str, message: str) -> VerdictStatus:
        return VerdictStatus(
            number=self.standing.number + 1 if self.standing is not None else 1,
            survivor=survivor,
            stale=stale,
            reason=reason,
            message=message,
            at=timestamp(self.case.world.now),
        )

    @cached_property
    def fenced(self) -> bool:
        """Were both members once seen whole under fencing? From then on none wrote alone without a record."""
        views = [self.case.view(node) for node in self.case.nodes]
        now = len(views) == 2 and all(view is not None and view.fenced and _whole(view) for view in views)
        return now or self.case.volume.status.fenced

    def recorded(self) -> DrbdVolumeStatus:
        """The status with what is decided."""
        return self.case.volume.status.model_copy(update={"verdict": self.decided, "fenced": self.fenced})

    def events(self) -> tuple[Event, ...]:
        """What the newly decided verdict says."""
        new, old = self.decided, self.case.before.verdict
        if new is None or (old is not None and old.number >= new.number):
            return ()
        if not new.survivor:
            return (Event("Normal", "VerdictEnded", f"verdict {new.number}: {new.message}"),)
        told = f"verdict {new.number}: {new.survivor} goes on alone, {new.stale} is stale; {new.message}"
        return (Event("Warning", new.reason, told),)

    def requests(self) -> tuple[PutVerdict, ...]:
        """Whoever does not have the recorded verdict in its journal is told."""
        verdict = self.case.volume.status.verdict
        if verdict is None:
            return ()
        found = []
        for host in self.case.hosts:
            view, known = self.case.view(host.name), self._durable(host)
            if view is not None and (known is None or known.number < verdict.number):
                body = VerdictDesired(
                    term=self.case.world.term, uid=self.case.uid, resource=self.case.resource, verdict=wire(verdict)
                )
                found.append(PutVerdict(host.name, body))
        return tuple(found)

    def told(self, node: str) -> str:
        """What an asker is answered, for people."""
        answer = self.answer(node)
        if isinstance(answer, Refusal):
            return f"not answered, {answer.reason}: {answer.message}"
        number = self.standing.number if self.standing is not None else 0
        number += self.held is None  # the one that is given to it
        return f"it goes on by verdict {number}, {answer.reason}: {answer.evidence}"


def wire(verdict: VerdictStatus) -> Verdict:
    return Verdict(
        number=verdict.number, survivor=verdict.survivor or None, stale=verdict.stale or None, reason=verdict.reason
    )


def _current(generation: GenerationIds) -> int:
    """Without its lowest bit, which says Primary (drbdmeta(8))."""
    return int(generation.current, 16) & ~1


def _whole(view: VolumeState) -> bool:
    return (
        view.peer is not None
        and (view.disk, view.suspended) == ("UpToDate", "no")
        and (view.peer.connection, view.peer.disk, view.peer.replication) == ("Connected", "UpToDate", "Established")
    )
