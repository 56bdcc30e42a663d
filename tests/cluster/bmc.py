"""The management controllers of a scene's hosts: one server on loopback that switches their power, and misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from harness import Scene

FENCE_AGENTS = Path(__file__).with_name("fence_agents")
SECRETS = "default"
LOGIN = ("root-of-the-bmcs", "correct horse=battery staple")

Fault = Literal["", "hang", "lie", "refuse"]
"""hang: `off` gets no answer, and nothing is switched; lie: `off` is confirmed, and nothing is switched; refuse: no
login is good enough."""


class Bmc:
    """`story`: what it was asked, in order. `during`: awaited while it is asked to switch a host off."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.story: list[tuple[str, str]] = []
        self.fault: Fault = ""
        self.claims: dict[str, str] = {}  # what `status` says of a host, whatever is true
        self.during: Callable[[str], Awaitable[None]] | None = None
        self.starting: Callable[[str], Awaitable[None]] | None = None  # the same of `on`
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Bmc:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()

    def offs(self, host: str) -> int:
        return self.story.count(("off", host))

    def ons(self, host: str) -> int:
        return self.story.count(("on", host))

    def fencing(self, host: str, **more: Any) -> dict[str, Any]:
        """For spec.fencing of that host."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return {
            "agent": "fence_bmc",
            "parameters": {"ip": "127.0.0.1", "ipport": str(port), "plug": host},
            "secretRef": {"name": "bmc"},
            "afterSeconds": 5,
            "timeoutSeconds": 10,
            **more,
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = json.loads(await reader.readline())
            self.story.append((question["action"], question["host"]))
            answer = await self._answer(**question)
            if answer is None:
                await reader.read()  # until the other side gives up
            else:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    async def _answer(self, action: str, host: str, login: list[str | None]) -> dict[str, str] | None:
        if tuple(login) != LOGIN or self.fault == "refuse":
            return {"error": "Unable to connect/login to fencing device"}
        if action == "off":
            if self.during is not None:
                await self.during(host)
            if self.fault == "hang":
                return None
            if self.fault != "lie" and self._scene.simulation.hosts[host].on:
                await self._scene.crash_host(host)
            return {}
        if action == "on":
            if self.starting is not None:
                await self.starting(host)
            if not self._scene.simulation.hosts[host].on:
                await self._scene.boot_host(host)
            return {}
        return {"power": self.claims.get(host) or ("on" if self._scene.simulation.hosts[host].on else "off")}
