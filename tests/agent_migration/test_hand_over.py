"""Where ownership passes: what was said last, what got lost on the way, and who may run the guest then."""

from __future__ import annotations

import asyncio
import sys
from contextlib import nullcontext

import pytest

from agent.core import Refused
from agent.migration.relay_files import Passed, RelayFiles
from agent.migration.stream import REPORT
from agent.migration.target import Receive
from agent.migration.transfer import Connection
from agent.protocol import PreflightRequest, Verdict, VerdictDesired
from agent.simulation.hypervisor import StreamFault, Xen
from tests.agent_migration.pair import RESOURCE, VOLUME_UID, Pair, refused, until


@pytest.fixture
def report_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link to the source breaks in the instant in which the receiver reports."""
    say = Connection.say

    async def breaking(connection: Connection, data: bytes) -> None:
        if data.startswith(REPORT[:8]):
            connection.stream.abort()
            raise ConnectionResetError("cut")
        await say(connection, data)

    monkeypatch.setattr(Connection, "say", breaking)


async def test_after_the_hand_over_nothing_can_be_cancelled(running: Pair) -> None:
    await running.move()
    await running.phase("mk1", "Demoted")
    with pytest.raises(Refused) if running.operation("mk1").outcome is None else nullcontext():  # type: ignore[union-attr]
        await running.cancel("mk1")
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")


async def test_ready_lost(running: Pair) -> None:
    Xen.of(running.simulation.hosts["mk1"]).stream_fault = StreamFault("ready")
    await running.move()
    await running.ended("mk1", "move", "Failed")
    await running.ended("mk2", "move", "Failed")
    await running.runs_only_on("mk1")


async def test_go_lost_before_the_relay_had_it(running: Pair) -> None:
    """xl gave its permission, and it went nowhere: the relay's file proves it, and the guest goes on by itself."""
    Xen.of(running.simulation.hosts["mk1"]).stream_fault = StreamFault("go")
    await running.move()
    await running.ended("mk1", "move", "Failed")
    await running.ended("mk2", "move", "Failed")
    await running.runs_only_on("mk1")


@pytest.mark.usefixtures("report_lost")
async def test_report_lost_nobody_runs_before_the_controller_decides(running: Pair) -> None:
    await running.move()
    refusal = await running.troubled("mk1", "HandOverUnclear")
    assert "migratedaway" in refusal.message
    await running.phase("mk2", "Received")
    assert running.running() == ()
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    assert await running.domains("mk2") == ()
    await running.cancel("mk1")
    await running.ended("mk1", "move", "Cancelled")
    await running.runs_only_on("mk1")


@pytest.mark.usefixtures("report_lost")
async def test_an_unclear_hand_over_survives_the_agents_death(running: Pair) -> None:
    await running.move()
    await running.troubled("mk1", "HandOverUnclear")
    await running.phase("mk2", "Received")
    for name in ("mk1", "mk2"):
        await running.kill(name)
        await running.start(name)
    await running.troubled("mk1", "HandOverUnclear")
    assert running.running() == ()
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.cancel("mk1")
    await running.ended("mk1", "move", "Cancelled")
    await running.runs_only_on("mk1")


@pytest.mark.usefixtures("report_lost")
async def test_a_source_that_lost_power_is_secondary_too_and_that_is_no_release(running: Pair) -> None:
    """The copy on the target is whole, the source's DRBD says Secondary, Connected, UpToDate: it must not run."""
    await running.move()
    await running.troubled("mk1", "HandOverUnclear")
    await running.phase("mk2", "Received")
    await running.reboot("mk1")
    await running.synced()
    failed = await running.ended("mk1", "move", "Failed")
    assert failed.refusal is not None
    assert failed.refusal.reason == "HostRebooted"
    for _ in range(20):
        await asyncio.sleep(0.02)
        assert running.running() == ()
        assert running.primaries() == ()
    await running.at("mk1").volumes.put("vm_shaolin", running.volume("Primary"))
    await running.run()  # at epoch 1, from its disk, while the old copy still waits on mk2
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.runs_only_on("mk1")


@pytest.mark.usefixtures("report_lost")
async def test_only_the_sources_release_wakes_the_copy(running: Pair) -> None:
    """A wish for a start at the copy's epoch, as a stale or restored controller could send it, does not."""
    await running.move()
    await running.phase("mk2", "Received")
    await running.troubled("mk1", "HandOverUnclear")
    await refused("OperationRunning", running.wish("mk2", epoch=2))
    await refused("OperationRunning", running.wish("mk2", epoch=3))
    assert running.running() == ()
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.cancel("mk1")
    await running.runs_only_on("mk1")


async def test_report_that_only_xl_missed(running: Pair) -> None:
    """The relay had the report: that is enough, and what xl leaves behind is removed."""
    Xen.of(running.simulation.hosts["mk1"]).stream_fault = StreamFault("report")
    await running.move()
    where = await running.resolve()
    await running.runs_only_on(where)


