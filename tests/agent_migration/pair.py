"""Two simulated hosts with their agents, asked as the server would ask them; and how to start one VM on a volume."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from ports import free_port

from agent import pki
from agent.core import Context, Refused
from agent.daemon import Agent
from agent.host import Completed, Job, PipedProcess
from agent.migration.relay_files import RELAY
from agent.protocol import (
    DomainDesired,
    DomainState,
    Fencing,
    InitialSync,
    Member,
    MigrateReceive,
    MigrateSend,
    OperationCancel,
    OperationRequest,
    OperationState,
    Refusal,
    VmState,
    VolumeDesired,
)
from agent.simulation.cluster import Simulation
from agent.simulation.guest import Guest
from agent.simulation.host import SimulatedHost
from agent.simulation.hypervisor import Xen
from tests.agent_migration.vm_facts import NAME, UID, config, desired

VOLUME_UID = "99999999-9999-4999-8999-999999999999"
RESOURCE = "vm_shaolin"
LIMIT = 40.0


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Wait for a condition; fails with `what` after `limit` seconds."""
    end = asyncio.get_running_loop().time() + limit
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert asyncio.get_running_loop().time() < end, f"never came: {what}"
        await asyncio.sleep(0.005)


When = Literal["before", "after"]


class Deadly:
    """A host whose agent can be made to die, as by kill -9, at one command, or at one write to its journal."""

    def __init__(self, inner: SimulatedHost) -> None:
        self._inner = inner
        self._command: tuple[str, When] | None = None
        self.agent: Agent | None = None
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def die_at_command(self, words: str, when: When) -> None:
        """At the next command that begins with these words: before it runs, or after it ran and before its answer."""
        self._command = (words, when)

    def die_at_journal(self, matches: Callable[[str, str, dict[str, Any]], bool], when: When) -> None:
        """At the next write of (section, key, value) that `matches`: before it, or as soon as it is on disk."""
        agent = self.agent
        assert agent is not None
        journal = agent.context.journal
        put = journal.put

        def deadly(section: Any, key: str, value: dict[str, Any]) -> None:
            hit = matches(section, key, value)
            if not hit or when == "after":
                put(section, key, value)
            if hit:
                journal.put = put  # type: ignore[method-assign]
                journal.kill()
                agent._host.kill()
                self._dying = asyncio.ensure_future(self._die())
                raise asyncio.CancelledError

        journal.put = deadly  # type: ignore[method-assign]

    async def _die(self) -> None:
        assert self.agent is not None
        await self.agent.kill()
        self.dead.set()

    async def _at(self, argv: Sequence[str], work: Callable[[], Awaitable[Any]]) -> Any:
        due = None
        if self._command is not None and " ".join(argv).startswith(self._command[0]):
            due, self._command = self._command[1], None
        if due == "before":
            await self._die()
            raise asyncio.CancelledError
        result = await work()
        if due == "after":
            await self._die()
            raise asyncio.CancelledError
        return result

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        done: Completed = await self._at(argv, lambda: self._inner.run(argv, timeout=timeout, stdin=stdin))
        return done

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        job: Job = await self._at(argv, lambda: self._inner.start_job(scope, argv))
        return job

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        process: PipedProcess = await self._at(argv, lambda: self._inner.pipe(argv))
        return process


