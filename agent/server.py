"""The agent's HTTPS API: the routes of `agent.protocol`, for the controller alone (mutual TLS, SAN checked).

Bodies are checked strictly before anything is done; a term is promised before its request acts. A client that goes
away does not stop what it asked for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web
from pydantic import BaseModel

from agent.bodies import BODY_LIMIT, Invalid, helpful, name_in_path, operation_in_path, read_body, same_name
from agent.core import Context, Refused
from agent.drivers.errors import DriverError
from agent.entrance import IDLE_SECONDS, Entrance
from agent.facts import certificate_expiry, put_facts
from agent.host import CommandTimedOut
from agent.journal import JournalError
from agent.promises import Promises
from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    HostDesired,
    OperationCancel,
    OperationRequest,
    PreflightRequest,
    Refusal,
    VerdictDesired,
    VolumeDesired,
    VolumeOperation,
    VolumeRemoval,
)
from agent.tls import is_controller
from agent.volumes import refusal_of
from agent.watch import SECTIONS

DRAIN_SECONDS = 10.0
UNANSWERED_SECONDS = 30.0
CERTIFICATES_SECONDS = 10.0

ABOUT: web.RequestKey[dict[str, object]] = web.RequestKey("about", dict)  # for the log line
REFUSED: web.RequestKey[dict[str, object]] = web.RequestKey("refused", dict)
Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Listens on `address`, `port` (0: any; then see `port`). `stop` lets running requests end, `abort` does not."""

    def __init__(self, context: Context, promises: Promises, address: str, port: int) -> None:
        self._context, self._promises = context, promises
        self._address, self._wanted = address, port
        self._runner: web.AppRunner | None = None
        self._entrance: Entrance | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._heard = context.host.monotonic()
        self._watching = 0
        self.port = 0

    async def start(self) -> None:
        """Raises OSError when the address cannot be bound, TlsError."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[self._guarded])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/v1/state", self._state),
                web.get("/v1/watch", self._watch),
                web.put("/v1/host", self._put_host),
                web.put("/v1/volumes/{resource}", self._put_volume),
                web.put("/v1/volumes/{resource}/verdict", self._put_verdict),
                web.delete("/v1/volumes/{resource}", self._delete_volume),
                web.put("/v1/domains/{name}", self._put_domain),
                web.delete("/v1/domains/{name}", self._delete_domain),
                web.post("/v1/operations", self._post_operation),
                web.delete("/v1/operations/{id}", self._delete_operation),
                web.post("/v1/preflight", self._preflight),
            ]
        )
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=DRAIN_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            auto_decompress=False,
            lingering_time=1.0,  # seconds for what comes after a refusal
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._entrance = Entrance(self._context, self._runner.server, self._address, self._wanted)
        self.port = self._entrance.port
        self._context.tasks.spawn(self._follow_certificates(), name="server: certificates")

    async def _follow_certificates(self) -> None:
        """Renewed ones are shown. With a new CA, whoever got in by the old one has to come again; work goes on."""
        credentials = self._context.credentials
        authority, expires = credentials.authority, credentials.expires
        while True:
            await self._context.host.sleep(CERTIFICATES_SECONDS)
            credentials.refresh()
            if credentials.expires != expires:
                expires = credentials.expires
                put_facts(self._context, certificate_expires_at=certificate_expiry(self._context))
            if credentials.authority != authority:
                authority = credentials.authority
                self._context.log().info("new certificate authority: connections are closed")
                self._close_connections()

    def _close_connections(self) -> None:
        if self._runner is not None and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()

    async def stop(self) -> None:
        """No new connection; streams end; running requests have DRAIN_SECONDS."""
        self._stopping.set()
        if self._entrance is not None:
            self._entrance.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def abort(self) -> None:
        """As the kernel does after kill -9: sockets are gone at once, requests get no further."""
        if self._entrance is not None:
            self._entrance.close()
        self._close_connections()
        while running := [task for task in self._running if task is not asyncio.current_task()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    def heard(self) -> float:
        """When the leading controller was heard of last, by Host.monotonic; only that one follows agents."""
        return self._context.host.monotonic() if self._watching else self._heard

    # --- every request --------------------------------------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Respond) -> web.StreamResponse:
        """Who asks, what went wrong, and one log line for each request that may change something."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        structlog.contextvars.clear_contextvars()
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        begun = self._context.host.monotonic()
        try:
            if not is_controller(certificate):
                refusal = _refusal(403, "NotTheController", "this API is for the controller's certificate alone")
                refusal.force_close()
                return refusal
            self._heard = self._context.host.monotonic()
            status, response = await _answered(request, handler)
        finally:
            self._running.discard(task)
        if request.method != "GET":
            seconds = round(self._context.host.monotonic() - begun, 3)
            self._context.log(method=request.method, path=request.path, **request.get(ABOUT, {})).info(
                "request", status=status, seconds=seconds, **request.get(REFUSED, {})
            )
        return response

    # --- looking --------------------------------------------------------------------------------------------------

    async def _healthz(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok", "node": self._context.node, "term": self._promises.term})

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return _model(self._context.observer.state)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        watch = self._context.observer.watch
        watcher = watch.subscribe()
        stopping = asyncio.ensure_future(self._stopping.wait())
        _end_when_unanswered(request)
        self._watching += 1
        try:
            while not self._stopping.is_set():
                following = asyncio.ensure_future(watcher.next(watch))
                await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    break
                line = following.result().model_dump_json(exclude_unset=True)
                await response.write(line.encode() + b"\n")
        except ConnectionResetError:
            pass  # the watcher went away
        finally:
            self._watching -= 1
            self._heard = self._context.host.monotonic()
            stopping.cancel()
            watch.unsubscribe(watcher)
        return response

    # --- what shall be --------------------------------------------------------------------------------------------

    async def _put_host(self, request: web.Request) -> web.StreamResponse:
        desired = await read_body(request, HostDesired)
        self._promise(request, desired.term, self._context.node)
        self._promises.desire(self._context, desired)
        await self._context.migration.apply()
        empty: dict[str, dict[str, object]] = {name: {} for name in SECTIONS}
        return _model(self._context.observer.state.model_copy(update=empty))

    async def _put_volume(self, request: web.Request) -> web.StreamResponse:
        desired = await read_body(request, VolumeDesired)
        resource = same_name(request, "resource", desired.resource)
        self._promise(request, desired.term, resource)
        return _model(await self._context.volumes.put(resource, desired))

    async def _put_verdict(self, request: web.Request) -> web.StreamResponse:
        wanted = await read_body(request, VerdictDesired)
        resource = same_name(request, "resource", wanted.resource)
        self._promise(request, wanted.term, resource, verdict=wanted.verdict.number)
        return _model(await self._context.fence.put(resource, wanted))

    async def _delete_volume(self, request: web.Request) -> web.StreamResponse:
        removal = await read_body(request, VolumeRemoval)
        resource = name_in_path(request, "resource")
        self._promise(request, removal.term, resource)
        await self._context.volumes.remove(resource, removal)
        return web.Response(status=204)

    async def _put_domain(self, request: web.Request) -> web.StreamResponse:
        desired = await read_body(request, DomainDesired)
        name = same_name(request, "name", desired.name)
        self._promise(request, desired.term, name, epoch=desired.epoch)
        return _model(await self._context.domains.put(name, desired))

    async def _delete_domain(self, request: web.Request) -> web.StreamResponse:
        removal = await read_body(request, DomainRemoval)
        name = name_in_path(request, "name")
        self._promise(request, removal.term, name, epoch=removal.epoch)
        await self._context.domains.remove(name, removal)
        return web.Response(status=204)

    async def _post_operation(self, request: web.Request) -> web.StreamResponse:
        wanted = await read_body(request, OperationRequest)
        body = wanted.body
        subject = body.resource if isinstance(body, VolumeOperation) else body.domain.name
        self._promise(request, wanted.term, subject, operation=wanted.id, kind=body.kind)
        return _model(await self._context.operations.submit(wanted))

    async def _delete_operation(self, request: web.Request) -> web.StreamResponse:
        cancel = await read_body(request, OperationCancel)
        operation = operation_in_path(request)
        self._promise(request, cancel.term, operation, operation=operation)
        return _model(await self._context.operations.cancel(operation, cancel))

    async def _preflight(self, request: web.Request) -> web.StreamResponse:
        return _model(await self._context.domains.preflight(await read_body(request, PreflightRequest)))

    def _promise(self, request: web.Request, term: int, subject: str, **about: object) -> None:
        request[ABOUT] = {"object": subject, "term": term, **about}
        self._promises.promise(self._context, term)


def _end_when_unanswered(request: web.Request) -> None:
    """A controller that does not take the stream's bytes for so long is out of reach (tcp(7))."""
    sock = request.transport.get_extra_info("socket") if request.transport is not None else None
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNANSWERED_SECONDS * 1000))


