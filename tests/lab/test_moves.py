"""Live migration between real hosts with one Primary: by the agents' own relay, mutual TLS, the deferred attach."""

from __future__ import annotations

from tests.lab.hosts import UID, Hosts


async def test_there_and_back(running: Hosts) -> None:
    for number, (source, to, epoch) in enumerate([("mk1", "mk2", 1), ("mk2", "mk1", 2)]):
        operation = f"move-{number}"
        await running.move(operation, to=to, epoch=epoch)
        sent = await running.ended(source, operation)
        received = await running.ended(to, operation)
        print([(step.name, step.at[14:]) for step in sent.steps])
        print([(step.name, step.at[14:]) for step in received.steps])
        assert [step.name for step in sent.steps][-3:] == ["HandOver", "Demoted", "Done"]
        assert [step.name for step in received.steps][-3:] == ["Attaching", "Unpausing", "Done"]
        assert sent.transfer is not None
        assert sent.transfer.pages_total == 32768
        assert sent.transfer.pages_sent >= 32768
        assert sent.transfer.percent == 100.0
        await running.runs_only_on(to)
        assert running.answers_ping(to)
        here, there = (await running.state(to)).vms[UID], (await running.state(source)).vms[UID]
        assert (here.epoch, here.granted, here.status) == (epoch + 1, True, "running")
        assert (there.epoch, there.granted, there.status) == (epoch + 1, False, "absent")
    running.nothing_lost("mk1", "mk2")
