"""Fence agents on a real API server and simulated hosts, with a real program between them and the hosts' power."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import devcluster
import pytest
from api_objects import Manifest, howto
from bmc import FENCE_AGENTS, LOGIN, Bmc
from harness import Scene, runs_on

from controller.api.common import condition
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.domain.power import Device, PowerOff
from controller.operator import Controller, Options
from controller.reconcile.power import Fencer
from controller.runtime.api_server import Missing
from controller.runtime.lease import Timing
from controller.runtime.queue import ObjectKey


def small_volume() -> Manifest:
    made = howto("DrbdVolume")
    made["spec"]["size"] = "32Mi"
    return made


def vm_manifest() -> Manifest:
    made = howto("XenVM")
    made["spec"] |= {"onNodeFailure": "FailOver"}
    return made


def secret(scene: Scene, password: str = LOGIN[1]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bmc", "namespace": scene.namespace},
        "stringData": {"username": LOGIN[0], "password": password},
    }


async def put_secret(scene: Scene, **changes: Any) -> None:
    path = f"/api/v1/namespaces/{scene.namespace}/secrets"
    made = secret(scene, **changes)
    with contextlib.suppress(Missing):
        await scene.api.request("DELETE", f"{path}/bmc")
    await scene.api.request("POST", path, made)


def with_agents(scene: Scene, **changes: Any) -> dict[str, Any]:
    """Options; with a lease that a busy machine can keep for as long as these tests take."""
    return {"fence_agents": (FENCE_AGENTS, scene.namespace), "timing": Timing(), **changes}


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await asyncio.gather(*(made.start_agent(name) for name in made.names))
        for name in made.names:
            await made.apply(made.node_manifest(name))
        yield made


@pytest.fixture
async def bmc(scene: Scene) -> AsyncIterator[Bmc]:
    """shaolin is declared, and may fail over; both hosts have a fence agent. No controller yet."""
    async with Bmc(scene) as made:
        await put_secret(scene)
        for name in scene.names:
            await scene.patch("XenNode", name, {"spec": {"fencing": made.fencing(name)}})
        await scene.apply(small_volume(), vm_manifest())
        yield made


async def running(scene: Scene, *controllers: Controller, **changes: Any) -> None:
    """A controller is there, shaolin runs on mk1, and both fence agents have proved themselves."""
    for controller in controllers:
        await scene.adopt(controller)
    if not controllers:
        await scene.start_controller(**with_agents(scene, **changes))
    await scene.until_ready("DrbdVolume", "vm-shaolin")
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    for name in scene.names:
        await scene.until("XenNode", name, lambda node: node.status.fencing_device != "")


def reason(kind: str, *wanted: str) -> Any:
    def check(node: XenNode) -> bool:
        found = condition(node.status.conditions, kind)
        return found is not None and found.reason in wanted

    return check


def is_fenced(node: XenNode) -> bool:
    return node.status.fenced is not None and node.status.phase == "Fenced"


async def cut_off(scene: Scene, name: str = "mk1") -> None:
    """The host lives and its guests run, and nobody reaches it any more."""
    await scene.kill_agent(name)
    scene.simulation.cut_link("mk1", "mk2")


async def test_a_host_without_power_is_confirmed_off_and_recorded_until_it_comes_back(scene: Scene, bmc: Bmc) -> None:
    await running(scene)
    boot = (await scene.node("mk1")).status.boot_id
    await scene.crash_host("mk1")
    node = await scene.until("XenNode", "mk1", is_fenced)
    assert node.status.fenced.boot_id == boot
    assert "Status: OFF" in node.status.fenced.evidence
    assert (node.status.phase, node.status.fencing, len(node.status.fencings)) == ("Fenced", None, 1)
    story = [one for one in bmc.story if one[1] == "mk1"]
    assert story[-2:] == [("off", "mk1"), ("status", "mk1")]
    assert bmc.offs("mk2") == 0
    await scene.until_settled()
    assert bmc.ons("mk1") == 0  # powerOn: Never
    await scene.boot_host("mk1")
    node = await scene.until("XenNode", "mk1", lambda node: node.status.fenced is None)
    assert node.status.boot_id != boot
    assert condition(node.status.conditions, "Fenced") is None
    assert bmc.offs("mk1") == 1


async def test_a_host_that_is_cut_off_with_its_guests_running_is_switched_off(scene: Scene, bmc: Bmc) -> None:
    await running(scene)
    vm = await scene.vm()
    assert vm.status.placement is not None
    uid, epoch = vm.metadata.uid, vm.status.placement.epoch
    await cut_off(scene)
    assert scene.simulation.truth.running(uid) == ("mk1",)

    async def request_is_written(host: str) -> None:
        assert (await scene.node(host)).status.fencing is not None  # the intent is durable before the effect

    bmc.during = request_is_written
    await scene.until("XenNode", "mk1", is_fenced)
    assert not scene.simulation.hosts["mk1"].on
    vm = await scene.until("XenVM", "shaolin", runs_on("mk2"))
    assert vm.status.placement.epoch > epoch
    assert scene.simulation.truth.running(uid) == ("mk2",)
    assert bmc.offs("mk2") == 0


async def test_a_fenced_host_is_switched_on_again_when_its_vms_run_elsewhere(scene: Scene, bmc: Bmc) -> None:
    for name in scene.names:
        await scene.patch("XenNode", name, {"spec": {"fencing": {"powerOn": "AfterFencing"}}})
    await running(scene)
    boot, uid = (await scene.node("mk1")).status.boot_id, (await scene.vm()).metadata.uid
    seen: list[tuple[XenNode, XenVM]] = []

    async def when_it_is_asked(host: str) -> None:
        seen.append((await scene.node(host), await scene.vm()))

    bmc.starting = when_it_is_asked
    await scene.crash_host("mk1")
    node = await scene.until("XenNode", "mk1", lambda node: node.status.boot_id != boot and node.status.fenced is None)
    assert condition(node.status.conditions, "Fenced") is None
    assert bmc.ons("mk1") == 1
    then, vm = seen[0]
    assert then.status.fenced is not None
    assert (then.status.fenced.boot_id, then.status.fenced.contradicted_at) == (boot, None)
    assert then.status.fenced.power_on is not None  # written before the effect
    assert runs_on("mk2")(vm)
    await scene.until_settled()
    assert scene.simulation.truth.running(uid) == ("mk2",)  # it starts nothing, and nobody has said that it is good
    assert bmc.offs("mk1") == 1


async def test_a_host_that_cannot_be_switched_on_is_told_and_tried_again(scene: Scene, bmc: Bmc) -> None:
    await scene.patch("XenNode", "mk1", {"spec": {"fencing": {"powerOn": "AfterFencing"}}})
    await running(scene)

    async def refuse(_: str) -> None:
        if bmc.ons("mk1") == 1:
            raise ConnectionResetError

    bmc.starting = refuse
    await scene.crash_host("mk1")
    node = await scene.until("XenNode", "mk1", lambda node: bool(_on(node) and _on(node).result))
    assert not node.status.fencing
    assert _on(node).attempt == 2
    assert reason("Fenced", "SwitchingOn")(node)
    await scene.until("XenNode", "mk1", lambda node: node.status.fenced is None)
    assert bmc.ons("mk1") == 2


def _on(node: XenNode) -> Any:
    return node.status.fenced.power_on if node.status.fenced else None


async def test_an_agent_that_is_down_is_not_a_host_that_is_down(scene: Scene, bmc: Bmc) -> None:
    await running(scene)
    await scene.kill_agent("mk1")
    await scene.until("XenNode", "mk1", reason("Fenced", "AgentDown"))
    assert bmc.offs("mk1") == 0
    await scene.start_agent("mk1")
    await scene.until("XenNode", "mk1", lambda node: condition(node.status.conditions, "Fenced") is None)


@pytest.mark.parametrize(
    ("fault", "told"),
    [("refuse", "login"), ("lie", "still on"), ("hang", "was not over within 5 s")],
)
async def test_what_is_not_confirmed_is_not_off(scene: Scene, bmc: Bmc, fault: Any, told: str) -> None:
    for name in scene.names:
        await scene.patch("XenNode", name, {"spec": {"fencing": {"timeoutSeconds": 5}}})
    await running(scene)
    bmc.fault = fault
    await cut_off(scene)
    node = await scene.until("XenNode", "mk1", reason("Fenced", "FencingFailed"))
    assert node.status.fenced is None
    assert told in node.status.fencing.result
    assert node.status.fencing.attempt == 2
    assert scene.simulation.hosts["mk1"].on
    bmc.fault = ""
    await scene.until("XenNode", "mk1", is_fenced)
    assert bmc.offs("mk1") >= 2


async def test_a_wrong_password_is_told_before_it_is_needed(scene: Scene, bmc: Bmc) -> None:
    await put_secret(scene, password="wrong-password")
    await scene.start_controller(**with_agents(scene))
    node = await scene.until("XenNode", "mk1", reason("FencingReady", "AgentFailed"))
    ready = condition(node.status.conditions, "FencingReady")
    assert ready is not None
    assert "Unable to connect/login" in ready.message
    assert "wrong-password" not in ready.message
    assert node.status.fencing_device == ""


async def test_a_fence_agent_of_another_machine_is_found_out(scene: Scene, bmc: Bmc) -> None:
    bmc.claims["mk1"] = "off"
    await scene.start_controller(**with_agents(scene))
    await scene.until("XenNode", "mk1", reason("FencingReady", "SaysOff"))
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    await cut_off(scene)
    await scene.until("XenNode", "mk1", reason("Fenced", "NotTested"))
    assert bmc.offs("mk1") == 0


async def test_a_host_that_was_confirmed_off_and_answers_is_never_taken_for_off_again(scene: Scene, bmc: Bmc) -> None:
    """The device lies twice: it confirms what it did not do. Only the host itself can tell.

    The guest is shut down meanwhile: no rule helps against two running ones when the evidence itself is false.
    """
    await running(scene)
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda vm: vm.status.phase == "Stopped")
    await scene.until("DrbdVolume", "vm-shaolin", lambda volume: volume.status.primary == "")
    bmc.fault, bmc.claims["mk1"] = "lie", "off"
    boot = (await scene.node("mk1")).status.boot_id
    await cut_off(scene)
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    await scene.until("XenNode", "mk1", is_fenced)
    scene.simulation.restore_link("mk1", "mk2")
    await scene.start_agent("mk1")
    node = await scene.until("XenNode", "mk1", reason("Stalled", "FencedButAlive"))
    assert node.status.boot_id == boot
    assert node.status.fenced.contradicted_at is not None


class KilledAt:
    """Ends its controller at one step, as SIGKILL would."""

    def __init__(self, when: str) -> None:
        self.when, self.struck, self.controller = when, asyncio.Event(), None

    controller: Controller | None

    async def __call__(self, name: str, key: ObjectKey) -> None:
        if name == self.when and not self.struck.is_set():
            assert self.controller is not None
            self.struck.set()
            self.controller.kill()
            await asyncio.Event().wait()


@pytest.mark.parametrize("when", ["before fence mk1 off", "after fence mk1 off"])
async def test_killed_before_or_after_off_another_controller_does_it_again(scene: Scene, bmc: Bmc, when: str) -> None:
    killer = KilledAt(when)
    options: Options = scene.options(**with_agents(scene))
    killer.controller = Controller(replace(options, on_step=killer))
    await running(scene, killer.controller)
    await scene.crash_host("mk1")
    await asyncio.wait_for(killer.struck.wait(), 60)
    await scene.ended(killer.controller)
    node = await scene.node("mk1")
    assert (node.status.fenced, node.status.fencing is not None) == (None, True)
    assert node.status.fencing is not None
    request = node.status.fencing.operation
    await scene.start_controller(**with_agents(scene))
    node = await scene.until("XenNode", "mk1", is_fenced)
    assert node.status.fenced.operation == request
    assert bmc.offs("mk1") == (1 if when.startswith("before") else 2)
    assert len(node.status.fencings) == 1


def never_deposed(controller: Controller) -> None:
    """A leader that does not notice that it is one no more."""

    async def keep() -> None:
        await asyncio.Event().wait()

    controller.elector.keep = keep  # type: ignore[method-assign]
    controller.elector._clock = lambda: 0.0


async def test_two_leaders_fence_one_host_once(scene: Scene, bmc: Bmc) -> None:
    made = [Controller(scene.options(**with_agents(scene))) for _ in range(2)]
    for one in made:
        never_deposed(one)
    await running(scene, *made)
    await scene.crash_host("mk1")
    node = await scene.until("XenNode", "mk1", is_fenced)
    assert len(node.status.fencings) == 1
    await asyncio.gather(*(scene.until_true(lambda one=one: not one.shell.power.busy, "idle") for one in made))  # type: ignore[misc]
    assert (await scene.node("mk1")).status.fenced == node.status.fenced
    assert bmc.offs("mk2") == 0


async def test_of_a_pair_that_two_leaders_have_begun_to_fence_none_is_switched_off(scene: Scene, bmc: Bmc) -> None:
    """Each has written its request before it reads the other's: at least one of them sees both."""
    for name in scene.names:
        node = await scene.api.get(("XenNode", "", name))
        at = "2031-02-01T10:00:00Z"
        request = {"operation": f"fence-{name}", "requestedAt": at, "reason": "x", "bootID": "x", "device": "x"}
        node["status"]["fencing"] = {**request, "attempt": 1, "notBefore": at}
        await scene.api.request("PUT", f"/apis/xentandem.io/v1alpha1/xennodes/{name}/status", node)
    fencer = Fencer(scene.api, FENCE_AGENTS, scene.namespace)
    for name, partner in (("mk1", "mk2"), ("mk2", "mk1")):
        spec = (await scene.node(name)).spec.fencing
        assert spec is not None
        command = PowerOff(name, Device.of(spec), f"fence-{name}", 1, (partner,))
        result = await fencer.perform(command)
        assert (result.state, result.reason) == ("failed", "Overtaken")
        assert partner in result.said
        result = await fencer.perform(replace(command, partners=(), attempt=2))
        assert result.reason == "Overtaken"  # an attempt that is not the recorded one
    assert bmc.story == []


