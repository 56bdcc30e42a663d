"""A proxy in front of the API server: events dropped, doubled, reordered, late; stale reads; answers that get lost.

HTTP on loopback, as whoever `kubeconfig` names; the controller gets a kubeconfig that leads here. What a real API
server never does (an event out of order) is here too: whoever relies on it is found out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
import tempfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web
from ports import free_port

REMEMBERED = 6  # answers to the same question, of which a stale one is chosen
HOP = {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "authorization", "accept-encoding"}


@dataclass(frozen=True)
class Faults:
    """Each a probability: of an event of a watch, of a read, of a write."""

    drop: float = 0.0
    double: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0  # by up to `seconds`
    cut: float = 0.0  # the watch ends
    stale: float = 0.0  # an earlier answer to the same read
    conflict: float = 0.0  # 409, nothing written
    busy: float = 0.0  # 429
    error: float = 0.0  # 500, nothing written
    lost: float = 0.0  # written, and the connection breaks
    seconds: float = 1.0


NONE = Faults()
BAD = Faults(
    drop=0.1, double=0.15, reorder=0.15, delay=0.1, cut=0.02, stale=0.25, conflict=0.1, busy=0.05, error=0.05, lost=0.1
)


class Proxy:
    """`async with Proxy(kubeconfig, seed) as proxy`; `faults` may be changed at any time; `done` counts them."""

    def __init__(self, kubeconfig: Path, seed: int = 0) -> None:
        self.faults = NONE
        self.done: Counter[str] = Counter()
        self.port = free_port()
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._server, self._tls, self._headers = _login(kubeconfig)
        self._answers: dict[str, deque[tuple[int, dict[str, str], bytes]]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="xentandem-proxy-")
        self.kubeconfig = Path(self._folder.name) / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(_kubeconfig(self.port)))

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        application = web.Application(client_max_size=16 << 20)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()
        self._folder.cleanup()

    def heal(self) -> None:
        self.faults = NONE

    def _hits(self, fault: str) -> bool:
        if self._random.random() >= getattr(self.faults, fault):
            return False
        self.done[fault] += 1
        return True

    # --- requests

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.query.get("watch") in ("1", "true"):
                return await self._watch(request)
            return await (self._read(request) if request.method == "GET" else self._write(request))
        except (aiohttp.ClientError, ConnectionError):
            return self._break(request)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        known = self._answers.setdefault(request.path_qs, deque(maxlen=REMEMBERED))
        if known and self._hits("stale"):
            return _response(*self._random.choice(known))
        if self._hits("error"):
            return _status(500, "InternalError", "the proxy says so")
        answer = await self._forward(request)
        known.append(answer)
        return _response(*answer)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        if self._hits("conflict"):
            return _status(409, "Conflict", "the proxy says that somebody else wrote it")
        if self._hits("busy"):
            return _status(429, "TooManyRequests", "the proxy says so", {"Retry-After": "1"})
        if self._hits("error"):
            return _status(500, "InternalError", "the proxy says so")
        answer = await self._forward(request)
        if self._hits("lost"):
            return self._break(request)
        return _response(*answer)

    def _break(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("by the proxy")

    async def _forward(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        async with self._session.request(
            request.method,
            self._server + request.path_qs,
            headers=self._sent(request),
            data=await request.read() or None,
        ) as answer:
            kind = answer.headers.get("Content-Type", "application/json")
            return answer.status, {"Content-Type": kind}, await answer.read()

    def _sent(self, request: web.Request) -> dict[str, str]:
        return {name: value for name, value in request.headers.items() if name.lower() not in HOP} | self._headers

    # --- watches

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        async with self._session.get(self._server + request.path_qs, headers=self._sent(request)) as upstream:
            response = web.StreamResponse(status=upstream.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            async with aclosing(_lines(upstream)) as lines, aclosing(self._spoilt(lines)) as spoilt:
                with suppress(ConnectionError, aiohttp.ClientError):
                    async for line in spoilt:
                        await response.write(line)
        return response

    async def _spoilt(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The stream's lines, as the faults have it."""
        held: bytes | None = None
        async for line in lines:
            if self._hits("cut"):
                return
            if self._hits("drop"):
                continue
            if held is None and self._hits("reorder"):
                held = line
                continue
            if self._hits("delay"):
                await asyncio.sleep(self._random.random() * self.faults.seconds)
            yield line
            if self._hits("double"):
                yield line
            if held is not None:
                yield held
                held = None


async def _lines(upstream: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in upstream.content.iter_any():
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield line + b"\n"


def _response(status: int, headers: dict[str, str], body: bytes) -> web.Response:
    return web.Response(status=status, headers=headers, body=body)


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """As the API server says no (meta/v1, Status)."""
    said = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    }  # fmt: skip
    return web.Response(status=code, headers=headers, body=json.dumps(said).encode(), content_type="application/json")


def _login(kubeconfig: Path) -> tuple[str, ssl.SSLContext, dict[str, str]]:
    """(server, TLS, headers) of the only cluster and user that the kubeconfig has."""
    view = yaml.safe_load(kubeconfig.read_text())
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    context = ssl.create_default_context(cadata=_data(cluster, "certificate-authority").decode())
    if "client-certificate-data" in user or "client-certificate" in user:
        with tempfile.TemporaryDirectory() as folder:
            paths: list[Path] = []
            for name in ("client-certificate", "client-key"):
                path = Path(folder) / name
                path.touch(mode=0o600)
                path.write_bytes(_data(user, name))
                paths.append(path)
            context.load_cert_chain(paths[0], paths[1])
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return cluster["server"], context, headers


def _data(part: dict[str, Any], name: str) -> bytes:
    if f"{name}-data" in part:
        return base64.b64decode(part[f"{name}-data"])
    return Path(part[name]).read_bytes()


def _kubeconfig(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
    }
