"""Live migration between two agents on simulated hosts: through real TLS and the real relay process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import Any, cast

import pytest

from agent.core import Refused
from agent.host import PipedProcess
from agent.migration import target
from agent.migration.relay_files import Passed, RelayFiles
from agent.migration.stream import REPORT
from agent.migration.tls_stream import TlsStream
from agent.simulation.hypervisor import StreamFault, Xen
from tests.agent_migration.pair import Pair, until


async def test_there_and_back(running: Pair) -> None:
    for number, (to, epoch) in enumerate([("mk2", 1), ("mk1", 2)]):
        source = "mk1" if to == "mk2" else "mk2"
        await running.move(f"move-{number}", to=to, epoch=epoch)
        sent = await running.ended(source, f"move-{number}", "Succeeded")
        received = await running.ended(to, f"move-{number}", "Succeeded")
        assert [step.name for step in sent.steps][-3:] == ["HandOver", "Demoted", "Done"]
        assert [step.name for step in received.steps] == [
            "Listening", "Receiving", "Received", "Promoting", "Attaching", "Unpausing", "Done",
        ]  # fmt: skip
        assert sent.transfer is not None
        assert sent.transfer.pages_total == 32768
        assert sent.transfer.pages_sent >= 32768
        assert sent.transfer.percent == 100.0
        assert received.transfer is not None
        await running.runs_only_on(to)
        here, there = running.vm(to), running.vm(source)
        assert here is not None
        assert there is not None
        assert (here.epoch, here.granted, here.status) == (epoch + 1, True, "running")
        assert here.started == running.domain().config
        assert (there.epoch, there.granted, there.status) == (epoch + 1, False, "absent")


async def refused(reason: str, attempt: Awaitable[object]) -> str:
    with pytest.raises(Refused) as caught:
        await attempt
    assert caught.value.refusal.reason == reason, caught.value.refusal
    return caught.value.refusal.message


@pytest.fixture
def report_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link to the source breaks in the instant in which the receiver reports."""
    outbound = target._outbound

    class Breaking:
        def __init__(self, stream: TlsStream) -> None:
            self._stream = stream

        async def write(self, data: bytes) -> None:
            if data.startswith(REPORT[:8]):
                self._stream.abort()
                raise ConnectionResetError("cut")
            await self._stream.write(data)

    async def breaking(stream: TlsStream, process: PipedProcess) -> None:
        await outbound(cast(Any, Breaking(stream)), process)

    monkeypatch.setattr(target, "_outbound", breaking)


async def test_a_repeated_request_joins(running: Pair) -> None:
    await running.move()
    await running.move()
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.move()
    await running.runs_only_on("mk2")


async def test_progress_shows_and_never_runs_backwards(running: Pair) -> None:
    running.simulation.slow_link(100e6)
    await running.move()
    seen: list[tuple[float, int, int]] = []

    def over() -> bool:
        state = running.operation("mk1")
        assert state is not None
        if state.transfer is not None:
            seen.append((state.transfer.percent, state.transfer.bytes_sent, state.transfer.round))
        return state.outcome is not None

    await until(over, "the end")
    assert [one[0] for one in seen] == sorted(one[0] for one in seen)
    assert len({one[0] for one in seen}) > 4
    assert seen[-1][0] == 100.0
    assert seen[-1][2] >= 1


async def test_cancelled_in_precopy_it_goes_on_where_it_is(running: Pair) -> None:
    running.simulation.slow_link(20e6)
    await running.move()
    await running.phase("mk1", "Precopy")
    await running.phase("mk2", "Receiving")
    await running.cancel("mk1")
    await running.ended("mk1", "move", "Cancelled")
    await running.cancel("mk2")
    await until(
        lambda: (state := running.operation("mk2")) is not None and state.outcome is not None, "the target's end"
    )
    await running.runs_only_on("mk1")
    vm = running.vm("mk1")
    assert vm is not None
    assert (vm.epoch, vm.granted) == (1, True)
    running.simulation.slow_link(400e6)
    await running.move("again")
    await running.ended("mk2", "again", "Succeeded")
    await running.runs_only_on("mk2")


async def test_cancelled_at_the_target_first(running: Pair) -> None:
    running.simulation.slow_link(20e6)
    await running.move()
    await running.phase("mk2", "Receiving")
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    failed = await running.ended("mk1", "move", "Failed")
    assert failed.refusal is not None
    assert "goes on on mk1" in failed.refusal.message
    await running.runs_only_on("mk1")


async def test_cancelled_before_the_source_came(running: Pair) -> None:
    await running.receive()
    await running.cancel("mk2")
    await running.ended("mk2", "move", "Cancelled")
    await running.send()
    failed = await running.ended("mk1", "move", "Failed")
    assert failed.refusal is not None
    assert failed.refusal.reason == "NotExpected"
    await running.runs_only_on("mk1")


async def test_after_the_hand_over_nothing_can_be_cancelled(running: Pair) -> None:
    await running.move()
    await running.phase("mk1", "Demoted")
    with pytest.raises(Refused) if running.operation("mk1").outcome is None else nullcontext():  # type: ignore[union-attr]
        await running.cancel("mk1")
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")


