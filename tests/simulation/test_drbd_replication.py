"""What a simulated DRBD does with what is written: both have it, or the peer is known to be gone."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, DEVICE, RESOURCE, config, pair, primary

from agent.host import Completed


async def test_a_write_is_acknowledged_when_both_have_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        await one.write(one.mk1, 3)
        assert one.on_disk(one.mk2, 3) == one.on_disk(one.mk1, 3) == b"x" * BLOCK
        one.simulation.cut_link("mk1", "mk2")
        writing = asyncio.ensure_future(one.write(one.mk1, 4, b"y"))
        await one.simulation.clock.sleep(5)
        assert not writing.done()  # DRBD does not know yet that the peer is gone
        await writing
        await one.apart(one.mk1)
        assert one.on_disk(one.mk1, 4) == b"y" * BLOCK
        assert one.on_disk(one.mk2, 4) == bytes(BLOCK)


async def test_a_link_that_comes_back_in_time_is_not_noticed(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.cut_link("mk1", "mk2")
        writing = asyncio.ensure_future(one.write(one.mk1, 4, b"y"))
        await one.simulation.clock.sleep(2)
        one.simulation.restore_link("mk1", "mk2")
        await writing
        await one.simulation.clock.sleep(60)
        assert await one.word(one.mk1) == "Connected Primary/Secondary UpToDate/UpToDate"
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_a_secondary_cannot_be_opened(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        for mode, number in (("w", errno.EROFS), ("r", errno.EMEDIUMTYPE)):
            with pytest.raises(OSError, match=os.strerror(number)):
                one.mk2.open_device(DEVICE, mode)
        await primary(one)
        reader = one.mk1.open_device(DEVICE, "r")
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            await reader.write(0, b"x")
        assert "(-12)" in (await one.run(one.mk1, "drbdsetup", "secondary", "1")).stderr
        reader.close()
        await one.ok(one.mk1, "drbdsetup", "secondary", "1")


async def test_the_smaller_disk_counts(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        await one.prepare(one.mk1, "68M")
        await one.prepare(one.mk2, "64M")
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        assert [one.volume(host).known_size for host in one.both] == [65496 * 1024] * 2
        await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_growing_online(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        await one.write(one.mk1, 9)
        for host in one.both:
            await one.ok(host, "lvextend", "-L", "96M", f"vg0/{RESOURCE}")
        await one.ok(one.mk1, "drbdadm", "resize", RESOURCE)
        await one.settled()
        assert one.mk1.device_size(DEVICE) == (96 << 20) - 40960
        await one.write(one.mk1, one.mk1.device_size(DEVICE) // BLOCK - 1, b"e")
        assert one.simulation.truth.replicas_identical(RESOURCE)
        one.simulation.power_off("mk2")
        one.simulation.power_on("mk2")
        await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
        await one.settled()
        assert one.on_disk(one.mk2, 9) == b"x" * BLOCK


async def test_what_mkfs_writes_is_replicated_and_found(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        assert (await one.run(one.mk1, "blkid", "-p", DEVICE)).exit == 2
        await one.ok(one.mk1, "mkfs.ext4", "-q", DEVICE)
        await one.ok(one.mk1, "drbdsetup", "secondary", "1")
        assert (await one.run(one.mk1, "blkid", "-p", DEVICE)).exit == 2  # can't be opened: says the same
        assert (await one.run(one.mk1, "blockdev", "--getsize64", DEVICE)).exit == 1
        await primary(one, one.mk2)
        found = await one.ok(one.mk2, "blkid", "-p", "-o", "value", "-s", "TYPE", DEVICE)
        assert found == "ext4\n"
        refused = await one.run(one.mk2, "mkfs.xfs", DEVICE)
        assert refused.exit == 1
        assert "appears to contain an existing filesystem (ext4)" in refused.stderr


async def test_a_hung_tool_blocks_itself_alone(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        one.simulation.hang("mk1", "drbdadm")
        stuck = asyncio.ensure_future(one.mk1.run(["drbdadm", "status"], timeout=900))
        await one.ok(one.mk1, "drbdsetup", "status")
        one.simulation.unhang("mk1", "drbdadm")
        completed: Completed = await stuck
        assert completed.exit == 0
