"""A split brain: found by the generations of both sides, kept by snapshots, healed where nothing can be lost or where a
person chose. Pure. The rules are those of docs/split-brain.md.

The side that the VM runs on goes on meanwhile. Which data stays is decided for two generations, by their id: it is void
once either side begins a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from agent.protocol import DiscardChanges, OperationRequest, OperationState, Refusal, TakeSnapshot, VolumeState
from controller.api.common import bytes_quantity
from controller.api.split_brain import SplitBrainSide, SplitBrainStatus
from controller.domain.actions import Event, Operate, Request
from controller.domain.conditions import timestamp
from controller.domain.generations import Relation, relation
from controller.domain.volume_case import VolumeCase
from controller.domain.world import HostView, operation_on

ATTEMPTS = 100  # of giving up one side's data, each under an id of its own


@dataclass(frozen=True)
class SplitBrain:
    """One volume's split brain, as both sides are now and as status.splitBrain has it."""

    case: VolumeCase

    # --- what is found

    @cached_property
    def found(self) -> Relation | None:
        """SplitBrain or Unrelated, also before the sides met; None: neither, or one side is not seen."""
        views = self.case.known
        if len(views) != 2 or any(_connection(view) == "Connected" for view in views):
            return None
        kind = relation(views[0].generation, views[1].generation)
        return kind if kind in ("SplitBrain", "Unrelated") else None

    @property
    def may_meet(self) -> bool:
        """DRBD has parted the sides, and their data is no reason: one follows from the other, or they are the same."""
        views = self.case.known
        if len(views) != 2 or self.record is not None or not self.parted:
            return False
        return relation(views[0].generation, views[1].generation) in ("Same", "FirstNewer", "SecondNewer")

    @property
    def parted(self) -> bool:
        """Has DRBD found the same and dropped the connection?"""
        return any(_connection(view) == "StandAlone" for view in self.case.known)

    @cached_property
    def record(self) -> SplitBrainStatus | None:
        """As status.splitBrain shall be: it stays until both sides are whole again."""
        old = self.case.volume.status.split_brain
        if self.found is None:
            return None if old is None or self.case.up_to_date() else self._with_snapshots(old)
        sides = tuple(self._side(node, view) for node, view in self.case.views.items() if view is not None)
        found = self._id
        same = old is not None and old.id == found
        return SplitBrainStatus(
            id=found,
            kind="SplitBrain" if self.found == "SplitBrain" else "Unrelated",
            detected_at=old.detected_at if same and old else timestamp(self.case.world.now),
            sides=sides,
            survivor=self._survivor(found, old.survivor if same and old else ""),
        )

    @property
    def _id(self) -> str:
        """Of what is there now."""
        return sha256("/".join(_masked(view) for view in self.case.known).encode()).hexdigest()[:8]

    def _with_snapshots(self, old: SplitBrainStatus) -> SplitBrainStatus:
        """The one that was taken when its side gave up is named, too: by then the generations are others."""
        sides = tuple(
            side.model_copy(update={"snapshot": (self._kept_on(side.node, old.id) or (side.snapshot,))[-1]})
            for side in old.sides
        )
        return old.model_copy(update={"sides": sides})

    def _side(self, node: str, view: VolumeState) -> SplitBrainSide:
        written = view.peer.out_of_sync_kib if view.peer is not None else None
        told = [f"domain {', '.join(view.used_by)} has it"] if view.used_by else []
        if self.case.wanted_primary() == node:
            told.append("its VM belongs here")
        if _holds(view, node) and view.fence.verdict is not None:
            told.append(f"verdict {view.fence.verdict.number} let it go on alone ({view.fence.verdict.reason})")
        if view.fence.continued_at:
            told.append(f"went on alone by spec.fencing at {view.fence.continued_at}")
        return SplitBrainSide(
            node=node,
            generation=_masked(view),
            role=view.role,
            written_alone=bytes_quantity(written * 1024) if written is not None else None,
            evidence="; ".join(told),
            snapshot=(self._kept_on(node, self._id) or ("",))[-1],
        )

    # --- who gives up

    def _survivor(self, found: str, decided: str) -> str:
        """A decision stands for its id; a new one is a person's, or there is nothing to lose."""
        if decided or self.found == "Unrelated":
            return decided
        choice = self.case.volume.spec.split_brain
        if choice is not None and choice.id == found:
            return choice.survivor if self._refused(choice.survivor) is None else ""
        loses_nothing = [node for node in self.case.nodes if self._wrote_nothing(node)]
        if not (loses_nothing and self.parted):
            return ""
        home = self.case.wanted_primary()
        gives_up = next((node for node in loses_nothing if node != home), loses_nothing[0])
        survivor = self._other(gives_up)
        return survivor if self._refused(survivor) is None else ""

    def _wrote_nothing(self, node: str) -> bool:
        """No block differs for what was written there, nobody has it, and nothing says that it went on alone."""
        view = self.case.view(node)
        return (
            view is not None
            and view.role == "Secondary"
            and not view.used_by
            and view.peer is not None
            and view.peer.out_of_sync_kib == 0
            and view.fence.continued_at is None
            and not _holds(view, node)
        )

    def _refused(self, survivor: str) -> Refusal | None:
        """Why that side cannot be the survivor."""
        if survivor not in self.case.nodes:
            return Refusal(
                reason="NotAMember",
                message=f"{survivor} holds no replica; write {' or '.join(self.case.nodes)} in its place",
            )
        stays, gives = self.case.view(survivor), self.case.view(self._other(survivor))
        if stays is None or stays.disk != "UpToDate":
            stale = self.case.volume.status.verdict
            recorded = stale is not None and stale.stale == survivor
            why = f" (verdict {stale.number}: {stale.message})" if recorded and stale else ""
            disk = stays.disk if stays else "unknown"
            return Refusal(
                reason="SurvivorNotUpToDate",
                message=f"the disk of {survivor} is {disk}, not UpToDate{why}: take what is needed from it out of its"
                " snapshot",
            )
        other = self._other(survivor)
        if gives is not None and gives.used_by:
            return Refusal(
                reason="VictimInUse",
                message=f"domain {', '.join(gives.used_by)} on {other} has the disk whose data shall be replaced: set"
                f" state: Stopped first, or choose {other}",
            )
        return None

    def _other(self, node: str) -> str:
        return next(name for name in self.case.nodes if name != node)

    # --- what is asked

    def requests(self) -> tuple[Request, ...]:
        """For the record that is to be written: snapshots of both sides first, then the one gives up, and both meet."""
        record = self.record
        if record is None or self.found != "SplitBrain":
            return ()
        if missing := self._not_kept(record):
            return tuple(self._keep(node, record.id) for node in missing)
        if not (record.survivor and self.parted):
            return ()
        gives_up = self._other(record.survivor)
        if (discard := self._discard(gives_up, record.id)) is not None:
            return (discard,)
        view = self.case.view(record.survivor)
        waits = _connection(self.case.view(gives_up)) == "Connecting"
        if view is not None and waits and _connection(view) == "StandAlone" and self.case.describable():
            return (self.case.put(record.survivor, "Up", view.role),)  # it connects
        return ()

    def _not_kept(self, record: SplitBrainStatus) -> tuple[str, ...]:
        """Sides of which a snapshot is still to be taken: both, but where nothing is given up."""
        if record.survivor and self._wrote_nothing(self._other(record.survivor)):
            return ()
        return tuple(side.node for side in record.sides if not self._snapshot_on(side.node))

    def _keep(self, node: str, found: str) -> Operate:
        name = f"{self.case.volume.logical_volume_name}.split-{found}"
        body = TakeSnapshot(resource=self.case.resource, uid=self.case.uid, name=name)
        return self._operate(node, f"split-{found}-keep", body)

    def _discard(self, node: str, found: str) -> Operate | None:
        """One that succeeded, and after which the connection was refused again (its host rebooted), is asked anew."""
        view = self.case.view(node)
        if view is None or view.generation is None:
            return None
        body = DiscardChanges(
            resource=self.case.resource,
            uid=self.case.uid,
            generation=view.generation.current.upper().rjust(16, "0"),
            snapshot=self._snapshot_on(node).rpartition("/")[2] or None,
        )
        for attempt in range(1, ATTEMPTS):
            name = f"split-{found}-discard-{attempt}"
            operation = self._operation(node, name)
            if operation is None or operation.outcome not in ("Succeeded", None):
                return self._operate(node, name, body)
            if operation.outcome is None or _connection(view) != "StandAlone":
                return None
        return None

    def _operate(self, node: str, name: str, body: TakeSnapshot | DiscardChanges) -> Operate:
        return Operate(node, OperationRequest(id=name, term=self.case.world.term, body=body))

    def _operation(self, node: str, name: str) -> OperationState | None:
        return operation_on(self._host(node), name)

    def _host(self, node: str) -> HostView:
        return self.case.world.objects.host(node)

    def _snapshot_on(self, node: str) -> str:
        """group/name of the snapshot that was taken there when this was found; empty: none."""
        if len(self.case.known) != 2:
            return ""
        return next((name for name in self._kept_on(node, self._id) if "-discard-" not in name), "")

    def _kept_on(self, node: str, found: str) -> tuple[str, ...]:
        """group/name of that split brain's snapshots there, the newest last: what its agent took when the side gave up
        is `<logical volume>.<operation id>`, with a number behind it where an attempt failed."""
        live, spec = self._host(node).live, self.case.volume.spec
        first = f"{spec.logical_volume.group}/{self.case.volume.logical_volume_name}.split-{found}"
        attempts: list[tuple[tuple[int, ...], str]] = []
        for name in live.logical_volumes if live is not None else ():
            number = name.removeprefix(f"{first}-discard-")
            if name == first:
                attempts.append(((), name))
            elif number != name and number.replace("-", "").isdecimal():
                attempts.append((tuple(int(one or 0) for one in number.split("-")), name))
        return tuple(name for _, name in sorted(attempts))

    def _given_up(self, node: str, found: str) -> str:
        """group/name of the snapshot of what the side gave up; empty: none yet."""
        newest = (self._kept_on(node, found) or ("",))[-1]
        return newest if "-discard-" in newest else ""

    # --- what people are told

    def trouble(self) -> Refusal | None:
        """What is wrong and what a person may do; None: there is no split brain."""
        record = self.record
        if record is None:
            return None
        names = " and ".join(side.node for side in record.sides)
        if record.kind == "Unrelated":
            return Refusal(
                reason="UnrelatedData",
                message=f"the replicas of {names} have no history in common, as when a wrong logical volume was put in"
                " place; nothing is done. Put the right one back, or delete this DrbdVolume and make it anew",
            )
        if self.found is None or record.survivor:
            given = [f"{name} on {node}" for node in self.case.nodes if (name := self._given_up(node, record.id))]
            return Refusal(
                reason="SplitBrain",
                message=f"split brain {record.id}: the data of {record.survivor or 'one side'} stays, the other side"
                f" takes it over{self._held_up(record)}"
                + (f"; {' and '.join(given)} holds what was given up" if given else ""),
            )
        told = f"split brain {record.id}: {names} were both written without the other. {self._evidence(record)}"
        if missing := self._not_kept(record):
            told += f". A snapshot is taken first on {' and '.join(missing)}{self._held_up(record)}"
        choice = self.case.volume.spec.split_brain
        if choice is not None and choice.id != record.id:
            told += f". spec.splitBrain is for {choice.id}, another one: look again, and write id: {record.id}"
        elif choice is not None and (no := self._refused(choice.survivor)) is not None:
            told += f". spec.splitBrain.survivor: {choice.survivor} is refused: {no.message}"
        return Refusal(
            reason="SplitBrain",
            message=f"{told}. Choose whose data stays: kubectl xen resolve {self.case.volume.metadata.name}"
            f" --survivor NODE (spec.splitBrain: {{id: {record.id}, survivor: NODE}}); a snapshot is taken of"
            " what the other side gives up",
        )

    def _evidence(self, record: SplitBrainStatus) -> str:
        return "; ".join(
            f"{side.node}: {side.role}, "
            f"{side.written_alone + ' written alone' if side.written_alone else 'what was written alone is not known'}"
            f"{', ' + side.evidence if side.evidence else ''}"
            for side in record.sides
        )

    def _held_up(self, record: SplitBrainStatus) -> str:
        """What an agent ran into."""
        for no in self.case.refused:
            if isinstance(no.request, Operate) and no.request.body.id.startswith(f"split-{record.id}-"):
                return f" ({no.request.host}: {no.refusal.message})"
        for host in self.case.hosts:
            for name, operation in (host.live.operations if host.live else {}).items():
                if name.startswith(f"split-{record.id}-") and operation.outcome == "Failed" and operation.refusal:
                    return f" ({host.name}: {operation.refusal.message})"
        return ""

    def events(self) -> tuple[Event, ...]:
        """Of what is new against the status that is there."""
        old, new = self.case.before.split_brain, self.record
        if new is not None and (old is None or old.id != new.id):
            trouble = self.trouble()
            return (Event("Warning", trouble.reason, trouble.message),) if trouble else ()
        if new is not None and old is not None and new.survivor and not old.survivor:
            return (Event("Normal", "SplitBrainResolved", f"split brain {new.id}: the data of {new.survivor} stays"),)
        if new is None and old is not None:
            given = [(side.node, self._given_up(side.node, old.id)) for side in old.sides]
            kept = ", ".join(
                f"{name} on {side.node}" for side in old.sides for name in self._kept_on(side.node, old.id)
            )
            told = f"split brain {old.id} is over" + "".join(
                f"; {name} on {node} holds what was given up there" for node, name in given if name
            )
            told += f"; remove {kept} when it is not needed any more" if kept else ""
            return (Event("Normal", "SplitBrainHealed", told),)
        return ()


def _connection(view: VolumeState | None) -> str:
    """StandAlone is also what has no connection at all."""
    if view is None:
        return "Unknown"
    return view.peer.connection if view.peer is not None else "StandAlone"


def _holds(view: VolumeState, node: str) -> bool:
    """Does the host's journal let it go on alone?"""
    verdict = view.fence.verdict
    return verdict is not None and verdict.survivor == node and not view.fence.given_back


def _masked(view: VolumeState) -> str:
    """The current generation without the bit that says Primary."""
    return f"{int(view.generation.current, 16) & ~1:016X}" if view.generation is not None else ""
