"""What two simulated replicas do when they meet: resync of what differs, split brain, refusal."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, CONFIG, RESOURCE, config, pair, primary

POLICIES = "after-sb-0pri discard-zero-changes; after-sb-1pri consensus; after-sb-2pri disconnect;"

# --- resync ---------------------------------------------------------------------------------------------------------


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


# --- what does not fit ----------------------------------------------------------------------------------------------


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
