"""A migration between real hosts that is interrupted: the VM goes on, on one host alone, and nothing is lost."""

from __future__ import annotations

from tests.lab.hosts import Hosts, peer_of


async def test_cancelled_while_memory_is_copied(running: Hosts) -> None:
    await running.move()
    await running.phase("mk1", "Precopy")
    await running.phase("mk2", "Receiving")
    await running.cancel("mk1", source_keeps=False)
    await running.ended("mk1", "move", "Cancelled")
    received = await running.over("mk2", "move")
    assert received.outcome in ("Cancelled", "Failed")
    await running.runs_only_on("mk1")
    running.nothing_lost("mk1")


async def test_row_13_the_target_loses_power_while_memory_is_copied(running: Hosts) -> None:
    await running.move()
    await running.phase("mk2", "Receiving")
    running.lab.kill("mk2")
    sent = await running.over("mk1", "move")
    assert sent.outcome == "Failed", sent
    await running.runs_only_on("mk1")
    running.nothing_lost("mk1")


async def test_row_26_the_cable_is_pulled_while_memory_is_copied(running: Hosts) -> None:
    """An ordinary loss of the peer, and no end of the move: both streams pick up again."""
    await running.move()
    await running.phase("mk2", "Receiving")
    running.lab.set_link("mk1", "mk2", up=False)
    await running.becomes("mk1", "peer lost", lambda state: peer_of(state) != ("Connected", "UpToDate"))
    running.lab.set_link("mk1", "mk2", up=True)
    await running.ended("mk1", "move")
    await running.ended("mk2", "move")
    await running.runs_only_on("mk2")
    await running.synced()
    running.nothing_lost("mk1", "mk2")


async def test_row_20_the_agents_are_killed_while_memory_is_copied(running: Hosts) -> None:
    """The source's xl goes on in its systemd scope; whatever the two find when they are back, the VM is on one host."""
    await running.move()
    await running.phase("mk2", "Receiving")
    running.on("mk1", "systemctl kill -s KILL xentandem-agent")
    sent, received = await running.over("mk1", "move"), await running.over("mk2", "move")
    assert sent.outcome == received.outcome == "Succeeded", (sent, received)
    await running.runs_only_on("mk2")
    running.nothing_lost("mk1", "mk2")
