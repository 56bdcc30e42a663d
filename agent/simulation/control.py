"""Control of a simulation from another process: HTTP on loopback, JSON, for the demo and for tests.

    GET  /truth                 what the monitor knows (truth.Truth.summary)
    GET  /truth/story           its last events, as text
    GET  /replicas/{resource}   {"identical": bool, "difference": why not, or null, "hosts": [...]}
    GET  /hosts                 by host: on, agent, boot id, ports, texts of `xl list` and /proc/drbd
    POST /run                   {"host", "argv"} -> {"exit", "stdout", "stderr"}: a command on a simulated host
    POST /faults                {"fault": NAME, ...}; see FAULTS

Whoever may connect to loopback may do all this: the simulation holds nothing of value.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from agent.daemon import StartError
from agent.host import CommandTimedOut
from agent.simulation.agents import LOOPBACK, Agents
from agent.simulation.hypervisor import StreamFault, Xen

Fault = Callable[..., Awaitable[None]]
RUN_SECONDS = 60.0


class Control:
    """The HTTP server. `await start()` gives the port."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self._simulation = agents.simulation
        self._runner: web.AppRunner | None = None
        self.faults: dict[str, Fault] = {
            "power_off": self._power_off,
            "power_on": self._power_on,
            "kill_agent": self._kill_agent,
            "stop_agent": self._stop_agent,
            "start_agent": self._start_agent,
            "cut_link": self._cut_link,
            "restore_link": self._restore_link,
            "slow_link": self._slow_link,
            "fail_disk": self._fail_disk,
            "repair_disk": self._repair_disk,
            "hang": self._hang,
            "unhang": self._unhang,
            "cut_stream": self._cut_stream,
            "guest": self._guest,
        }

    async def start(self, port: int) -> int:
        application = web.Application()
        application.add_routes(
            [
                web.get("/truth", self._truth),
                web.get("/truth/story", self._story),
                web.get("/replicas/{resource}", self._replicas),
                web.get("/hosts", self._hosts),
                web.post("/run", self._run),
                web.post("/faults", self._fault),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # --- looking --------------------------------------------------------------------------------------------------

    async def _truth(self, request: web.Request) -> web.Response:
        return web.json_response(self._simulation.truth.summary())

    async def _story(self, request: web.Request) -> web.Response:
        return web.Response(text=self._simulation.truth.story(1000) + "\n")

    async def _replicas(self, request: web.Request) -> web.Response:
        resource = request.match_info["resource"]
        truth = self._simulation.truth
        difference = truth.difference(resource)
        return web.json_response(
            {"identical": difference is None, "difference": difference, "hosts": list(truth.replicas(resource))}
        )

    async def _hosts(self, request: web.Request) -> web.Response:
        return web.json_response({name: await self._host(name) for name in self._simulation.hosts})

    async def _host(self, name: str) -> dict[str, Any]:
        host, place = self._simulation.hosts[name], self._agents.places[name]
        shown: dict[str, Any] = {
            "on": host.on,
            "agent": name in self._agents.running,
            "bootID": host.boot_id,
            "apiPort": place.api_port,
            "relocationPort": place.relocation_port,
            "replicationAddress": host.address,
        }
        if host.on:
            listed = await host.run(["xl", "list"], timeout=RUN_SECONDS)
            shown |= {"xlList": listed.stdout + listed.stderr, "procDrbd": host.files.read("/proc/drbd")}
        return shown

    async def _run(self, request: web.Request) -> web.Response:
        body = await _json(request)
        try:
            host = self._simulation.hosts[body["host"]]
            argv = [str(word) for word in body["argv"]]
            completed = await host.run(argv, timeout=RUN_SECONDS)
        except KeyError as error:
            raise web.HTTPBadRequest(text=f"no such host, or {error} is missing\n") from error
        except (OSError, CommandTimedOut) as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.json_response({"exit": completed.exit, "stdout": completed.stdout, "stderr": completed.stderr})

    # --- faults ---------------------------------------------------------------------------------------------------

    async def _fault(self, request: web.Request) -> web.Response:
        body = await _json(request)
        fault = self.faults.get(str(body.pop("fault", "")))
        if fault is None:
            raise web.HTTPBadRequest(text=f"fault must be one of {', '.join(self.faults)}\n")
        try:
            inspect.signature(fault).bind(**body)
        except TypeError as error:
            raise web.HTTPBadRequest(text=f"{error}; wanted: {inspect.signature(fault)}\n") from error
        try:
            await fault(**body)
        except (KeyError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"there is no {error}\n") from error
        except (OSError, StartError) as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.json_response({})

    def _named(self, host: str) -> str:
        if host not in self._simulation.hosts:
            raise KeyError(host)
        return host

    async def _power_off(self, host: str) -> None:
        await self._agents.power_off(self._named(host))

    async def _power_on(self, host: str) -> None:
        await self._agents.power_on(self._named(host))

    async def _kill_agent(self, host: str) -> None:
        await self._agents.kill(self._named(host))

    async def _stop_agent(self, host: str) -> None:
        await self._agents.stop(self._named(host))

    async def _start_agent(self, host: str) -> None:
        await self._agents.start(self._named(host))

    async def _cut_link(self, a: str, b: str) -> None:
        self._simulation.cut_link(self._named(a), self._named(b))

    async def _restore_link(self, a: str, b: str) -> None:
        self._simulation.restore_link(self._named(a), self._named(b))

    async def _slow_link(self, rate: float, a: str | None = None, b: str | None = None) -> None:
        self._simulation.slow_link(float(rate), a, b)

    async def _fail_disk(self, host: str, path: str | None = None) -> None:
        self._simulation.fail_disk(self._named(host), path)

    async def _repair_disk(self, host: str, path: str | None = None) -> None:
        self._simulation.repair_disk(self._named(host), path)

    async def _hang(self, host: str, program: str) -> None:
        self._simulation.hang(self._named(host), program)

    async def _unhang(self, host: str, program: str) -> None:
        self._simulation.unhang(self._named(host), program)

    async def _cut_stream(self, host: str, at: str, after: int = 0) -> None:
        """The next migration that leaves the host is cut: after so many bytes, or at ready, go or report."""
        if at not in {"bytes", "ready", "go", "report"}:
            raise ValueError(at)
        Xen.of(self._simulation.hosts[self._named(host)]).stream_fault = StreamFault(at, int(after))  # type: ignore[arg-type]

    async def _guest(self, host: str, domain: str, does: str) -> None:
        """A guest does something by itself: poweroff, reboot or crash."""
        found = Xen.of(self._simulation.hosts[self._named(host)]).find(domain)
        if found is None or found.guest is None:
            raise KeyError(domain)
        if does not in {"poweroff", "reboot", "crash"}:
            raise ValueError(does)
        getattr(found.guest, does)()


async def _json(request: web.Request) -> dict[str, Any]:
    # A page in a browser can post text to loopback unasked, but not JSON
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json\n")
    try:
        body = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"not JSON: {error}\n") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="not an object\n")
    return body
