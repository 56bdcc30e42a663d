"""Two controllers at once: by election one acts; and should both act, no rule is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from api_objects import Manifest, howto
from harness import Scene, object_writes, runs_on

from controller.operator import Controller


def small_volume() -> Manifest:
    made = howto("DrbdVolume")
    made["spec"]["size"] = "32Mi"
    return made


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await asyncio.gather(*(made.start_agent(name) for name in made.names))
        for name in made.names:
            await made.apply(made.node_manifest(name))
        yield made


def never_deposed(controller: Controller) -> None:
    """A leader that does not notice that it is one no more: its machine was suspended, its clock stands."""

    async def keep() -> None:
        await asyncio.Event().wait()

    controller.elector.keep = keep  # type: ignore[method-assign]
    controller.elector._clock = lambda: 0.0


async def test_row_19_the_second_takes_over_when_the_first_is_killed_in_a_move(scene: Scene) -> None:
    first = await scene.start_controller(leader_elect=True)
    second = await scene.start_controller(leader_elect=True, wait=False)
    await scene.apply(small_volume(), howto("XenVM"))
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    assert object_writes(second) == 0
    scene.simulation.slow_link(6e7)
    await scene.move("shaolin", "mk2")
    await scene.until("XenVM", "shaolin", lambda vm: vm.status.phase == "Migrating")
    await scene.kill_controller(first)
    scene.simulation.slow_link(1e9)
    await asyncio.wait_for(second.started.wait(), 60)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"))
    assert second.elector.term == first.elector.term + 1
    assert scene.simulation.truth.running(vm.metadata.uid) == ("mk2",)


async def test_with_two_leaders_that_both_believe_it_everything_is_done_once(scene: Scene) -> None:
    first = Controller(scene.options())
    never_deposed(first)
    await scene.adopt(first)
    second = Controller(scene.options())
    never_deposed(second)
    await scene.adopt(second)
    assert first.elector.leading
    assert second.elector.leading
    assert first.elector.term < second.elector.term
    await scene.apply(small_volume(), howto("XenVM"))
    volume = await scene.until_ready("DrbdVolume", "vm-shaolin", 90)
    vm = await scene.until("XenVM", "shaolin", runs_on("mk1"), 90)
    truth, uid = scene.simulation.truth, vm.metadata.uid
    for target in ("mk2", "mk1", "mk2"):
        await scene.move("shaolin", target)
        await scene.until("XenVM", "shaolin", runs_on(target), 90)
        assert truth.running(uid) == (target,)
    assert truth.records(uid).hosts == ["mk1", "mk2", "mk1", "mk2"]
    forced = [name for name, agent in scene.agents.items() if agent.context.observer.state.volumes["vm_shaolin"].forced]
    assert forced == [volume.status.initial_sync.node]
    terms = {agent.context.observer.state.term for agent in scene.agents.values()}
    assert terms == {second.elector.term}, "the agents obey the higher term"
