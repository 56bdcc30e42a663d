"""Moves between real hosts, by an edit of spec.node and by hand in turns: how long, how long the guest stood still.

Both VMs have 128 MiB and write the same records; the one whose turn it is not is paused. While a script moves the
other, the agents are frozen. Every time is of one clock, this machine's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from demo_lib.screen import DemoFailed
from demo_lib.witness import Witness
from lab_lib.tools import LabFailed

from bench_lib.by_hand import GUEST, RESOURCE, TRANSPORTS
from bench_lib.lab_stage import LabStage, unix
from bench_lib.report import Listing, Result, Row, number
from bench_lib.stage import Failed
from kubectl_xen import view
from kubectl_xen.cluster import Object, Problem

OURS = "spec.node"
REST_SECONDS = 3.0
WHOLE_GOAL, PAUSE_GOAL = 1.0, 1.1
NAMES = {OURS: "edit of spec.node", "tcp": "script, plain TCP", "ssh": "script, ssh"}


@dataclass(frozen=True)
class Moment:
    """Something that happened, told by `who`; Unix time of this machine's clock."""

    who: str
    what: str
    at: float


@dataclass(frozen=True)
class Move:
    """One move: `left` and `came` are the guest's last record on the source and its first on the target."""

    way: str
    source: str
    target: str
    begun: float
    ended: float
    left: float
    came: float
    two_primaries: float
    cpu: float  # seconds of both dom0s
    moments: tuple[Moment, ...]

    @property
    def whole(self) -> float:
        return self.ended - self.begun

    @property
    def pause(self) -> float:
        return self.came - self.left


@dataclass
class Rounds:
    """What could be measured; `problem`: why it ended early."""

    moves: list[Move] = field(default_factory=list)
    problem: str = ""

    def of(self, way: str) -> list[Move]:
        return [move for move in self.moves if move.way == way]


class Race:
    """The rounds on one stage."""

    def __init__(self, stage: LabStage, seen: Witness) -> None:
        """`seen`: of the VM that is moved by spec.node."""
        self._stage, self._ours = stage, seen
        self._theirs = stage.witness(GUEST, RESOURCE)

    def run(self, rounds: int, ways: Sequence[str], until: float) -> Rounds:
        """Each way once a round, another one first each time. Ends early at `until` (monotonic), or when one fails."""
        made, stage = Rounds(), self._stage
        stage.hand.stand_still(still=True)
        for number_ in range(rounds):
            turn = number_ % len(ways)
            for way in (*ways[turn:], *ways[:turn]):
                if time.monotonic() > until:
                    made.problem = f"no time was left after {len(made.moves)} of {rounds * len(ways)} moves"
                    return made
                try:
                    move = self._by_edit() if way == OURS else self._by_hand(way)
                except (DemoFailed, LabFailed, Problem, OSError) as error:
                    made.problem = f"round {number_ + 1}, {NAMES[way]}: {error}"
                    return made
                made.moves.append(move)
                stage.screen.progress(
                    f"round {number_ + 1} of {rounds}, {NAMES[way]}: {move.source} -> {move.target} {move.whole:.1f} s,"
                    f" pause {move.pause:.2f} s, both Primary {move.two_primaries:.2f} s, dom0s {move.cpu:.1f} s of CPU"
                )
        return made

    def _by_edit(self) -> Move:
        stage = self._stage
        stage.settled()
        source = view.placed_on(stage.vm())
        target = "mk2" if source == "mk1" else "mk1"
        stage.records(self._ours, source)
        time.sleep(REST_SECONDS)
        cpu = stage.both.dom0_seconds()
        told: list[Moment] = []

        def over(vm: Object, at: float) -> bool:
            move = view.status_of(vm).get("migration") or {}
            if move.get("target") == target and move.get("outcome") in ("Failed", "Cancelled"):
                raise Failed(f"the move ended as {move['outcome']}: {move.get('message', '')}")
            if move.get("target") == target and view.migration(vm):
                phase = view.phase_of_move(move)
                if not told or told[-1].what != phase:  # each step's begin, not its progress
                    told.append(Moment("status", phase, at))
            here = view.placed_on(vm) == target and view.phase_of(vm) == "Running"
            return here and view.current(vm) and not view.migration(vm)

        with stage.follow(over) as seen:
            begun = stage.edit_node(target)
            ended = seen.wait(600, f"the move to {target} is over in the status")
        moments = [Moment("status", "edit", begun), *told, Moment("status", "over", ended)]
        after = stage.both.dom0_seconds()
        stage.records(self._ours, target)
        clocks = stage.both.clocks()
        for host, kind in ((source, "migrate-send"), (target, "migrate-receive")):
            steps = stage.newest(host, kind).steps
            moments += [Moment(kind, step.name, unix(step.at) - clocks[host]) for step in steps]
        return self._made(OURS, source, target, begun, ended, self._ours, after - cpu, moments)

    def _by_hand(self, way: str) -> Move:
        stage = self._stage
        stage.settled()
        home, name = view.placed_on(stage.vm()), stage.guest.name
        stage.freeze()
        try:
            stage.consoles[home].ok(f"xl pause {name}")
            stage.hand.stand_still(still=False)
            stage.records(self._theirs, stage.hand.on)
            time.sleep(REST_SECONDS)
            cpu = stage.both.dom0_seconds()
            move = stage.hand.move(way)
            after = stage.both.dom0_seconds()
            stage.records(self._theirs, move.target)
            stage.hand.stand_still(still=True)
            stage.consoles[home].ok(f"xl unpause {name}")
        finally:
            stage.thaw()
        moments = [Moment("script", step.command, step.begun) for step in move.steps]
        moments.append(Moment("script", "over", move.ended))
        return self._made(way, move.source, move.target, move.begun, move.ended, self._theirs, after - cpu, moments)

    @staticmethod
    def _made(
        way: str, source: str, target: str, begun: float, ended: float, seen: Witness, cpu: float, moments: list[Moment]
    ) -> Move:
        left, came = seen.crossing(source, target, begun)
        if seen.complaints or not all(tick.good for tick in seen.ticks):
            raise Failed(f"{seen.guest} lost a record: {seen.complaints}")
        two = seen.two_primaries(time.time()) - seen.two_primaries(begun)
        return Move(way, source, target, begun, ended, left, came, two, cpu, tuple(moments))


