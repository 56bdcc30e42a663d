"""Simulated hosts with their agents, spoken to as the controller does: real TLS, real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from agent_facts import desired

from agent import pki
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.host import Completed, Host
from agent.protocol import HostState, VolumeDesired, VolumeState, WatchEvent
from agent.simulation.cluster import Simulation
from agent.tls import client_context

LIMIT = 30.0  # seconds until a condition that does not come fails the test


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for a condition; fails with `what` after LIMIT."""
    end = asyncio.get_running_loop().time() + LIMIT
    while not await condition():
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"never came: {what}")
        await asyncio.sleep(0.01)


CHANGING = ("lvcreate", "lvchange", "lvrename", "lvremove", "mkfs.ext4", "drbdadm", "drbdsetup")
READING = (
    ("drbdsetup", "events2"),
    ("drbdsetup", "show"),
    ("drbdadm", "get-gi"),
    ("drbdadm", "dump-md"),
    ("drbdadm", "--version"),
)
T = TypeVar("T")


class Recorder:
    """A Host that notes every command of all agents that lived on it, and can let one die at any change it makes.

    A change is a command that is no mere reading, a file written, a file removed.
    """

    def __init__(self, inner: Host) -> None:
        self._inner = inner
        self.done: list[Completed] = []
        self.changes: list[str] = []
        self.die_at: tuple[int, str] | None = None  # (number of the change, "before" or "after" its effect)
        self.die: Callable[[], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def ran(self, *words: str) -> list[Completed]:
        """Commands that begin with these words."""
        return [one for one in self.done if one.argv[: len(words)] == words]

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        async def work() -> Completed:
            completed = await self._inner.run(argv, timeout=timeout, stdin=stdin)
            self.done.append(completed)
            return completed

        if argv[0] in CHANGING and tuple(argv[:2]) not in READING:
            return await self._change(" ".join(argv), work())
        return await work()

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        await self._change(f"write {path}", self._inner.write_text(path, text, mode=mode))

    async def remove(self, path: str) -> None:
        await self._change(f"remove {path}", self._inner.remove(path))

    async def _change(self, what: str, work: Coroutine[Any, Any, T]) -> T:
        self.changes.append(what)
        due = None
        if self.die_at is not None and self.die_at[0] == len(self.changes):
            due, self.die_at = self.die_at[1], None
        if due == "before":
            work.close()
            await self._die()
        result = await work
        if due == "after":
            await self._die()
        return result

    async def _die(self) -> None:
        assert self.die is not None
        await self.die()
        raise asyncio.CancelledError


class Fleet:
    """The hosts of one simulation. `agents[name]` is the agent that lives there now."""

    def __init__(self, simulation: Simulation, directory: Path) -> None:
        self.simulation = simulation
        self.directory = directory
        self.authority = pki.create_authority(directory / "pki")
        self.controller = pki.issue_controller(self.authority, directory / "pki" / "controller")
        self.agents: dict[str, Agent] = {}
        self.hosts = {name: Recorder(host) for name, host in simulation.hosts.items()}
        self._tls = {name: pki.issue_agent(self.authority, name, directory / "pki" / name) for name in self.hosts}
        self._session: aiohttp.ClientSession | None = None
        self.term = 1

    async def start(self, name: str) -> Agent:
        agent = Agent(
            self.hosts[name],
            self.directory / "state" / name,
            name,
            api=("127.0.0.1", 0),
            relocation=("127.0.0.1", 0),
            tls=self._tls[name],
        )
        await agent.start()
        self.agents[name] = agent
        return agent

    async def kill(self, name: str) -> None:
        await self.agents.pop(name).kill()

    async def restart(self, name: str) -> None:
        await self.kill(name)
        await self.start(name)

    async def reboot(self, name: str) -> None:
        """The host loses power and comes back, its agent with it."""
        await self.kill(name)
        self.simulation.power_off(name)
        self.simulation.power_on(name)
        await self.start(name)

    async def reboot_without_kill(self, name: str) -> None:
        """The same where the agent was killed before."""
        self.simulation.power_off(name)
        self.simulation.power_on(name)
        await self.start(name)

    async def close(self) -> None:
        for name in list(self.agents):
            await self.kill(name)
        if self._session is not None:
            await self._session.close()

    # --- requests -------------------------------------------------------------------------------------------------

    def session(self, files: TlsFiles | None = None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context(files or self.controller)))

    async def request(self, name: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, JSON of the answer; None when it is empty)."""
        if self._session is None:
            self._session = self.session()
        text = body.model_dump_json() if hasattr(body, "model_dump_json") else json.dumps(body)
        url = f"https://127.0.0.1:{self.agents[name].api_port}{path}"
        headers = {"Content-Type": "application/json"}
        async with self._session.request(method, url, data=None if body is None else text, headers=headers) as response:
            answer = await response.text()
            return response.status, json.loads(answer) if answer else None

    async def put_volume(self, host: str, **changes: Any) -> tuple[int, Any]:
        wanted = desired(**({"term": self.term} | changes))
        return await self.request(host, "PUT", f"/v1/volumes/{wanted.resource}", wanted)

    async def put_volume_ok(self, host: str, **changes: Any) -> VolumeState:
        status, answer = await self.put_volume(host, **changes)
        assert status == 200, answer
        return VolumeState.model_validate(answer)

    async def remove_volume(self, name: str, policy: str = "Retain", *, wanted: VolumeDesired | None = None) -> Any:
        wanted = wanted or desired()
        body = {"term": self.term, "uid": wanted.uid, "policy": policy}
        return await self.request(name, "DELETE", f"/v1/volumes/{wanted.resource}", body)

    async def operate(self, name: str, operation: str, body: dict[str, Any]) -> tuple[int, Any]:
        return await self.request(name, "POST", "/v1/operations", {"id": operation, "term": self.term, "body": body})

    async def operate_ok(self, name: str, operation: str, body: dict[str, Any]) -> None:
        """Until it has ended well."""
        status, answer = await self.operate(name, operation, body)
        assert status == 200, answer
        await until(lambda: self._ended(name, operation), f"the end of {operation} on {name}")
        ended = (await self.state(name)).operations[operation]
        assert ended.outcome == "Succeeded", ended

    async def _ended(self, name: str, operation: str) -> bool:
        return (await self.state(name)).operations[operation].outcome is not None

    async def state(self, name: str) -> HostState:
        status, answer = await self.request(name, "GET", "/v1/state")
        assert status == 200, answer
        return HostState.model_validate(answer)

    async def volume(self, name: str, resource: str = "vm_shaolin") -> VolumeState:
        return (await self.state(name)).volumes[resource]

    async def becomes(self, name: str, what: str, condition: Callable[[HostState], bool]) -> None:
        async def now() -> bool:
            return condition(await self.state(name))

        await until(now, f"{what} on {name}")

    async def synced(self, *names: str) -> None:
        """UpToDate/UpToDate as every one of the hosts sees it."""

        for name in names or tuple(self.hosts):
            await self.becomes(name, "UpToDate/UpToDate", up_to_date)

    @asynccontextmanager
    async def watch(self, name: str) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        async with self.session() as session:
            url = f"https://127.0.0.1:{self.agents[name].api_port}/v1/watch"
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=None)) as response:
                assert response.status == 200

                async def events() -> AsyncIterator[WatchEvent]:
                    async for line in response.content:
                        yield WatchEvent.model_validate_json(line)

                yield events()


async def ready(fleet: Fleet, *, synced: bool = True, operation: str = "sync-1") -> None:
    """Both hosts up with the howto's volume; with `synced` also through its first sync, both Secondary."""
    for name in fleet.hosts:
        await fleet.put_volume_ok(name)
    await fleet.becomes("mk1", "Connected", connected)
    if synced:
        uid = desired().uid
        await fleet.operate_ok("mk1", operation, {"kind": "initial-sync", "resource": "vm_shaolin", "uid": uid})
        await fleet.synced()
        await fleet.put_volume_ok("mk1")


def connected(state: HostState) -> bool:
    peer = state.volumes["vm_shaolin"].peer
    return peer is not None and (peer.connection, peer.disk) == ("Connected", "Inconsistent")


def up_to_date(state: HostState) -> bool:
    """On both sides, as this host sees it."""
    volume = state.volumes["vm_shaolin"]
    return volume.disk == "UpToDate" and volume.peer is not None and volume.peer.disk == "UpToDate"


async def refused(answer: Awaitable[tuple[int, Any]]) -> dict[str, str]:
    """The agent's refusal, of a request that it must refuse."""
    status, body = await answer
    assert status == 409, body
    return dict(body)
