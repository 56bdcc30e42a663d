"""Two real Xen hosts with agents, an API server, the controller and the lab's VM: what `hack/bench --lab` uses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import devcluster
from demo_lib import kube as kubes
from demo_lib.cast import Guest
from demo_lib.kube import Kube
from demo_lib.lab import LabHosts
from demo_lib.processes import Processes
from demo_lib.screen import DemoFailed
from demo_lib.setting import controller
from demo_lib.story import Story
from demo_lib.witness import Witness

from agent.protocol import HostState, OperationState
from bench_lib.by_hand import ByHand
from bench_lib.consoles import Console, OnBoth
from bench_lib.stage import BenchScreen, Failed
from controller.agents.client import AgentClient, ClientTls
from kubectl_xen import view
from kubectl_xen.cluster import Cluster, Object, Problem

PATIENCE = 600.0
FREEZER = "/sys/fs/cgroup/system.slice/xentandem-agent.service"


class LabStage:
    """`with LabStage(folder, screen) as stage:`; raises DemoFailed, LabFailed, devcluster's errors."""

    def __init__(self, folder: Path, screen: BenchScreen) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.screen = folder, screen
        self._cleanup = ExitStack()
        self._processes = Processes(folder)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        screen, cleanup = self.screen, self._cleanup
        screen.line("Real Xen hosts mk1, mk2 in software emulation, each with its agent and certificate:")
        self.hosts = LabHosts.boot(screen, cleanup)
        with screen.step("API server and controller"):
            cluster = devcluster.start(self.folder / "cluster", say=screen.line)
            cleanup.callback(cluster.stop)
            self.kube = Kube(screen, devcluster.kubectl(screen.line), str(cluster.kubeconfig), None, "default")
            kubes.install(self.kube)
            kubeconfig = self.folder / "controller.kubeconfig"
            kubes.controller_kubeconfig(self.kube, kubeconfig)
            cleanup.callback(self._processes.stop)
            controller(self._processes, kubeconfig, self.hosts.controller_tls)
        self.cluster = Cluster(self.kube.kubeconfig, None, "default")
        self.consoles = {
            name: cleanup.enter_context(Console(self.hosts.lab, name)) for name in self.hosts.lab.names[:2]
        }
        self.both = OnBoth(self.consoles)
        self.hand = ByHand(self.hosts.lab, self.consoles)
        self.story = Story(
            screen, self.kube, self.cluster, self.hosts.places, self.hosts.guests, self._processes.alive, PATIENCE,
            self.hosts.sample, rates=True,
        )  # fmt: skip

    @property
    def guest(self) -> Guest:
        return self.hosts.guests[0]

    def witness(self, guest: str, resource: str) -> Witness:
        """From now on, to the end of everything."""
        return self._cleanup.enter_context(Witness(self.hosts.lab, guest, resource))

    def follow(self, take: Callable[[Object, float], bool]) -> Followed:
        """The VM as the API server tells of it, until `take` says that it has enough; it may raise DemoFailed."""
        return Followed(self, take)

    def edit_node(self, node: str) -> float:
        """When the edit was sent."""
        vm = self.cluster.vm(self.guest.name)
        sent = time.time()
        self.cluster.set_node(vm, node)
        return sent

    def vm(self) -> Object:
        return self.cluster.vm(self.guest.name)

    def until(self, condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE, step: float = 0.1) -> float:
        """When it held. Raises Failed."""
        end = time.monotonic() + seconds
        while not condition():
            self._processes.alive()
            if time.monotonic() > end:
                raise Failed(f"not after {seconds:.0f} s: {what}; logs are in {self.folder}")
            time.sleep(step)
        return time.time()

    def settled(self) -> None:
        """The VM and its volume are Ready, the hosts too, and no move is under way."""

        def so() -> bool:
            vm, volumes, nodes = self.vm(), self.cluster.volumes(), self.cluster.nodes()
            ready = all(view.note(one) is None for one in (vm, *volumes, *nodes))
            return ready and not view.migration(vm) and view.phase_of(vm) == "Running"

        self.until(so, "VM, volume and hosts are Ready", step=0.3)

    def records(self, seen: Witness, host: str, count: int = 6) -> None:
        """Wait until the guest told of so many more records there."""
        than = seen.last(host)

        def more() -> bool:
            seen.alive()
            return seen.last(host) >= than + count

        self.until(more, f"records of {seen.guest} on {host}", step=0.05)

    # --- agents ---------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """The agents stand still, as if they were not there: a script by hand has none beside it."""
        # Not by systemctl, which wants a D-Bus that a dom0 may have or not
        self.both.ok(f"echo 1 >{FREEZER}/cgroup.freeze && until grep -q 'frozen 1' {FREEZER}/cgroup.events; do :; done")

    def thaw(self) -> None:
        self.both.ok(f"echo 0 >{FREEZER}/cgroup.freeze")

    def state(self, host: str) -> HostState:
        """What its agent says now."""
        folder = self.hosts.controller_tls
        place = next(one for one in self.hosts.places if one.name == host)

        async def ask() -> HostState:
            tls = ClientTls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
            client = AgentClient(host, "127.0.0.1", place.api_port, tls)
            try:
                return await client.state()
            finally:
                await client.close()

        return asyncio.run(ask())

    def newest(self, host: str, kind: str) -> OperationState:
        """The newest operation of that kind there. Raises Failed."""
        found = [one for one in self.state(host).operations.values() if one.kind == kind]
        if not found:
            raise Failed(f"{host} has no record of a {kind}")
        return max(found, key=lambda one: one.started_at)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Followed:
    """A watch of the VM in a thread of its own: `with stage.follow(take) as seen: ...; seen.wait(60)`."""

    def __init__(self, stage: LabStage, take: Callable[[Object, float], bool]) -> None:
        self._stage, self._take = stage, take
        self._done, self._error = threading.Event(), ""
        self.at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def wait(self, seconds: float, what: str) -> float:
        """When it was told. Raises Failed."""
        if not self._done.wait(seconds) or self._error:
            raise Failed(self._error or f"not after {seconds:.0f} s: {what}; logs are in {self._stage.folder}")
        return self.at

    def _run(self) -> None:
        cluster = Cluster(self._stage.kube.kubeconfig, None, "default")
        try:
            for vm in cluster.follow_vm(self._stage.guest.name):
                at = time.time()
                if self._done.is_set():
                    return
                if self._take(vm, at):
                    self.at = at
                    break
        except Problem as problem:
            self._error = problem.message
        except DemoFailed as error:
            self._error = str(error)
        self._done.set()