async def _answered(request: web.Request, handler: Respond) -> tuple[int, web.StreamResponse]:
    """The handler's answer, or the refusal that its error becomes."""
    try:
        response = await handler(request)
        return response.status, response
    except Invalid as error:
        return _refuse(request, 422, Refusal(reason="InvalidRequest", message=str(error)))
    except (Refused, DriverError, CommandTimedOut) as error:
        refusal = refusal_of(error)
        assert refusal is not None
        return _refuse(request, 409, refusal)
    except JournalError as error:
        return _refuse(request, 503, Refusal(reason="JournalFailed", message=str(error)))
    except web.HTTPException as error:
        reason = type(error).__name__.removeprefix("HTTP")
        return _refuse(request, error.status, Refusal(reason=reason, message=helpful(request, error)))
    except Exception as error:
        structlog.get_logger().exception("request failed", path=request.path)
        message = f"{type(error).__name__}: {error}; the agent's log has more"
        return _refuse(request, 500, Refusal(reason="InternalError", message=message))


def _model(model: BaseModel) -> web.Response:
    return web.Response(text=model.model_dump_json(), content_type="application/json")


def _refuse(request: web.Request, status: int, refusal: Refusal) -> tuple[int, web.Response]:
    request[REFUSED] = refusal.model_dump()
    return status, _refusal(status, refusal.reason, refusal.message)


def _refusal(status: int, reason: str, message: str) -> web.Response:
    refusal = Refusal(reason=reason, message=message)
    return web.Response(status=status, text=refusal.model_dump_json(), content_type="application/json")
