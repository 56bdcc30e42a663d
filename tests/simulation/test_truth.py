"""The monitor itself: what it must see, it sees; what is right, it lets pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from drbd_helpers import BLOCK, RESOURCE, config, pair, until_quiet

from agent.simulation.cluster import Simulation
from agent.simulation.truth import Truth

VM = "f27b9dda-56c0-4573-87da-a4b07ed4f2fc"


@pytest.fixture
async def truth(tmp_path: Path) -> AsyncIterator[Truth]:
    async with Simulation(tmp_path, clock="virtual") as simulation:
        yield simulation.truth


def verdict(truth: Truth) -> str:
    with pytest.raises(AssertionError) as raised:
        truth.check()
    return str(raised.value)


async def test_a_domain_on_two_hosts(truth: Truth) -> None:
    truth.domain_runs(VM, "mk1", 1, "shaolin")
    truth.domain_stops(VM, "mk1", 1, "shaolin")
    truth.domain_runs(VM, "mk2", 4, "shaolin")
    truth.check()
    assert truth.running(VM) == ("mk2",)
    truth.domain_runs(VM, "mk1", 2, "shaolin")
    assert "domain shaolin runs on mk1 (id 2), mk2 (id 4)" in verdict(truth)


async def test_two_copies_on_one_host(truth: Truth) -> None:
    truth.domain_runs(VM, "mk1", 1)
    truth.domain_runs(VM, "mk1", 2)
    assert "runs on mk1 (id 1), mk1 (id 2)" in verdict(truth)


async def test_two_primaries(truth: Truth) -> None:
    truth.role(RESOURCE, "mk1", True)
    truth.role(RESOURCE, "mk1", True)
    truth.check()
    truth.role(RESOURCE, "mk2", True)
    truth.role(RESOURCE, "mk1", False)
    assert "vm_shaolin is Primary on mk1, mk2" in verdict(truth)
    assert truth.two_primaries_seconds[RESOURCE] == 0
    assert truth.primaries(RESOURCE) == ("mk2",)


async def test_records_that_go_on(truth: Truth) -> None:
    for sequence in range(1, 5):
        truth.record_issued(VM, "mk1", sequence)
        truth.record_acknowledged(VM, "mk1", sequence)
    truth.record_issued(VM, "mk1", 5)  # under way when the host died: on the disk or not, both are right
    truth.record_found(VM, "mk2", 5)
    truth.record_found(VM, "mk2", 4)
    truth.record_issued(VM, "mk2", 5)
    truth.record_acknowledged(VM, "mk2", 5)
    truth.check()
    assert (truth.records(VM).acknowledged, truth.records(VM).hosts) == (5, ["mk1", "mk2"])


@pytest.mark.parametrize(
    ("sequence", "words"), [(2, "writes record 2 again: 2 was acknowledged"), (4, "writes record 4 after 2: a gap")]
)
async def test_records_doubled_or_left_out(truth: Truth, sequence: int, words: str) -> None:
    for number in (1, 2):
        truth.record_issued(VM, "mk1", number)
        truth.record_acknowledged(VM, "mk1", number)
    truth.record_issued(VM, "mk2", sequence)
    assert words in verdict(truth)


@pytest.mark.parametrize(
    ("found", "words"), [(1, "record 2 was acknowledged, but mk2's disk ends with 1"), (3, "was never written")]
)
async def test_records_lost_or_from_nowhere(truth: Truth, found: int, words: str) -> None:
    for number in (1, 2):
        truth.record_issued(VM, "mk1", number)
        truth.record_acknowledged(VM, "mk1", number)
    truth.record_found(VM, "mk2", found)
    assert words in verdict(truth)


async def test_the_verdict_tells_the_story(truth: Truth) -> None:
    truth.note("mk1", "something happened before")
    truth.violation("this is wrong")
    said = verdict(truth)
    assert said.startswith("- this is wrong\nThe last events:\n")
    assert said.index("something happened before") < said.index("VIOLATION this is wrong")


async def test_replicas_are_compared_byte_by_byte(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        truth = one.simulation.truth
        assert truth.difference(RESOURCE) == "vm_shaolin has 0 replica(s): none"
        await one.in_sync(config())
        await one.ok(one.mk1, "drbdsetup", "primary", "1")
        await one.write(one.mk1, 16373, b"e")  # the last block
        assert truth.difference(RESOURCE) is None
        found = one.mk2.volume_groups.find("/dev/vg0/vm_shaolin")
        assert found is not None
        found.write_now(16373 * BLOCK + 4095, b"!")
        assert truth.difference(RESOURCE) == f"vm_shaolin differs at byte {16374 * BLOCK - 1} between mk1 and mk2"
        for host in one.both:
            await one.run(host, "drbdsetup", "secondary", "1")
            await one.ok(host, "drbdadm", "down", RESOURCE)
        assert not truth.replicas_identical(RESOURCE)
        await one.ok(one.mk2, "drbdadm", "--", "--force", "wipe-md", RESOURCE)
        assert truth.difference(RESOURCE) == "vm_shaolin has 1 replica(s): mk1"


async def test_a_write_under_way_is_no_difference(tmp_path: Path) -> None:
    async with pair(tmp_path) as one:
        await one.in_sync(config())
        await one.ok(one.mk1, "drbdsetup", "primary", "1")
        writing = asyncio.ensure_future(one.write(one.mk1, 3))
        await until_quiet()
        assert one.on_disk(one.mk1, 3) != one.on_disk(one.mk2, 3)
        assert one.simulation.truth.replicas_identical(RESOURCE)
        await writing
        one.simulation.cut_link("mk1", "mk2")
        await one.write(one.mk1, 4)
        assert not one.simulation.truth.replicas_identical(RESOURCE)  # acknowledged, and on one side only


async def test_the_same_seed_tells_the_same_story(tmp_path: Path) -> None:
    async def story(directory: Path, seed: int) -> tuple[str, str]:
        async with pair(directory, seed=seed) as one:
            await one.in_sync(config())
            one.simulation.power_off("mk1")
            one.simulation.power_on("mk1")
            await one.ok(one.mk1, "drbdadm", "up", RESOURCE)
            await one.settled()
            return one.simulation.truth.story(), one.mk1.boot_id + one.volume(one.mk1).block.get_gi()

    first = await story(tmp_path / "a", 1)
    assert first == await story(tmp_path / "b", 1)
    assert first[1] != (await story(tmp_path / "c", 2))[1]
