"""A split brain: what is found, who gives up, and above all what is never given up (docs/split-brain.md)."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import DiscardChanges, FenceState, GenerationIds, LogicalVolumeState, TakeSnapshot, Verdict
from controller.domain.actions import Decision, Operate, PutVolume
from tests.unit.domain.worlds import Worlds, asked, conditions, howto, operation_state, peer, volume_state

BEFORE = "A1B2C3D4E5F60718"
OURS = GenerationIds(current="1111111111111110", bitmap=BEFORE)
THEIRS = GenerationIds(current="2222222222222220", bitmap=BEFORE)
ALONE = peer(connection="StandAlone", role="Unknown", disk="DUnknown", replication="Off", out_of_sync_kib=8)


def side(worlds: Worlds, node: str, *snapshots: str, operations: dict[str, Any] | None = None, **update: Any) -> None:
    values = {"generation": OURS if node == "mk1" else THEIRS, "peer": ALONE} | update
    worlds.tell(
        node,
        volumes={"vm_shaolin": volume_state(**values)},
        logical_volumes={name: _lv(name) for name in ("vg0/vm_shaolin", *snapshots)},
        operations=operations or {},
    )


def _lv(name: str) -> LogicalVolumeState:
    group, _, short = name.partition("/")
    return LogicalVolumeState(group=group, name=short, size=512 << 20)


def split(**update: Any) -> Worlds:
    worlds = howto(created=True)
    worlds.delete("XenVM", "shaolin")
    for node in ("mk1", "mk2"):
        side(worlds, node, **update)
    return worlds


def decided(worlds: Worlds) -> Decision:
    decision = worlds.decide_volume()
    worlds.commit("DrbdVolume", "vm-shaolin", decision)
    return decision


def record(decision: Decision) -> Any:
    assert decision.status is not None
    return decision.status.split_brain  # type: ignore[union-attr]


def kept(found: str) -> str:
    return f"vg0/vm_shaolin.split-{found}"


def bodies(decision: Decision, kind: type[Any]) -> list[tuple[str, Any]]:
    return [(one.host, one.body.body) for one in asked(decision, Operate) if isinstance(one.body.body, kind)]


def found_and_kept(**update: Any) -> tuple[Worlds, str]:
    """... with a snapshot of each side; and its id."""
    worlds = split(**update)
    found = record(decided(worlds)).id
    for node in ("mk1", "mk2"):
        side(worlds, node, kept(found), **update)
    return worlds, found


def test_it_is_told_with_evidence_and_both_sides_are_kept_first() -> None:
    worlds = split()
    side(worlds, "mk1", role="Primary", used_by=("shaolin",))
    decision = decided(worlds)
    seen = record(decision)
    assert (seen.kind, seen.survivor) == ("SplitBrain", "")
    assert [(one.node, one.role, one.written_alone) for one in seen.sides] == [
        ("mk1", "Primary", "8Ki"),
        ("mk2", "Secondary", "8Ki"),
    ]
    assert "domain shaolin has it" in seen.sides[0].evidence
    assert {host for host, _ in bodies(decision, TakeSnapshot)} == {"mk1", "mk2"}
    assert not bodies(decision, DiscardChanges)
    degraded = conditions(decision)["Degraded"]
    assert degraded.reason == "SplitBrain"
    assert "kubectl xen resolve vm-shaolin" in degraded.message
    assert "SplitBrain" in [event.reason for event in decision.events]
    assert "SplitBrain" not in [event.reason for event in decided(worlds).events]  # told once


def test_nothing_happens_by_itself_once_both_are_kept() -> None:
    worlds, _ = found_and_kept()
    for _ in range(3):
        assert not asked(decided(worlds), Operate)


def test_the_chosen_one_stays_and_the_other_gives_up_what_its_snapshot_keeps() -> None:
    worlds, found = found_and_kept()
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": found, "survivor": "mk2"})
    decision = decided(worlds)
    assert record(decision).survivor == "mk2"
    ((host, body),) = bodies(decision, DiscardChanges)
    assert (host, body.generation, body.snapshot) == ("mk1", OURS.current, kept(found).partition("/")[2])
    assert not asked(decision, PutVolume)
    # It gave up and waits for the other, which is told to connect
    done = {f"split-{found}-discard-1": operation_state(id=f"split-{found}-discard-1", outcome="Succeeded")}
    waits = ALONE.model_copy(update={"connection": "Connecting"})
    side(worlds, "mk1", kept(found), operations=done, peer=waits)
    decision = decided(worlds)
    assert [(put.host, put.body.level, put.body.role) for put in asked(decision, PutVolume)] == [
        ("mk2", "Up", "Secondary")
    ]
    assert not asked(decision, Operate)
    # ... but its host rebooted before they met: it is asked again, as another operation
    side(worlds, "mk1", kept(found), operations=done)
    assert [one.body.id for one in asked(decided(worlds), Operate)] == [f"split-{found}-discard-2"]
    # Connected and whole: it is over
    for node in ("mk1", "mk2"):
        side(worlds, node, generation=THEIRS, peer=peer())
    decision = decided(worlds)
    assert record(decision) is None
    assert "SplitBrainHealed" in [event.reason for event in decision.events]


def test_the_snapshot_of_what_was_given_up_is_named() -> None:
    """The one of when the split was found is older."""
    worlds, found = found_and_kept()
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": found, "survivor": "mk2"})
    decided(worlds)
    done = {f"split-{found}-discard-1": operation_state(id=f"split-{found}-discard-1", outcome="Succeeded")}
    taken = [f"{kept(found)}{end}" for end in ("-discard-1-2", "-discard-1", "", "-discard-x")]
    waits = ALONE.model_copy(update={"connection": "Connecting"})
    side(worlds, "mk1", *taken, operations=done, peer=waits)
    assert [one.snapshot for one in record(decided(worlds)).sides] == [taken[0], kept(found)]
    # the peer's data comes: another generation, and the record stays until both are whole
    target = peer(replication="SyncTarget")
    side(worlds, "mk1", *taken[1:], operations=done, generation=THEIRS, disk="Inconsistent", peer=target)
    side(worlds, "mk2", kept(found), peer=peer(replication="SyncSource", disk="Inconsistent"))
    decision = decided(worlds)
    assert [one.snapshot for one in record(decision).sides] == [taken[1], kept(found)]
    assert f"{taken[1]} on mk1 holds what was given up" in conditions(decision)["Degraded"].message
    for node in ("mk1", "mk2"):
        side(worlds, node, *(taken[1:] if node == "mk1" else (kept(found),)), generation=THEIRS, peer=peer())
    (healed,) = [event for event in decided(worlds).events if event.reason == "SplitBrainHealed"]
    assert f"{taken[1]} on mk1 holds what was given up there" in healed.message
    for name in (f"{kept(found)} on mk1", f"{kept(found)} on mk2"):
        assert name in healed.message


def test_a_decision_stays_though_the_choice_is_taken_out_again() -> None:
    worlds, found = found_and_kept()
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": found, "survivor": "mk2"})
    decided(worlds)
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain=None)
    assert record(decided(worlds)).survivor == "mk2"


@pytest.mark.parametrize(
    ("choice", "update", "words"),
    [
        ({"id": "00000000", "survivor": "mk2"}, {}, "is for 00000000, another one"),
        ({"survivor": "mk9"}, {}, "write mk1 or mk2"),
        ({"survivor": "mk2"}, {"mk1": {"used_by": ("shaolin",), "role": "Primary"}}, "set state: Stopped first"),
        ({"survivor": "mk2"}, {"mk2": {"disk": "Inconsistent"}}, "the disk of mk2 is Inconsistent"),
        ({"survivor": "mk2"}, {"mk2": {"disk": "Outdated"}}, "the disk of mk2 is Outdated"),
    ],
)
def test_a_choice_is_refused_in_words(choice: dict[str, str], update: dict[str, Any], words: str) -> None:
    worlds, found = found_and_kept()
    for node, values in update.items():
        side(worlds, node, kept(found), **values)
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": found} | choice)
    decision = decided(worlds)
    assert words in conditions(decision)["Degraded"].message
    assert not asked(decision, Operate)


def test_a_choice_is_void_once_a_side_began_another_generation() -> None:
    worlds, found = found_and_kept()
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": found, "survivor": "mk2"})
    side(worlds, "mk1", kept(found), generation=GenerationIds(current="3333333333333330", bitmap=BEFORE))
    decision = decided(worlds)
    assert record(decision).id != found
    assert not bodies(decision, DiscardChanges)
    assert bodies(decision, TakeSnapshot)  # of what is there now


def test_a_side_that_wrote_nothing_gives_up_by_itself() -> None:
    worlds = split()
    side(worlds, "mk2", peer=ALONE.model_copy(update={"out_of_sync_kib": 0}))
    decision = decided(worlds)
    assert record(decision).survivor == "mk1"
    assert [(host, body.snapshot) for host, body in bodies(decision, DiscardChanges)] == [("mk2", None)]


@pytest.mark.parametrize(
    "update",
    [
        {"role": "Primary"},
        {"used_by": ("shaolin",)},
        {"peer": ALONE.model_copy(update={"out_of_sync_kib": None})},
        {"fence": FenceState(continued_at="2027-01-15T08:00:00Z")},
        {"fence": FenceState(verdict=Verdict(number=1, survivor="mk2", stale="mk1", reason="PeerLost"))},
    ],
)
def test_who_may_have_written_gives_up_nothing_by_itself(update: dict[str, Any]) -> None:
    worlds = split()
    side(worlds, "mk2", **({"peer": ALONE.model_copy(update={"out_of_sync_kib": 0})} | update))
    decision = decided(worlds)
    assert record(decision).survivor == ""
    assert not bodies(decision, DiscardChanges)


def test_it_is_known_before_they_meet_and_nobody_gives_up_yet() -> None:
    """The cable is still out: both wait for each other."""
    waits = ALONE.model_copy(update={"connection": "Connecting", "out_of_sync_kib": 0})
    worlds = split(peer=waits)
    decision = decided(worlds)
    assert (record(decision).kind, record(decision).survivor) == ("SplitBrain", "")
    assert not bodies(decision, DiscardChanges)


def test_row_38_data_with_nothing_in_common_is_told_and_left_alone() -> None:
    worlds = split()
    side(worlds, "mk2", generation=GenerationIds(current="2222222222222220", bitmap="0" * 16))
    decision = decided(worlds)
    assert record(decision).kind == "Unrelated"
    worlds.edit("DrbdVolume", "vm-shaolin", splitBrain={"id": record(decision).id, "survivor": "mk1"})
    decision = decided(worlds)
    assert not asked(decision, Operate)
    assert conditions(decision)["Degraded"].reason == "UnrelatedData"


@pytest.mark.parametrize("missing", ["silent", "unread"])
def test_what_cannot_be_seen_is_no_split_brain(missing: str) -> None:
    worlds = split()
    if missing == "silent":
        worlds.hosts["mk2"].connected = False
    else:
        side(worlds, "mk2", generation=None)
    decision = decided(worlds)
    assert record(decision) is None
    assert not asked(decision, Operate)


@pytest.mark.parametrize("theirs", [OURS, GenerationIds(current=BEFORE, bitmap="0" * 16)])
def test_sides_that_were_parted_for_another_reason_are_asked_to_meet(theirs: GenerationIds) -> None:
    """A setting or a secret that did not fit: found to be gone by trying again."""
    worlds = split()
    side(worlds, "mk2", generation=theirs)
    decision = decided(worlds)
    assert record(decision) is None
    assert [(put.host, put.body.role) for put in asked(decision, PutVolume)] == [
        ("mk1", "Secondary"),
        ("mk2", "Secondary"),
    ]
    assert conditions(decision)["Degraded"].reason == "StandAlone"
