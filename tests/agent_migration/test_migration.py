"""Live migration between two agents on simulated hosts: through real TLS and the real relay process."""

from __future__ import annotations

import pytest

from agent.migration.tls_stream import TlsStream
from agent.simulation.hypervisor import StreamFault, Xen
from tests.agent_migration.pair import Pair, refused, until


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


async def test_a_repeated_request_joins(running: Pair) -> None:
    await running.move()
    await running.move()
    await running.ended("mk1", "move", "Succeeded")
    await running.ended("mk2", "move", "Succeeded")
    await running.move()
    await running.runs_only_on("mk2")


async def test_progress_shows_and_never_runs_backwards(running: Pair) -> None:
    running.simulation.slow_link(20e6)
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


async def test_a_source_that_is_gone_before_it_hears_yes_leaves_no_receiver_behind(
    running: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TlsStream.write

    async def cut(stream: TlsStream, data: bytes) -> None:
        if data.startswith(b'{"accepted": true'):
            stream.abort()
            raise ConnectionResetError("cut")
        await write(stream, data)

    monkeypatch.setattr(TlsStream, "write", cut)
    await running.move()
    failed = await running.ended("mk2", "move", "Failed")
    assert failed.refusal is not None
    assert failed.refusal.message == "nothing arrived on mk2: the stream broke: cut"
    host = running.simulation.hosts["mk2"]
    assert not await host.find_processes({"xl"})
    await running.ended("mk1", "move", "Failed")
    await running.runs_only_on("mk1")


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
