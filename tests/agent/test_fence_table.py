"""The table of docs/fencing.md, over every combination of journal and DRBD's facts: what is never done."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from agent_facts import UID, kernel

from agent.core import Refused
from agent.fence_records import (
    FAILED,
    FENCED,
    STALE,
    Answer,
    FenceFacts,
    FenceRecord,
    GiveBack,
    Outdate,
    Resume,
    Step,
    Wait,
    accept,
    next_step,
    promotable,
)
from agent.protocol import PeerState, Verdict, VerdictDesired

CONNECTED = {"connection": "Connected", "role": "Secondary", "disk": "UpToDate", "replication": "Established"}
LOST = {"connection": "Connecting", "role": "Unknown", "disk": "DUnknown", "replication": "Off"}


def verdict(
    number: int = 3, survivor: str | None = "mk1", stale: str | None = "mk2", reason: str = "PeerLost"
) -> Verdict:
    return Verdict(number=number, survivor=survivor, stale=stale, reason=reason)


RECORDS = {
    "none": None,
    "ended": FenceRecord(uid=UID, verdict=verdict(4, None, None, "Redundant")),
    "held": FenceRecord(uid=UID, verdict=verdict()),
    "held, fenced": FenceRecord(uid=UID, verdict=verdict(reason="Fenced")),
    "given back": FenceRecord(uid=UID, verdict=verdict(), given_back=True),
    "stale": FenceRecord(uid=UID, verdict=verdict(3, "mk2", "mk1")),
    "continued": FenceRecord(uid=UID, continued_at="2027-01-01T00:00:00Z"),
}
ROLES = ("Primary", "Secondary")
DISKS = ("UpToDate", "Consistent", "Outdated", "Inconsistent", "Diskless")
SUSPENDED = ("no", "fencing", "user,fencing")
BOOLS = (False, True)


def case(
    record: str, role: str, disk: str, suspended: str, peer: dict[str, str], asked: bool, answered: bool, policy: bool
) -> tuple[FenceFacts, Step]:
    seen = kernel(role=role, disk=disk, suspended=suspended, peer=peer)
    facts = FenceFacts("mk1", RECORDS[record], seen, asked=asked, answered=answered, continue_now=policy)
    return facts, next_step(facts)


ALL = [
    (words, *case(*words))
    for words in product(RECORDS, ROLES, DISKS, SUSPENDED, (CONNECTED, LOST), BOOLS, BOOLS, BOOLS)
]


def test_io_goes_on_only_on_a_frozen_primary_that_is_up_to_date_and_alone() -> None:
    resumed = [(words, facts, step) for words, facts, step in ALL if isinstance(step, Resume)]
    assert resumed
    for (record, role, disk, suspended, peer, asked, answered, policy), _, step in resumed:
        assert isinstance(step, Resume)
        assert (role, disk, peer) == ("Primary", "UpToDate", LOST)
        assert "fencing" in suspended
        assert not asked
        assert not answered  # DRBD itself acts on the handler's answer
        if step.by_policy:
            assert policy
            assert record in ("none", "ended", "given back", "continued")
        else:
            assert record.startswith("held")


def test_a_handler_hears_4_or_7_only_where_the_verdict_is_held_and_the_disk_is_good() -> None:
    for (record, _, disk, _, peer, asked, _, _), _, step in ALL:
        if isinstance(step, Answer):
            assert asked
            assert step.exit in (STALE, FENCED, FAILED)
            if step.exit != FAILED:
                assert record.startswith("held")
                assert disk in ("UpToDate", "Consistent")
                assert peer == LOST
                assert (step.exit == FENCED) == (record == "held, fenced")


def test_only_a_stale_secondary_that_is_alone_is_outdated() -> None:
    outdated = [words for words, _, step in ALL if isinstance(step, Outdate)]
    assert outdated
    for record, role, disk, _, peer, *_ in outdated:
        assert (record, role, peer) == ("stale", "Secondary", LOST)
        assert disk in ("UpToDate", "Consistent")


def test_a_verdict_is_given_back_only_when_both_sides_are_whole() -> None:
    back = [words for words, _, step in ALL if isinstance(step, GiveBack)]
    assert back
    for record, _, disk, suspended, peer, *_ in back:
        assert record.startswith("held") or record == "continued"
        assert (disk, suspended, peer) == ("UpToDate", "no", CONNECTED)
    for change in ({"disk": "Inconsistent"}, {"replication": "SyncSource"}, {"replication": "VerifyS"}):
        assert not isinstance(
            case("held", "Primary", "UpToDate", "no", CONNECTED | change, False, False, False)[1], GiveBack
        )


def test_who_has_no_verdict_waits() -> None:
    for record in ("none", "ended", "given back"):
        for asked in BOOLS:
            assert case(record, "Primary", "UpToDate", "fencing", LOST, asked, False, False)[1] == Wait()


def test_what_is_not_up_is_answered_at_once() -> None:
    step = next_step(FenceFacts("mk1", RECORDS["held"], None, asked=True))
    assert isinstance(step, Answer)
    assert step.exit == FAILED


@pytest.mark.parametrize("record", RECORDS)
def test_only_a_stale_copy_is_never_promoted(record: str) -> None:
    refusal = promotable(RECORDS[record], "mk1", "vm_shaolin")
    assert (refusal is not None) == (record == "stale")


def desired(one: Verdict) -> VerdictDesired:
    return VerdictDesired(term=1, uid=UID, resource="vm_shaolin", verdict=one)


@pytest.mark.parametrize(
    ("known", "new", "reason"),
    [
        (verdict(3), verdict(2), "VerdictTooOld"),
        (verdict(3), verdict(3, "mk2", "mk1"), "VerdictContradicts"),
        (verdict(3), verdict(3, None, None), "VerdictContradicts"),
        (verdict(4, None, None), verdict(3), "VerdictTooOld"),
    ],
)
def test_numbers(known: Verdict, new: Verdict, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        accept(FenceRecord(uid=UID, verdict=known), desired(new))
    assert refused.value.refusal.reason == reason


def test_a_verdict_that_comes_twice_is_not_held_twice() -> None:
    """A late message doesn't give back what was given away."""
    spent = FenceRecord(uid=UID, verdict=verdict(3), given_back=True)
    assert accept(spent, desired(verdict(3))) == spent
    assert accept(spent, desired(verdict(5))).given_back is False
    continued = FenceRecord(uid=UID, continued_at="2027-01-01T00:00:00Z")
    assert accept(continued, desired(verdict(1))).continued_at == continued.continued_at


def test_the_good_kernel_is_what_the_agent_sees() -> None:
    """Guards the facts above: the helper's peer is read as DRBD's."""
    facts: Any = kernel(peer=LOST)
    assert isinstance(facts.peer, PeerState)
    assert facts.peer.connection == "Connecting"
