"""A move between real hosts that is interrupted when the memory is there: who may run the guest, and who says so.

Each begins where the target's Xen attaches the disk; then come "ready", the permission to go, and the report. The rows
are those of the failure table in docs/lab.md.
"""

from __future__ import annotations

import pytest

from tests.lab.faults import AFTER, BEFORE, FROM_ME_IS_LOST, HOLD, TO_ME_IS_LOST, Faults
from tests.lab.hosts import NAME, Hosts, peer_of

VBD = "/local/domain/0/backend/vbd/"  # what the agent writes to; Xen's own scripts name it without the beginning


def kinds(hosts: Hosts, name: str) -> list[tuple[str, str]]:
    return [(one.kind, one.state) for one in hosts.domains(name)]


async def unclear(hosts: Hosts) -> None:
    """The permission is out and no report came: the guest waits, and it is said what for."""
    refusal = await hosts.troubled("mk1", "HandOverUnclear")
    assert f"{NAME}--migratedaway" in refusal.message
    assert kinds(hosts, "mk1") == [("migratedaway", "suspended")]


async def taken_back(hosts: Hosts, outcome: str) -> None:
    sent = await hosts.over("mk1", "move")
    assert sent.outcome == outcome, sent
    await hosts.runs_only_on("mk1")
    hosts.nothing_lost("mk1")


async def test_ready_is_lost(arriving: Hosts) -> None:
    faults = Faults(arriving)
    arriving.on("mk2", FROM_ME_IS_LOST)
    faults.let_go("mk2", "attach")
    assert (await arriving.over("mk2", "move")).outcome == "Failed"
    await taken_back(arriving, "Failed")


async def test_go_is_lost(arriving: Hosts) -> None:
    faults = Faults(arriving)
    arriving.on("mk2", TO_ME_IS_LOST)
    faults.let_go("mk2", "attach")
    await unclear(arriving)
    assert {state for _, state in kinds(arriving, "mk2")} <= {"paused", "dying"}
    faults.find_again("mk2")
    assert await arriving.resolve() == "mk1"
    await taken_back(arriving, "Cancelled")


@pytest.mark.brief
async def test_row_18_the_report_is_lost_and_both_agents_are_killed(arriving: Hosts) -> None:
    """The copy is whole on the target and waits for the source's word; both wait for the controller's, agents or no."""
    faults = Faults(arriving)
    faults.lose_report("mk2")
    faults.let_go("mk2", "attach")
    await unclear(arriving)
    await arriving.phase("mk2", "Received")
    for name in ("mk1", "mk2"):
        faults.kill_agent(name)
    await unclear(arriving)
    assert kinds(arriving, "mk2") == [("main", "paused")]
    assert await arriving.resolve() == "mk1"
    await taken_back(arriving, "Cancelled")


async def test_row_14_the_target_loses_power_before_go(arriving: Hosts) -> None:
    arriving.lab.kill("mk2")
    await taken_back(arriving, "Failed")


async def test_row_15_the_target_loses_power_after_go(arriving: Hosts) -> None:
    """Nothing says what the target has until it is back and has nothing: its reboot is the evidence."""
    faults = Faults(arriving)
    faults.lose_report("mk2")
    faults.let_go("mk2", "attach")
    await unclear(arriving)
    arriving.lab.kill("mk2")
    await unclear(arriving)
    arriving.lab.start("mk2")
    received = await arriving.over("mk2", "move")
    assert received.refusal is not None
    assert (received.outcome, received.refusal.reason) == ("Failed", "HostRebooted")
    assert arriving.domains("mk2") == []
    assert await arriving.resolve() == "mk1"
    await arriving.synced()
    await taken_back(arriving, "Cancelled")


async def test_row_17_the_source_loses_power_before_the_target_is_primary(arriving: Hosts) -> None:
    """A lost peer may have written: DRBD refuses, the guest waits with its memory until it is back."""
    faults = Faults(arriving)
    faults.trap("mk2", "drbdsetup", "primary", HOLD, name="promote")
    faults.let_go("mk2", "attach")
    await faults.sprung("mk2", "promote")
    arriving.lab.kill("mk1")
    await arriving.becomes("mk2", "peer lost", lambda state: peer_of(state) != ("Connected", "UpToDate"))
    faults.let_go("mk2", "promote")
    await arriving.troubled("mk2", "PeerNotOutdated")
    assert kinds(arriving, "mk2") == [("main", "paused")]
    arriving.lab.start("mk1")
    await arriving.ended("mk2", "move")
    await arriving.ended("mk1", "move")
    await arriving.synced()
    await arriving.runs_only_on("mk2")
    assert "guest: last record found" not in arriving.console("mk2")


async def test_row_17_the_source_loses_power_when_the_target_is_primary(arriving: Hosts) -> None:
    faults = Faults(arriving)
    faults.trap("mk2", "xenstore-write", VBD, HOLD, name="write")
    faults.let_go("mk2", "attach")
    await faults.sprung("mk2", "write")
    arriving.lab.kill("mk1")
    faults.let_go("mk2", "write")
    await arriving.ended("mk2", "move")
    await arriving.runs_only_on("mk2")
    assert "guest: last record found" not in arriving.console("mk2")


async def test_row_21_agents_are_killed_at_every_command_of_the_hand_over(arriving: Hosts) -> None:
    faults = Faults(arriving)
    faults.trap("mk1", "drbdsetup", "secondary", AFTER)
    faults.trap("mk2", "drbdsetup", "primary", BEFORE)
    faults.trap("mk2", "xenstore-write", VBD, AFTER)
    faults.trap("mk2", "xl", "unpause", BEFORE)
    faults.let_go("mk2", "attach")
    await arriving.ended("mk1", "move")
    await arriving.ended("mk2", "move")
    for name, trap in (("mk1", "drbdsetup-0"), ("mk2", "drbdsetup-0"), ("mk2", "xenstore-write-0"), ("mk2", "xl-0")):
        await faults.sprung(name, trap)
    await arriving.runs_only_on("mk2")
    arriving.nothing_lost("mk1", "mk2")
