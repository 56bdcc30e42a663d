"""What may be removed of a migration that nobody here started: proofs, and everything that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from agent.drivers.xen_parse import parse_list
from agent.foreign import receivers, receiving, senders, working
from agent.host import HostProcess
from agent.leftover_proof import (
    SETTLE_SECONDS,
    STEADY_SECONDS,
    WRITES_SEEN,
    Facts,
    Keep,
    Remove,
    Sight,
    counted,
    from_peer,
    incomplete,
    judge,
    seen,
)
from agent.protocol import DomainState
from agent.vm_records import Removal, VmRecord
from tests.agent_migration.vm_facts import FLAGS, NODE, OTHER, UID, domain, drbd, record

NOW = 5000.0
STANDS = NOW - STEADY_SECONDS
RECEIVER = HostProcess(199, ("/usr/lib/xen-4.17/bin/xl", "migrate-receive", "-p", "-e"), "pipe:[1]", False)
SENDER = HostProcess(198, ("xl", "migrate", "-s", "", "-p", "-e", "shaolin", "socat - TCP:10.0.0.82:9000"), "", False)
HELPER = HostProcess(55, ("/usr/lib/xen-4.17/bin/libxl-save-helper", "--restore-domain", "0", "1"), "", False)
MONITOR = HostProcess(77, ("/usr/sbin/xl", "migrate-receive"), "/dev/null", False)
LISTENER = HostProcess(197, ("socat", "TCP-LISTEN:9000,reuseaddr", "EXEC:xl migrate-receive -p -e"), "", False)
CREATED = HostProcess(60, ("xl", "create", "/etc/xen/a.cfg"), "/dev/null", False)
OURS = HostProcess(61, ("xl", "migrate-receive", "-p", "-e"), "pipe:[2]", True)

AWAY = {"granted": False, "epoch": 4}


def half(**changes: Any) -> DomainState:
    """A copy without processors: its receiver was killed in the precopy."""
    return domain("paused", "incoming", **({"vcpus": 0, "memory_mib": 48} | changes))


def whole(**changes: Any) -> DomainState:
    return domain("paused", "incoming", **changes)


def left_behind(**changes: Any) -> DomainState:
    return domain("suspended", "migratedaway", **changes)


def facts(one: DomainState, kept: VmRecord | None, **changes: Any) -> Facts:
    """A good case: seen long enough, nobody at work, and the other host has written."""
    sight = Sight(one, since=STANDS, whole_since=STANDS, writes=WRITES_SEEN)
    values: dict[str, Any] = {
        "node": NODE,
        "boot_id": "boot-1",
        "record": kept,
        "domain": one,
        "sight": sight,
        "now": NOW,
        "busy": None,
        "processes": (MONITOR, CREATED),
    }
    return Facts(**(values | changes))


def kept(one: Facts) -> str:
    answer = judge(one)
    assert isinstance(answer, Keep), answer
    assert answer.why.reason == "LeftoverDomain"
    return answer.why.message


NAMELESS_HALF = domain("paused", "zombie", vcpus=0, cpu_seconds=0.0)
NAMELESS_WHOLE = domain("paused", "zombie", cpu_seconds=0.0)
NAMELESS_SUSPENDED = domain("suspended", "zombie")
WHOLE = [whole(), left_behind(), left_behind(flags="--pss-"), NAMELESS_WHOLE, NAMELESS_SUSPENDED]


@pytest.mark.parametrize("one", [half(), NAMELESS_HALF])
@pytest.mark.parametrize("promise", [{}, AWAY, {"boot_id": "boot-0"}])
def test_a_copy_without_processors_goes_whoever_has_the_vm(one: DomainState, promise: dict[str, Any]) -> None:
    sight = Sight(one, since=STANDS, whole_since=STANDS)
    assert judge(facts(one, record(**promise), sight=sight)) == Remove(
        7, "it never had all of its memory, and nothing works on it any more"
    )


@pytest.mark.parametrize("one", WHOLE)
def test_a_whole_copy_goes_where_the_vm_was_given_away_and_its_guest_writes_on_the_other_host(one: DomainState) -> None:
    assert isinstance(judge(facts(one, record(**AWAY))), Remove)


@pytest.mark.parametrize("one", WHOLE)
@pytest.mark.parametrize("writes", range(WRITES_SEEN))
def test_without_those_writes_it_may_be_the_only_copy(one: DomainState, writes: int) -> None:
    sight = Sight(one, since=STANDS - 1e6, whole_since=STANDS, writes=writes)
    assert "may be the only copy" in kept(facts(one, record(**AWAY), sight=sight))


@pytest.mark.parametrize("one", WHOLE)
def test_where_the_vm_is_this_hosts_no_whole_copy_goes(one: DomainState) -> None:
    assert "the VM is this host's" in kept(facts(one, record()))


@pytest.mark.parametrize("one", WHOLE)
def test_what_was_given_away_in_an_earlier_boot_does_not_explain_a_copy_of_this_one(one: DomainState) -> None:
    assert "before this host's boot" in kept(facts(one, record(**AWAY), boot_id="boot-2"))


@pytest.mark.parametrize("one", [half(), *WHOLE])
def test_a_record_that_is_missing_proves_nothing(one: DomainState) -> None:
    assert "of no VM that this host's journal knows" in kept(facts(one, None))


@pytest.mark.parametrize("change", [{"uuid": OTHER}, {"uuid": None}])
@pytest.mark.parametrize("one", [half(), *WHOLE])
def test_another_uuid_or_none_is_left_alone(one: DomainState, change: dict[str, Any]) -> None:
    other = one.model_copy(update=change)
    assert "of no VM" in kept(facts(other, record(**AWAY)))


@pytest.mark.parametrize("one", [half(), *WHOLE])
def test_an_open_operation_judges_its_own(one: DomainState) -> None:
    assert "belongs to operation move" in kept(facts(one, record(**AWAY), busy="move"))


@pytest.mark.parametrize("one", [half(), *WHOLE])
@pytest.mark.parametrize("worker", [RECEIVER, SENDER, HELPER, LISTENER, OURS])
def test_nothing_goes_while_somebody_may_work_on_it(one: DomainState, worker: HostProcess) -> None:
    assert f"process {worker.pid}" in kept(facts(one, record(**AWAY), processes=(MONITOR, worker)))


@pytest.mark.parametrize("one", [half(), *WHOLE])
def test_processes_that_cannot_be_read_may_work_on_it(one: DomainState) -> None:
    assert "could not be read" in kept(facts(one, record(**AWAY), processes=None))


@pytest.mark.parametrize("one", [half(), *WHOLE])
def test_it_goes_only_after_it_was_the_same_for_long(one: DomainState) -> None:
    young = Sight(one, since=STANDS + 1, whole_since=STANDS, writes=9)
    assert "looked at for 60 s" in kept(facts(one, record(**AWAY), sight=young))
    grew = one.model_copy(update={"memory_mib": one.memory_mib + 4})
    assert "looked at for 60 s" in kept(facts(grew, record(**AWAY), sight=Sight(one, STANDS, STANDS, {}, 9)))


@pytest.mark.parametrize(
    "one",
    [
        domain("running"),
        domain("paused", cpu_seconds=0.0),  # an arrived copy: it has its own name, and may be the only one
        domain("paused", vcpus=0, cpu_seconds=0.0),
        domain("suspended"),
        domain("running", "incoming", vcpus=0),
        domain("running", "incoming", flags="------"),
        half(cpu_seconds=0.1),
        whole(cpu_seconds=0.1),
        domain("suspended", "incoming"),
        domain("running", "migratedaway"),
        domain("running", "migratedaway", flags="r-----"),
        domain("paused", "migratedaway", cpu_seconds=0.0),
        domain("poweroff", "migratedaway"),
        domain("crashed", "migratedaway"),
        domain("dying", "incoming"),
        domain("dying", "migratedaway"),
        domain("dying", "zombie"),
        domain("running", "zombie"),
        domain("paused", "zombie", cpu_seconds=3.0),
    ],
)
@pytest.mark.parametrize("promise", [{}, AWAY])
def test_what_runs_ran_or_has_its_own_name_stays(one: DomainState, promise: dict[str, Any]) -> None:
    begun = Removal(domid=7, boot_id="boot-1")
    kept(facts(one, record(removing=begun, **promise)))


def test_a_removal_that_was_begun_is_finished_in_the_same_boot_only() -> None:
    one = left_behind()
    sight = Sight(one, since=STANDS, whole_since=STANDS)
    for begun, goes in (
        (Removal(domid=7, boot_id="boot-1"), True),
        (Removal(domid=8, boot_id="boot-1"), False),
        (Removal(domid=7, boot_id="boot-0"), False),
    ):
        assert isinstance(judge(facts(one, record(removing=begun, **AWAY), sight=sight)), Remove) == goes


@pytest.mark.parametrize(
    ("file", "is_half"),
    [
        ("handover/03-p-sigkill-dst.mk2-to-mk1.txt", True),  # its receiver was killed in the precopy
        ("handover/03-p-cut-go.mk1-to-mk2.txt", False),  # the permission to go was lost
        ("xl-list.during-migration.txt", True),
    ],
)
def test_real_hosts_show_a_copy_without_processors_until_it_is_whole(file: str, is_half: bool) -> None:
    lines = (Path(__file__).parents[1] / "samples" / file).read_text().splitlines()
    head, dom0 = (next(line for line in lines if line.startswith(word)) for word in ("Name  ", "Domain-0"))
    copies = [line for line in lines if line.startswith("shaolin--incoming") and "--p---" in line]
    assert copies
    for line in copies:
        (copy,) = parse_list("\n".join((head, dom0, line)))
        assert incomplete(copy) == is_half


domains = st.builds(
    domain,
    st.sampled_from(sorted(FLAGS)),
    st.sampled_from(["main", "incoming", "migratedaway", "zombie"]),
    cpu_seconds=st.sampled_from([0.0, 0.0, 0.1]),
    vcpus=st.integers(0, 2),
    uuid=st.sampled_from([UID, UID, UID.upper(), OTHER, None]),
)
records = st.none() | st.builds(
    record,
    granted=st.booleans(),
    boot_id=st.sampled_from(["boot-0", "boot-1"]),
    removing=st.none() | st.builds(Removal, domid=st.just(7), boot_id=st.sampled_from(["boot-0", "boot-1"])),
)


@settings(max_examples=1000)
@given(
    domains,
    records,
    st.sampled_from([0.0, STEADY_SECONDS - 0.1, STEADY_SECONDS, 2 * STEADY_SECONDS]),
    st.integers(0, 3),
    st.sampled_from([None, None, None, "move"]),
    st.none() | st.lists(st.sampled_from([MONITOR, CREATED, MONITOR, RECEIVER, SENDER, HELPER, OURS]), max_size=2),
)
def test_over_any_facts_what_goes_stood_still_for_long_is_known_and_is_no_only_copy(
    one: DomainState,
    promise: VmRecord | None,
    age: float,
    writes: int,
    busy: str | None,
    processes: list[HostProcess] | None,
) -> None:
    sight = Sight(one, since=NOW - age, whole_since=NOW - age, writes=writes)
    answer = judge(facts(one, promise, sight=sight, busy=busy, processes=processes))
    event(type(answer).__name__)
    if isinstance(answer, Keep):
        return
    assert promise is not None
    assert (one.uuid or "").lower() == UID
    assert one.kind != "main"
    assert one.state in ("paused", "suspended")
    assert (busy, processes is None) == (None, False)
    assert not working(processes or ())
    assert age >= STEADY_SECONDS
    if not incomplete(one):
        begun = promise.removing == Removal(domid=7, boot_id="boot-1")
        assert (promise.granted, promise.boot_id) == (False, "boot-1")
        assert writes >= WRITES_SEEN or begun


# --- what its disks tell ------------------------------------------------------------------------------------------


def test_any_change_begins_its_time_anew() -> None:
    first = seen(None, half(), 10.0)
    assert seen(first, half(), 50.0) is first
    for changed in (half(domid=8), half(memory_mib=52), half(vcpus=1), left_behind(), half(name="(null)")):
        assert seen(first, changed, 50.0) == Sight(changed, since=50.0, whole_since=50.0)


def after(*looks: tuple[float, int | None]) -> int:
    sight = seen(None, whole(), 0.0)
    for at, received in looks:
        sight = counted(sight, {"vm_shaolin": received}, at)
    return sight.writes


def test_writes_count_after_the_late_ones_and_each_look_once() -> None:
    late = SETTLE_SECONDS
    assert after((5, 100), (10, 200), (late - 1, 300)) == 0
    assert after((5, 100), (late, 200)) == 0, "what came before is the base"
    assert after((late, 200), (late + 5, 201), (late + 10, 201), (late + 15, 900)) == 2


def test_a_disk_that_tells_nothing_for_a_moment_makes_all_of_it_void() -> None:
    late = SETTLE_SECONDS
    assert after((late, 200), (late + 5, 201), (late + 10, 202), (late + 15, None)) == 0
    again = late + 15
    assert after((late, 200), (again, None), (again + 5, 300), (again + 10, 400)) == 0
    assert after((again, None), (again + late, 300), (again + late + 5, 301)) == 1
    assert after((late, 200), (late + 5, 201), (late + 10, 7)) == 0, "DRBD counts anew"


def test_one_of_two_disks_that_tells_nothing_makes_it_void() -> None:
    sight = Sight(whole(), 0.0, 0.0, {"a": 1, "b": 1}, 1)
    assert counted(sight, {"a": 2, "b": None}, 90.0).writes == 0
    assert counted(sight, {"a": 2, "b": 1}, 90.0).writes == 2
    assert counted(sight, {}, 90.0).writes == 0


def test_only_a_connected_primarys_plain_writes_count() -> None:
    def counts(*, peer: dict[str, Any] | None = None, **changes: Any) -> int | None:
        values = {"role": "Secondary"} | changes
        return from_peer(drbd(peer={"role": "Primary"} | (peer or {}), **values)["vm_shaolin"], 5)

    assert counts() == 5
    assert counts(role="Primary") == 5
    assert counts(peer={"role": "Secondary"}) is None
    assert counts(peer={"role": "Unknown", "connection": "Connecting"}) is None
    assert counts(peer={"replication": "SyncTarget"}) is None
    assert counts(peer={"replication": "VerifyT"}) is None
    assert counts(disk="Inconsistent") is None
    assert counts(suspended="fencing") is None
    assert from_peer(None, 5) is None
    assert from_peer(drbd(peer={"role": "Primary"})["vm_shaolin"], None) is None


# --- processes ----------------------------------------------------------------------------------------------------


def test_a_receiver_is_told_from_what_watches_a_domain_that_arrived() -> None:
    everybody = (RECEIVER, SENDER, HELPER, MONITOR, CREATED, LISTENER, OURS)
    assert working(everybody) == (RECEIVER, SENDER, HELPER, LISTENER, OURS)
    assert receivers(everybody) == (RECEIVER, LISTENER)
    assert receiving((MONITOR, OURS, HELPER), NODE) is None
    told = receiving(everybody, NODE)
    assert told is not None
    assert told.reason == "ForeignReceiver"
    assert "process 199 (xl migrate-receive -p -e)" in told.message
    assert "kill 199 197" in told.message


def test_a_sender_is_known_by_its_domain() -> None:
    assert senders((SENDER, OURS), "shaolin", None) == (SENDER,)
    assert senders((SENDER,), "other", 7) == ()
    by_number = HostProcess(9, ("xl", "-v", "migrate", "7", "mk2"), "", False)
    assert senders((by_number,), "shaolin", 7) == (by_number,)
    ours = HostProcess(9, SENDER.argv, "", True)
    assert senders((ours,), "shaolin", 7) == ()
