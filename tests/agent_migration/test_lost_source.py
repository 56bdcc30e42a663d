"""Row 17: the source is lost after it let go, before its target saw both disks whole. The copy waits for a verdict."""

from __future__ import annotations

import pytest

from agent.protocol import Verdict, VerdictDesired
from tests.agent_migration.pair import RESOURCE, UID, VOLUME_UID, Pair, until
from tests.agent_migration.test_moves_without_disk import fenced

__all__ = ["fenced"]


@pytest.fixture
async def waiting(fenced: Pair, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """mk1 has let go and said so, and lost power before it demoted; mk2 has the copy."""
    monkeypatch.setattr("agent.migration.target.SLOWLY_AFTER", 1.0)
    target = fenced.at("mk2").operations

    def told() -> bool:
        operation = target.find("move")
        return operation is not None and bool(operation.notes.get("released"))

    async def power_lost(resource: str, minor: int, *, patience: float = 5.0) -> None:
        await until(told, "the release")
        fenced.simulation.power_off("mk1")
        await fenced.kill("mk1")

    fenced.at("mk1").drbd.secondary = power_lost  # type: ignore[method-assign]
    await fenced.move()
    await until(lambda: "mk1" not in fenced.agents, "mk1 without power")
    await fenced.troubled("mk2", "DiskNotConnected")
    assert fenced.running() == ()
    assert fenced.primaries() == ()
    return fenced


async def goes_on(pair: Pair, boot: bytes) -> None:
    """... with the memory that it had."""
    await pair.ended("mk2", "move", "Succeeded")
    await until(lambda: pair.running() == ("mk2",), "a guest that runs")
    await pair.writes()
    assert pair.guest("mk2").state.boot == boot
    assert pair.simulation.truth.records(UID).hosts == ["mk1", "mk2"]


@pytest.fixture
def boot(fenced: Pair) -> bytes:
    """Which start of the guest it is, before it moves: in its memory, and in no other."""
    return fenced.guest("mk1").state.boot


async def off(pair: Pair) -> None:
    """What the controller records once mk1 is known to be off."""
    verdict = Verdict(number=1, survivor="mk2", stale="mk1", reason="Fenced")
    await pair.at("mk2").fence.put(RESOURCE, VerdictDesired(term=1, uid=VOLUME_UID, resource=RESOURCE, verdict=verdict))


async def test_row_17_it_goes_on_with_its_memory_and_every_write(boot: bytes, waiting: Pair) -> None:
    await off(waiting)
    await goes_on(waiting, boot)
    waiting.simulation.power_on("mk1")
    await waiting.start("mk1")
    await waiting.synced()
    await waiting.runs_only_on("mk2")


async def test_row_17_an_agent_that_is_killed_goes_on_from_its_journal(boot: bytes, waiting: Pair) -> None:
    await waiting.kill("mk2")
    await waiting.start("mk2")
    await off(waiting)
    await goes_on(waiting, boot)


async def test_row_17_not_after_a_source_that_does_not_say_whether_it_wrote_alone(waiting: Pair) -> None:
    operation = waiting.at("mk2").operations.find("move")
    assert operation is not None
    operation.note(alone=None)
    await off(waiting)
    refusal = await waiting.troubled("mk2", "WroteAlone")
    assert "memory" in refusal.message
    assert waiting.running() == ()
