"""The controller with real agents on simulated hosts: nodes, and the life of the controller itself."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import devcluster
import pytest
from harness import Scene, is_unknown, object_writes

from controller.runtime.lease import LeadershipLost


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        yield made


async def test_a_node_shows_what_its_agent_says_and_its_agent_knows_what_the_spec_says(scene: Scene) -> None:
    controller = await scene.start()
    for name in scene.names:
        node = await scene.until_ready("XenNode", name)
        assert node.status.boot_id == scene.simulation.hosts[name].boot_id
        assert [group.name for group in node.status.volume_groups] == ["vg0"]
    desired = scene.agents["mk1"].context.observer.state.desired
    assert desired is not None
    assert desired.term == controller.elector.term
    assert desired.replication_address == "10.0.0.81"


async def test_nothing_is_written_once_all_is_settled_nor_by_the_next_controller(scene: Scene) -> None:
    first = await scene.start()
    for name in scene.names:
        await scene.until_ready("XenNode", name)
    await scene.until_settled()
    await scene.kill_controller(first)
    second = await scene.start_controller()
    await scene.until_settled()
    assert second.elector.term == first.elector.term + 1
    assert object_writes(second) == 0


async def test_a_killed_agent_is_unknown_and_then_known_again(scene: Scene) -> None:
    await scene.start()
    await scene.until_ready("XenNode", "mk2")
    await scene.kill_agent("mk2")
    await scene.until("XenNode", "mk2", is_unknown)
    await scene.until_ready("XenNode", "mk1")
    await scene.start_agent("mk2")
    await scene.until_ready("XenNode", "mk2")


async def test_an_agent_that_is_restarted_at_once_is_not_lost(scene: Scene) -> None:
    controller = await scene.start()
    await scene.until_ready("XenNode", "mk2")
    await scene.until_settled()
    before = object_writes(controller)
    await scene.kill_agent("mk2")
    await scene.start_agent("mk2")
    supervisor = controller.supervisors.get("mk2")
    assert supervisor is not None
    started = scene.agents["mk2"].context.observer.state.agent_started_at
    await scene.until_true(
        lambda: supervisor.state is not None and supervisor.state.agent_started_at == started, "the new agent is heard"
    )
    await scene.until_settled()
    assert object_writes(controller) == before


async def test_a_node_that_moves_to_another_address_is_followed_there(scene: Scene) -> None:
    await scene.start()
    await scene.until_ready("XenNode", "mk1")
    right = scene.node_manifest("mk1")["spec"]["agent"]["port"]
    wrong = scene.node_manifest("mk2")["spec"]["agent"]["port"]
    await scene.patch("XenNode", "mk1", {"spec": {"agent": {"port": wrong}}})
    await scene.until("XenNode", "mk1", is_unknown)  # mk2's agent is not taken for mk1's
    await scene.patch("XenNode", "mk1", {"spec": {"agent": {"port": right}}})
    await scene.until_ready("XenNode", "mk1")


async def test_a_deleted_node_is_forgotten(scene: Scene) -> None:
    controller = await scene.start()
    await scene.until_ready("XenNode", "mk2")
    await scene.delete("XenNode", "mk2")
    await scene.until_gone("XenNode", "mk2")
    await scene.until_true(lambda: controller.supervisors.get("mk2") is None, "mk2's agent is followed no more")
    assert controller.supervisors.get("mk1") is not None


async def test_a_controller_whose_lease_is_taken_ends_and_the_new_one_has_the_higher_term(scene: Scene) -> None:
    first = await scene.start()
    second = await scene.start_controller()
    assert isinstance(await scene.ended(first), LeadershipLost)
    observers = [agent.context.observer for agent in scene.agents.values()]
    await scene.until_true(
        lambda: all(one.state.term == second.elector.term for one in observers), "the agents have the new term"
    )


async def test_a_controller_that_is_stopped_gives_its_lease_up(scene: Scene) -> None:
    first = await scene.start_controller(leader_elect=True)
    second = await scene.start_controller(leader_elect=True, wait=False)
    first.stop()
    assert await scene.ended(first) is None
    await asyncio.wait_for(second.started.wait(), 30)
    assert second.elector.term == first.elector.term + 1


async def test_a_lease_that_was_lost_with_its_number_is_raised_above_what_the_agents_promised(scene: Scene) -> None:
    first = await scene.start()
    await scene.until_ready("XenNode", "mk1")
    for _ in range(3):
        await scene.kill_controller()
        first = await scene.start_controller()
    await scene.until_true(
        lambda: scene.agents["mk1"].context.observer.state.term == first.elector.term, "the agent has the term"
    )
    await scene.kill_controller()
    await scene.api.request(
        "DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{scene.namespace}/leases/xentandem-controller"
    )
    last = await scene.start_controller()
    await scene.until_true(
        lambda: scene.agents["mk1"].context.observer.state.term == last.elector.term, "the agent obeys again"
    )
    assert last.elector.term > first.elector.term
    await scene.until_ready("XenNode", "mk1")


async def test_row_22_a_controller_that_hears_nothing_from_the_api_server_stops_acting(
    scene: Scene, cluster: devcluster.Cluster
) -> None:
    first = await scene.start()
    await scene.until_ready("XenNode", "mk1")
    await scene.until_settled()
    cluster.process.send_signal(signal.SIGSTOP)
    try:
        ended = await asyncio.wait_for(scene.ended(first), 60)
    finally:
        cluster.process.send_signal(signal.SIGCONT)
    assert isinstance(ended, LeadershipLost)
    assert not first.elector.leading
    second = await scene.start_controller()
    await scene.until_settled()
    assert object_writes(second) == 0
