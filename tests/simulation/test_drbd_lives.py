"""Arbitrary lives of a replicated volume: whatever fails and returns, no acknowledged write is lost.

One host owns the volume and writes; ownership moves by hand-over, or by take-over when the owner is known to be off
and the survivor was in sync. Links, power and disks fail at random. At the end everything is repaired: both replicas
must be identical and hold every acknowledged write.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, DEVICE, RESOURCE, Pair, config, pair

from agent.simulation.devices import Device
from agent.simulation.drbd_state import connected
from agent.simulation.host import SimulatedHost
from agent.simulation.process import Process

HANDLER = 'handlers { fence-peer "/usr/local/sbin/fence"; }'
BLOCKS = 40
STEPS = 80
FENCED, FAILED = 7, 1


class Life:
    def __init__(self, one: Pair, seed: int) -> None:
        self.one = one
        self.random = random.Random(seed)
        self.owner: SimulatedHost | None = None
        self.device: Device | None = None
        self.number = 0
        self.acknowledged: dict[int, int] = {}  # block -> number
        self.issued: dict[int, list[int]] = {}  # block -> numbers not acknowledged after the last one that was
        self.writing: set[asyncio.Task[None]] = set()
        self.busy: set[int] = set()
        self.in_sync_at_death = False
        for host in one.both:
            host.add_program("fence", self._fence)

    async def _fence(self, process: Process) -> int:
        """Confirmed power-off, or nothing."""
        peer = self.peer(process.host)
        return FENCED if not peer.on else FAILED

    def peer(self, host: SimulatedHost) -> SimulatedHost:
        return self.one.mk2 if host is self.one.mk1 else self.one.mk1

    async def own(self, host: SimulatedHost) -> bool:
        if (await self.one.run(host, "drbdsetup", "primary", "1")).exit:
            return False
        if self.one.volume(host).state.disk != "UpToDate":
            # It became the target of a resync meanwhile. DRBD promotes one, and then acknowledges writes that are in
            # flight when the source dies, from a disk that will be overwritten: such a side must not be used
            await self.one.ok(host, "drbdsetup", "secondary", "1")
            return False
        self.owner, self.device = host, host.open_device(DEVICE, "w")
        return True

    # --- what may happen

    async def write(self) -> None:
        if self.device is None or len(self.writing) >= 3:
            return
        free = [block for block in range(BLOCKS) if block not in self.busy]
        block = self.random.choice(free) * self.random.choice([1, 400])
        if block not in self.busy:
            self.number += 1
            self.busy.add(block)
            self.issued.setdefault(block, []).append(self.number)
            task = asyncio.create_task(self._write(self.device, block, self.number))
            self.writing.add(task)
            task.add_done_callback(self.writing.discard)

    async def _write(self, device: Device, block: int, number: int) -> None:
        try:
            await device.write(block * BLOCK, number.to_bytes(8, "big") * (BLOCK // 8))
        except OSError:
            return
        finally:
            self.busy.discard(block)
        self.acknowledged[block] = number
        self.issued[block] = [other for other in self.issued[block] if other > number]

    async def wait(self) -> None:
        await self.one.simulation.clock.sleep(self.random.choice([0.0001, 0.01, 0.3, 3, 12, 40]))

    @property
    def alone(self) -> bool:
        """The owner works with the peer's disk, its own is bad or not current yet: one more failure is one too many.

        (What is in flight when such a Primary loses its peer is acknowledged by DRBD 8.4 from a disk that will be
        overwritten.)
        """
        return self.owner is not None and self.one.volume(self.owner).state.disk != "UpToDate"

    async def cut(self) -> None:
        if self.alone:
            return
        self.one.simulation.cut_link("mk1", "mk2")

    async def restore(self) -> None:
        self.one.simulation.restore_link("mk1", "mk2")

    async def power_off(self) -> None:
        host = self.random.choice(self.one.both)
        if self.alone:
            return
        if host is self.owner:
            state = self.one.volume(host).state
            peer = self.peer(host)
            self.in_sync_at_death = (
                connected(state.cs) and state.peer_disk == "UpToDate" and peer.on
                and self.one.volume(peer).session is not None
            )  # fmt: skip
            self.owner = self.device = None
        elif self.owner is None:
            return
        host.power_off()

    async def power_on(self) -> None:
        for host in self.one.both:
            if not host.on:
                host.power_on()
                await self.one.run(host, "drbdadm", "up", RESOURCE)

    async def take_over(self) -> None:
        """Only with the owner off, and only if the other one had every acknowledged write."""
        off = [host for host in self.one.both if not host.on]
        if self.owner is None and self.in_sync_at_death and len(off) == 1:
            await self.own(self.peer(off[0]))

    async def resume(self) -> None:
        """Nobody owns it: whoever may be promoted with the peer's consent goes on."""
        if self.owner is None and all(host.on for host in self.one.both):
            host = self.random.choice(self.one.both)
            volume = host.drbd.resources.get(RESOURCE)
            if volume is not None and volume.state.cs == "Connected" and volume.state.disk == "UpToDate":
                await self.own(host)

    async def hand_over(self) -> None:
        if self.owner is None or self.device is None or self.writing:
            return
        volume, target = self.one.volume(self.owner), self.peer(self.owner)
        if volume.state.cs != "Connected" or volume.state.peer_disk != "UpToDate":
            return
        self.device.close()
        await self.one.ok(self.owner, "drbdsetup", "secondary", "1")
        before, self.owner, self.device = self.owner, None, None
        if not target.on or not await self.own(target):
            await self.own(before)

    async def disk_fails(self) -> None:
        """The owner's only while the other side has everything: one failure at a time loses nothing, two may."""
        host = self.random.choice(self.one.both)
        if self.alone:
            return
        if host is self.owner:
            volume, link = self.one.volume(host), self.one.simulation.link_up("mk1", "mk2")
            if self.writing or not link or volume.session is None or volume.state.peer_disk != "UpToDate":
                return
            self.one.simulation.fail_disk(host.name)
            await self.write()  # which finds it broken
            await asyncio.gather(*self.writing)
        else:
            self.one.simulation.fail_disk(host.name)

    async def repair(self) -> None:
        for host in self.one.both:
            self.one.simulation.repair_disk(host.name)
            volume = host.drbd.resources.get(RESOURCE) if host.on else None
            if volume is not None and volume.state.disk == "Diskless":
                await self.one.run(host, "drbdadm", "attach", RESOURCE)

    async def live(self) -> None:
        await self.own(self.one.mk1)
        weighted = [self.write] * 12 + [self.wait] * 6 + [self.restore] * 3 + [self.power_on] * 3 + [self.repair] * 2
        others = [self.cut, self.power_off, *[self.take_over] * 2, *[self.resume] * 4]
        for _ in range(STEPS):
            await self.random.choice([*weighted, *others, self.hand_over, self.disk_fails])()
            if self.owner is None:
                await self.random.choice([self.restore, self.power_on, self.take_over, self.wait, self.resume])()

    async def heal(self) -> None:
        await self.restore()
        for _ in range(3):
            await self.power_on()
            await self.one.simulation.clock.sleep(30)
            await self.repair()
        for host in self.one.both:
            await self.one.ok(host, "drbdadm", "adjust", RESOURCE)
        while self.writing:
            await asyncio.wait(set(self.writing))
        await self.one.settled()


@pytest.mark.parametrize("seed", range(40))
async def test_no_acknowledged_write_is_lost(tmp_path: Path, seed: int) -> None:
    async with pair(tmp_path, seed=seed) as one:
        await one.in_sync(config(disk="fencing resource-only;", handlers=HANDLER))
        life = Life(one, seed)
        await life.live()
        await life.heal()
        truth = one.simulation.truth
        assert truth.replicas_identical(RESOURCE), f"{truth.difference(RESOURCE)}\n{truth.story()}"
        for block, number in life.acknowledged.items():
            found = int.from_bytes(one.on_disk(one.mk1, block)[:8], "big")
            assert found == number or found in life.issued[block], (
                f"block {block} holds {found}, acknowledged was {number}\n{truth.story()}"
            )
        assert life.number
