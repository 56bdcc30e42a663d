"""Every order of events that the budgets allow, by the project's own decisions and guards: never two, never lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutations
import pair
import pair_scenarios
import pytest
import safety
import scenarios
import volume_scenarios
from canonical import canonical
from explorer import Violation, explore
from exploring import DEEP
from states import Budget

pytestmark = pytest.mark.timeout(900)  # seconds on the clock, of a machine that may have much else to do
Start = Callable[[int, int], Any]


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize(
    ("start", "faults", "edits"),
    [
        (scenarios.running, 2, 0),
        (scenarios.running, 0, 2),
        (scenarios.new, 1, 0),
        (scenarios.stopped, 2, 0),
        (scenarios.cut_off, 1, 0),
        (scenarios.alone, 1, 0),
        (scenarios.whole_again, 1, 0),
        (scenarios.continues, 0, 1),
        (scenarios.went_on, 1, 0),
        (scenarios.only_copy_lost, 0, 0),
        (scenarios.lost, 1, 0),
        (scenarios.lost, 0, 1),
        (scenarios.power_cut, 0, 1),
        (scenarios.taken_over, 0, 0),
        (scenarios.switched_off, 0, 0),
        (volume_scenarios.creating, 1, 0),
        (volume_scenarios.creating, 0, 2),
        (volume_scenarios.whole, 1, 2),
        (volume_scenarios.leftover, 1, 0),
        (volume_scenarios.retained, 1, 0),
        (volume_scenarios.by_hand, 1, 0),
    ],
    ids=_name,
)
def test_all_of_it(start: Start, faults: int, edits: int) -> None:
    """To the end: there is no other order of events with so many faults and edits."""
    found = explore(start(faults, edits), most=200_000)
    assert found.exhausted
    assert found.states > 10


@pytest.mark.parametrize(
    ("start", "faults", "edits"),
    [
        (scenarios.running, 1, 1),
        (scenarios.moving, 1, 0),
        (scenarios.moving, 1, 1),
        (scenarios.new, 1, 1),
        (scenarios.fenced, 1, 0),
        (scenarios.known_off, 1, 0),
        (scenarios.taken_over, 1, 1),
        (scenarios.switched_off, 1, 0),
        (volume_scenarios.creating, 1, 1),
        (volume_scenarios.creating, 2, 0),
    ],
    ids=_name,
)
def test_the_nearest_of_more(start: Start, faults: int, edits: int) -> None:
    """More may go wrong than can be seen to the end here: `hack/explore --deep` goes on."""
    assert explore(start(faults, edits), most=2_500).states == 2_500


@pytest.mark.parametrize(
    ("start", "faults"),
    [
        (pair_scenarios.third_host, 0),
        (pair_scenarios.draining, 0),
        (pair_scenarios.one_fits, 1),
        (pair_scenarios.two_hosts_lost, 0),
    ],
    ids=_name,
)
def test_all_of_two_vms(start: Start, faults: int) -> None:
    """On hosts that they share: moves in turn, and room for one of them."""
    assert explore(start(faults, 0), most=20_000, check=pair.at_once).exhausted


def test_a_host_without_a_replica_is_refused_with_a_reason() -> None:
    """spec.node names mk3, which has none of its disk: the VM goes on where it is."""
    start = pair_scenarios.third_host(0, 0)
    outcome, _ = pair.leader_looks(start, 0)
    assert outcome.requests == ()
    assert any("NoReplicaThere" in one for one in outcome.explained)


@pytest.mark.parametrize(
    "start", [pair_scenarios.apart, pair_scenarios.draining, pair_scenarios.two_hosts_lost], ids=_name
)
def test_the_nearest_of_two_vms(start: Start) -> None:
    assert explore(start(1, 0), most=1_500).states == 1_500


@pytest.mark.parametrize(
    "start", [scenarios.mad_at_running, scenarios.mad_at_released, scenarios.mad_at_moved], ids=_name
)
def test_the_agents_alone_are_enough_against_a_mad_controller(start: Start) -> None:
    """Whatever is asked of them, in any order: no VM runs twice, and no disk is written twice."""
    assert explore(start(0, 0), most=3_000, check=mutations.accidents, rests=False).states > 100


@pytest.mark.parametrize(
    "start",
    [
        volume_scenarios.mad_at_new,
        volume_scenarios.mad_at_connected,
        volume_scenarios.mad_at_whole,
        volume_scenarios.mad_without_journal,
        volume_scenarios.mad_at_leftover,
        volume_scenarios.mad_at_by_hand,
    ],
    ids=_name,
)
def test_no_data_is_lost_to_a_mad_controller(start: Start) -> None:
    """Force, content and roles asked of both agents, in any order: what is on a disk stays there."""
    assert explore(start(1, 0), most=2_000, rests=False).states > 100


@pytest.mark.parametrize(
    "start",
    [
        scenarios.late_role,
        scenarios.late_stop,
        scenarios.late_start,
        scenarios.late_cancel,
        scenarios.late_cancel_at_go,
        volume_scenarios.late_put,
        volume_scenarios.wiped,
        volume_scenarios.foreign_metadata,
        volume_scenarios.exchanged,
    ],
    ids=_name,
)
def test_what_comes_late_or_was_done_by_hand_does_no_harm(start: Start) -> None:
    assert explore(start(0, 0), most=12_000, rests=start.__module__ == scenarios.__name__).exhausted


def test_a_search_finds_again_what_it_found() -> None:
    """The story of a violation is a way that can be walked, and its last step breaks the rule."""
    without = mutations.without(mutations.drbd_two_primaries, mutations.peer_not_primary)
    with without, pytest.raises(Violation) as caught:
        explore(scenarios.running(1, 1), most=20_000)
    story = caught.value.story
    assert caught.value.broken == "two Primaries"
    assert any(line.startswith(("FAULT", "PERSON")) for line in story)
    assert str(caught.value).splitlines()[1].endswith(story[0])


def test_what_the_policy_continue_may_lose_is_excused_only_until_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(safety, "went_on_unrecorded", lambda _: False)
    with pytest.raises(Violation, match="split brain"):
        explore(scenarios.went_on(1, 1), most=20_000)


def test_worlds_that_differ_only_in_names_are_one() -> None:
    world = scenarios.running(0, 0)
    higher = world._replace(
        api=world.api._replace(placement=world.api.placement._replace(epoch=7)),  # type: ignore[union-attr]
        hosts=(
            world.hosts[0]._replace(promise=world.hosts[0].promise._replace(epoch=7, asked_epoch=7)),  # type: ignore[union-attr]
            world.hosts[1],
        ),
    )

    assert canonical(higher) == world
    assert safety.broken(world, higher) is None
    assert "back" in (safety.broken(higher, world) or "")
    assert world.budget == Budget(0, 0)


def test_every_deep_search_begins() -> None:
    """Each in a process of its own, as `hack/explore --deep` runs them for an hour."""
    script = Path(__file__).resolve().parents[2] / "hack/explore"
    done = subprocess.run(
        [sys.executable, str(script), "--deep", "--most", "300", "--jobs", "2"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no accident in 300 worlds") == len(DEEP), done.stdout
