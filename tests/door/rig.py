"""Two simulated hosts with their agents in a thread of their own, and a VM on them that a bad request could harm.

Everything that the agents serve is real: sockets, TLS, HTTP. What the hosts are asked to run is seen here.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

from ports import free_ports

from agent import pki
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.journal import Section
from agent.protocol import DomainDesired, HostDesired, VolumeDesired
from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen
from agent.tls import client_context

T = TypeVar("T")
SECONDS = 30.0
TERM, EPOCH = 7, 3
NAME, RESOURCE = "shaolin", "vm_shaolin"
VM = "11111111-1111-4111-8111-111111111111"
VOLUME = "22222222-2222-4222-8222-222222222222"
OTHER = "33333333-3333-4333-8333-333333333333"
KERNEL = "/boot/vmlinuz"
JSON = {"Content-Type": "application/json"}

Body = dict[str, Any]
Answer = tuple[int, Any]


class Rig:
    """mk1 runs the VM at EPOCH, its volume is UpToDate on both. `argv`: every command of mk1 so far, in order."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.argv: list[tuple[str, ...]] = []
        self.authority = pki.create_authority(directory / "pki")
        self.controller = pki.issue_controller(self.authority, directory / "pki" / "controller")
        self.tls = {name: pki.issue_agent(self.authority, name, directory / "pki" / name) for name in ("mk1", "mk2")}
        ports = free_ports(4)
        self.ports = {"mk1": (ports[0], ports[1]), "mk2": (ports[2], ports[3])}
        self.agents: dict[str, Agent] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._kept: http.client.HTTPSConnection | None = None

    # --- life

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())
        for name in self.ports:
            self.done("PUT", f"/v1/volumes/{RESOURCE}", self.volume(), host=name)
        self._until(lambda: self._disk("mk1") == "Inconsistent/Inconsistent", "both replicas connected")
        sync = {"kind": "initial-sync", "resource": RESOURCE, "uid": VOLUME}
        self.done("POST", "/v1/operations", {"id": "sync", "term": TERM, "body": sync})
        self._until(lambda: self._disk("mk1") == self._disk("mk2") == "UpToDate/UpToDate", "both replicas in sync")
        self._until(lambda: self.state()["operations"]["sync"]["outcome"] == "Succeeded", "the end of the first sync")
        self.done("PUT", f"/v1/volumes/{RESOURCE}", self.volume(role="Primary"))
        self.done("PUT", f"/v1/domains/{NAME}", self.domain())
        self._until(lambda: self.state()["vms"].get(VM, {}).get("status") == "running", "the VM runs")

    async def _start(self) -> None:
        self.simulation = Simulation(self.directory / "simulation")
        for host in self.simulation.hosts.values():
            Xen.of(host).configure(record_interval=1.0)  # it is to run, not to keep the machine busy
            await host.write_text(KERNEL, "a kernel")
        self._listen_to(self.simulation.hosts["mk1"])
        for name, (port, relocation) in self.ports.items():
            host = self.simulation.hosts[name]
            agent = Agent(
                host,
                self.directory / "state" / name,
                name,
                api=("127.0.0.1", port),
                relocation=("127.0.0.1", relocation),
                tls=self.tls[name],
            )
            await agent.start()
            self.agents[name] = agent

    def _listen_to(self, host: SimulatedHost) -> None:
        start = host.processes.start

        def noted(argv: Any, **options: Any) -> Any:
            self.argv.append(tuple(argv))
            return start(argv, **options)

        host.processes.start = noted  # type: ignore[method-assign]

    def stop(self) -> None:
        """Raises AssertionError with what the monitor of all hosts saw going wrong."""
        if self._kept is not None:
            self._kept.close()
        try:
            self.run(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self.simulation.truth.check()

    async def _stop(self) -> None:
        for agent in self.agents.values():
            await agent.kill()
        await self.simulation.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the hosts' own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def _until(self, condition: Any, what: str) -> None:
        async def wait() -> None:
            end = self._loop.time() + SECONDS
            while not await asyncio.to_thread(condition):
                assert self._loop.time() < end, f"never came: {what}"
                await asyncio.sleep(0.02)

        self.run(wait())

    def _disk(self, name: str) -> str:
        volume = self.state(name)["volumes"].get(RESOURCE, {})
        return f"{volume.get('disk')}/{(volume.get('peer') or {}).get('disk')}"

    # --- what is true

    def snapshot(self) -> dict[str, Any]:
        """Everything on mk1 that a request can change: promises, files, volumes, roles, domains.

        Not the term (any request of the controller's promises it), nor what was refused last.
        """

        async def look() -> dict[str, Any]:
            host, agent = self.simulation.hosts["mk1"], self.agents["mk1"]
            journal = agent.context.journal
            kept = {section: dict(journal.items(section)) for section in get_args(Section)}
            kept["host"].pop("term", None)
            return {
                "journal": kept,
                "files": dict(host.files._stored),
                "volumes": {
                    f"{group.name}/{name}": (volume.size, sorted(volume.tags))
                    for group in host.volume_groups.groups.values()
                    for name, volume in group.volumes.items()
                },
                "drbd": {name: (one.role, one.disk) for name, one in agent.context.observer.state.volumes.items()},
                "primaries": self.simulation.truth.primaries(RESOURCE),
                "running": self.simulation.truth.running(VM),
                "domains": sorted((one.domid, one.name or "") for one in Xen.of(host).domains.values()),
            }

        return self.run(look())

    @property
    def busy(self) -> bool:
        """Whether mk1 runs a command, or has something under way."""
        host, context = self.simulation.hosts["mk1"], self.agents["mk1"].context
        follow = ("events2", "xenstore-watch")  # these never end
        commands = [one for one in host.processes.running.values() if not any(word in follow for word in one.argv)]
        changing = [vm for vm in context.observer.state.vms.values() if vm.status in ("starting", "stopping")]
        return bool(commands or changing or context.operations.running())

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Whatever happens within changes nothing on the host, and the agent serves afterwards."""
        before = self.snapshot()
        yield
        assert self.snapshot() == before
        assert self.ask("GET", "/healthz")[0] == 200

    def state(self, host: str = "mk1") -> Body:
        status, state = self.ask("GET", "/v1/state", host=host)
        assert status == 200, state
        found: Body = state
        return found

    # --- requests

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        host: str = "mk1",
        files: TlsFiles | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """(status, JSON of the answer). `body`: bytes as they are, anything else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if host != "mk1" or files is not None:
            connection = self._connect(host, files)
            try:
                return _exchange(connection, method, path, data, headers or JSON)
            finally:
                connection.close()
        for attempt in (1, 2):
            if self._kept is None:
                self._kept = self._connect("mk1", None)
            try:
                return _exchange(self._kept, method, path, data, headers or JSON)
            except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError):
                self._kept.close()
                self._kept = None
                if attempt == 2:
                    raise
        raise AssertionError

    def done(self, method: str, path: str, body: Any, *, host: str = "mk1") -> Any:
        status, answer = self.ask(method, path, body, host=host)
        assert status in (200, 204), answer
        return answer

    def _connect(self, host: str, files: TlsFiles | None) -> http.client.HTTPSConnection:
        context = client_context(files or self.controller)
        return http.client.HTTPSConnection("127.0.0.1", self.ports[host][0], timeout=SECONDS, context=context)

    def dial(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A TLS connection to mk1's API, as the controller unless said otherwise. Raises OSError."""
        plain = socket.create_connection(("127.0.0.1", self.ports["mk1"][0]), timeout=SECONDS)
        try:
            return (context or client_context(self.controller)).wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def raw(self, *pieces: bytes) -> bytes:
        """What mk1 answers to these bytes, until it closes the connection."""
        with self.dial() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return _read(connection)

    # --- good bodies

    def host_wish(self, **changes: Any) -> Body:
        wish = HostDesired(
            term=TERM,
            volume_groups=("vg0",),
            replication_address="10.0.0.81",
            relocation_address="127.0.0.1",
            relocation_port=self.ports["mk1"][1],
        )
        return wish.model_dump(mode="json") | changes

    def volume(self, **changes: Any) -> Body:
        values: Body = {
            "term": TERM,
            "uid": VOLUME,
            "namespace": "default",
            "name": "vm-shaolin",
            "resource": RESOURCE,
            "minor": 1,
            "port": 7789,
            "group": "vg0",
            "logical_volume": RESOURCE,
            "size": 8 << 20,
            "members": [{"node": "mk1", "address": "10.0.0.81"}, {"node": "mk2", "address": "10.0.0.82"}],
        }
        VolumeDesired.model_validate_json(json.dumps(values), strict=True)
        return values | changes

    def domain(self, **changes: Any) -> Body:
        config = {
            "memory_mib": 128,
            "max_memory_mib": 128,
            "kernel": KERNEL,
            "disks": [{"resource": RESOURCE, "minor": 1, "vdev": "xvda"}],
            "networks": [{"bridge": "xenbr0", "mac": "a0:00:00:01:00:01"}],
        }
        values: Body = {
            "term": TERM,
            "epoch": EPOCH,
            "uid": VM,
            "namespace": "default",
            "name": NAME,
            "state": "Running",
            "config": config | changes.pop("config", {}),
        }
        DomainDesired.model_validate_json(json.dumps(values | {"config": config}), strict=True)
        return values | changes


def _exchange(
    connection: http.client.HTTPSConnection, method: str, path: str, data: bytes | None, headers: dict[str, str]
) -> Answer:
    connection.request(method, path, body=data, headers=headers)
    response = connection.getresponse()
    answer = response.read()
    return response.status, json.loads(answer) if answer else None


def _read(connection: ssl.SSLSocket) -> bytes:
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except (ConnectionError, ssl.SSLError):
        pass  # closed without TLS's goodbye
    return received
