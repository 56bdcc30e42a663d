"""Killed at every command of a volume's life, before and after its effect, and started again: it goes on.

The first test counts the commands of an undisturbed life; the others kill the agent at each of them. However it died,
the end is the same, metadata was made once, and the resource was forced Primary once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agent_facts import UID
from fleet import Fleet, connected, until, up_to_date

from agent.simulation.cluster import Simulation

SYNC = {"kind": "initial-sync", "resource": "vm_shaolin", "uid": UID}
EXT4 = {"kind": "write-content", "resource": "vm_shaolin", "uid": UID, "filesystem": "ext4"}


class Life:
    """Drives mk1 as a controller does: repeats a request until it is answered, through the agent's deaths."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.died = False

    async def insist(self, ask: Callable[[], Awaitable[bool]], what: str) -> None:
        async def once() -> bool:
            if "mk1" not in self.fleet.agents:
                await self.fleet.start("mk1")
            try:
                return await ask()
            except (TimeoutError, aiohttp.ClientError, ConnectionError, KeyError):
                return False

        await until(once, what)

    async def die(self) -> None:
        """At once, in the middle of the command."""
        self.died = True
        await self.fleet.kill("mk1")

    async def lose_power(self) -> None:
        """The host goes and comes back, with what was on its disk."""
        await self.die()
        self.fleet.simulation.power_off("mk1")
        self.fleet.simulation.power_on("mk1")

    async def put(self, **changes: Any) -> None:
        async def ask() -> bool:
            return (await self.fleet.put_volume("mk1", **changes))[0] == 200

        await self.insist(ask, f"PUT {changes}")

    async def operate(self, operation: str, body: dict[str, Any]) -> None:
        async def ask() -> bool:
            await self.fleet.operate("mk1", operation, body)
            ended = (await self.fleet.state("mk1")).operations.get(operation)
            assert ended is None or ended.outcome in (None, "Succeeded"), ended
            return ended is not None and ended.outcome == "Succeeded"

        await self.insist(ask, operation)

    async def fill(self) -> None:
        """Primary, then content; an attempt that a power loss ended is followed by another one with its own id."""
        attempt = 1

        async def ask() -> bool:
            nonlocal attempt
            if (await self.fleet.put_volume("mk1", role="Primary"))[0] != 200:
                return False
            await self.fleet.operate("mk1", f"content-{attempt}", EXT4)
            ended = (await self.fleet.state("mk1")).operations.get(f"content-{attempt}")
            if ended is not None and ended.outcome == "Failed":
                assert ended.refusal is not None
                assert ended.refusal.reason == "NotPrimary"
                attempt += 1
            return ended is not None and ended.outcome == "Succeeded"

        await self.insist(ask, "content")

    async def delete(self, policy: str) -> None:
        async def ask() -> bool:
            return bool((await self.fleet.remove_volume("mk1", policy))[0] == 204)

        await self.insist(ask, f"DELETE {policy}")

    async def seen(self, what: str, condition: Callable[[Any], bool]) -> None:
        async def ask() -> bool:
            return condition(await self.fleet.state("mk1"))

        await self.insist(ask, what)

    async def live(self, policy: str) -> None:
        """Made, synced, filled, promoted, demoted, deleted."""
        await self.put()
        await self.seen("connected", connected)
        await self.operate("sync-1", SYNC)
        await self.seen("UpToDate/UpToDate", up_to_date)
        await self.fill()
        await self.put(role="Secondary")
        assert self.fleet.simulation.truth.replicas_identical("vm_shaolin")
        await self.delete(policy)

    async def check(self, policy: str) -> None:
        host = self.fleet.hosts["mk1"]
        state = await self.fleet.state("mk1")
        assert state.volumes == {}
        kept = [] if policy == "Delete" else ["vg0/retained-vm_shaolin-11111111"]
        assert list(state.logical_volumes) == kept
        assert state.problems == ()
        files = await self.fleet.simulation.hosts["mk1"].list_dir("/etc/drbd.d")
        assert files == ["global_common.conf"]
        for words in (("drbdadm", "create-md"), ("drbdadm", "primary", "--force")):
            assert len([one for one in host.ran(*words) if one.exit == 0]) == 1, words
        self.fleet.simulation.truth.check()


@asynccontextmanager
async def life(directory: Path) -> AsyncIterator[Life]:
    async with Simulation(directory / "simulation") as simulation:
        fleet = Fleet(simulation, directory)
        try:
            for name in fleet.hosts:
                await fleet.start(name)
            await fleet.put_volume_ok("mk2")
            fleet.hosts["mk1"].changes.clear()
            yield Life(fleet)
        finally:
            await fleet.close()


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_an_undisturbed_life(tmp_path: Path, policy: str) -> None:
    async with life(tmp_path) as undisturbed:
        await undisturbed.live(policy)
        await undisturbed.check(policy)
        changes = undisturbed.fleet.hosts["mk1"].changes
        assert len(changes) == STEPS[policy], "\n".join(changes)


STEPS = {"Delete": 19, "Retain": 20}  # changes of the host in such a life
CHANGES = [("Delete", step) for step in range(1, 20)] + [("Retain", step) for step in (19, 20)]  # the rest is the same


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("policy", "step"), CHANGES)
async def test_killed_at_every_change(tmp_path: Path, policy: str, step: int, when: str) -> None:
    async with life(tmp_path) as one:
        one.fleet.hosts["mk1"].die = one.die
        one.fleet.hosts["mk1"].die_at = (step, when)
        await one.live(policy)
        assert one.died
        await one.check(policy)


@pytest.mark.parametrize(("policy", "step"), CHANGES)
async def test_power_lost_after_every_change(tmp_path: Path, policy: str, step: int) -> None:
    async with life(tmp_path) as one:
        one.fleet.hosts["mk1"].die = one.lose_power
        one.fleet.hosts["mk1"].die_at = (step, "after")
        await one.live(policy)
        assert one.died
        await one.check(policy)


@pytest.mark.parametrize("power", [False, True], ids=["agent", "power"])
@pytest.mark.parametrize("seed", range(4))
async def test_killed_again_and_again(tmp_path: Path, seed: int, power: bool) -> None:
    """Up to twelve deaths at any moment of one life, also while it is starting up again."""
    chance, over = random.Random(seed), asyncio.Event()
    async with life(tmp_path) as one:

        async def reap() -> None:
            for _ in range(12):
                await asyncio.sleep(chance.uniform(0.01, 0.25))
                if over.is_set():
                    return
                if "mk1" in one.fleet.agents:
                    await (one.lose_power() if power and chance.random() < 0.5 else one.die())

        reaper = asyncio.get_running_loop().create_task(reap())
        await one.live("Delete" if seed % 2 else "Retain")
        over.set()
        await reaper
        if "mk1" not in one.fleet.agents:
            await one.fleet.start("mk1")
        assert one.died
        await one.check("Delete" if seed % 2 else "Retain")
