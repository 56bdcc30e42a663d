"""The registry of operations: ids that join, records that survive a kill, one at a time for a subject, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent_facts import OTHER, UID
from fleet import Fleet

from agent import operations as operations_module
from agent.core import Context, Refused
from agent.operations import Cancelled, Operation
from agent.protocol import HostState, InitialSync, OperationCancel, OperationRequest
from agent.simulation.cluster import Simulation


class Probe:
    """A kind of operation that does what the test says. Stands in for initial-sync."""

    first_phase = "Starting"
    goal = "Succeeded"  # how the next one ends
    runs: list[str] = []
    gate = asyncio.Event()
    stop = asyncio.Event()

    def __init__(self, context: Context, volumes: object) -> None:
        self._context = context

    def subject(self, request: OperationRequest) -> tuple[str, str]:
        assert isinstance(request.body, InitialSync)
        return request.body.resource, request.body.uid

    async def check(self, request: OperationRequest) -> None:
        if Probe.goal == "refuse":
            raise Refused("NotToday", "come back tomorrow")

    async def run(self, operation: Operation) -> None:
        Probe.runs.append(f"run {operation.phase}")
        operation.enter("Working", cancellable=True, evidence=42)
        await self._work(operation)

    async def resume(self, operation: Operation) -> None:
        Probe.runs.append(f"resume {operation.phase} {operation.notes['evidence']} {operation.cancel_requested}")
        await self._work(operation)

    async def cancel(self, operation: Operation, request: OperationCancel) -> None:
        if not operation.state.cancellable:
            raise Refused("NotCancellable", "too late")
        Probe.stop.set()

    async def _work(self, operation: Operation) -> None:
        operation.progress(percent=50.0)
        waits = [asyncio.ensure_future(event.wait()) for event in (Probe.gate, Probe.stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        if Probe.stop.is_set():
            raise Cancelled
        operation.enter("Late", cancellable=False)
        if Probe.goal == "fail":
            raise Refused("Broken", "it did not work")
        if Probe.goal == "defect":
            raise ZeroDivisionError("oops")


@pytest.fixture
async def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr("agent.daemon.InitialSyncHandler", Probe)
    Probe.goal, Probe.runs, Probe.gate, Probe.stop = "Succeeded", [], asyncio.Event(), asyncio.Event()
    async with Simulation(tmp_path / "simulation") as simulation:
        fleet = Fleet(simulation, tmp_path)
        await fleet.start("mk1")
        yield fleet
        await fleet.close()


def body(uid: str = UID, resource: str = "vm_shaolin") -> dict[str, Any]:
    return {"kind": "initial-sync", "resource": resource, "uid": uid}


async def phase(fleet: Fleet, operation: str, name: str) -> None:
    def there(state: HostState) -> bool:
        return operation in state.operations and state.operations[operation].phase == name

    await fleet.becomes("mk1", f"{operation} {name}", there)


async def cancel(fleet: Fleet, operation: str, uid: str = UID) -> tuple[int, Any]:
    return await fleet.request("mk1", "DELETE", f"/v1/operations/{operation}", {"term": 1, "uid": uid})


async def test_phases_have_times_and_progress_shows(probes: Fleet) -> None:
    status, answer = await probes.operate("mk1", "op-1", body())
    assert status == 200
    assert (answer["subject"], answer["subject_uid"], answer["outcome"]) == ("vm_shaolin", UID, None)
    await phase(probes, "op-1", "Working")
    await probes.becomes("mk1", "progress", lambda state: state.operations["op-1"].percent == 50.0)
    assert (await probes.state("mk1")).operations["op-1"].cancellable
    Probe.gate.set()
    await probes.operate_ok("mk1", "op-1", body())
    ended = (await probes.state("mk1")).operations["op-1"]
    assert [step.name for step in ended.steps] == ["Starting", "Working", "Late"]
    assert sorted(step.at for step in ended.steps) == [step.at for step in ended.steps]
    assert ended.finished_at is not None
    assert not ended.cancellable
    assert Probe.runs == ["run Starting"]


async def test_a_repeated_id_joins_while_it_runs_and_after(probes: Fleet) -> None:
    for _ in range(3):
        assert (await probes.operate("mk1", "op-1", body()))[0] == 200
    Probe.gate.set()
    await probes.operate_ok("mk1", "op-1", body())
    await probes.operate_ok("mk1", "op-1", body())
    assert Probe.runs == ["run Starting"]


async def test_two_that_come_at_once_are_one(probes: Fleet) -> None:
    answers = await asyncio.gather(*(probes.operate("mk1", "op-1", body()) for _ in range(5)))
    assert [status for status, _ in answers] == [200] * 5
    await phase(probes, "op-1", "Working")
    assert Probe.runs == ["run Starting"]


async def test_a_subject_has_one_at_a_time(probes: Fleet) -> None:
    await probes.operate("mk1", "op-1", body())
    status, answer = await probes.operate("mk1", "op-2", body())
    assert (status, answer["reason"]) == (409, "OperationRunning")
    assert "op-1" in answer["message"]
    assert (await probes.operate("mk1", "op-3", body(OTHER, "other")))[0] == 200


async def test_a_refused_one_leaves_no_record(probes: Fleet) -> None:
    Probe.goal = "refuse"
    status, answer = await probes.operate("mk1", "op-1", body())
    assert (status, answer["reason"]) == (409, "NotToday")
    assert (await probes.state("mk1")).operations == {}
    Probe.goal = "Succeeded"
    Probe.gate.set()
    await probes.operate_ok("mk1", "op-1", body())


@pytest.mark.parametrize(("goal", "reason"), [("fail", "Broken"), ("defect", "InternalError")])
async def test_a_failure_is_kept_with_its_reason(probes: Fleet, goal: str, reason: str) -> None:
    Probe.goal = goal
    Probe.gate.set()
    await probes.operate("mk1", "op-1", body())
    await probes.becomes("mk1", "the end", lambda state: state.operations["op-1"].outcome == "Failed")
    await probes.restart("mk1")
    ended = (await probes.state("mk1")).operations["op-1"]
    assert ended.refusal is not None
    assert ended.refusal.reason == reason
    assert Probe.runs == ["run Starting"]  # an ended one is not taken up again


async def test_after_a_kill_it_is_resumed_from_its_phase_with_its_notes(probes: Fleet) -> None:
    await probes.operate("mk1", "op-1", body())
    await phase(probes, "op-1", "Working")
    await probes.restart("mk1")
    assert (await probes.operate("mk1", "op-1", body()))[0] == 200
    Probe.gate.set()
    await probes.operate_ok("mk1", "op-1", body())
    assert Probe.runs == ["run Starting", "resume Working 42 False"]


async def test_cancelling(probes: Fleet) -> None:
    await probes.operate("mk1", "op-1", body())
    await phase(probes, "op-1", "Working")
    assert (await cancel(probes, "op-1", OTHER))[1]["reason"] == "UidMismatch"
    assert (await cancel(probes, "op-9"))[1]["reason"] == "NoSuchOperation"
    assert (await cancel(probes, "op-1"))[0] == 200
    await probes.becomes("mk1", "the end", lambda state: state.operations["op-1"].outcome == "Cancelled")
    status, answer = await cancel(probes, "op-1")  # again: it is over
    assert (status, answer["outcome"]) == (200, "Cancelled")


async def test_what_cannot_be_cancelled_says_so(probes: Fleet) -> None:
    Probe.gate.set()
    await probes.operate_ok("mk1", "op-1", body())
    Probe.gate.clear()
    await probes.operate("mk1", "op-2", body())
    await phase(probes, "op-2", "Working")
    running = probes.agents["mk1"].context.operations.find("op-2")
    assert running is not None
    running.enter("Handing over", cancellable=False)
    assert (await cancel(probes, "op-2"))[1]["reason"] == "NotCancellable"


async def test_old_ones_are_forgotten(probes: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations_module, "KEEP_FINISHED", 3)
    Probe.gate.set()
    for number in range(6):
        await probes.operate_ok("mk1", f"op-{number}", body())
    await probes.restart("mk1")
    assert list((await probes.state("mk1")).operations) == ["op-2", "op-3", "op-4", "op-5"]
