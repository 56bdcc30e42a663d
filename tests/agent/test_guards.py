"""The guards, one table per chain: the good case passes, and every single thing that is not so is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from agent_facts import OTHER, UID, config, desired, domain, kernel, other_record, record, volume

from agent.core import Refused
from agent.guards import (
    CREATE_METADATA,
    DEMOTE,
    FORCE,
    PROMOTE,
    WRITE_CONTENT,
    ContentFacts,
    ForceFacts,
    MetadataFacts,
    RoleFacts,
    TermFacts,
    first_refusal,
    require,
    term_not_lower,
)
from agent.ownership import RESERVE, OwnershipFacts
from agent.protocol import GenerationIds, Refusal

FRESH = GenerationIds(current="0000000000000004", bitmap="0000000000000000")
USED = GenerationIds(current="A0B1C2D3E4F50617", bitmap="0000000000000000")


def refusal(chain: Any, facts: Any) -> Refusal:
    found = first_refusal(chain, facts)
    assert found is not None
    return found


def test_terms() -> None:
    assert term_not_lower(TermFacts(promised=5, requested=5)) is None
    assert term_not_lower(TermFacts(promised=5, requested=6)) is None
    refused = term_not_lower(TermFacts(promised=5, requested=4))
    assert refused is not None
    assert refused.reason == "TermTooOld"
    assert "term 4" in refused.message
    assert "term 5" in refused.message


def test_every_guard_says_in_one_line_what_it_guards() -> None:
    for guard in (*RESERVE, *CREATE_METADATA, *PROMOTE, *DEMOTE, *FORCE, *WRITE_CONTENT):
        assert guard.__doc__
        assert len(guard.__doc__.splitlines()) == 1


# --- ownership ------------------------------------------------------------------------------------------------------

NEW = OwnershipFacts(
    node="mk1", desired=desired(), records={}, logical_volumes={}, configured={}, kernel={}
)  # nothing is there
KNOWN = replace(
    NEW,
    records={"vm_shaolin": record(), "other": other_record()},
    logical_volumes={"vg0/vm_shaolin": volume(), "vg0/other": volume("other", OTHER)},
    configured={
        "vm_shaolin": config("vm_shaolin", owner_uid=UID, minors=frozenset({1}), ports=frozenset({7789})),
        "foreign": config("foreign"),
    },
    kernel={"vm_shaolin": kernel()},
)


@pytest.mark.parametrize("facts", [NEW, KNOWN], ids=["new", "known"])
def test_reserve_accepts(facts: OwnershipFacts) -> None:
    require(RESERVE, facts)


def test_reserve_accepts_its_own_volume_after_the_journal_was_lost() -> None:
    require(RESERVE, replace(KNOWN, records={"other": other_record()}))


TAKEN = [
    ("NotAMember", "this is mk3", {"node": "mk3"}),
    ("Unreadable", "LVM could not be read", {"logical_volumes": None}),
    ("Unreadable", "/etc/drbd.d could not be read", {"configured": None}),
    ("Unreadable", "DRBD could not be read", {"kernel": None}),
    (
        "ResourceTaken",
        "belongs to DrbdVolume default/other",
        {"records": {"vm_shaolin": other_record(resource="vm_shaolin")}},
    ),
    (
        "ResourceTaken",
        "/etc/drbd.d/vm_shaolin.res, written by somebody else",
        {"configured": {"vm_shaolin": config("vm_shaolin")}},
    ),
    (
        "ResourceTaken",
        f"uid {OTHER}",
        {"configured": {"vm_shaolin": config("vm_shaolin", owner_uid=OTHER)}},
    ),
    ("ResourceTaken", "up in the kernel of mk1", {"kernel": {"vm_shaolin": kernel()}}),
    ("MinorTaken", "resource other of DrbdVolume default/other", {"records": {"other": other_record(minor=1)}}),
    (
        "MinorTaken",
        "resource foreign in /etc/drbd.d/foreign.res",
        {"configured": {"foreign": config("foreign", minors=frozenset({1}))}},
    ),
    ("MinorTaken", "resource byhand, which is up in the kernel", {"kernel": {"byhand": kernel("byhand")}}),
    ("PortTaken", "resource other of DrbdVolume default/other", {"records": {"other": other_record(port=7789)}}),
    (
        "PortTaken",
        "resource foreign in /etc/drbd.d/foreign.res",
        {"configured": {"foreign": config("foreign", ports=frozenset({7789}))}},
    ),
    (
        "LogicalVolumeTaken",
        "something not made by Xentandem",
        {"logical_volumes": {"vg0/vm_shaolin": volume(owner=None)}},
    ),
    ("LogicalVolumeTaken", f"uid {OTHER}", {"logical_volumes": {"vg0/vm_shaolin": volume(owner=OTHER)}}),
    (
        "LogicalVolumeTaken",
        "DrbdVolume default/other",
        {"records": {"other": other_record(logical_volume="vm_shaolin")}},
    ),
    (
        "LogicalVolumeTaken",
        "resource foreign in /etc/drbd.d/foreign.res",
        {"configured": {"foreign": config("foreign", disks=frozenset({"/dev/vg0/vm_shaolin"}))}},
    ),
]


@pytest.mark.parametrize(("reason", "words", "changes"), TAKEN, ids=[f"{one[0]}-{one[1][:20]}" for one in TAKEN])
def test_reserve_refuses(reason: str, words: str, changes: dict[str, Any]) -> None:
    found = refusal(RESERVE, replace(NEW, **changes))
    assert found.reason == reason
    assert words in found.message


def test_the_metadata_volume_is_guarded_too() -> None:
    facts = replace(
        NEW, desired=desired(metadata_group="vg1"), logical_volumes={"vg1/vm_shaolin_meta": volume(owner=None)}
    )
    assert "vg1/vm_shaolin_meta" in refusal(RESERVE, facts).message


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("Immutable", {"minor": 5}),
        ("Immutable", {"port": 7999}),
        ("Immutable", {"group": "vg1"}),
        ("Immutable", {"logical_volume": "elsewhere"}),
        ("Immutable", {"metadata_group": "vg1"}),
        ("Shrink", {"size": 32 << 20}),
    ],
)
def test_what_holds_data_does_not_change(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(RESERVE, replace(KNOWN, desired=desired(**changes))).reason == reason


def test_what_is_only_reserved_may_get_another_minor_and_port() -> None:
    """The other member had refused them, so that the controller chose again."""
    reserved = record(volume="none", metadata="none")
    reserved = reserved.model_copy(update={"desired": reserved.desired.model_copy(update={"level": "Reserved"})})
    facts = replace(NEW, records={"vm_shaolin": reserved}, desired=desired(minor=5, port=7999))
    require(RESERVE, facts)
    for changes in (
        {"records": {"vm_shaolin": record(volume="making", metadata="none")}},
        {"configured": KNOWN.configured},
        {"kernel": KNOWN.kernel},
    ):
        assert refusal(RESERVE, replace(facts, **changes)).reason == "Immutable"
    assert refusal(RESERVE, replace(facts, desired=desired(group="vg1"))).reason == "Immutable"


# --- metadata -------------------------------------------------------------------------------------------------------

BARE = MetadataFacts(record=record(metadata="none"), logical_volume=volume(), clearly_none=True, attached=False)


def test_metadata_is_made_where_none_is() -> None:
    require(CREATE_METADATA, BARE)
    require(CREATE_METADATA, replace(BARE, record=record(metadata="creating")))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("LogicalVolumeNotOurs", {"logical_volume": None}),
        ("LogicalVolumeNotOurs", {"logical_volume": volume(owner=None)}),
        ("LogicalVolumeNotOurs", {"logical_volume": volume(owner=OTHER)}),
        ("MetadataLost", {"record": record(metadata="created")}),
        ("MetadataLost", {"record": record(metadata="none", volume="adopted")}),
        ("Unreadable", {"clearly_none": None}),
        ("Unreadable", {"attached": None}),
        ("Unreadable", {"attached": True}),
        ("MetadataForeign", {"clearly_none": False}),
    ],
)
def test_metadata_is_not_made(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(CREATE_METADATA, replace(BARE, **changes)).reason == reason


# --- roles ----------------------------------------------------------------------------------------------------------

ROLE = RoleFacts("vm_shaolin", "mk1", kernel(), readable=True, domains=())


def test_roles_change() -> None:
    require(PROMOTE, ROLE)
    require(DEMOTE, ROLE)
    require(DEMOTE, replace(ROLE, domains=(domain(device="/dev/drbd2"),)))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("Unreadable", {"readable": False}),
        ("NotUp", {"kernel": None}),
        *[
            ("NotUpToDate", {"kernel": kernel(disk=disk)})
            for disk in ("Diskless", "Inconsistent", "Outdated", "DUnknown", "Consistent", "Failed", "Negotiating")
        ],
        ("Suspended", {"kernel": kernel(suspended="fencing")}),
        ("Suspended", {"kernel": kernel(suspended="user")}),
        ("PeerIsPrimary", {"kernel": kernel(peer={"role": "Primary"})}),
    ],
)
def test_promotion_is_refused(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(PROMOTE, replace(ROLE, **changes)).reason == reason


def test_promotion_while_the_peer_is_away_is_left_to_drbd() -> None:
    """DRBD's fencing policy decides (-7): a guard here would keep a fail-over from ever happening."""
    lone = {"connection": "Connecting", "role": "Unknown", "disk": "DUnknown", "replication": "Off"}
    require(PROMOTE, replace(ROLE, kernel=kernel(peer=lone)))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("Unreadable", {"readable": False}),
        ("NotUp", {"kernel": None}),
        ("Unreadable", {"domains": None}),
        ("Unreadable", {"domains": (domain(device=None),)}),
        ("InUse", {"domains": (domain(),)}),
        ("InUse", {"domains": (domain(state="paused"),)}),
        ("InUse", {"domains": (domain(name="shaolin--incoming", state="paused"),)}),
    ],
)
def test_demotion_is_refused(reason: str, changes: dict[str, Any]) -> None:
    found = refusal(DEMOTE, replace(ROLE, **changes))
    assert found.reason == reason


