"""Who may be Primary on a simulated DRBD while the peer is away, and what waits for its fencing."""

from __future__ import annotations

import asyncio
from pathlib import Path

from drbd_helpers import BLOCK, RESOURCE, Pair, config, pair, primary

from agent.simulation.host import SimulatedHost
from agent.simulation.process import Process

FENCED = "fencing resource-only;"
FROZEN = "fencing resource-and-stonith;"
HANDLER = 'handlers { fence-peer "/usr/local/sbin/fence --now"; }'

# --- promotion ------------------------------------------------------------------------------------------------------


async def test_two_promotions_at_once(tmp_path: Path) -> None:
    """Exactly one wins, whoever it is; the other one is told why."""
    async with pair(tmp_path) as one:
        await one.in_sync()
        said = await asyncio.gather(*(host.run(["drbdsetup", "primary", "1"]) for host in one.both))
        assert sorted(completed.exit for completed in said) == [0, 11]
        assert len(one.simulation.truth.primaries(RESOURCE)) == 1


async def test_promotion_while_the_link_is_dead_waits_for_certainty(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(disk=FENCED))
        await primary(one)
        one.simulation.cut_link("mk1", "mk2")
        said = await one.run(one.mk2, "drbdsetup", "primary", "1")
        assert said.exit == 11
        assert one.simulation.truth.primaries(RESOURCE) == ("mk1",)


async def test_resource_only_refuses_a_lonely_promotion(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(disk=FENCED))
        await primary(one)
        one.simulation.power_off("mk2")
        await one.write(one.mk1, 1)  # IO goes on
        await one.ok(one.mk1, "drbdsetup", "secondary", "1")
        said = await one.run(one.mk1, "drbdsetup", "primary", "1")
        assert said.stderr == "1: State change failed: (-7) Refusing to be Primary while peer is not outdated\n"
        assert said.exit == 11
        assert any("fence-peer helper broken, returned 0" in line for line in one.mk1.dmesg)


async def test_after_a_reboot_alone_nobody_is_up_to_date(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(disk=FENCED))
        for name in ("mk1", "mk2"):
            one.simulation.power_off(name)
        one.simulation.power_on("mk1")
        await one.ok(one.mk1, "drbdadm", "up", RESOURCE)
        assert await one.word(one.mk1) == "WFConnection Secondary/Unknown Consistent/DUnknown"
        assert (await one.run(one.mk1, "drbdsetup", "primary", "1")).exit == 17
        one.simulation.power_on("mk2")
        await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
        await one.settled()


async def test_a_graceful_down_leaves_the_secondary_outdated(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(disk=FENCED))
        await primary(one)
        await one.ok(one.mk2, "drbdadm", "down", RESOURCE)
        await one.until(lambda: one.volume(one.mk1).state.cs == "WFConnection")
        assert await one.word(one.mk1) == "WFConnection Primary/Unknown UpToDate/Outdated"
        assert (await one.ok(one.mk2, "drbdadm", "get-gi", RESOURCE)).endswith(":1:0:0:0:0:0:0\n")
        await one.write(one.mk1, 8)
        await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)


# --- frozen IO ------------------------------------------------------------------------------------------------------


def handler(host: SimulatedHost, status: int, calls: list[dict[str, str]], seconds: float = 2.0) -> None:
    async def program(process: Process) -> int:
        calls.append(process.environment)
        await host.clock.sleep(seconds)
        return status

    host.add_program("fence", program)


async def frozen(one: Pair, status: int) -> tuple[asyncio.Future[None], list[dict[str, str]]]:
    """A write that is under way when the link is cut, IO frozen, the handler called."""
    calls: list[dict[str, str]] = []
    handler(one.mk1, status, calls)
    await one.in_sync(config(disk=FROZEN, handlers=HANDLER))
    await primary(one)
    one.simulation.cut_link("mk1", "mk2")
    writing = asyncio.ensure_future(one.write(one.mk1, 11, b"f"))
    await one.until(lambda: one.volume(one.mk1).state.suspended == "fencing")
    return writing, calls


async def test_io_is_frozen_until_the_handler_answers(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        writing, calls = await frozen(one, 4)
        before = one.volume(one.mk1).block.generation
        assert " 1: cs:NetworkFailure ro:Primary/Unknown ds:UpToDate/DUnknown C s-----" in one.mk1.files.read(
            "/proc/drbd"
        )
        await one.until(lambda: one.volume(one.mk1).state.peer_disk == "Outdated")
        assert one.volume(one.mk1).block.generation == before.with_new_current(
            one.volume(one.mk1).block.generation.current
        )
        await writing
        assert calls == [
            {
                "DRBD_RESOURCE": RESOURCE,
                "DRBD_MINOR": "1",
                "DRBD_PEER": "mk2",
                "DRBD_PEERS": "mk2",
                "DRBD_PEER_AF": "ipv4",
                "DRBD_PEER_ADDRESS": "10.0.0.82",
                "DRBD_CONF": "/etc/drbd.conf",
                "DRBD_DONT_WARN_ON_VERSION_MISMATCH": "1",
            }
        ]
        assert one.volume(one.mk1).out_of_sync == 4
        one.simulation.restore_link("mk1", "mk2")
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_a_handler_that_fails_leaves_io_frozen(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        writing, calls = await frozen(one, 1)
        await one.simulation.clock.sleep(300)
        assert not writing.done()
        assert len(calls) == 1
        dump = await one.ok(one.mk1, "drbdsetup", "events2", "--now")
        assert "exists resource name:vm_shaolin role:Primary suspended:fencing\n" in dump
        await one.ok(one.mk1, "drbdadm", "resume-io", RESOURCE)
        await writing
        assert one.volume(one.mk1).block.generation.bitmap != 0


async def test_a_link_that_returns_thaws_without_a_trace(tmp_path: Path) -> None:
    """What was under way is sent again: no new generation, no resync, both have it."""
    async with pair(tmp_path) as one:
        writing, _ = await frozen(one, 1)
        before = one.volume(one.mk1).block.generation
        await one.simulation.clock.sleep(30)
        one.simulation.restore_link("mk1", "mk2")
        await writing
        assert one.volume(one.mk1).block.generation == before
        assert await one.word(one.mk1) == "Connected Primary/Secondary UpToDate/UpToDate"
        assert one.volume(one.mk1).out_of_sync == 0
        assert one.on_disk(one.mk2, 11) == b"f" * BLOCK
        assert one.simulation.truth.replicas_identical(RESOURCE)