# --- what came out ------------------------------------------------------------------------------------------------


def result(rounds: Rounds) -> Result:
    """Ratios of moves of the same round: median, and between what they lie."""
    ours = rounds.of(OURS)
    rows = [
        Row("moves by spec.node: both hosts Primary, in all", sum(move.two_primaries for move in ours), "s", 0.0),
    ]
    for way in TRANSPORTS:
        if rounds.of(way):
            rows += _compared(rounds, way)
    count = min((len(rounds.of(way)) for way in {move.way for move in rounds.moves}), default=0)
    how = f"{count} round{'s' * (count != 1)}, the ways in turns within each, to and fro; guests of 128 MiB"
    if rounds.problem:
        how += f"; ENDED EARLY: {rounds.problem}"
    return Result("lab-moves", how, tuple(rows), (_listing(rounds), _steps(ours)))


def _compared(rounds: Rounds, way: str) -> list[Row]:
    pairs = list(zip(rounds.of(OURS), rounds.of(way), strict=False))
    goals = (WHOLE_GOAL, PAUSE_GOAL, None)
    measures: tuple[tuple[str, Callable[[Move], float]], ...] = (
        ("whole move", lambda move: move.whole),
        ("pause of the guest", lambda move: move.pause),
        ("CPU of both dom0s", lambda move: move.cpu),
    )
    rows = []
    for (what, of), goal in zip(measures, goals, strict=True):
        ratios = [of(one) / of(other) for one, other in pairs if of(other) > 0]
        if ratios:
            between = f"({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append(Row(f"{what}, of {NAMES[way]}: median {between}", statistics.median(ratios), "times", goal))
    return rows


def _listing(rounds: Rounds) -> Listing:
    rows = []
    for way in dict.fromkeys(move.way for move in rounds.moves):
        moves = rounds.of(way)
        cells: list[Callable[[Move], float]] = [
            lambda move: move.whole, lambda move: move.pause, lambda move: move.two_primaries, lambda move: move.cpu,
        ]  # fmt: skip
        rows.append((NAMES[way], *(_spread([of(move) for move in moves]) for of in cells)))
    columns = ("moved by", "whole", "pause", "both Primary", "CPU of both dom0s")
    return Listing("Seconds: median (least to most)", columns, tuple(rows))


def _spread(values: Sequence[float]) -> str:
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"


def _steps(ours: list[Move]) -> Listing:
    """When each step began, since the edit: medians."""
    found: dict[tuple[str, str], list[float]] = {}
    for move in ours:
        firsts = {(one.who, one.what): one.at for one in reversed(move.moments)}
        for key, at in firsts.items():
            found.setdefault(key, []).append(at - move.begun)
        found.setdefault(("guest", "last record on the source"), []).append(move.left - move.begun)
        found.setdefault(("guest", "first record on the target"), []).append(move.came - move.begun)
    ordered = sorted(((statistics.median(at), who, what) for (who, what), at in found.items()))
    rows = tuple((f"{at:.2f} s", who, what) for at, who, what in ordered)
    return Listing(
        "Where the time of an edit goes: each step's begin since the edit, median", ("at", "by", "step"), rows
    )