def processes() -> list[str]:
    """argv and environment of every process."""
    found = []
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return found


async def test_the_login_is_seen_nowhere(scene: Scene, bmc: Bmc, capfd: pytest.CaptureFixture[str]) -> None:
    """Not in any process' argv or environment while the fence agent runs, in no log, event, status or metric."""
    seen: list[str] = []

    async def look(host: str) -> None:
        seen.extend(processes())

    await running(scene)
    controller = scene.controllers[-1]
    bmc.during = look
    bmc.fault = "refuse"  # it quotes the login in its error
    await cut_off(scene)
    await scene.until("XenNode", "mk1", reason("Fenced", "FencingFailed"))
    bmc.fault = ""
    await scene.until("XenNode", "mk1", is_fenced)
    assert any("fence_bmc" in text for text in seen), "the fence agent was not caught at work"
    await controller.recorder.flush(5.0)
    events = await scene.api.request("GET", "/api/v1/events")
    told = [found for found in events["items"] if found["involvedObject"].get("name") == "mk1"]
    assert any(found["reason"] == "Fenced" for found in told)
    status = str([await scene.api.get(("XenNode", "", name)) for name in scene.names])
    output = capfd.readouterr()
    places = [*seen, str(told), status, output.out, output.err, controller.metrics.render().decode()]
    assert "a fence agent answered" in output.out
    for value in (*LOGIN, *(base64.b64encode(one.encode()).decode() for one in LOGIN)):
        assert not [text[:200] for text in places if value in text]
    assert 'xentandem_fence_agent_runs_total{action="off",host="mk1",outcome="AgentFailed"} 1.0' in places[-1]
    assert 'xentandem_fence_agent_runs_total{action="off",host="mk1",outcome="off"} 1.0' in places[-1]
