"""Preflight: every reason at once, each with its numbers; what cannot be read is a reason, too."""

from __future__ import annotations

from typing import Any

import pytest

from agent.preflight import Seen, arriving, leaving, starting
from agent.protocol import DomainDesired, NetworkConfig, Refusal
from tests.agent_migration.vm_facts import NODE, OTHER, config, desired, domain, drbd, facts, host, record


def seen(**changes: Any) -> Seen:
    values: dict[str, Any] = {
        "node": NODE,
        "facts": facts(),
        "desired": host(),
        "listening": True,
        "domains": [],
        "drbd": drbd(),
        "files": {"/boot/vmlinuz": True},
        "record": None,
        "busy": None,
    }
    return Seen(**(values | changes))


def at_target(**changes: Any) -> Seen:
    return seen(**({"drbd": drbd(role="Secondary", peer={"role": "Primary"})} | changes))


def at_source(**changes: Any) -> Seen:
    return seen(**({"domains": [domain()], "record": record()} | changes))


def test_nothing_against_good_hosts() -> None:
    assert starting(seen(), desired()) == []
    assert arriving(at_target(), desired(epoch=4), source="mk2") == []
    assert leaving(at_source(), desired()) == []


def test_row_10_a_failed_disk_is_left_and_not_come_to() -> None:
    assert leaving(at_source(drbd=drbd(disk="Diskless")), desired()) == []
    at_peer = drbd(role="Secondary", peer={"role": "Primary", "disk": "Diskless"})
    assert arriving(at_target(drbd=at_peer), desired(epoch=4), source="mk2") == []
    here = drbd(role="Secondary", disk="Diskless", peer={"role": "Primary"})
    assert [one.reason for one in arriving(at_target(drbd=here), desired(epoch=4))] == ["DiskNotUpToDate"]


def test_a_copy_that_is_recorded_as_stale_is_not_come_to() -> None:
    """Though both see it Connected and UpToDate again: it could not be promoted."""
    stale = Refusal(reason="RecordedStale", message="vm_shaolin is recorded as stale on mk1")
    assert arriving(at_target(stale=(stale,)), desired(epoch=4), source="mk2") == [stale]
    assert leaving(at_source(stale=(stale,)), desired()) == []


START = [
    (
        {"facts": facts(memory_free_mib=96)},
        desired(config=config(memory_mib=128)),
        "NotEnoughMemory",
        "96 MiB free on mk1, 132 MiB needed",
    ),
    ({"facts": facts(memory_free_mib=None)}, desired(), "Unreadable", "the free memory"),
    (
        {},
        desired(config=config(networks=(NetworkConfig(bridge="br9", mac="a0:00:00:01:00:01"),))),
        "NoSuchBridge",
        "no bridge br9 on mk1; there are: xenbr0",
    ),
    ({"facts": facts(bridges=None)}, desired(), "Unreadable", "the bridges"),
    ({"files": {"/boot/vmlinuz": False}}, desired(), "NoSuchFile", "/boot/vmlinuz is not on mk1"),
    ({"facts": facts(virt_caps=("pv",))}, desired(config=config(type="pvh")), "TypeNotSupported", "virt_caps are pv"),
    ({"facts": facts(virt_caps=None)}, desired(), "Unreadable", "virt_caps"),
    ({"domains": [domain(uuid=OTHER)]}, desired(), "NameInUse", "domain 7"),
    ({"domains": [domain()]}, desired(), "AlreadyHere", "domain 7"),
    ({"domains": None}, desired(), "Unreadable", "the domains"),
    ({"busy": "move-1 (migrate-send, Precopy)"}, desired(), "OperationRunning", "move-1"),
]


