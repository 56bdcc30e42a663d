"""A move between real hosts that is interrupted when the memory is there: who may run the guest, and who says so.

Each begins where the target's Xen attaches the disk; then come "ready", the permission to go, and the report. The rows
are those of the failure table in docs/lab.md.
"""

from __future__ import annotations

from tests.lab.faults import Faults
from tests.lab.hosts import NAME, Hosts


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
