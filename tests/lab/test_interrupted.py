"""A move between real hosts that is interrupted while memory is copied.

The VM goes on, on one host alone, and nothing is lost. The rows are those of the failure table in docs/lab.md.
"""

from __future__ import annotations

import pytest

from controller.agents.client import Refused
from tests.lab.faults import HOLD, Faults
from tests.lab.hosts import NAME, RESOURCE, UID, Hosts, peer_of


async def failed_and_goes_on(hosts: Hosts) -> None:
    """Both parts failed, the guest never noticed, nothing is left on the target."""
    sent, received = await hosts.over("mk1", "move"), await hosts.over("mk2", "move")
    assert (sent.outcome, received.outcome) == ("Failed", "Failed"), (sent, received)
    assert sent.refusal is not None
    assert f"{NAME} goes on on mk1" in sent.refusal.message
    await hosts.runs_only_on("mk1")
    hosts.nothing_lost("mk1")


async def test_cancelled(copying: Hosts) -> None:
    await copying.cancel("mk1", source_keeps=False)
    await copying.ended("mk1", "move", "Cancelled")
    received = await copying.over("mk2", "move")
    assert received.outcome in ("Cancelled", "Failed")
    await copying.runs_only_on("mk1")
    copying.nothing_lost("mk1")


async def test_row_13_the_target_loses_power(copying: Hosts) -> None:
    copying.lab.kill("mk2")
    sent = await copying.over("mk1", "move")
    assert sent.outcome == "Failed", sent
    await copying.runs_only_on("mk1")
    copying.nothing_lost("mk1")


async def test_rows_5_6_16_29_the_source_loses_power_and_comes_back(copying: Hosts) -> None:
    """The target removes the copy and promotes nothing; a host that comes back starts nothing until it is asked."""
    written = max(tick.number for tick in copying.ticks("mk1") if tick.good)
    copying.lab.kill("mk1")
    received = await copying.over("mk2", "move")
    assert received.outcome == "Failed", received
    assert copying.domains("mk2") == []
    await copying.becomes("mk2", "peer lost", lambda state: peer_of(state) != ("Connected", "UpToDate"))
    with pytest.raises(Refused) as refused:
        await copying.put_volume("mk2", role="Primary")
    assert refused.value.refusal.reason == "PeerNotOutdated"
    assert (await copying.volume("mk2")).role == "Secondary"
    await copying.put_volume("mk2", role="Secondary")

    copying.lab.start("mk1")
    sent = await copying.over("mk1", "move")
    assert sent.refusal is not None
    assert (sent.outcome, sent.refusal.reason) == ("Failed", "HostRebooted")
    await copying.synced()
    state = await copying.state("mk1")
    assert (state.vms[UID].status, state.vms[UID].epoch, state.vms[UID].granted) == ("absent", 1, True)
    assert state.volumes[RESOURCE].role == "Secondary"
    assert copying.domains("mk1") == []
    await copying.put_volume("mk1", role="Primary")
    await copying.run_vm()
    await copying.runs_only_on("mk1")
    assert copying.last_record_found("mk1") >= written


async def test_row_18_the_transport_dies(copying: Hosts) -> None:
    Faults(copying).kill("mk1", "python[^ ]* -I -S [^ ]*relay_start.py")
    await failed_and_goes_on(copying)


async def test_xl_migrate_is_killed(copying: Hosts) -> None:
    Faults(copying).kill("mk1", "xl migrate ")
    await failed_and_goes_on(copying)


async def test_the_receiver_is_killed(copying: Hosts) -> None:
    """It leaves its half-made copy behind, which would make every later move fail."""
    Faults(copying).kill("mk2", "xl migrate-receive")
    await failed_and_goes_on(copying)


async def test_the_target_runs_out_of_memory(running: Hosts) -> None:
    """Somebody takes it after the preflight, before the receiver makes the domain."""
    faults = Faults(running)
    faults.trap("mk2", "xl", "migrate-receive", HOLD, name="receive")
    await running.move()
    await faults.sprung("mk2", "receive")
    free = int(running.on("mk2", "xl info free_memory"))
    ballast = f"name='ballast' type='pv' kernel='/boot/xenU/vmlinux' memory={free - 40}".replace(" ", "\n")
    running.lab.shell("mk2").send(ballast.encode(), "cat >/run/ballast.cfg")
    running.on("mk2", "xl create -q -p /run/ballast.cfg && xl list")
    faults.let_go("mk2", "receive")
    sent, received = await running.over("mk1", "move"), await running.over("mk2", "move")
    running.on("mk2", "xl destroy ballast")
    assert (sent.outcome, received.outcome) == ("Failed", "Failed"), (sent, received)
    await running.runs_only_on("mk1")
    running.nothing_lost("mk1")


async def test_both_agents_are_killed(copying: Hosts) -> None:
    """The receiver's stream went through the target's agent: what it leaves is removed by the next one."""
    for name in ("mk1", "mk2"):
        Faults(copying).kill_agent(name)
    await failed_and_goes_on(copying)


UNTIL_LOST = "timeout 60 sh -c 'while grep -q cs:Connected /proc/drbd; do sleep 0.2; done'"
"""By the kernel: an agent that is slow to see it would make of a short cut one that ends the stream."""


@pytest.mark.brief
async def test_rows_20_26_the_cable_is_pulled_and_the_sources_agent_killed(copying: Hosts) -> None:
    """An ordinary loss of the peer, and no end of the move: both streams pick up again, and xl has its own scope."""
    copying.lab.set_link("mk1", "mk2", up=False)
    copying.on("mk1", f"systemctl kill -s KILL xentandem-agent; {UNTIL_LOST}")
    copying.lab.set_link("mk1", "mk2", up=True)
    await copying.ended("mk1", "move")
    await copying.ended("mk2", "move")
    await copying.runs_only_on("mk2")
    await copying.synced()
    copying.nothing_lost("mk1", "mk2")
