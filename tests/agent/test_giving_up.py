"""Both sides of a volume were written alone (row 24): what an agent keeps, and what it gives up only then."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from agent_facts import UID
from fleet import Fleet, ready, refused, until

from agent.protocol import HostState, VolumeState
from agent.simulation.process import Process

RESOURCE = "vm_shaolin"
SNAPSHOT = "vm_shaolin.split-1"
GIVEN_UP = "vm_shaolin.discard-1"  # what is taken when it gives up
BLOCK = 4096
JSON = ("--reportformat", "json", "--units", "b", "--nosuffix")


async def by_hand(fleet: Fleet, host: str, line: str) -> None:
    done = await fleet.hosts[host].run(line.split())
    assert done.exit == 0, done


async def write_alone(fleet: Fleet, host: str, data: bytes) -> None:
    """As somebody does who believes that the other host is gone."""
    await by_hand(fleet, host, "drbdadm primary --force vm_shaolin")
    device = fleet.simulation.hosts[host].open_device("/dev/drbd1", "w")
    await device.write(7 * BLOCK, data * BLOCK)
    device.close()
    await by_hand(fleet, host, "drbdadm secondary vm_shaolin")


def stands_alone(state: HostState) -> bool:
    peer = state.volumes[RESOURCE].peer
    return peer is None or peer.connection == "StandAlone"


async def split(fleet: Fleet) -> None:
    """mk1 wrote "a", mk2 "b", and the cable is back."""
    await ready(fleet)
    fleet.simulation.cut_link("mk1", "mk2")
    await fleet.becomes("mk1", "alone", lambda state: _peer(state) != "Connected")
    await fleet.becomes("mk2", "alone", lambda state: _peer(state) != "Connected")
    await write_alone(fleet, "mk1", b"a")
    await write_alone(fleet, "mk2", b"b")
    fleet.simulation.restore_link("mk1", "mk2")
    for name in fleet.hosts:
        await fleet.becomes(name, "StandAlone", stands_alone)


def _peer(state: HostState) -> str:
    peer = state.volumes[RESOURCE].peer
    return peer.connection if peer else "StandAlone"


async def generation(fleet: Fleet, host: str) -> str:
    """Once it was read again: while the sides part it is not known."""
    await fleet.becomes(host, "a generation", lambda state: state.volumes[RESOURCE].generation is not None)
    ids = (await fleet.volume(host)).generation
    assert ids is not None
    return ids.current


async def discard(fleet: Fleet, host: str, **changes: Any) -> dict[str, Any]:
    body = {"kind": "discard-changes", "resource": RESOURCE, "uid": UID, "generation": await generation(fleet, host)}
    return body | {"snapshot": SNAPSHOT} | changes


def snapshot(**changes: Any) -> dict[str, Any]:
    return {"kind": "snapshot", "resource": RESOURCE, "uid": UID, "name": SNAPSHOT} | changes


async def reconnect(fleet: Fleet, host: str) -> VolumeState:
    """What the controller asks of the survivor: to be up."""
    return await fleet.put_volume_ok(host)


async def test_row_24_the_chosen_side_gives_up_what_it_wrote_and_keeps_a_snapshot(fleet: Fleet) -> None:
    await split(fleet)
    for name in fleet.hosts:
        await fleet.operate_ok(name, "keep-1", snapshot())
    await fleet.operate_ok("mk2", "discard-1", await discard(fleet, "mk2"))
    await reconnect(fleet, "mk1")
    await fleet.synced()
    truth = fleet.simulation.truth
    await until(lambda: _true(truth.replicas_identical(RESOURCE)), "identical replicas")
    await fleet.put_volume_ok("mk2", role="Primary")
    device = fleet.simulation.hosts["mk2"].open_device("/dev/drbd1", "r")
    assert await device.read(7 * BLOCK, BLOCK) == b"a" * BLOCK
    device.close()
    kept = fleet.simulation.hosts["mk2"].open_device(f"/dev/vg0/{SNAPSHOT}", "r")
    assert await kept.read(7 * BLOCK, BLOCK) == b"b" * BLOCK
    kept.close()


async def _true(value: bool) -> bool:
    return value


async def test_nothing_is_given_up_that_no_snapshot_keeps(fleet: Fleet) -> None:
    await split(fleet)
    for wanted, reason in (
        ({"snapshot": None}, "NotKept"),
        ({"snapshot": RESOURCE}, "NotKept"),  # the volume itself
        ({"snapshot": "never-taken"}, "NotKept"),
    ):
        no = await refused(fleet.operate("mk2", f"discard-{wanted['snapshot']}".lower().replace("_", "-"),
                                         await discard(fleet, "mk2", **wanted)))  # fmt: skip
        assert no["reason"] == reason
    await fleet.operate_ok("mk2", "keep-1", snapshot())
    stale = await discard(fleet, "mk2", generation="00000000DEADBEEE")
    assert (await refused(fleet.operate("mk2", "discard-2", stale)))["reason"] == "GenerationChanged"
    assert not [c for c in fleet.hosts["mk2"].changes if "discard" in c]


async def test_connected_replicas_give_nothing_up(fleet: Fleet) -> None:
    await ready(fleet)
    no = await refused(fleet.operate("mk2", "discard-1", await discard(fleet, "mk2")))
    assert no["reason"] == "Connected"


async def test_the_snapshots_name_is_not_taken_from_another(fleet: Fleet) -> None:
    await ready(fleet)
    await by_hand(fleet, "mk1", "lvcreate -y -n other -L 4194304b vg0")
    no = await refused(fleet.operate("mk1", "keep-1", snapshot(name="other")))
    assert no["reason"] == "LogicalVolumeTaken"
    await fleet.operate_ok("mk1", "keep-2", snapshot())
    await fleet.operate_ok("mk1", "keep-3", snapshot())  # it is there already, and is the one
    assert len(fleet.hosts["mk1"].ran("lvcreate", "-y", "-s")) == 1


async def test_what_was_written_after_the_split_was_found_is_kept_too(fleet: Fleet) -> None:
    """The VM goes on in the same generation; then the other side is chosen."""
    await split(fleet)
    await by_hand(fleet, "mk2", "drbdadm primary --force vm_shaolin")
    for name in fleet.hosts:
        await fleet.operate_ok(name, "keep-1", snapshot())
    found = int(await generation(fleet, "mk2"), 16) & ~1
    device = fleet.simulation.hosts["mk2"].open_device("/dev/drbd1", "w")
    await device.write(9 * BLOCK, b"c" * BLOCK)  # acknowledged to the guest
    device.close()
    assert int(await generation(fleet, "mk2"), 16) & ~1 == found
    await fleet.operate_ok("mk2", "discard-1", await discard(fleet, "mk2"))  # it is Primary, and used by nobody
    await reconnect(fleet, "mk1")
    await fleet.synced()
    assert fleet.simulation.truth.replicas_identical(RESOURCE)
    assert await read(fleet, RESOURCE, 9) == bytes(BLOCK)
    assert await read(fleet, GIVEN_UP, 9) == b"c" * BLOCK
    assert (await read(fleet, SNAPSHOT, 7), await read(fleet, SNAPSHOT, 9)) == (b"b" * BLOCK, bytes(BLOCK))


async def read(fleet: Fleet, logical_volume: str, block: int) -> bytes:
    """On mk2."""
    device = fleet.simulation.hosts["mk2"].open_device(f"/dev/vg0/{logical_volume}", "r")
    try:
        return await device.read(block * BLOCK, BLOCK)
    finally:
        device.close()


async def test_without_room_for_a_snapshot_of_it_nothing_is_given_up(fleet: Fleet) -> None:
    await split(fleet)
    await fleet.operate_ok("mk2", "keep-1", snapshot())
    groups = json.loads((await fleet.hosts["mk2"].run(["vgs", *JSON, "-o", "vg_name,vg_free"])).stdout)["report"][0][
        "vg"
    ]
    free = next(int(group["vg_free"]) for group in groups if group["vg_name"] == "vg0")
    left = 4 << 20
    await by_hand(fleet, "mk2", f"lvcreate -y -n other -L {free - left}b vg0")
    before = len(fleet.hosts["mk2"].changes)
    no = await refused(fleet.operate("mk2", "discard-1", await discard(fleet, "mk2")))
    assert no["reason"] == "NoSpace"
    assert "vg0 on mk2 has 4 MiB free" in no["message"]
    assert "nothing was given up" in no["message"]
    assert fleet.hosts["mk2"].changes[before:] == []


async def test_an_attempt_that_failed_leaves_its_snapshot_and_the_next_one_takes_its_own(fleet: Fleet) -> None:
    """In between the disk may have been written."""
    await split(fleet)
    await fleet.operate_ok("mk2", "keep-1", snapshot())
    body, host = await discard(fleet, "mk2"), fleet.simulation.hosts["mk2"]
    real = host.programs["drbdadm"]

    async def connects_not(process: Process) -> int:
        return 10 if process.argv[1] == "connect" else await real(process)

    host.programs["drbdadm"] = connects_not
    names = [GIVEN_UP, f"{GIVEN_UP}-2", f"{GIVEN_UP}-3"]
    for tried in (1, 2, 3, 3):
        await fleet.operate("mk2", "discard-1", body)
        await until(lambda: _ended(fleet), "the end of discard-1")
        state = await fleet.state("mk2")
        assert state.operations["discard-1"].outcome == "Failed"
        assert [name for name in names if f"vg0/{name}" in state.logical_volumes] == names[:tried]
    refusal = state.operations["discard-1"].refusal
    assert refusal is not None
    assert refusal.reason == "TooManySnapshots"


async def test_nobody_promotes_what_is_being_given_up(fleet: Fleet) -> None:
    """Its snapshot stays what is there: also after the agent died in between."""
    await split(fleet)
    await fleet.operate_ok("mk2", "keep-1", snapshot())
    body = await discard(fleet, "mk2")
    fleet.simulation.hosts["mk2"].hang("lvcreate")
    await fleet.operate("mk2", "discard-1", body)
    await fleet.becomes("mk2", "Keeping", lambda state: state.operations["discard-1"].phase == "Keeping")
    await fleet.restart("mk2")
    asked = asyncio.ensure_future(fleet.put_volume("mk2", role="Primary"))
    fleet.simulation.hosts["mk2"].unhang("lvcreate")
    status, no = await asked
    assert (status, no["reason"]) in ((409, "GivingUp"), (409, "NotUpToDate"))
    await until(lambda: _ended(fleet), "the end of discard-1")
    assert len([c for c in fleet.hosts["mk2"].changes if "drbdadm primary" in c]) == 1  # by split()


@pytest.mark.parametrize("change", ["lvcreate -y -s", "drbdadm connect"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_row_24_the_agent_is_killed_around_what_gives_up(fleet: Fleet, when: str, change: str) -> None:
    """It comes back, goes on, and ends at the same."""
    await split(fleet)
    for name in fleet.hosts:
        await fleet.operate_ok(name, "keep-1", snapshot())
    recorder, kills = fleet.hosts["mk2"], 0

    async def die() -> None:
        nonlocal kills
        kills += 1
        agent = fleet.agents.pop("mk2")
        await agent.kill()

    recorder.die = die
    body = await discard(fleet, "mk2")
    recorder.die_at = (len(recorder.changes) + (1 if change.startswith("lvcreate") else 2), when)
    with contextlib.suppress(OSError):
        await fleet.operate("mk2", "discard-1", body)
    await until(lambda: _true(kills == 1), "the kill")
    assert recorder.changes[-1].startswith(change)
    await fleet.start("mk2")
    await reconnect(fleet, "mk1")
    await until(lambda: _ended(fleet), "the end of discard-1")
    await reconnect(fleet, "mk1")
    await fleet.synced()
    assert fleet.simulation.truth.replicas_identical(RESOURCE)
    assert await read(fleet, GIVEN_UP, 7) == b"b" * BLOCK
    assert f"vg0/{GIVEN_UP}-2" not in (await fleet.state("mk2")).logical_volumes  # one is enough


async def _ended(fleet: Fleet) -> bool:
    return (await fleet.state("mk2")).operations["discard-1"].outcome is not None
