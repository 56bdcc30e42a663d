"""Whatever dies, hangs or is cut, at whichever step of a live migration: the move heals by itself and comes to its end.

Each accident strikes a VM that moves there and back, once at each step, as its agents' journals name them. What the
monitor sees is checked at the end: never two running, never two Primaries, no acknowledged record lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import devcluster
import psutil
import pytest
from api_objects import Manifest, howto
from burnin_lib.keeper import Keeper
from burnin_lib.proxy import NONE, Faults, Proxy
from harness import Scene, is_ready, runs_on

from agent.migration.relay_files import RELAY
from agent.simulation.process import Process
from controller.domain import migration_record
from controller.reconcile import lanes

SOURCE = ("Starting", "Precopy", "StopAndCopy", "HandOver", "Demoted")
TARGET = ("Listening", "Receiving", "Received", "Promoting", "Attaching", "Unpausing")
STEPS = [*(("migrate-send", phase) for phase in SOURCE), *(("migrate-receive", phase) for phase in TARGET)]
AWAY = Faults(error=1.0, cut=1.0)
BROKEN_SECONDS = 1.0  # long enough to be felt by what has a moment to do it in
SECONDS = 90.0


@dataclass
class Stage:
    scene: Scene
    proxy: Proxy
    keeper: Keeper
    source: str = "mk1"
    target: str = "mk2"
    hits: int = 0  # by accidents that strike what may not be there


Accident = Callable[[Stage], Awaitable[None]]


async def the_agent_dies(stage: Stage, name: str) -> None:
    await stage.scene.kill_agent(name)
    await asyncio.sleep(0.1)
    await stage.scene.start_agent(name)


async def the_host_loses_power(stage: Stage, name: str) -> None:
    await stage.scene.crash_host(name)
    await asyncio.sleep(0.1)
    await stage.scene.boot_host(name)


async def the_controller_dies(stage: Stage) -> None:
    stage.keeper.kill()


async def the_api_server_is_away(stage: Stage) -> None:
    stage.proxy.faults = AWAY
    await asyncio.sleep(BROKEN_SECONDS)
    stage.proxy.faults = NONE


async def the_cable_is_cut(stage: Stage) -> None:
    stage.scene.simulation.cut_link(stage.source, stage.target)
    await asyncio.sleep(BROKEN_SECONDS)
    stage.scene.simulation.restore_link(stage.source, stage.target)


def processes(stage: Stage, name: str, *words: str) -> list[Process]:
    """Those whose command line begins so; there may be none any more, or none yet."""
    running = stage.scene.simulation.hosts[name].processes.running.values()
    return [process for process in running if tuple(process.argv[: len(words)]) == words]


async def xl_migrate_is_killed(stage: Stage) -> None:
    for process in processes(stage, stage.source, "xl", "migrate"):
        process.kill()
        stage.hits += 1


async def the_receiver_is_killed(stage: Stage) -> None:
    for process in processes(stage, stage.target, "xl", "migrate-receive"):
        process.kill()
        stage.hits += 1


def relays() -> list[psutil.Process]:
    """What carries the stream from xl to the target's agent: a real process, also on simulated hosts."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if str(RELAY) in child.cmdline():
                found.append(child)
    return found


async def the_transport_dies(stage: Stage) -> None:
    for relay in relays():
        relay.kill()
        stage.hits += 1


async def the_transport_hangs(stage: Stage) -> None:
    stopped = relays()
    for relay in stopped:
        relay.suspend()
        stage.hits += 1
    await asyncio.sleep(BROKEN_SECONDS)
    for relay in stopped:
        with suppress(psutil.NoSuchProcess):
            relay.resume()


def hangs(which: str, program: str) -> Accident:
    async def accident(stage: Stage) -> None:
        name = getattr(stage, which)
        stage.scene.simulation.hang(name, program)
        await asyncio.sleep(BROKEN_SECONDS)
        stage.scene.simulation.unhang(name, program)

    return accident


