"""Live migration between two agents on simulated hosts: through real TLS and the real relay process."""

from __future__ import annotations

from tests.agent_migration.pair import Pair


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
        assert (there.epoch, there.granted, there.status) == (epoch + 1, False, "absent")