class Pair:
    """mk1 and mk2. `agents[name]` is the agent that lives there now."""

    def __init__(self, simulation: Simulation, directory: Path) -> None:
        self.simulation = simulation
        self.directory = directory
        self.authority = pki.create_authority(directory / "pki")
        self.tls = {name: pki.issue_agent(self.authority, name, directory / "pki" / name) for name in simulation.hosts}
        self.ports = {name: free_port() for name in simulation.hosts}
        self.agents: dict[str, Agent] = {}
        self.fencing: Fencing | None = None
        self.hosts = {name: Deadly(host) for name, host in simulation.hosts.items()}
        for host in simulation.hosts.values():
            Xen.of(host).configure(record_interval=0.02)

    # --- agents ---------------------------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        agent = Agent(
            self.hosts[name],
            self.directory / "state" / name,
            name,
            api=("127.0.0.1", 0),
            relocation=("127.0.0.1", self.ports[name]),
            tls=self.tls[name],
        )
        self.hosts[name].agent = agent
        await agent.start()
        self.agents[name] = agent

    async def kill(self, name: str) -> None:
        await self.agents.pop(name).kill()

    async def reboot(self, name: str) -> None:
        """The host loses power and comes back, its agent with it."""
        if name in self.agents:
            await self.kill(name)
        self.simulation.power_off(name)
        self.simulation.power_on(name)
        await self.start(name)

    async def close(self) -> None:
        for name in list(self.agents):
            await self.kill(name)

    def at(self, name: str) -> Context:
        return self.agents[name].context

    # --- volume and VM --------------------------------------------------------------------------------------------

    def volume(self, role: Literal["Primary", "Secondary"]) -> VolumeDesired:
        members = tuple(Member(node=name, address=host.address) for name, host in self.simulation.hosts.items())
        return VolumeDesired(
            term=1,
            uid=VOLUME_UID,
            namespace="default",
            name="vm-shaolin",
            resource=RESOURCE,
            minor=1,
            port=7789,
            group="vg0",
            logical_volume=RESOURCE,
            size=16 << 20,
            members=members,
            fencing=self.fencing,
            role=role,
        )

    async def make_volume(self, primary: str = "mk1") -> None:
        for name in self.agents:
            await self.at(name).volumes.put(RESOURCE, self.volume("Secondary"))
        await until(lambda: self._peer(primary) == ("Connected", "Inconsistent"), "connected")
        await self.operate(primary, "sync", InitialSync(resource=RESOURCE, uid=VOLUME_UID))
        await self.ended(primary, "sync", "Succeeded")
        await self.synced()
        await self.at(primary).volumes.put(RESOURCE, self.volume("Primary"))

    def _peer(self, name: str) -> tuple[str, str] | None:
        seen = self.at(name).observer.state.volumes.get(RESOURCE)
        return (seen.peer.connection, seen.peer.disk) if seen is not None and seen.peer is not None else None

    async def synced(self) -> None:
        for name in list(self.agents):
            await until(
                lambda name=name: (
                    self._peer(name) == ("Connected", "UpToDate")
                    and self.at(name).observer.state.volumes[RESOURCE].disk == "UpToDate"
                ),
                f"UpToDate/UpToDate on {name}",
            )

    async def wish(self, name: str, **changes: Any) -> VmState:
        return await self.at(name).domains.put(NAME, self.domain(**changes))

    def domain(self, **changes: Any) -> DomainDesired:
        values = {"epoch": 1, "config": config(kernel=None, bootloader="pygrub"), "shutdown_grace_seconds": 5.0}
        return desired(**(values | changes))

    def vm(self, name: str) -> VmState | None:
        return self.at(name).observer.state.vms.get(UID)

    async def becomes(self, name: str, status: str) -> VmState:
        def seen() -> bool:
            vm = self.vm(name)
            return vm is not None and vm.status == status

        try:
            await until(seen, status)
        except AssertionError:
            raise AssertionError(f"{NAME} on {name} never became {status}: {self.vm(name)}") from None
        vm = self.vm(name)
        assert vm is not None
        return vm

    async def run(self, name: str = "mk1", **changes: Any) -> None:
        await self.wish(name, **changes)
        await self.becomes(name, "running")
        await self.writes()

    async def writes(self) -> None:
        """The guest acknowledges new records: it lives, and so does its disk."""
        before = self.simulation.truth.records(UID).count
        await until(lambda: self.simulation.truth.records(UID).count > before + 2, "new records of the guest")

    def guest(self, name: str) -> Guest:
        """The VM's guest on that host, to make it power off, reboot or crash."""
        domain = Xen.of(self.simulation.hosts[name]).by_uuid(UID)
        assert domain is not None
        assert domain.guest is not None
        return domain.guest

    # --- operations -----------------------------------------------------------------------------------------------

    async def operate(self, name: str, operation: str, body: Any) -> OperationState:
        return await self.at(name).operations.submit(OperationRequest(id=operation, term=1, body=body))

    async def receive(self, operation: str = "move", *, to: str = "mk2", epoch: int = 2, **changes: Any) -> None:
        source = "mk1" if to == "mk2" else "mk2"
        await self.operate(to, operation, MigrateReceive(domain=self.domain(epoch=epoch, **changes), source=source))

    async def send(self, operation: str = "move", *, to: str = "mk2", epoch: int = 1, **changes: Any) -> None:
        source = "mk1" if to == "mk2" else "mk2"
        body = MigrateSend(
            domain=self.domain(epoch=epoch, **changes),
            target=to,
            target_address="127.0.0.1",
            target_port=self.ports[to],
        )
        await self.operate(source, operation, body)

    async def move(self, operation: str = "move", *, to: str = "mk2", epoch: int = 1, **changes: Any) -> None:
        """Both sides asked, as the controller does; not waited for."""
        await self.receive(operation, to=to, epoch=epoch + 1, **changes)
        await self.send(operation, to=to, epoch=epoch, **changes)

    async def cancel(self, name: str, operation: str = "move", *, source_keeps: bool = True) -> OperationState:
        """As the controller does where it saw that the guest stays at the source."""
        request = OperationCancel(term=1, uid=UID, source_keeps=source_keeps)
        return await self.at(name).operations.cancel(operation, request)

    def operation(self, name: str, operation: str = "move") -> OperationState | None:
        return self.at(name).observer.state.operations.get(operation)

    async def ended(self, name: str, operation: str, outcome: str) -> OperationState:
        def over() -> bool:
            seen = self.operation(name, operation) if name in self.agents else None
            return seen is not None and seen.outcome is not None

        try:
            await until(over, "end")
        except AssertionError:
            seen = self.operation(name, operation)
            raise AssertionError(
                f"{operation} on {name} does not end: {seen}\n{self.simulation.truth.story()}"
            ) from None
        seen = self.operation(name, operation)
        assert seen is not None
        assert seen.outcome == outcome, f"{seen}\n{self.simulation.truth.story()}"
        return seen

    async def over(self, name: str, operation: str = "move") -> OperationState:
        """Its end, whatever the outcome."""
        await until(lambda: (seen := self.operation(name, operation)) is not None and seen.outcome is not None, "end")
        seen = self.operation(name, operation)
        assert seen is not None
        return seen

    async def troubled(self, name: str, reason: str, operation: str = "move") -> Refusal:
        def held() -> bool:
            seen = self.operation(name, operation)
            return (
                seen is not None and seen.outcome is None and seen.refusal is not None and seen.refusal.reason == reason
            )

        try:
            await until(held, reason)
        except AssertionError:
            raise AssertionError(f"not held up by {reason}: {self.operation(name, operation)}") from None
        seen = self.operation(name, operation)
        assert seen is not None
        assert seen.refusal is not None
        return seen.refusal

    async def phase(self, name: str, phase: str, operation: str = "move") -> None:
        def there() -> bool:
            seen = self.operation(name, operation)
            return seen is not None and any(step.name == phase for step in seen.steps)

        await until(there, f"{phase} on {name}")

    async def resolve(self, operation: str = "move") -> str:
        """What a controller does until both sides have ended; returns the host that has the VM then."""
        end = asyncio.get_running_loop().time() + LIMIT
        while True:
            sent, received = self.operation("mk1", operation), self.operation("mk2", operation)
            sent_over = sent is None or sent.outcome is not None
            received_over = received is None or received.outcome is not None
            if sent_over and received_over:
                break
            assert asyncio.get_running_loop().time() < end, f"{sent}\n{received}\n{self.simulation.truth.story()}"
            with suppress(Refused):
                unclear = sent is not None and sent.refusal is not None and sent.refusal.reason == "HandOverUnclear"
                if not received_over and (unclear or (sent_over and (sent is None or sent.outcome != "Succeeded"))):
                    await self.cancel("mk2", operation)
                elif received_over and unclear and (received is None or received.outcome != "Succeeded"):
                    await self.cancel("mk1", operation)
            await asyncio.sleep(0.02)
        return "mk2" if received is not None and received.outcome == "Succeeded" else "mk1"

    # --- what is true ---------------------------------------------------------------------------------------------

    async def domains(self, name: str) -> tuple[DomainState, ...]:
        return await self.at(name).xen.domains()

    def running(self) -> tuple[str, ...]:
        return self.simulation.truth.running(UID)

    def primaries(self) -> tuple[str, ...]:
        return self.simulation.truth.primaries(RESOURCE)

    async def runs_only_on(self, name: str) -> None:
        """It runs there, writes, its disk is Primary there alone, and nothing of it is left elsewhere."""
        await until(lambda: self.running() == (name,), f"{NAME} runs on {name} alone")
        assert self.primaries() == (name,)
        await self.writes()
        for where in self.agents:
            left = [one.name for one in await self.domains(where) if one.uuid == UID or NAME in one.name]
            assert left == ([NAME] if where == name else [])
        self.simulation.truth.check()


def relays() -> set[int]:
    """Relay processes of this test process."""
    me, found = os.getpid(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if parent == me and str(RELAY).encode() in words:
                found.add(int(entry.name))
    return found


async def refused(reason: str, attempt: Awaitable[object]) -> str:
    """The agent says no, for that reason; returns its message."""
    with pytest.raises(Refused) as caught:
        await attempt
    assert caught.value.refusal.reason == reason, caught.value.refusal
    return caught.value.refusal.message