@pytest.mark.parametrize(("changes", "wish", "reason", "words"), START)
def test_against_a_host_that_shall_run_it(changes: Any, wish: DomainDesired, reason: str, words: str) -> None:
    for found in (starting(seen(**changes), wish), arriving(at_target(**changes), wish)):
        assert [one.reason for one in found] == [reason]
        assert words in found[0].message


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"drbd": drbd(role="Secondary")}, "DiskNotPrimary", "vm_shaolin (xvda) is Secondary/UpToDate here"),
        ({"drbd": drbd(disk="Inconsistent")}, "DiskNotUpToDate", "Primary/Inconsistent here"),
        ({"drbd": drbd(suspended="fencing")}, "DiskSuspended", "IO suspended (fencing)"),
        ({"drbd": drbd(minor=9)}, "MinorMismatch", "/dev/drbd9, not 1"),
        ({"drbd": {}}, "DiskNotPrimary", "not up"),
        ({"drbd": None}, "Unreadable", "DRBD"),
    ],
)
def test_against_a_start(changes: Any, reason: str, words: str) -> None:
    found = starting(seen(**changes), desired())
    assert [one.reason for one in found] == [reason]
    assert words in found[0].message


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"desired": host(relocation_enabled=False)}, "RelocationDisabled", "spec.relocation.enabled"),
        ({"desired": host(relocation_allow_from=("mk9",))}, "SourceNotAllowed", "from mk9 only"),
        ({"record": record(epoch=9)}, "EpochTooOld", "promised epoch 9"),
        ({"drbd": drbd(role="Secondary")}, "DiskNotSecondary", "expected Secondary here and Primary there"),
        (
            {"drbd": drbd(role="Secondary", peer={"role": "Primary", "connection": "Connecting", "disk": "DUnknown"})},
            "DiskNotConnected",
            "Connecting",
        ),
        (
            {
                "drbd": drbd(
                    role="Secondary",
                    disk="Inconsistent",
                    peer={"role": "Primary", "replication": "SyncTarget", "out_of_sync_kib": 4096},
                )
            },
            "DiskNotUpToDate",
            "4096 KiB to go",
        ),
        ({"drbd": None}, "Unreadable", "DRBD"),
        ({"facts": facts(drbd_disable_sendpage=False)}, "SendpageEnabled", "disable_sendpage=1"),
    ],
)
def test_against_a_target(changes: Any, reason: str, words: str) -> None:
    found = arriving(at_target(**changes), desired(epoch=4), source="mk2")
    assert [one.reason for one in found] == [reason]
    assert words in found[0].message


@pytest.mark.parametrize(
    ("changes", "wish", "reason", "words"),
    [
        ({"facts": facts(virt_caps=("pv", "hvm", "hap"))}, desired(), "NoLogDirty", "shadow is needed (or type: pvh)"),
        ({"facts": facts(virt_caps=("pv",))}, desired(config=config(type="pvh")), "NoLogDirty", "hap or shadow"),
        ({}, desired(config=config(type="hvm")), "TypeNotMovable", "hvm"),
        ({"facts": facts(virt_caps=None)}, desired(), "Unreadable", "virt_caps"),
        ({"domains": []}, desired(), "NotRunning", "has no domain on mk1"),
        ({"domains": [domain("crashed")]}, desired(), "NotRunning", "crashed"),
        ({"domains": [domain("suspended", "migratedaway")]}, desired(), "LeftoverDomain", "migratedaway"),
        ({"domains": None}, desired(), "Unreadable", "the domains"),
        ({"record": None}, desired(), "NotGranted", "nothing of it"),
        ({"record": record(granted=False)}, desired(), "NotGranted", "epoch 3, given away"),
        ({}, desired(epoch=4), "NotGranted", "epoch 3, granted; shaolin shall leave at 4"),
        ({"drbd": drbd(peer={"disk": "Outdated"})}, desired(), "DiskNotUpToDate", "Outdated"),
        ({"drbd": drbd(peer={"disk": "Diskless"})}, desired(), "DiskNotUpToDate", "replace it there"),
        ({"drbd": drbd(disk="Inconsistent")}, desired(), "DiskNotUpToDate", "UpToDate on both sides"),
        ({"drbd": drbd(disk="Diskless"), "alone": ("vm_shaolin",)}, desired(), "WroteAlone", "failed disk only"),
        ({"desired": host(relocation_enabled=False)}, desired(), "RelocationDisabled", "mk1"),
    ],
)
def test_against_a_source(changes: Any, wish: DomainDesired, reason: str, words: str) -> None:
    found = leaving(at_source(**changes), wish)
    assert [one.reason for one in found] == [reason]
    assert words in found[0].message


def test_every_reason_comes_at_once() -> None:
    bad = at_target(
        facts=facts(memory_free_mib=96, bridges=(), drbd_disable_sendpage=False),
        files={"/boot/vmlinuz": False},
        domains=[domain("paused", "incoming")],
        desired=host(relocation_allow_from=("mk9",)),
        drbd={},
    )
    assert {one.reason for one in arriving(bad, desired(epoch=4), source="mk2")} == {
        "NotEnoughMemory",
        "NoSuchBridge",
        "SendpageEnabled",
        "NoSuchFile",
        "LeftoverDomain",
        "SourceNotAllowed",
        "DiskNotUp",
    }