@pytest.mark.parametrize("after", [10, 3000, 60_000, 250_000])
async def test_a_stream_that_breaks_leaves_the_guest_where_it_was(running: Pair, after: int) -> None:
    Xen.of(running.simulation.hosts["mk1"]).stream_fault = StreamFault("bytes", after)
    await running.move()
    failed = await running.ended("mk1", "move", "Failed")
    assert failed.refusal is not None
    assert failed.refusal.reason == "TransferFailed"
    assert "goes on on mk1 as domain" in failed.refusal.message
    await running.ended("mk2", "move", "Failed")
    await running.runs_only_on("mk1")


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


async def test_wishes_during_a_move(running: Pair) -> None:
    running.simulation.slow_link(30e6)
    await running.move()
    await running.phase("mk1", "Precopy")
    assert (await running.wish("mk1")).status == "running"  # what is true anyway
    await refused("OperationRunning", running.wish("mk1", state="Stopped"))
    await refused("OperationRunning", running.wish("mk1", state="Released", epoch=2))
    await refused("OperationRunning", running.wish("mk2", state="Stopped", epoch=2))
    await refused("OperationRunning", running.send("another"))
    running.simulation.slow_link(400e6)
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await refused("EpochReleased", running.wish("mk1", epoch=2))
    await refused("EpochTooOld", running.wish("mk1", epoch=1))
    assert not (await running.wish("mk1", state="Released", epoch=2)).granted
    await running.wish("mk2", epoch=2)
    await running.runs_only_on("mk2")


async def test_a_target_without_memory_refuses_with_its_numbers(running: Pair) -> None:
    running.simulation.slow_link(30e6)
    hog = running.domain(uid="22222222-2222-4222-8222-222222222222", name="hog", epoch=1)
    free = (await running.at("mk2").xen.info()).memory_free_mib
    need = free - 60
    hog = hog.model_copy(
        update={"config": hog.config.model_copy(update={"memory_mib": need, "max_memory_mib": need, "disks": ()})}
    )
    await running.at("mk2").domains.put("hog", hog)
    vms = running.at("mk2").observer
    await until(lambda: any(vm.status == "running" for vm in vms.state.vms.values()), "the other VM")
    left = (await running.at("mk2").xen.info()).memory_free_mib
    message = await refused("NotEnoughMemory", running.receive())
    assert message == f"{left} MiB free on mk2, 132 MiB needed"
    assert running.operation("mk2") is None
    await running.runs_only_on("mk1")


async def test_memory_that_goes_away_in_the_middle_fails_the_move_and_not_the_guest(running: Pair) -> None:
    running.simulation.slow_link(50e6)
    await running.move()
    await running.phase("mk1", "Precopy")
    target = Xen.of(running.simulation.hosts["mk2"])
    target.configure(dom0_mib=target.settings.dom0_mib + target.free_kib // 1024 - 8)
    failed = await running.ended("mk2", "move", "Failed")
    assert failed.refusal is not None
    assert "Failed to populate physmap" in failed.refusal.message or "code -3" in failed.refusal.message
    await running.ended("mk1", "move", "Failed")
    await running.runs_only_on("mk1")


async def test_a_link_cut_in_precopy_is_survived(running: Pair) -> None:
    running.simulation.slow_link(60e6)
    await running.move()
    await running.phase("mk1", "Precopy")
    running.simulation.cut_link("mk1", "mk2")
    await until(lambda: running._peer("mk2") != ("Connected", "UpToDate"), "DRBD notices")
    running.simulation.restore_link("mk1", "mk2")
    running.simulation.slow_link(400e6)
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.runs_only_on("mk2")


async def test_the_guest_dies_in_precopy(running: Pair) -> None:
    running.simulation.slow_link(20e6)
    await running.move()
    await running.phase("mk1", "Precopy")
    running.guest("mk1").crash()
    failed = await running.ended("mk1", "move", "Failed")
    assert failed.refusal is not None
    assert failed.refusal.reason in ("GuestEnded", "TransferFailed")
    await running.ended("mk2", "move", "Failed")
    await running.becomes("mk1", "running")  # on_crash: restart
    await running.runs_only_on("mk1")


async def test_a_paused_guest_cannot_be_suspended_and_stays_paused(running: Pair) -> None:
    await running.wish("mk1", state="Paused")
    await running.becomes("mk1", "paused")
    await running.move(state="Paused")
    await running.ended("mk1", "move", "Failed")
    await running.ended("mk2", "move", "Failed")
    await running.becomes("mk1", "paused")
    assert running.running() == ()
    await running.run()
    await running.runs_only_on("mk1")


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
    outbound, gate = target._outbound, asyncio.Event()

    class Holding:
        def __init__(self, stream: TlsStream) -> None:
            self._stream, self._late = stream, False

        async def write(self, data: bytes) -> None:
            self._late = self._late or data.startswith(REPORT[:8])
            if self._late:
                await gate.wait()
            await self._stream.write(data)

    async def holding(stream: TlsStream, process: PipedProcess) -> None:
        await outbound(cast(Any, Holding(stream)), process)

    monkeypatch.setattr(target, "_outbound", holding)
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
    looks, progress = iter([Passed()]), RelayFiles.progress
    monkeypatch.setattr(RelayFiles, "progress", lambda self, operation: next(looks, None) or progress(self, operation))
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