async def test_the_release_alone_is_not_enough(running: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source has said that it let go, and its disk is not demoted yet: the target promises and promotes nothing."""
    drbd, gate = running.at("mk1").drbd, asyncio.Event()
    demote = drbd.secondary

    async def later(resource: str, minor: int, *, patience: float = 5.0) -> None:
        await gate.wait()
        await demote(resource, minor, patience=patience)

    monkeypatch.setattr(drbd, "secondary", later)
    await running.move()

    def told() -> bool:
        operation = running.at("mk2").operations.find("move")
        return operation is not None and bool(operation.notes.get("released"))

    await until(told, "the release")
    for _ in range(20):
        await asyncio.sleep(0.01)
        operation = running.operation("mk2")
        assert operation is not None
        assert operation.phase in ("Receiving", "Received")
        assert running.vm("mk2") is None
    await refused("NotCancellable", running.cancel("mk2"))
    await refused("Moving", running.at("mk2").volumes.put("vm_shaolin", running.volume("Primary")))
    late = asyncio.ensure_future(running.at("mk1").volumes.put("vm_shaolin", running.volume("Primary")))
    gate.set()
    await refused("Moving", late)
    await running.ended("mk2", "move", "Succeeded")
    await running.ended("mk1", "move", "Succeeded")
    await running.runs_only_on("mk2")


async def test_a_link_cut_at_the_hand_over_is_waited_out(running: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Demoted on the source, and the target has not heard of it by DRBD: it waits for UpToDate/UpToDate again."""
    drbd = running.at("mk1").drbd
    demote = drbd.secondary

    async def cut_first(resource: str, minor: int, *, patience: float = 5.0) -> None:
        running.simulation.cut_link("mk1", "mk2")
        await until(lambda: running._peer("mk1") != ("Connected", "UpToDate"), "DRBD notices")
        await demote(resource, minor, patience=patience)

    monkeypatch.setattr(drbd, "secondary", cut_first)
    await running.move()
    await running.phase("mk1", "Demoted")
    await running.phase("mk2", "Received")
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert running.primaries() == ()
        assert running.vm("mk2") is None
    running.simulation.restore_link("mk1", "mk2")
    await running.ended("mk2", "move", "Succeeded")
    await running.ended("mk1", "move", "Succeeded")
    await running.runs_only_on("mk2")


@pytest.fixture
def report_held(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The receiver's report reaches the source only when the event is set."""
    say, gate, late = Connection.say, asyncio.Event(), False

    async def holding(connection: Connection, data: bytes) -> None:
        nonlocal late
        late = late or data.startswith(REPORT[:8])
        if late:
            await gate.wait()
        await say(connection, data)

    monkeypatch.setattr(Connection, "say", holding)
    return gate


async def test_once_the_permission_is_out_the_source_cannot_cancel(running: Pair, report_held: asyncio.Event) -> None:
    await running.move()
    await running.phase("mk1", "HandOver")
    files = RelayFiles(running.directory / "state" / "mk1" / "relay")
    await until(lambda: files.progress("move").go, "the permission")
    await refused("NotCancellable", running.cancel("mk1"))
    report_held.set()
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")


async def test_a_permission_that_goes_out_while_the_source_cancels(
    running: Pair, report_held: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at before it was out, xl ended after it was: refused, and then nobody knows, until the controller says."""
    await running.move()
    await running.phase("mk1", "HandOver")
    files = RelayFiles(running.directory / "state" / "mk1" / "relay")
    await until(lambda: files.progress("move").go, "the permission")
    await until(
        lambda: any(one.kind == "main" for one in running.at("mk2").observer.state.domains.values()), "the copy"
    )
    looks, progress = iter([Passed()]), RelayFiles.progress

    def looked(self: RelayFiles, operation: str) -> Passed:
        first = next(looks, None) if sys._getframe(1).f_code.co_name == "cancel" else None
        return first or progress(self, operation)

    monkeypatch.setattr(RelayFiles, "progress", looked)
    await refused("NotCancellable", running.cancel("mk1"))
    await running.troubled("mk1", "HandOverUnclear")
    report_held.set()
    await running.phase("mk2", "Received")
    assert running.running() == ()
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.cancel("mk1")
    await running.ended("mk1", "move", "Cancelled")
    await running.runs_only_on("mk1")


async def test_a_cancellation_that_the_permission_overtook_is_void(
    running: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target was too slow to end its receiver, and the source may have let go: the copy is not destroyed."""
    running.simulation.slow_link(20e6)
    await running.move()
    await running.phase("mk2", "Receiving")
    monkeypatch.setattr(Receive, "_event", lambda self, operation: asyncio.Event())  # nobody acts on it in time
    await running.cancel("mk2", source_keeps=False)
    running.simulation.slow_link(400e6)
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")


@pytest.mark.usefixtures("report_lost")
async def test_a_copy_that_arrived_is_destroyed_only_where_the_source_keeps_the_guest(running: Pair) -> None:
    await running.move()
    await running.troubled("mk1", "HandOverUnclear")
    await running.phase("mk2", "Received")
    await refused("NotCancellable", running.cancel("mk2", source_keeps=False))
    assert len(await running.domains("mk2")) == 1
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.cancel("mk1")
    await running.runs_only_on("mk1")


async def test_a_copy_that_is_recorded_as_stale_is_no_target_before_the_guest_is_touched(running: Pair) -> None:
    """It is UpToDate again, and that is not recorded yet."""
    verdict = Verdict(number=1, survivor="mk1", stale="mk2", reason="PeerLost")
    wanted = VerdictDesired(term=1, uid=VOLUME_UID, resource=RESOURCE, verdict=verdict)
    await running.at("mk2").fence.put(RESOURCE, wanted)
    assert "recorded as stale on mk2 (verdict 1" in await refused("RecordedStale", running.receive())
    request = PreflightRequest(side="target", domain=running.domain(epoch=2))
    report = await running.at("mk2").domains.preflight(request)
    assert [one.reason for one in report.refusals] == ["RecordedStale"]
    assert running.operation("mk2") is None
    await running.runs_only_on("mk1")
