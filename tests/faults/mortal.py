"""Hosts whose agents die, as by kill -9, at every kind of effect once: before it, or when it is done and unheard."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NoReturn

from harness import Scene

from agent.daemon import Agent
from agent.host import Completed, Job, PipedProcess
from agent.simulation.host import SimulatedHost

Moment = Literal["before", "after"]
READING = re.compile(
    r"(lvs|vgs|pvs|blkid|blockdev|uname|dmesg|xl (list|info|dmesg|vcpu-list)|xenstore-(ls|read|list|watch)"
    r"|drbdsetup (events2|status|show|get-gi)|drbdadm (--version|dump|dump-md|get-gi|sh-\S+|show-gi|role|dstate))\b"
)


class Mortal:
    """A host. `deaths`: the effects at which an agent died, each once; several hosts share it."""

    def __init__(self, inner: SimulatedHost, moment: Moment, deaths: list[str]) -> None:
        self._inner, self._moment, self.deaths = inner, moment, deaths
        self.armed = False
        self.agent: Agent | None = None
        self.dead = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _at(self, what: str, work: Callable[[], Awaitable[Any]]) -> Any:
        kind = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9]+\b", "N", what)
        due = self.armed and kind not in self.deaths
        if due:
            self.deaths.append(kind)
        if due and self._moment == "before":
            self._die()
        result = await work()
        if due:
            self._die()
        return result

    def _die(self) -> NoReturn:
        """Nothing that it does has an effect from now on; its end is waited for by a task that does not end with it."""
        assert self.agent is not None
        agent, self.agent = self.agent, None
        agent.context.journal.kill()
        agent._host.kill()
        self._dying = asyncio.create_task(self._end(agent))
        raise asyncio.CancelledError

    async def _end(self, agent: Agent) -> None:
        await agent.kill()
        self.dead.set()

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        if READING.match(line):
            return await self._inner.run(argv, timeout=timeout, stdin=stdin)
        done: Completed = await self._at(line, lambda: self._inner.run(argv, timeout=timeout, stdin=stdin))
        return done

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        job: Job = await self._at(f"job {argv[0]}", lambda: self._inner.start_job(scope, argv))
        return job

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        process: PipedProcess = await self._at(f"pipe {' '.join(argv)}", lambda: self._inner.pipe(argv))
        return process

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        await self._at(f"write {path}", lambda: self._inner.write_text(path, text, mode=mode))

    async def remove(self, path: str) -> None:
        await self._at(f"remove {path}", lambda: self._inner.remove(path))


class MortalScene(Scene):
    """`mortal[name]`: who dies. Whoever died is started again at once, as systemd does."""

    def arm(self, moment: Moment) -> None:
        self.deaths: list[str] = []
        self.mortal = {name: Mortal(host, moment, self.deaths) for name, host in self.simulation.hosts.items()}
        self._reviving = [asyncio.create_task(self._revive(name)) for name in self.names]

    async def start_agent(self, name: str) -> Agent:
        host = self.mortal[name]
        port, relocation = self._ports[name]
        agent = Agent(
            host,
            self.directory / "agents" / name,
            name,
            api=("127.0.0.1", port),
            relocation=("127.0.0.1", relocation),
            tls=self._agent_tls[name],
        )
        host.agent = agent
        await agent.start()
        self.agents[name] = agent
        return agent

    async def _revive(self, name: str) -> None:
        host = self.mortal[name]
        while True:
            await host.dead.wait()
            host.dead.clear()
            self.agents.pop(name, None)
            try:
                await self.start_agent(name)
            except asyncio.CancelledError:
                if not host.dead.is_set():  # else it died again, in its start
                    raise

    async def disarm(self) -> None:
        for host in self.mortal.values():
            host.armed = False
        for task in self._reviving:
            task.cancel()
        results = await asyncio.gather(*self._reviving, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in results), results
