"""What the facts mean after a stream ended: the cases of real interrupted migrations, and the laws over all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.migration.recovery import (
    Arrived,
    Nothing,
    Over,
    Remove,
    Resume,
    RunsOn,
    Strange,
    Unclear,
    judge_source,
    judge_target,
)
from agent.protocol import DomainState
from tests.agent_migration.vm_facts import FLAGS, NODE, domain

# (name of the case in the recorded interruptions, source's domains, permission out, report) -> verdict
RUNS = domain()
SUSPENDED = domain("suspended")
AWAY = domain("suspended", "migratedaway")


@pytest.mark.parametrize(
    ("own", "go", "report", "verdict"),
    [
        pytest.param([RUNS], False, None, RunsOn(RUNS), id="cut in precopy"),
        pytest.param([RUNS], False, None, RunsOn(RUNS), id="xl killed on the source"),
        pytest.param([SUSPENDED], False, None, Resume(SUSPENDED, rename=False), id="stopped, xl did not resume it"),
        pytest.param([AWAY], False, None, Resume(AWAY, rename=True), id="renamed, the permission never sent"),
        pytest.param([AWAY], True, None, Unclear(AWAY), id="go lost, or report lost: both look the same"),
        pytest.param([AWAY], True, 1, Resume(AWAY, rename=True), id="the target reported that it failed"),
        pytest.param([], True, None, Unclear(None), id="gone after the permission"),
    ],
)
def test_recorded_interruptions_on_the_source(
    own: list[DomainState], go: bool, report: int | None, verdict: object
) -> None:
    assert judge_source(own, go=go, report=report, node=NODE) == verdict


def test_a_guest_that_ended_by_itself_is_told() -> None:
    verdict = judge_source([domain("poweroff")], go=False, report=None, node=NODE)
    assert isinstance(verdict, Over)
    assert verdict.why.reason == "GuestEnded"


def test_a_zombie_is_told() -> None:
    verdict = judge_source([domain("dying", "zombie")], go=False, report=None, node=NODE)
    assert isinstance(verdict, Over)
    assert verdict.why.reason == "ZombieDomain"


def test_nothing_left_before_the_permission() -> None:
    verdict = judge_source([], go=False, report=None, node=NODE)
    assert isinstance(verdict, Over)
    assert verdict.why.reason == "DomainGone"


INCOMING = domain("paused", "incoming")
NAMELESS = domain("paused", "zombie", cpu_seconds=0.0)
NEW = domain("paused", cpu_seconds=0.0)


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        pytest.param([], Nothing(), id="the receiver removed it"),
        pytest.param([INCOMING], Remove(INCOMING), id="receiver killed, or go lost"),
        pytest.param([NAMELESS], Remove(NAMELESS), id="receiver killed while it took its copy down"),
        pytest.param([NEW], Arrived(NEW), id="arrived; the report may be lost"),
    ],
)
def test_recorded_interruptions_on_the_target(own: list[DomainState], verdict: object) -> None:
    assert judge_target(own, node="mk2") == verdict


@pytest.mark.parametrize(
    "own",
    [
        [domain()],
        [domain("paused", cpu_seconds=0.4)],
        [domain("running", "incoming")],
        [domain("paused", "incoming", cpu_seconds=1.0)],
        [domain("dying", "zombie")],
        [domain("paused", "zombie", cpu_seconds=1.0)],
        [domain("paused", "zombie", cpu_seconds=0.0, uuid=None)],
        [domain("suspended", "migratedaway")],
    ],
)
def test_what_ran_is_never_removed_from_the_target(own: list[DomainState]) -> None:
    assert isinstance(judge_target(own, node="mk2"), Strange)


domains = st.builds(
    domain,
    state=st.sampled_from(sorted(FLAGS)),
    kind=st.sampled_from(["main", "incoming", "migratedaway", "zombie"]),
    cpu_seconds=st.sampled_from([0.0, 3.0]),
)


@settings(max_examples=800)
@given(st.lists(domains, max_size=2), st.booleans(), st.sampled_from([None, 1, 255]))
def test_the_source_is_never_resumed_while_the_target_may_have_it(
    own: list[DomainState], go: bool, report: int | None
) -> None:
    verdict = judge_source(own, go=go, report=report, node=NODE)
    if go and report is None:
        assert not (isinstance(verdict, Resume) and verdict.domain.state == "suspended")
    if isinstance(verdict, Resume | RunsOn):
        assert verdict.domain.kind in ("main", "migratedaway")


@settings(max_examples=800)
@given(st.lists(domains, max_size=2))
def test_the_target_removes_only_what_never_ran(own: list[DomainState]) -> None:
    verdict = judge_target(own, node="mk2")
    if isinstance(verdict, Remove | Arrived):
        assert verdict.domain.cpu_seconds == 0.0
