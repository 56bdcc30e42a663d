"""Everything at once for a test: a real API server, simulated hosts, real agents on them, and controllers.

    async with Scene(cluster, tmp_path, namespace) as scene:
        await scene.start()                                     # hosts, agents, XenNodes, one controller
        await scene.apply(howto("DrbdVolume"), howto("XenVM"))
        await scene.until("XenVM", "shaolin", lambda vm: vm.status.phase == "Running")

At its end the monitor of the simulated hosts is asked: never two running, never two Primaries, no record lost.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import devcluster
import structlog
import yaml
from api_objects import Manifest
from ports import free_port

from agent import pki
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.protocol import HostState
from agent.simulation.cluster import Simulation
from agent.simulation.hypervisor import Xen
from controller.agents.client import ClientTls
from controller.api.common import ApiObject, condition
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.operator import Controller, Options
from controller.runtime.api_server import KINDS, ApiServer, Conflict, Missing, object_path
from controller.runtime.lease import Timing
from controller.runtime.queue import ObjectKey

M = TypeVar("M", bound=ApiObject)

QUICK_LEASE = Timing(duration=3.0, renew_deadline=2.0, retry=0.5)
POLL_SECONDS = 0.05
REST_SECONDS = 1.5
MERGE_PATCH = "application/merge-patch+json"
KERNEL = "/boot/xenU/vmlinuz-2.6.16.49-xenU-r1"
FINALIZERS_OFF: Manifest = {"metadata": {"finalizers": []}}


structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


class Scene:
    """One installation for one test. Objects without a namespace in their manifest go to `namespace`."""

    def __init__(
        self,
        cluster: devcluster.Cluster,
        directory: Path,
        namespace: str,
        *,
        names: tuple[str, ...] = ("mk1", "mk2"),
        **simulation: Any,
    ) -> None:
        self.cluster, self.directory, self.namespace, self.names = cluster, directory, namespace, names
        self._simulation_options = simulation
        self.agents: dict[str, Agent] = {}
        self.controllers: list[Controller] = []
        self._runs: dict[Controller, asyncio.Task[None]] = {}
        self._ports = {name: (free_port(), free_port()) for name in names}
        self.api = ApiServer(str(cluster.kubeconfig))

    async def __aenter__(self) -> Self:
        self.simulation = Simulation(self.directory / "hosts", self.names, **self._simulation_options)
        authority = pki.create_authority(self.directory / "pki")
        self._agent_tls: dict[str, TlsFiles] = {
            name: pki.issue_agent(authority, name, self.directory / "pki" / name) for name in self.names
        }
        files = pki.issue_controller(authority, self.directory / "pki" / "controller")
        self._controller_files = files
        for host in self.simulation.hosts.values():
            await host.write_text(KERNEL, "a kernel")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for controller in list(self._runs):
                await self.kill_controller(controller)
            for agent in self.agents.values():
                await agent.kill()
            await self._remove_objects()
        finally:
            await self.simulation.close()
            await self.api.close()
        if error is None:
            self.simulation.truth.check()

    async def start(self) -> Controller:
        """Agents, their XenNodes, one controller that leads."""
        await asyncio.gather(*(self.start_agent(name) for name in self.names))
        for name in self.names:
            await self.apply(self.node_manifest(name))
        return await self.start_controller()

    # --- agents

    def node_manifest(self, name: str) -> Manifest:
        port, relocation = self._ports[name]
        return {
            "apiVersion": "xentandem.io/v1alpha1",
            "kind": "XenNode",
            "metadata": {"name": name},
            "spec": {
                "agent": {"address": "127.0.0.1", "port": port},
                "replication": {"address": self.simulation.hosts[name].address},
                "relocation": {"address": "127.0.0.1", "port": relocation},
                "volumeGroups": ["vg0"],
            },
        }

    async def start_agent(self, name: str) -> Agent:
        port, relocation = self._ports[name]
        agent = Agent(
            self.simulation.hosts[name],
            self.directory / "agents" / name,
            name,
            api=("127.0.0.1", port),
            relocation=("127.0.0.1", relocation),
            tls=self._agent_tls[name],
        )
        await agent.start()
        self.agents[name] = agent
        return agent

    async def kill_agent(self, name: str) -> None:
        await self.agents.pop(name).kill()

    async def crash_host(self, name: str) -> None:
        """Power off, with everything that runs there."""
        self.simulation.power_off(name)
        if name in self.agents:
            await self.kill_agent(name)

    async def boot_host(self, name: str) -> None:
        self.simulation.power_on(name)
        await self.start_agent(name)

    # --- controllers

    def options(self, **changes: Any) -> Options:
        files = self._controller_files
        made = Options(
            tls=ClientTls(files.certificate, files.key, files.authority),
            kubeconfig=str(self.cluster.kubeconfig),
            namespace=self.namespace,
            leader_elect=False,  # a test need not wait until a killed controller's lease runs out
            timing=QUICK_LEASE,
            workers=8,
        )
        return replace(made, **changes)

    async def start_controller(self, *, wait: bool = True, **changes: Any) -> Controller:
        """`wait`: until it leads and looks at all objects. `changes`: of `Options`."""
        return await self.adopt(Controller(self.options(**changes)), wait=wait)

    async def adopt(self, controller: Controller, *, wait: bool = True) -> Controller:
        """Run a controller that the test has made."""
        run = asyncio.create_task(controller.run())
        self.controllers.append(controller)
        self._runs[controller] = run
        if wait:
            started = asyncio.create_task(controller.started.wait())
            await asyncio.wait({started, run}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            if run.done():
                run.result()
            assert controller.started.is_set(), "the controller did not start"
        return controller

    async def kill_controller(self, controller: Controller | None = None) -> None:
        """As SIGKILL: the newest one when none is named."""
        victim = controller or next(reversed(self._runs))
        victim.kill()
        await self.ended(victim)

    async def stop_controller(self, controller: Controller | None = None) -> None:
        victim = controller or next(reversed(self._runs))
        victim.stop()
        await self.ended(victim)

    async def ended(self, controller: Controller) -> BaseException | None:
        """Wait until it is gone; what it ended with."""
        run = self._runs.pop(controller)
        (result,) = await asyncio.gather(run, return_exceptions=True)
        return result

    # --- objects

    def key(self, kind: str, name: str) -> ObjectKey:
        return (kind, self.namespace if KINDS[kind].namespaced else "", name)

    async def apply(self, *manifests: Manifest) -> None:
        """Create, or merge into what is there."""
        for manifest in manifests:
            one = copy.deepcopy(manifest)
            kind = KINDS[one["kind"]]
            if kind.namespaced:
                one["metadata"].setdefault("namespace", self.namespace)
            namespace = one["metadata"].get("namespace", "")
            try:
                await self.api.request("POST", kind.path(namespace), one)
            except Conflict:
                path = kind.path(namespace, one["metadata"]["name"])
                await self.api.request("PATCH", path, one, content_type=MERGE_PATCH)

    async def patch(self, kind: str, name: str, patch: dict[str, Any]) -> None:
        """A JSON merge patch, as `kubectl patch --type merge`."""
        await self.api.request("PATCH", object_path(self.key(kind, name)), patch, content_type=MERGE_PATCH)

    async def move(self, vm: str, node: str) -> None:
        await self.patch("XenVM", vm, {"spec": {"node": node}})

    async def delete(self, kind: str, name: str) -> None:
        await self.api.request("DELETE", object_path(self.key(kind, name)))

    async def get(self, kind: str, name: str) -> Any:
        """The object as its model (XenNode, DrbdVolume, XenVM). Raises Missing."""
        return KINDS[kind].model.from_object(await self.api.get(self.key(kind, name)))

    async def vm(self, name: str = "shaolin") -> XenVM:
        found = await self.get("XenVM", name)
        assert isinstance(found, XenVM)
        return found

    async def volume(self, name: str = "vm-shaolin") -> DrbdVolume:
        found = await self.get("DrbdVolume", name)
        assert isinstance(found, DrbdVolume)
        return found

    async def node(self, name: str) -> XenNode:
        found = await self.get("XenNode", name)
        assert isinstance(found, XenNode)
        return found

    async def until(self, kind: str, name: str, condition: Callable[[Any], bool], seconds: float = 60.0) -> Any:
        """The object once the condition holds for it. Fails with its status and the hosts' story."""
        deadline = time.monotonic() + seconds
        found = None
        while time.monotonic() < deadline:
            self._check_controllers()
            try:
                found = await self.get(kind, name)
            except Missing:
                found = None
            if found is not None and condition(found):
                return found
            await asyncio.sleep(POLL_SECONDS)
        raise AssertionError(await self._told(f"{kind} {name} did not become so within {seconds:g} s", found))

    async def until_ready(self, kind: str, name: str, seconds: float = 60.0) -> Any:
        return await self.until(kind, name, is_ready, seconds)

    async def until_gone(self, kind: str, name: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._check_controllers()
            try:
                found = await self.get(kind, name)
            except Missing:
                return
            await asyncio.sleep(POLL_SECONDS)
        raise AssertionError(await self._told(f"{kind} {name} is still there after {seconds:g} s", found))

    async def until_true(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """For conditions on the hosts."""
        deadline = time.monotonic() + seconds
        while not condition():
            self._check_controllers()
            if time.monotonic() > deadline:
                raise AssertionError(await self._told(f"not within {seconds:g} s: {what}", None))
            await asyncio.sleep(POLL_SECONDS)

    async def until_agent(
        self, name: str, condition: Callable[[HostState], bool], what: str, seconds: float = 60.0
    ) -> None:
        """For what an agent sees; noticed at once, also what lasts for milliseconds only."""
        watch = self.agents[name].context.observer.watch
        try:
            async with asyncio.timeout(seconds):
                while not condition(watch.state):
                    await watch.changed()
        except TimeoutError:
            raise AssertionError(await self._told(f"{name} did not see within {seconds:g} s: {what}", None)) from None

    async def until_settled(self, unwritten: float = 0.0, seconds: float = 60.0) -> None:
        """Until the newest controller has rested a while, and written nothing for `unwritten` seconds.

        Looks that find nothing new may come meanwhile: what waits for a host is looked at again and again.
        """
        controller, begun = next(reversed(self._runs)), time.monotonic()
        writes, written, busy = -1, begun, begun
        while time.monotonic() < max(written + unwritten, busy + REST_SECONDS):
            assert time.monotonic() - begun < seconds, await self._told("the controller does not come to rest", None)
            if (now := object_writes(controller)) != writes:
                writes = now
                written = busy = time.monotonic()
            if len(controller.queue) or controller.shell.lanes.busy:
                busy = time.monotonic()
            await asyncio.sleep(POLL_SECONDS)

    async def runs_only_on(self, vm: XenVM, node: str) -> None:
        """It runs there and nowhere else, writes on, and nothing is left on the other hosts that are on."""
        uid = vm.metadata.uid
        assert self.simulation.truth.running(uid) == (node,)
        before = self.simulation.truth.records(uid).acknowledged
        await self.until_true(
            lambda: self.simulation.truth.records(uid).acknowledged > before + 1, "the guest writes on"
        )
        others = [host for name, host in self.simulation.hosts.items() if name != node and host.on]
        await self.until_true(lambda: not any(list(Xen.of(host)) for host in others), "nothing of it is left elsewhere")

    # --- inside

    def _check_controllers(self) -> None:
        for run in self._runs.values():
            if run.done() and not run.cancelled():
                run.result()

    async def _told(self, what: str, found: ApiObject | None) -> str:
        shown = yaml.safe_dump(found.model_dump(mode="json", exclude_none=True)) if found else "(not there)"
        objects = [
            f"{kind.name} {raw['metadata']['name']}: {json.dumps(raw.get('status', {}))}"
            for kind in KINDS.values()
            async for _, items in self.api.pages(kind.name)
            for raw in items
        ]
        agents = [
            f"agent of {name}: {one}"
            for name, agent in self.agents.items()
            for state in [agent.context.observer.watch.state]
            for one in (state.problems, *state.volumes.values(), *state.operations.values(), *state.vms.values())
        ]
        truth = self.simulation.truth
        seen = "\n".join([*objects, *agents, f"violations: {truth.violations}"])
        return f"{what}\n\n{shown}\n{truth.story()}\n{seen}"

    async def _remove_objects(self) -> None:
        """XenNodes are in no namespace, and every controller looks at every namespace: nothing may be left."""
        for kind in KINDS.values():
            async for _, items in self.api.pages(kind.name):
                for raw in items:
                    path = kind.path(raw["metadata"].get("namespace", ""), raw["metadata"]["name"])
                    try:
                        await self.api.request("PATCH", path, FINALIZERS_OFF, content_type=MERGE_PATCH)
                        await self.api.request("DELETE", path)
                    except Missing:
                        continue


def is_ready(found: Any) -> bool:
    """Ready, and for the present generation."""
    ready = condition(found.status.conditions, "Ready")
    return (
        ready is not None and ready.status == "True" and found.status.observed_generation == found.metadata.generation
    )


def is_unknown(found: Any) -> bool:
    """What is true cannot be seen."""
    ready = condition(found.status.conditions, "Ready")
    return ready is not None and ready.status == "Unknown"


def runs_on(node: str) -> Callable[[XenVM], bool]:
    """Running there, and no move is on its way."""

    def check(vm: XenVM) -> bool:
        move, placement = vm.status.migration, vm.status.placement
        there = placement is not None and placement.node == node and (move is None or move.outcome is not None)
        return there and vm.status.phase == "Running"

    return check


def object_writes(controller: Controller) -> int:
    """API writes of a controller so far, without its lease's renewals."""
    return sum(count for (_, resource), count in controller.api.writes.items() if resource != "leases")
