"""What DRBD does with data: replication, loss of the peer, resync, disk errors, fencing."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, CONFIG, DEVICE, RESOURCE, Pair, config, pair, until_quiet

from agent.host import Completed
from agent.simulation.host import SimulatedHost
from agent.simulation.process import Process

FENCED = "fencing resource-only;"
FROZEN = "fencing resource-and-stonith;"
HANDLER = 'handlers { fence-peer "/usr/local/sbin/fence --now"; }'
POLICIES = "after-sb-0pri discard-zero-changes; after-sb-1pri consensus; after-sb-2pri disconnect;"


async def primary(one: Pair, host: SimulatedHost | None = None) -> None:
    await one.ok(host or one.mk1, "drbdsetup", "primary", "1")


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


async def test_only_what_differs_is_copied(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        await one.write(one.mk1, 100, b"n", 3)
        assert one.volume(one.mk1).out_of_sync == 12
        sent = one.volume(one.mk1).counters.sent
        one.simulation.restore_link("mk1", "mk2")
        await one.settled()
        assert one.volume(one.mk1).counters.sent - sent == 12 * 2  # sectors
        assert one.on_disk(one.mk2, 102) == b"n" * BLOCK
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


async def test_a_sync_that_is_interrupted_goes_on_where_it_was(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config(rate="2M"))
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await one.write(one.mk1, 16000, b"end!"[:1])
        await one.simulation.clock.sleep(10)
        one.simulation.power_off("mk2")
        await one.apart(one.mk1)
        left = one.volume(one.mk1).out_of_sync
        assert 0 < left < 65496
        one.simulation.power_on("mk2")
        assert (await one.ok(one.mk2, "drbdadm", "dstate", RESOURCE)) == "Inconsistent\n"
        await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
        await one.until(lambda: one.volume(one.mk2).state.cs == "SyncTarget")
        assert one.volume(one.mk2).out_of_sync <= left
        # Alone, half of a sync is no data
        one.simulation.cut_link("mk1", "mk2")
        await one.apart()
        assert (await one.run(one.mk2, "drbdadm", "primary", RESOURCE)).exit == 17
        one.simulation.restore_link("mk1", "mk2")
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_the_source_of_a_sync_dies(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config(rate="2M"))
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        await one.ok(one.mk1, "drbdadm", "primary", "--force", RESOURCE)
        await one.simulation.clock.sleep(10)
        one.simulation.power_off("mk1")
        await one.apart(one.mk2)
        assert await one.word(one.mk2) == "WFConnection Secondary/Unknown Inconsistent/DUnknown"
        one.simulation.power_on("mk1")
        await one.ok(one.mk1, "drbdadm", "up", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_a_crashed_primary_gets_what_was_in_flight_from_the_survivor(tmp_path: Path) -> None:
    """It wrote on its own disk, the peer never got it: the activity log knows where to look."""
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        one.simulation.cut_link("mk1", "mk2")
        writing = asyncio.ensure_future(one.write(one.mk1, 7, b"lost"[:1]))
        await one.simulation.clock.sleep(1)
        assert one.on_disk(one.mk1, 7) == b"l" * BLOCK
        one.simulation.power_off("mk1")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await writing
        await one.apart(one.mk2)
        await primary(one, one.mk2)
        one.simulation.power_on("mk1")
        one.simulation.restore_link("mk1", "mk2")
        assert (await one.ok(one.mk1, "drbdadm", "get-gi", RESOURCE)).endswith(":1:1:1:1:0:0:0\n")
        await one.ok(one.mk1, "drbdadm", "up", RESOURCE)
        await one.settled()
        assert one.on_disk(one.mk1, 7) == bytes(BLOCK)
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_both_lose_power_and_come_back(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await primary(one)
        await one.write(one.mk1, 1)
        one.simulation.power_off("mk1")
        one.simulation.power_off("mk2")
        for name in ("mk2", "mk1"):
            one.simulation.power_on(name)
            await one.ok(one.simulation.hosts[name], "drbdadm", "up", RESOURCE)
        await one.settled()
        assert one.simulation.truth.replicas_identical(RESOURCE)
        assert one.on_disk(one.mk2, 1) == b"x" * BLOCK


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


@pytest.mark.parametrize("writes", [True, False])
async def test_a_split_brain_heals_when_the_unused_side_wrote_nothing(tmp_path: Path, writes: bool) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(net=POLICIES))
        await primary(one)
        one.simulation.cut_link("mk1", "mk2")
        await one.write(one.mk1, 1)
        await one.apart()
        await primary(one, one.mk2)
        if writes:
            await one.write(one.mk2, 2)
        await one.ok(one.mk2, "drbdsetup", "secondary", "1")
        one.simulation.truth.violations.clear()  # both were Primary, as it was to be
        one.simulation.restore_link("mk1", "mk2")
        if writes:
            await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
            return
        await one.settled()
        assert any("1 primaries, automatically solved. Sync from this node" in line for line in one.mk1.dmesg)
        assert one.simulation.truth.replicas_identical(RESOURCE)


async def test_unrelated_data_is_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync()
        await one.ok(one.mk2, "drbdadm", "down", RESOURCE)
        await one.ok(one.mk2, "drbdadm", "create-md", "--force", RESOURCE)
        await one.ok(one.mk1, "drbdadm", "disconnect", RESOURCE)
        await one.ok(one.mk2, "drbdadm", "up", RESOURCE)
        await one.ok(one.mk2, "drbdadm", "primary", "--force", RESOURCE)
        await one.ok(one.mk2, "drbdadm", "secondary", RESOURCE)
        await one.ok(one.mk1, "drbdadm", "connect", RESOURCE)
        await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
        assert any("Unrelated data, aborting!" in line for line in one.mk1.dmesg)


async def test_settings_that_differ_are_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.mk1.write_text(CONFIG, config())
        await one.mk2.write_text(CONFIG, config(net="after-sb-0pri discard-zero-changes;"))
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: all(one.volume(host).state.cs == "StandAlone" for host in one.both))
        assert any("incompatible after-sb-0pri settings" in line for line in one.mk2.dmesg)


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


async def test_the_first_sync_can_be_skipped(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.configure(config())
        for host in one.both:
            await one.prepare(host)
        await one.until(lambda: one.volume(one.mk1).state.cs == "Connected")
        await one.ok(one.mk1, "drbdadm", "new-current-uuid", "--clear-bitmap", f"{RESOURCE}/0")
        assert await one.word(one.mk2) == "Connected Secondary/Secondary UpToDate/UpToDate"
        assert one.volume(one.mk1).block.generation == one.volume(one.mk2).block.generation
        assert [one.volume(host).out_of_sync for host in one.both] == [0, 0]


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


async def test_verify_marks_what_differs(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config(net="verify-alg sha1;"))
        rotten = one.mk2.volume_groups.find("/dev/vg0/vm_shaolin")
        assert rotten is not None
        rotten.write_now(50 * BLOCK, b"rot")
        await one.ok(one.mk1, "drbdadm", "verify", RESOURCE)
        assert one.volume(one.mk1).state.cs == "VerifyS"
        await one.settled()
        assert one.volume(one.mk1).out_of_sync == 4
        assert not one.simulation.truth.replicas_identical(RESOURCE)


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
