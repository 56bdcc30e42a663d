"""One installation for measuring: API server with its audit log, simulated hosts, and the controller as a process.

async with Stage(folder, screen, hosts=2) as stage:
    watched = await stage.start_controller()
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import bootstrap
import devcluster
from demo_lib import kube as kubes
from demo_lib.cast import Document, HostPlace
from demo_lib.kube import SYSTEM, Kube
from demo_lib.processes import Child, Processes
from demo_lib.screen import DemoFailed, Screen
from ports import free_port, free_ports

from bench_lib.audit import Audit, without_leases
from bench_lib.hosts import HostsPlan, certificates
from bench_lib.process import Watched
from controller.agents.client import AgentClient, ClientTls
from controller.runtime.api_server import KINDS, ApiServer, object_path
from controller.runtime.queue import ObjectKey

T = TypeVar("T")
NAMESPACE = "default"
MERGE_PATCH = "application/merge-patch+json"
AT_ONCE = 32  # requests of this program to the API server at a time
STEP_SECONDS = 0.1
STOP_SECONDS = 30.0


class BenchScreen(Screen):
    def progress(self, text: str) -> None:
        """Where a long measurement is."""
        self.console.print(f"  [dim]{text}[/]")


class Failed(DemoFailed):
    """A measurement could not be made; the message says what was seen and where the logs are."""


class Stage:
    """`hosts` simulated dom0s; `bodies`: keep in the audit log what each write said."""

    def __init__(
        self, folder: Path, screen: BenchScreen, *, hosts: int, bodies: bool = False, records_per_second: float = 20.0
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.screen = folder, screen
        self.names = [f"mk{number}" for number in range(1, hosts + 1)]
        self.audit = Audit(folder, bodies=bodies)
        self._records = records_per_second
        self._cleanup = ExitStack()
        self._processes = Processes(folder)
        self._agents: dict[str, AgentClient] = {}
        self._controller: Child | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        if error is None and self._hosts.process.returncode:
            raise Failed(f"something went wrong on the simulated hosts meanwhile:\n{self._hosts.tail(40)}")

    async def _start(self) -> None:
        with self.screen.step("API server"):
            cluster = devcluster.start(self.folder / "cluster", extra=self.audit.flags(), say=self.screen.line)
            self._cleanup.callback(cluster.stop)
            kube = Kube(self.screen, devcluster.kubectl(self.screen.line), str(cluster.kubeconfig), None, NAMESPACE)
            kubes.install(kube)
            self._kubeconfig = self.folder / "controller.kubeconfig"
            kubes.controller_kubeconfig(kube, self._kubeconfig)
        self.api = ApiServer(str(cluster.kubeconfig))
        with self.screen.step(f"{len(self.names)} simulated hosts with their agents"):
            await self._start_hosts()

    async def _start_hosts(self) -> None:
        self._tls = certificates(self.folder / "pki", self.names)
        ports = free_ports(2 * len(self.names))
        plan = HostsPlan(
            directory=str(self.folder),
            pki=str(self.folder / "pki"),
            api_ports=dict(zip(self.names, ports, strict=False)),
            relocation_ports=dict(zip(self.names, ports[len(self.names) :], strict=True)),
            records_per_second=self._records,
        )
        path = self.folder / "hosts.json"
        plan.write(path)
        environment = dict(os.environ, PYTHONPATH=str(bootstrap.PROJECT / "hack"), NO_COLOR="1")
        self._hosts = self._processes.start("hosts", [sys.executable, "-m", "bench_lib.hosts", str(path)], environment)
        await self.until(plan.ready.exists, 60 + 2.0 * len(self.names), "the simulated hosts start")
        addresses = json.loads(plan.ready.read_text())
        await self.create(
            HostPlace(name, plan.api_ports[name], plan.relocation_ports[name], addresses[name]).document()
            for name in self.names
        )
        tls = ClientTls(self._tls / "tls.crt", self._tls / "tls.key", self._tls / "ca.crt")
        self._agents = {name: AgentClient(name, "127.0.0.1", port, tls) for name, port in plan.api_ports.items()}

    async def _end(self) -> None:
        if self._agents:
            await asyncio.gather(*(client.close() for client in self._agents.values()))
            await self.api.close()
        if self._controller is not None and self._controller.process.poll() is None:
            await self.stop_controller()  # before the hosts end
        self._processes.stop()
        self._cleanup.close()

    # --- controller

    async def start_controller(self) -> Watched:
        """The process, just started: `until_leading` waits for it."""
        port = free_port()
        tls = self._tls
        argv = [
            str(bootstrap.VENV / "bin" / "xentandem-controller"),
            "--kubeconfig", str(self._kubeconfig), "--namespace", SYSTEM,
            "--tls-cert", str(tls / "tls.crt"), "--tls-key", str(tls / "tls.key"), "--tls-ca", str(tls / "ca.crt"),
            "--metrics-address", f"127.0.0.1:{port}",
        ]  # fmt: skip
        self._controller = self._processes.start("controller", argv, dict(os.environ))
        return Watched(self._controller.process.pid, port)

    async def stop_controller(self) -> None:
        """In good order: it gives up its lease, so that the next one need not wait for it."""
        child, self._controller = self._controller, None
        assert child is not None
        self._processes.children.remove(child)
        child.process.terminate()
        code = await asyncio.to_thread(child.process.wait, STOP_SECONDS)
        if code:
            raise Failed(f"the controller ended with exit code {code}:\n{child.tail()}")

    def agent(self, host: str) -> AgentClient:
        return self._agents[host]

    # --- objects

    async def create(self, documents: Iterable[Document]) -> None:
        """Several at a time, as fast as the API server takes them."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(document: Document) -> None:
            kind = KINDS[document["kind"]]
            async with gate:
                await self.api.request("POST", kind.path(NAMESPACE if kind.namespaced else ""), document)

        await asyncio.gather(*(one(document) for document in documents))

    async def patch(self, key: ObjectKey, patch: Document) -> None:
        await self.api.request("PATCH", object_path(key), patch, content_type=MERGE_PATCH)

    async def listed(self, kind: str) -> list[Any]:
        """Every object of the kind, as its model."""
        model = KINDS[kind].model
        return [model.from_object(raw) async for _, page in self.api.pages(kind) for raw in page]

    async def get(self, key: ObjectKey) -> Any:
        return KINDS[key[0]].model.from_object(await self.api.get(key))

    # --- waiting

    async def until(
        self, condition: Callable[[], bool | Awaitable[bool]], seconds: float, what: str, *, step: float = STEP_SECONDS
    ) -> float:
        """Seconds until the condition held. Raises Failed after `seconds`, or when a process ended."""
        begun = time.monotonic()
        while True:
            try:
                self._processes.alive()
            except DemoFailed as error:
                raise Failed(str(error)) from error
            found = condition()
            if found if isinstance(found, bool) else await found:
                return time.monotonic() - begun
            if time.monotonic() - begun > seconds:
                raise Failed(f"not after {seconds:.0f} s: {what}; logs are in {self.folder}")
            await asyncio.sleep(step)

    async def until_quiet(self, quiet: float, seconds: float) -> None:
        """Until the controller has written nothing but its lease for `quiet` seconds."""
        seen, since, mark = 0, time.monotonic(), self.audit.mark()

        def is_quiet() -> bool:
            nonlocal seen, since, mark
            writes = len(without_leases(self.audit.since(mark)))
            mark = self.audit.mark()
            if writes:
                since = time.monotonic()
            return time.monotonic() - since >= quiet

        await self.until(is_quiet, seconds, "the controller comes to rest", step=0.2)
