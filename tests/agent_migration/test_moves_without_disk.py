"""Disks that fail before and in a move: a source without one is left while it is connected, and never a target."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.protocol import Fencing, Refusal, Verdict, VerdictDesired
from agent.simulation.cluster import Simulation
from agent.vm_disks import against_hand_over
from tests.agent_migration.pair import RESOURCE, UID, VOLUME_UID, Pair, refused, until
from tests.agent_migration.vm_facts import config, drbd


@pytest.fixture
async def fenced(tmp_path: Path) -> AsyncIterator[Pair]:
    """The VM runs on mk1, its volume under fencing. mk2 is known to have every record that is acknowledged."""
    async with Simulation(tmp_path / "simulation", link_rate=400e6) as simulation:
        pair = Pair(simulation, tmp_path)
        pair.fencing = Fencing()
        try:
            for name in simulation.hosts:
                await pair.start(name)
            await pair.make_volume()
            await pair.run()
            yield pair
            simulation.truth.check()
            assert simulation.truth.two_primaries_seconds == {}
        finally:
            await pair.close()


async def diskless(pair: Pair, name: str) -> None:
    pair.simulation.fail_disk(name)
    await pair.writes()  # DRBD finds out when it writes
    await until(lambda: pair.at(name).observer.state.volumes[RESOURCE].disk == "Diskless", f"{name} Diskless")


async def moved(pair: Pair) -> None:
    await pair.ended("mk1", "move", "Succeeded")
    await pair.ended("mk2", "move", "Succeeded")
    await pair.runs_only_on("mk2")
    assert pair.simulation.truth.records(UID).hosts == ["mk1", "mk2"]


async def test_row_10_the_vm_leaves_the_host_whose_disk_has_failed(fenced: Pair) -> None:
    await diskless(fenced, "mk1")
    await fenced.move()
    await moved(fenced)
    # ... and the disk, once it is there again, has everything from the host that the VM runs on now
    fenced.simulation.repair_disk("mk1")
    done = await fenced.simulation.hosts["mk1"].run(["drbdadm", "attach", RESOURCE])
    assert done.exit == 0, done
    await fenced.synced()
    await fenced.move("back", to="mk1", epoch=2)
    await fenced.ended("mk1", "back", "Succeeded")
    await fenced.runs_only_on("mk1")


async def test_row_10_the_disk_fails_while_the_memory_is_copied(fenced: Pair) -> None:
    fenced.simulation.slow_link(6e7)
    await fenced.move()
    await fenced.phase("mk2", "Receiving")
    await diskless(fenced, "mk1")
    fenced.simulation.slow_link(1e9)
    await moved(fenced)


async def test_row_10_nothing_comes_to_a_host_whose_disk_has_failed(fenced: Pair) -> None:
    await diskless(fenced, "mk2")
    told = await refused("DiskNotUpToDate", fenced.receive())
    assert "replace it" in told
    await fenced.runs_only_on("mk1")


async def test_rows_10_and_12_the_cable_is_pulled_after_the_release(fenced: Pair) -> None:
    """Both do not see each other: the copy waits, and goes on with every write when they do."""
    await diskless(fenced, "mk1")
    drbd = fenced.at("mk1").drbd
    demote = drbd.secondary

    async def with_the_cable_out(resource: str, minor: int, *, patience: float = 5.0) -> None:
        fenced.simulation.cut_link("mk1", "mk2")
        await demote(resource, minor, patience=patience)

    drbd.secondary = with_the_cable_out  # type: ignore[method-assign]
    await fenced.move()
    await fenced.phase("mk1", "Demoted")
    drbd.secondary = demote  # type: ignore[method-assign]
    await fenced.phase("mk2", "Received")
    assert fenced.running() == ()
    assert fenced.primaries() == ()
    fenced.simulation.restore_link("mk1", "mk2")
    await moved(fenced)


async def test_a_host_knows_that_it_wrote_alone_until_both_are_whole(fenced: Pair) -> None:
    fence = fenced.at("mk1").fence
    assert not fence.wrote_alone(RESOURCE)
    fenced.simulation.cut_link("mk1", "mk2")
    observer = fenced.at("mk1").observer
    await until(lambda: observer.state.volumes[RESOURCE].fence_question is not None, "frozen IO")
    verdict = Verdict(number=1, survivor="mk1", stale="mk2", reason="PeerLost")
    await fence.put(RESOURCE, VerdictDesired(term=1, uid=VOLUME_UID, resource=RESOURCE, verdict=verdict))
    await fenced.writes()
    assert fence.wrote_alone(RESOURCE)
    fenced.simulation.restore_link("mk1", "mk2")
    await until(lambda: not fence.wrote_alone(RESOURCE), "that the verdict is given back")


async def test_without_fencing_nobody_knows_what_was_written_alone(running: Pair) -> None:
    await diskless(running, "mk1")
    assert "on the failed disk only" in await refused("WroteAlone", running.send())


@pytest.mark.parametrize("disk", ["Diskless", "UpToDate"])
@pytest.mark.parametrize("alone", [(), (RESOURCE,)])
def test_who_takes_over_from_a_failed_disk(disk: str, alone: tuple[str, ...]) -> None:
    seen = drbd(role="Secondary", peer={"role": "Secondary", "disk": disk})
    against: list[Refusal] = against_hand_over(
        config().disks, seen, "mk2", side="target", role="Secondary", peer_role="Secondary", alone=alone
    )
    assert [one.reason for one in against] == (["WroteAlone"] if alone and disk == "Diskless" else [])