def test_demotion_names_the_user() -> None:
    assert "domain shaolin (id 3, running)" in refusal(DEMOTE, replace(ROLE, domains=(domain(),))).message


def test_a_zombie_without_readable_disks_is_left_to_drbd() -> None:
    require(DEMOTE, replace(ROLE, domains=(domain(device=None, kind="zombie", name="(null)"),)))


# --- force ----------------------------------------------------------------------------------------------------------

BRAND_NEW = ForceFacts(
    operation="sync-1",
    uid=UID,
    record=record(),
    logical_volume=volume(),
    kernel=kernel(disk="Inconsistent", peer={"disk": "Inconsistent"}),
    generation=FRESH,
)


def test_a_brand_new_resource_is_forced_and_its_own_interrupted_operation_goes_on() -> None:
    require(FORCE, BRAND_NEW)
    mine = replace(BRAND_NEW, record=record(forced_by="sync-1"))
    require(FORCE, mine)
    require(FORCE, replace(mine, logical_volume=volume(tags=("xentandem.forced",))))


def new_kernel(**changes: Any) -> Any:
    peer = {"disk": "Inconsistent"} | changes.pop("peer", {})
    return kernel(**({"disk": "Inconsistent", "peer": peer} | changes))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("UidMismatch", {"record": None}),
        ("UidMismatch", {"uid": OTHER}),
        ("AlreadyForced", {"record": record(forced_by="sync-0")}),
        ("AlreadyForced", {"logical_volume": volume(tags=("xentandem.forced",))}),
        ("LogicalVolumeNotOurs", {"logical_volume": None}),
        ("LogicalVolumeNotOurs", {"logical_volume": volume(owner=OTHER)}),
        ("NotBrandNew", {"kernel": None}),
        ("NotBrandNew", {"kernel": kernel()}),
        ("NotBrandNew", {"kernel": new_kernel(role="Primary")}),
        ("NotBrandNew", {"kernel": new_kernel(suspended="fencing")}),
        ("NotBrandNew", {"kernel": new_kernel(peer={"disk": "UpToDate"})}),
        ("NotBrandNew", {"kernel": new_kernel(peer={"disk": "DUnknown"})}),
        ("NotBrandNew", {"kernel": new_kernel(peer={"role": "Primary"})}),
        ("NotBrandNew", {"kernel": new_kernel(peer={"connection": "Connecting"})}),
        ("NotBrandNew", {"kernel": new_kernel(peer={"replication": "SyncTarget"})}),
        ("NotBrandNew", {"generation": None}),
        ("NotBrandNew", {"generation": USED}),
    ],
)
def test_force_is_refused(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(FORCE, replace(BRAND_NEW, **changes)).reason == reason


# --- content --------------------------------------------------------------------------------------------------------

EMPTY = ContentFacts(
    operation="content-1",
    uid=UID,
    record=record(),
    logical_volume=volume(),
    role=replace(ROLE, kernel=kernel(role="Primary")),
    signature=False,
)


def test_content_is_written_onto_an_empty_volume_and_over_our_own_interrupted_writing() -> None:
    require(WRITE_CONTENT, EMPTY)
    interrupted = record(content="writing", content_by="content-1")
    tagged = volume(tags=("xentandem.content=ext4",))
    require(WRITE_CONTENT, replace(EMPTY, record=interrupted, logical_volume=tagged, signature=True))
    failed_before = record(content="writing", content_by="content-0")
    require(WRITE_CONTENT, replace(EMPTY, record=failed_before, logical_volume=tagged, signature=None))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("UidMismatch", {"record": None}),
        ("UidMismatch", {"uid": OTHER}),
        ("NotPrimary", {"role": ROLE}),
        ("NotPrimary", {"role": replace(ROLE, kernel=None)}),
        ("NotUpToDate", {"role": replace(ROLE, kernel=kernel(role="Primary", disk="Diskless"))}),
        ("Suspended", {"role": replace(ROLE, kernel=kernel(role="Primary", suspended="fencing"))}),
        ("InUse", {"role": replace(EMPTY.role, domains=(domain(),))}),
        ("Unreadable", {"role": replace(EMPTY.role, domains=None)}),
        ("Unreadable", {"role": replace(EMPTY.role, readable=False)}),
        ("HasContent", {"record": record(content="written", content_by="content-1")}),
        ("HasContent", {"record": record(used=True)}),
        ("HasContent", {"logical_volume": volume(tags=("xentandem.content=xfs",))}),
        ("LogicalVolumeNotOurs", {"logical_volume": volume(owner=None)}),
        ("HasContent", {"signature": True}),
        ("Unreadable", {"signature": None}),
        ("HasContent", {"record": record(content="writing", used=True)}),
    ],
)
def test_content_is_refused(reason: str, changes: dict[str, Any]) -> None:
    assert refusal(WRITE_CONTENT, replace(EMPTY, **changes)).reason == reason


def test_refused_carries_the_refusal() -> None:
    with pytest.raises(Refused) as caught:
        require(PROMOTE, replace(ROLE, kernel=None))
    assert caught.value.refusal.reason == "NotUp"