ACCIDENTS: dict[str, Accident] = {
    "the source's agent dies": lambda stage: the_agent_dies(stage, stage.source),
    "the target's agent dies": lambda stage: the_agent_dies(stage, stage.target),
    "the source loses power": lambda stage: the_host_loses_power(stage, stage.source),
    "the target loses power": lambda stage: the_host_loses_power(stage, stage.target),
    "the controller dies": the_controller_dies,
    "the API server is away": the_api_server_is_away,
    "the cable is cut": the_cable_is_cut,
    "the transport dies": the_transport_dies,
    "the transport hangs": the_transport_hangs,
    "xl migrate is killed": xl_migrate_is_killed,
    "xl migrate-receive is killed": the_receiver_is_killed,
    "xl hangs on the source": hangs("source", "xl"),
    "xl hangs on the target": hangs("target", "xl"),
    "drbdsetup hangs on the source": hangs("source", "drbdsetup"),
    "drbdsetup hangs on the target": hangs("target", "drbdsetup"),
}

MUST_HIT = ("the transport dies", "the transport hangs", "xl migrate is killed", "xl migrate-receive is killed")
"""Accidents that strike nothing where nothing runs any more, or yet; but not nothing at every step."""


def objects() -> list[Manifest]:
    volume, vm = howto("DrbdVolume"), howto("XenVM")
    volume["spec"] |= {"size": "16Mi"}
    vm["spec"] |= {"memory": "64Mi", "maxMemory": "64Mi", "shutdownGraceSeconds": 5}
    return [volume, vm]


def reached(scene: Scene, kind: str, phase: str) -> asyncio.Event:
    """Set as soon as an agent has written down that a move is in that phase."""
    event = asyncio.Event()

    def listen(put: Callable[..., None]) -> Callable[..., None]:
        def noted(section: Any, key: str, value: dict[str, Any]) -> None:
            put(section, key, value)
            if section == "operations":
                state = value["state"]
                if (state["kind"], state["phase"], state["outcome"]) == (kind, phase, None):
                    event.set()

        return noted

    for agent in scene.agents.values():
        journal = agent.context.journal
        journal.put = listen(type(journal).put.__get__(journal))  # type: ignore[method-assign]
    return event


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before something is tried again are for real hosts."""
    monkeypatch.setattr(lanes, "REPEAT_SECONDS", 0.1)
    monkeypatch.setattr(lanes, "LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(migration_record, "FIRST_RETRY", 0.5)


@pytest.mark.parametrize("name", ACCIDENTS)
@pytest.mark.timeout(400)
async def test_it_heals(cluster: devcluster.Cluster, tmp_path: Path, namespace: str, name: str) -> None:
    async with (
        Scene(cluster, tmp_path, namespace, link_rate=4e8) as scene,
        Proxy(cluster.kubeconfig) as proxy,
    ):
        for host in scene.names:
            await scene.start_agent(host)
            await scene.apply(scene.node_manifest(host))
        keeper = Keeper(scene, kubeconfig=str(proxy.kubeconfig), resync_seconds=2.0)
        try:
            await scene.apply(*objects())
            await there(scene, "mk1")
            stage = Stage(scene, proxy, keeper)
            for kind, phase in STEPS:
                step = reached(scene, kind, phase)
                await scene.move("shaolin", stage.target)
                async with asyncio.timeout(SECONDS):
                    await step.wait()
                await ACCIDENTS[name](stage)
                await there(scene, stage.target)
                stage.source, stage.target = stage.target, stage.source
        finally:
            await keeper.stop()
    assert stage.hits or name not in MUST_HIT


async def there(scene: Scene, node: str) -> None:
    vm = await scene.until("XenVM", "shaolin", lambda one: runs_on(node)(one) and is_ready(one), SECONDS)
    await scene.runs_only_on(vm, node)
    await scene.until("DrbdVolume", "vm-shaolin", lambda one: is_ready(one) and one.status.primary == node, SECONDS)
