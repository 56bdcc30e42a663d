"""Disks that fail under a simulated DRBD: IO goes on through the peer, and old data is never shown."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, DEVICE, RESOURCE, Pair, config, pair, primary, until_quiet

from agent.drivers.drbd_parse import parse_proc
from agent.simulation.devices import Device


async def test_a_disk_error_detaches_and_io_goes_on_through_the_peer(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        await one.write(one.mk1, 1)
        before = one.volume(one.mk2).block.generation.masked.current
        one.simulation.fail_disk("mk1")
        guest = one.mk1.open_device(DEVICE, "w")
        await guest.write(2 * BLOCK, b"z" * BLOCK)
        assert await one.word(one.mk1) == "Connected Primary/Secondary Diskless/UpToDate"
        assert await one.word(one.mk2) == "Connected Secondary/Primary UpToDate/Diskless"
        assert await guest.read(BLOCK, 2 * BLOCK) == b"x" * BLOCK + b"z" * BLOCK
        assert one.on_disk(one.mk2, 2) == b"z" * BLOCK
        # mk2 has data that mk1's disk lacks: should it come back it must not look current
        assert one.volume(one.mk2).block.generation.masked.current != before
        one.simulation.repair_disk("mk1")
        await one.ok(one.mk1, "drbdadm", "attach", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)
        assert await guest.read(2 * BLOCK, BLOCK) == b"z" * BLOCK
        guest.close()


async def test_without_disk_and_peer_io_fails(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.fail_disk("mk1", "/dev/vg0/vm_shaolin")
        guest = one.mk1.open_device(DEVICE, "w")
        await guest.write(0, b"1" * BLOCK)
        one.simulation.power_off("mk2")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await guest.write(0, b"2" * BLOCK)
        guest.close()


WAITS = "options { on-no-data-accessible suspend-io; }"


async def seen(one: Pair) -> tuple[str, str]:
    """`suspended:` of events2, and the first flag of /proc/drbd."""
    dump = await one.ok(one.mk1, "drbdsetup", "events2", "--now")
    word = next(part for part in dump.split() if part.startswith("suspended:"))
    return word, parse_proc(await one.mk1.read_text("/proc/drbd"))[1].flags[0]


async def without_data(one: Pair) -> tuple[Device, asyncio.Task[None], asyncio.Task[bytes]]:
    """mk1 is Primary without its disk and its peer; a write and a read wait."""
    await one.in_sync(config(disk="fencing resource-and-stonith;", handlers=WAITS))
    await primary(one)
    one.simulation.fail_disk("mk1")
    guest = one.mk1.open_device(DEVICE, "w")
    await guest.write(0, b"1" * BLOCK)
    assert await seen(one) == ("suspended:no", "r")
    one.simulation.cut_link("mk1", "mk2")
    await one.apart()
    assert await one.word(one.mk1) == "WFConnection Primary/Unknown Diskless/DUnknown"
    assert await seen(one) == ("suspended:no-data", "s")
    return guest, asyncio.ensure_future(guest.write(0, b"2" * BLOCK)), asyncio.ensure_future(guest.read(0, BLOCK))


async def test_row_12_io_waits_without_disk_and_peer_until_the_peer_is_back(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        guest, write, read = await without_data(one)
        await one.simulation.clock.sleep(300)
        assert not write.done()
        assert not read.done()
        one.simulation.restore_link("mk1", "mk2")
        await write
        assert await read in (b"1" * BLOCK, b"2" * BLOCK)
        assert await seen(one) == ("suspended:no", "r")
        assert one.on_disk(one.mk2, 0) == b"2" * BLOCK
        guest.close()


async def test_row_12_io_that_is_resumed_by_hand_fails(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        guest, *waiting = await without_data(one)
        await one.ok(one.mk1, "drbdadm", "resume-io", RESOURCE)
        for access in waiting:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                await access
        guest.close()
        await one.ok(one.mk1, "drbdsetup", "secondary", "1")


async def test_row_12_io_goes_on_when_the_disk_is_there_again(tmp_path: Path) -> None:
    """Nothing was written elsewhere meanwhile: it is the data that was lost last."""
    async with pair(tmp_path) as one:
        await one.in_sync(config(handlers=WAITS))
        await primary(one)
        guest = one.mk1.open_device(DEVICE, "w")
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        one.simulation.fail_disk("mk1")
        write = asyncio.ensure_future(guest.write(0, b"2" * BLOCK))
        await one.until(lambda: one.volume(one.mk1).state.disk == "Diskless")
        assert await seen(one) == ("suspended:no-data", "s")
        one.simulation.repair_disk("mk1")
        await one.ok(one.mk1, "drbdadm", "attach", RESOURCE)
        await write
        assert await seen(one) == ("suspended:no", "r")
        guest.close()


async def test_a_primary_without_good_data_fails_io_and_serves_it_again_from_the_peer(tmp_path: Path) -> None:
    """It is the target of a resync, and the source goes away: what its own disk holds is not to be shown."""
    async with pair(tmp_path) as one:
        await one.in_sync(config(rate="1M"), size="64M")
        await primary(one)
        await one.write(one.mk1, 0, b"1", 1000)
        one.simulation.fail_disk("mk1")
        await one.write(one.mk1, 10, b"2")
        one.simulation.repair_disk("mk1")
        await one.ok(one.mk1, "drbdadm", "attach", RESOURCE)
        await one.until(lambda: one.volume(one.mk1).state.cs == "SyncTarget")
        guest = one.mk1.open_device(DEVICE, "w")
        assert await guest.read(10 * BLOCK, BLOCK) == b"2" * BLOCK  # not copied yet: read from the peer
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        for access in (guest.read(10 * BLOCK, BLOCK), guest.write(20 * BLOCK, b"3" * BLOCK)):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                await access
        one.simulation.restore_link("mk1", "mk2")
        await one.until(lambda: one.volume(one.mk1).state.cs == "SyncTarget")
        assert await guest.read(10 * BLOCK, BLOCK) == b"2" * BLOCK
        await guest.write(20 * BLOCK, b"3" * BLOCK)
        await one.settled()
        guest.close()
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_a_diskless_primary_takes_no_other_data_than_it_showed_last(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.fail_disk("mk1")
        await one.write(one.mk1, 10, b"2")  # mk2 alone has it
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        one.simulation.repair_disk("mk1")
        said = await one.run(one.mk1, "drbdadm", "attach", RESOURCE)
        assert said.exit == 10
        assert "(150) Can only attach to the data we lost last" in said.stderr
        await one.ok(one.mk2, "drbdadm", "disconnect", RESOURCE)
        await one.ok(one.mk2, "drbdadm", "new-current-uuid", f"{RESOURCE}/0")  # as if it had gone on alone
        await one.ok(one.mk2, "drbdadm", "connect", RESOURCE)
        one.simulation.restore_link("mk1", "mk2")
        await one.until(lambda: one.volume(one.mk1).state.cs == "StandAlone")
        assert any("Can only connect to data with current UUID=" in line for line in one.mk1.dmesg)


async def test_the_disk_of_the_secondary_fails(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.fail_disk("mk2")
        await one.write(one.mk1, 5)
        await until_quiet()
        assert await one.word(one.mk1) == "Connected Primary/Secondary UpToDate/Diskless"
        await one.write(one.mk1, 6)
        assert one.volume(one.mk1).out_of_sync == 8
        one.simulation.repair_disk("mk2")
        await one.ok(one.mk2, "drbdadm", "attach", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)
