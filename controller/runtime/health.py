"""/healthz, /readyz and /metrics over plain HTTP, for the kubelet and Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

Check = Callable[[], str]
"""What is wrong, in words; empty: nothing."""


class HealthServer:
    """Serves on one address until `stop`; `port` is the one that was taken when 0 was asked for."""

    def __init__(self, host: str, port: int, *, alive: Check, ready: Check, metrics: Callable[[], bytes]) -> None:
        self._host, self._port = host, port
        self._alive, self._ready, self._metrics = alive, ready, metrics
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        assert self._runner is not None
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        """Raises OSError when the address is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._serve_alive)
        app.router.add_get("/readyz", self._serve_ready)
        app.router.add_get("/metrics", self._serve_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve_alive(self, _: web.Request) -> web.Response:
        return _answer(self._alive())

    async def _serve_ready(self, _: web.Request) -> web.Response:
        return _answer(self._ready())

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _answer(wrong: str) -> web.Response:
    return web.Response(status=503 if wrong else 200, text=f"{wrong or 'ok'}\n")
