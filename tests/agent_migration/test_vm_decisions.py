"""What is promised, and the next step of a VM: pure decisions, against every state a host can show."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import Refused
from agent.protocol import DomainState, VmState
from agent.vm_records import BACKOFF_LIMIT, ENDED, Now, VmRecord, accept, after_end, restart_delay, status_of, vm_state
from agent.vm_steps import (
    Blocked,
    Confirm,
    Create,
    Destroy,
    End,
    GiveUpStopping,
    Pause,
    Rest,
    Settle,
    Shutdown,
    Step,
    Unpause,
    next_step,
)
from tests.agent_migration.vm_facts import FLAGS, NAME, NODE, OTHER, UID, desired, domain, record

NOW, CLOCK = 1_000_000.0, 500.0  # of the wall, and of the boot


def at(seconds: float = 0.0) -> Now:
    return Now(NOW + seconds, CLOCK + seconds)


def step(one: VmRecord, *seen: DomainState, after: float = 0.0, may_start: bool = True) -> Step:
    return next_step(one, seen, now=at(after), may_start=may_start, node=NODE)


def refusal(reason: str, one: VmRecord, *seen: DomainState) -> str:
    result = step(one, *seen)
    assert isinstance(result, Blocked)
    assert result.refusal.reason == reason
    return result.refusal.message


# --- promises ---------------------------------------------------------------------------------------------------------


def take(one: VmRecord | None, boot: str = "boot-1", **wish: Any) -> VmRecord:
    return accept(one, desired(**wish), boot_id=boot, now=at())


def test_the_first_wish_promises_and_grants() -> None:
    got = take(None, epoch=5)
    assert (got.epoch, got.granted, got.boot_id) == (5, True, "boot-1")


def test_a_lower_epoch_is_refused_with_both_numbers() -> None:
    with pytest.raises(Refused, match=r"EpochTooOld.*epoch 2.*promised epoch 3"):
        take(record(), epoch=2)


@pytest.mark.parametrize("state", ["Running", "Paused"])
def test_an_epoch_that_was_given_away_is_never_run_again(state: str) -> None:
    gone = take(record(), epoch=4, state="Released")
    assert (gone.epoch, gone.granted) == (4, False)
    with pytest.raises(Refused, match=r"EpochReleased.*takes epoch 5"):
        take(gone, epoch=4, state=state)
    assert take(gone, epoch=5, state=state).granted


def test_stopping_what_was_given_away_does_not_take_it_back() -> None:
    gone = take(record(), epoch=4, state="Released")
    assert not take(gone, epoch=4, state="Stopped").granted


def test_stopping_keeps_the_grant() -> None:
    assert take(record(), state="Stopped").granted


def test_a_higher_run_begins_anew_and_a_lower_one_changes_nothing() -> None:
    halted = record(halted="crash", restart_count=4, restart_at=NOW + 60, run=2)
    assert take(halted, run=2).halted == "crash"
    assert take(halted, run=1).run == 2
    again = take(halted, run=3)
    assert (again.halted, again.restart_count, again.restart_at, again.run) == (None, 0, None, 3)


def test_a_preserved_domain_goes_when_a_higher_run_is_asked() -> None:
    kept = record(halted="crash", preserved=True, started_at=NOW - 5)
    again = take(kept, run=2)
    assert step(again, domain("crashed")) == Destroy(7, "the guest has ended")
    assert isinstance(step(again), Create)


def test_a_reboot_of_the_host_forgets_what_ended_with_it() -> None:
    before = record(started_at=NOW - 50, stopping_since=CLOCK - 1, restart_at=NOW + 9, restart_count=3)
    after = take(before, boot="boot-2")
    assert (after.started_at, after.stopping_since, after.restart_at, after.restart_count) == (None, None, None, 0)
    assert after.boot_id == "boot-2"


wishes = st.builds(
    desired,
    epoch=st.integers(1, 6),
    run=st.integers(1, 3),
    state=st.sampled_from(["Running", "Paused", "Stopped", "Released"]),
)


@given(st.lists(wishes, max_size=12))
def test_over_any_wishes_the_promise_never_falls_and_a_grant_never_returns_at_its_epoch(wished: list[Any]) -> None:
    now: VmRecord | None = None
    given_away: set[int] = set()
    for wish in wished:
        before = now
        try:
            now = accept(before, wish, boot_id="boot-1", now=at())
        except Refused:
            assert before is not None
            continue
        assert now.epoch == max(wish.epoch, before.epoch if before else 0)
        assert not (now.granted and now.epoch in given_away)
        if not now.granted:
            given_away.add(now.epoch)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_start_from_nothing_to_running() -> None:
    assert isinstance(step(record()), Create)
    fresh = domain("paused", cpu_seconds=0.0)
    assert step(record(), fresh) == Confirm(fresh)
    assert step(record(started_at=NOW), fresh) == Unpause(7)
    assert step(record(started_at=NOW), domain()) == Rest()


def test_a_paused_vm_stays_paused_and_a_running_one_is_paused() -> None:
    paused = record("Paused", started_at=NOW)
    assert step(paused, domain("paused")) == Rest()
    assert step(paused, domain()) == Pause(7)


def test_nothing_is_started_before_the_controller_asked_in_this_boot() -> None:
    assert step(record(), may_start=False) == Rest()


def test_nothing_is_started_without_the_grant() -> None:
    assert step(record(granted=False)) == Rest()
    assert "gave the VM away at epoch 3" in refusal("NotGranted", record(granted=False), domain())


@pytest.mark.parametrize(
    ("reason", "obstacle"),
    [
        ("LeftoverDomain", domain("paused", "incoming")),
        ("LeftoverDomain", domain("suspended", "migratedaway")),
        ("ZombieDomain", domain("dying", "zombie")),
        ("ZombieDomain", domain("dying", "zombie", uuid=None)),
        ("NameInUse", domain(uuid=OTHER)),
        ("UuidInUse", domain(name="else")),
    ],
)
@pytest.mark.parametrize("state", ["Running", "Stopped"])
def test_what_stands_in_the_way_is_named_and_left_alone(reason: str, obstacle: DomainState, state: str) -> None:
    assert "domain 7" in refusal(reason, record(state), obstacle)


def test_a_half_of_a_foreign_migration_says_what_removes_it() -> None:
    copy = domain("paused", "incoming", cpu_seconds=0.0)
    said = refusal("LeftoverDomain", record(), copy)
    assert "is a copy that never ran, left by a receiver that was killed" in said
    assert f"`xl destroy {copy.domid}` removes it" in said
    said = refusal("LeftoverDomain", record(), domain("suspended", "migratedaway"))
    assert "where it runs nowhere, this may be the only copy of its memory" in said


def test_two_domains_of_one_vm_are_never_touched() -> None:
    message = refusal("TwoDomains", record(started_at=NOW), domain(domid=7), domain(domid=8))
    assert "7, 8" in message


def test_other_vms_are_nobodys_business() -> None:
    assert isinstance(step(record(), domain(uuid=OTHER, name="else"), domain("dying", "zombie", uuid=OTHER)), Create)


def test_a_stop_asks_waits_and_destroys_when_its_time_is_over() -> None:
    stop = record("Stopped", started_at=NOW - 900)
    assert step(stop, domain()) == Shutdown(domain())
    waiting = stop.model_copy(update={"stopping_since": CLOCK - 10})
    assert step(waiting, domain()) == Rest(50.0)
    assert step(waiting, domain("poweroff")) == Destroy(7, "the guest has powered off")
    late = stop.model_copy(update={"stopping_since": CLOCK - 60})
    assert step(late, domain()) == Destroy(7, "it did not shut down within 60 s")
    assert step(late) == Settle()
    assert step(record("Stopped")) == Rest()


def test_a_domain_that_never_ran_is_destroyed_without_asking() -> None:
    assert isinstance(step(record("Stopped"), domain("paused", cpu_seconds=0.0)), Destroy)


def test_running_again_while_it_stops() -> None:
    wish = record(started_at=NOW - 900, stopping_since=CLOCK - 10)
    assert step(wish, domain()) == Rest(50.0)
    assert isinstance(step(wish, domain("poweroff")), Destroy)
    assert isinstance(step(wish), Create)
    assert isinstance(step(wish, domain(), after=51), GiveUpStopping)


@pytest.mark.parametrize(("state", "reason"), ENDED.items())
def test_the_guests_own_end_follows_its_setting(state: str, reason: Any) -> None:
    running = record(started_at=NOW - 30)
    assert step(running, domain(state)) == End(reason, 7)
    for policy in ("destroy", "preserve", "restart"):
        setting = {f"on_{reason}": policy}
        wish = record(desired=desired(**setting), started_at=NOW - 30)
        ended = after_end(wish, reason, at())
        if policy == "destroy":
            assert isinstance(step(ended, domain(state)), Destroy)
            assert step(ended.model_copy(update={"started_at": None})) == Rest()
        elif policy == "preserve":
            assert step(ended, domain(state)) == Rest()
            assert status_of(ended, [domain(state)], True) == "preserved"
        else:
            assert isinstance(step(ended, domain(state)), Destroy)
            gone = ended.model_copy(update={"started_at": None, "stopping_since": None})
            assert isinstance(step(gone, after=1), Create)


def test_a_domain_that_vanished_counts_as_crashed() -> None:
    assert step(record(started_at=NOW - 30)) == End("crash", None)


def test_a_suspended_domain_without_a_migration_is_left_to_a_person() -> None:
    assert "---ss-" in refusal("Suspended", record(started_at=NOW), domain("suspended"))


def test_crashes_wait_longer_and_longer_and_a_long_run_begins_anew() -> None:
    one, waits = record(started_at=NOW), []
    for _ in range(12):
        one = after_end(one.model_copy(update={"started_at": NOW}), "crash", at(5))
        assert one.restart_at is not None
        waits.append(one.restart_at - NOW - 5)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, BACKOFF_LIMIT, BACKOFF_LIMIT, BACKOFF_LIMIT]
    rested = after_end(one.model_copy(update={"started_at": NOW}), "crash", at(700))
    assert (rested.restart_count, rested.restart_at) == (1, NOW + 701)


def test_reboots_are_followed_at_once_unless_they_loop() -> None:
    assert [restart_delay("reboot", count) for count in range(6)] == [0, 0, 0, 1, 2, 4]


def test_a_start_waits_for_its_time() -> None:
    waiting = record(restart_at=NOW + 4)
    assert step(waiting) == Rest(4.0)
    assert isinstance(step(waiting, after=4), Create)


# --- over every state -------------------------------------------------------------------------------------------------

domains = st.builds(
    domain,
    state=st.sampled_from(sorted(FLAGS)),
    kind=st.sampled_from(["main", "main", "main", "incoming", "migratedaway", "zombie"]),
    domid=st.integers(1, 9),
    uuid=st.sampled_from([UID, UID, OTHER]),
    cpu_seconds=st.sampled_from([0.0, 3.0]),
)
times = st.none() | st.sampled_from([NOW - 1000, NOW - 10, NOW + 10])
records = st.builds(
    record,
    state=st.sampled_from(["Running", "Paused", "Stopped", "Released"]),
    granted=st.booleans(),
    halted=st.sampled_from([None, "poweroff", "crash"]),
    preserved=st.booleans(),
    started_at=times,
    stopping_since=st.none() | st.sampled_from([CLOCK - 400, CLOCK - 10, CLOCK + 10]),
    restart_at=times,
)


@settings(max_examples=1500)
@given(records, st.lists(domains, max_size=3), st.booleans())
def test_the_laws_of_every_step(one: VmRecord, seen: list[DomainState], may_start: bool) -> None:
    got = next_step(one, seen, now=at(), may_start=may_start, node=NODE)
    ours = [each for each in seen if each.uuid == UID or each.name.startswith(NAME)]
    runs = one.granted and one.desired.state in ("Running", "Paused")
    if isinstance(got, Create):
        assert runs
        assert may_start
        assert not ours
        assert one.halted is None
    if isinstance(got, Unpause | Confirm):
        assert runs
        assert len(ours) == 1
    if isinstance(got, Unpause):
        assert one.desired.state == "Running"
    if isinstance(got, Destroy | Shutdown | Unpause | Pause | Confirm):
        domid = got.domain.domid if isinstance(got, Shutdown | Confirm) else got.domid
        touched = [each for each in seen if each.domid == domid and each.uuid == UID and each.kind == "main"]
        assert touched, "a step touches only this VM's own main domain"
    if isinstance(got, Destroy) and one.desired.state != "Stopped":
        assert touched[0].state in ENDED, "a guest that lives is never destroyed unless it shall be stopped"
    if one.desired.state == "Released":
        assert got == Rest()


@given(records, st.none() | st.lists(domains, max_size=2), st.booleans())
def test_every_state_can_be_shown(one: VmRecord, seen: list[DomainState] | None, may_start: bool) -> None:
    shown = vm_state(one, seen, may_start=may_start, since=None, problem=None)
    assert shown.status in get_args(VmState.model_fields["status"].annotation)
    if seen is None:
        assert shown.status == "unknown"
    if shown.status == "running":
        assert any(each.state == "running" for each in seen or ())
