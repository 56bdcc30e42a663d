"""What tests of fencing share: verdicts put by hand, a guest's write, what DRBD's handler exited with."""

from __future__ import annotations

import asyncio
from typing import Any

from agent_facts import UID
from fleet import Fleet, ready

from agent.protocol import FenceState, HostState, VerdictDesired, VolumeState

RESOURCE = "vm_shaolin"
FENCED: dict[str, Any] = {"fencing": {}}
BLOCK = 4096


def verdict(number: int, survivor: str | None, stale: str | None, reason: str = "PeerLost") -> VerdictDesired:
    return VerdictDesired.model_validate(
        {
            "term": 1,
            "uid": UID,
            "resource": RESOURCE,
            "verdict": {"number": number, "survivor": survivor, "stale": stale, "reason": reason},
        }
    )


async def put(fleet: Fleet, host: str, *words: Any, **more: Any) -> tuple[int, Any]:
    body = verdict(*words, **more).model_copy(update={"term": fleet.term})
    return await fleet.request(host, "PUT", f"/v1/volumes/{RESOURCE}/verdict", body)


async def put_ok(fleet: Fleet, host: str, *words: Any, **more: Any) -> FenceState:
    status, answer = await put(fleet, host, *words, **more)
    assert status == 200, answer
    return FenceState.model_validate(answer)


async def fenced(fleet: Fleet, primary: str | None = "mk1", **fencing: Any) -> None:
    """Both sides UpToDate under fencing, Primary on mk1."""
    await ready(fleet)
    for name in fleet.hosts:
        seen = await fleet.put_volume_ok(name, fencing=fencing)
        assert seen.fenced
    if primary is not None:
        await fleet.put_volume_ok(primary, fencing=fencing, role="Primary")


def writing(fleet: Fleet, host: str, block: int, data: bytes = b"w") -> asyncio.Task[None]:
    """A write of a guest; done when it is acknowledged."""

    async def write() -> None:
        device = fleet.simulation.hosts[host].open_device("/dev/drbd1", "w")
        try:
            await device.write(block * BLOCK, data * BLOCK)
        finally:
            device.close()

    return asyncio.create_task(write())


def seen(state: HostState) -> VolumeState:
    return state.volumes[RESOURCE]


def asks(state: HostState, wants: str = "io") -> bool:
    question = seen(state).fence_question
    return question is not None and question.wants == wants


def frozen(state: HostState) -> bool:
    return seen(state).suspended == "fencing"


def helper_exits(fleet: Fleet, host: str) -> list[int]:
    dmesg = fleet.simulation.hosts[host].dmesg
    lines = [line for line in dmesg if "drbdadm fence-peer" in line and "exit code" in line]
    return [int(line.split("exit code ")[1].split()[0]) for line in lines]


async def cut(fleet: Fleet) -> asyncio.Task[None]:
    """The cable is pulled while mk1 writes; the write waits, mk1 asks."""
    fleet.simulation.cut_link("mk1", "mk2")
    write = writing(fleet, "mk1", 11)
    await fleet.becomes("mk1", "asks", asks)
    return write


async def alone(fleet: Fleet) -> None:
    """mk1 goes on alone by verdict 1, mk2 knows that it is stale."""
    write = await cut(fleet)
    await put_ok(fleet, "mk1", 1, "mk1", "mk2")
    await put_ok(fleet, "mk2", 1, "mk1", "mk2")
    await asyncio.wait_for(write, 20)
    await fleet.becomes("mk2", "Outdated", lambda state: seen(state).disk == "Outdated")


def identical(fleet: Fleet) -> bool:
    return fleet.simulation.truth.replicas_identical(RESOURCE)


async def exits(fleet: Fleet, host: str, wanted: list[int]) -> bool:
    return helper_exits(fleet, host) == wanted


def connection(state: HostState) -> str:
    peer = seen(state).peer
    return peer.connection if peer is not None else ""
