"""HTTPS client of one agent: mutual TLS, one method a route, a limit on every request.

The server is checked by its certificate's DNS SAN, the node's name, whatever address it is reached at. A refusal is
raised as Refused; anything else that is not a clear answer is Unreachable: whether the request was carried out is then
unknown. Only reads are repeated here; a request that changes something is repeated by deciding again.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import aiohttp
import structlog
from cryptography import x509
from pydantic import BaseModel, ValidationError
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from agent.protocol import (
    DomainDesired,
    DomainRemoval,
    FenceState,
    HostDesired,
    HostState,
    OperationCancel,
    OperationRequest,
    OperationState,
    PreflightReport,
    PreflightRequest,
    Refusal,
    VerdictDesired,
    VmState,
    VolumeDesired,
    VolumeRemoval,
    VolumeState,
    WatchEvent,
)
from controller.domain import actions

log = structlog.get_logger(__name__)
M = TypeVar("M", bound=BaseModel)

CONNECT_SECONDS = 5.0
STATE_SECONDS = 20.0
REQUEST_SECONDS = 30.0
VOLUME_SECONDS = 90.0  # lvcreate, metadata, drbdadm: each has its own limit in the agent
DOMAIN_SECONDS = 60.0
SILENCE_SECONDS = 25.0  # two heartbeats of the watch and a half
READS, VOLUMES, OTHERS = 8, 12, 12  # requests to one agent at a time, but for the watch
LINE_LIMIT = 256 * 1024 * 1024  # bytes of one line of the watch: a snapshot of a very large host
RELOAD_SECONDS = 5.0


class Refused(Exception):
    """The agent said no, and did nothing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"{refusal.reason}: {refusal.message}")
        self.refusal = refusal


class Unreachable(Exception):
    """No clear answer. What the request did is unknown: observe."""


class ClientTls:
    """The controller's certificate (SAN `URI:xentandem:controller`), its key, and the CA that signed the agents'.

    New connections use renewed files without a restart. Renewed files that cannot be used together leave the ones
    before in force, and are logged once.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._files = (certificate, key, authority)
        self._seen: object = None
        self._looked = float("-inf")
        self._context: ssl.SSLContext | None = None
        self.expires: datetime | None = None
        """When the certificate in use does."""

    def context(self) -> ssl.SSLContext:
        """Raises OSError (not there) and ssl.SSLError (not usable) as long as there was no usable one."""
        now = time.monotonic()
        if self._context is None or now - self._looked >= RELOAD_SECONDS:
            self._looked = now
            self._refresh()
        assert self._context is not None
        return self._context

    def _refresh(self) -> None:
        versions = tuple(_version(file) for file in self._files)
        if self._context is not None and versions == self._seen:
            return
        self._seen = versions
        try:
            certificate, key, authority = self._files
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_verify_locations(authority)
            context.load_cert_chain(certificate, key)
            expires = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if self._context is None:
                raise
            log.error("renewed certificate cannot be used, the one before stays", problem=str(error))
            return
        if self._context is None or versions == tuple(_version(file) for file in self._files):
            self._context, self.expires = context, expires  # else it was read in the middle of a change
            log.info("certificate in use", expires=expires.isoformat())


def _version(file: Path) -> tuple[int, ...] | None:
    """Changes with the file, also where it is a symbolic link that leads elsewhere now (a mounted Secret)."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class AgentClient:
    """One agent at one address. Use as a context manager, or call `close`.

    Reads, requests about volumes and all others have their own share of what may be under way: when LVM or DRBD hangs
    there, what hangs is volumes.
    """

    def __init__(self, node: str, address: str, port: int, tls: ClientTls) -> None:
        self.node = node
        self._base, self._tls = f"https://{address}:{port}", tls
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._reads, self._volumes = asyncio.Semaphore(READS), asyncio.Semaphore(VOLUMES)
        self._others = asyncio.Semaphore(OTHERS)

    async def __aenter__(self) -> AgentClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()

    # --- reading

    async def state(self) -> HostState:
        """What the agent sees now. Raises Refused, Unreachable."""
        return await self._read("GET", "/v1/state", None, HostState, STATE_SECONDS)

    async def preflight(self, body: PreflightRequest) -> PreflightReport:
        """Every reason against it, asked of the tools now; changes nothing. Raises Refused, Unreachable."""
        return await self._read("POST", "/v1/preflight", body, PreflightReport, REQUEST_SECONDS)

    async def watch(self) -> AsyncIterator[WatchEvent]:
        """Lines of the watch until it breaks, or is silent for SILENCE_SECONDS. Raises Refused, Unreachable."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        try:
            async with self._session.get(
                f"{self._base}/v1/watch", timeout=limit, ssl=self._tls.context(), server_hostname=self.node
            ) as response:
                if response.status != 200:
                    raise _failure(response.status, await response.read())
                async for line in _lines(response.content):
                    yield WatchEvent.model_validate_json(line)
            raise Unreachable(f"{self.node}: the agent ended the watch")
        except ValidationError as error:
            raise Unreachable(f"{self.node}: the watch is not understood: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{self.node}: {_said(error)}") from error

    # --- changing; each idempotent

    async def put_host(self, body: HostDesired) -> HostState:
        return HostState.model_validate_json(await self._send("PUT", "/v1/host", body, REQUEST_SECONDS))

    async def put_volume(self, body: VolumeDesired) -> VolumeState:
        return VolumeState.model_validate_json(
            await self._send("PUT", f"/v1/volumes/{body.resource}", body, VOLUME_SECONDS, self._volumes)
        )

    async def put_verdict(self, body: VerdictDesired) -> FenceState:
        return FenceState.model_validate_json(
            await self._send("PUT", f"/v1/volumes/{body.resource}/verdict", body, REQUEST_SECONDS)
        )

    async def delete_volume(self, resource: str, body: VolumeRemoval) -> None:
        await self._send("DELETE", f"/v1/volumes/{resource}", body, VOLUME_SECONDS, self._volumes)

    async def put_domain(self, body: DomainDesired) -> VmState:
        return VmState.model_validate_json(await self._send("PUT", f"/v1/domains/{body.name}", body, DOMAIN_SECONDS))

    async def delete_domain(self, name: str, body: DomainRemoval) -> None:
        await self._send("DELETE", f"/v1/domains/{name}", body, DOMAIN_SECONDS)

    async def operate(self, body: OperationRequest) -> OperationState:
        return OperationState.model_validate_json(await self._send("POST", "/v1/operations", body, REQUEST_SECONDS))

    async def cancel(self, operation: str, body: OperationCancel) -> OperationState:
        return OperationState.model_validate_json(
            await self._send("DELETE", f"/v1/operations/{operation}", body, REQUEST_SECONDS)
        )

    async def send(self, request: actions.Request) -> None:
        """The request of a decision; the answer shows in the watch. Raises Refused, Unreachable."""
        try:
            match request:
                case actions.PutHost(body=host):
                    await self.put_host(host)
                case actions.PutVolume(body=volume):
                    await self.put_volume(volume)
                case actions.PutVerdict(body=verdict):
                    await self.put_verdict(verdict)
                case actions.DeleteVolume(resource=resource, body=volume_removal):
                    await self.delete_volume(resource, volume_removal)
                case actions.PutDomain(body=domain):
                    await self.put_domain(domain)
                case actions.DeleteDomain(name=name, body=domain_removal):
                    await self.delete_domain(name, domain_removal)
                case actions.Operate(body=operation):
                    await self.operate(operation)
                case actions.Cancel(operation=operation_id, body=cancel):
                    await self.cancel(operation_id, cancel)
        except ValidationError as error:
            raise Unreachable(f"{self.node}: the answer is not understood: {error}") from error

    # --- inside

    async def _read(self, method: str, path: str, body: BaseModel | None, answer: type[M], seconds: float) -> M:
        patience = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            stop=stop_after_attempt(3) | stop_after_delay(seconds),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        try:
            data: bytes = await patience(self._send, method, path, body, seconds, self._reads)
            return answer.model_validate_json(data)
        except ValidationError as error:
            raise Unreachable(f"{self.node}: the answer is not understood: {error}") from error

    async def _send(
        self, method: str, path: str, body: BaseModel | None, seconds: float, share: asyncio.Semaphore | None = None
    ) -> bytes:
        """`seconds`: until the answer is here, the wait for a place in its share included."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        data = None if body is None else body.model_dump_json().encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(seconds),
                share or self._others,
                self._session.request(
                    method,
                    self._base + path,
                    data=data,
                    headers=headers,
                    timeout=limit,
                    ssl=self._tls.context(),
                    server_hostname=self.node,
                    allow_redirects=False,
                ) as response,
            ):
                answer = await response.read()
                if response.status not in (200, 201, 202, 204):
                    raise _failure(response.status, answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            late = isinstance(error, TimeoutError) and not str(error)
            raise Unreachable(f"{self.node}: {f'no answer within {seconds:g} s' if late else _said(error)}") from error


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines; a line may be longer than the reader's buffer."""
    parts: list[bytes] = []
    size = 0
    async for chunk in stream.iter_any():
        *ended, rest = chunk.split(b"\n")
        for end in ended:
            parts.append(end)
            yield b"".join(parts)
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > LINE_LIMIT:
            raise ValueError(f"a line of the watch is longer than {LINE_LIMIT} bytes")


def _failure(status: int, data: bytes) -> Exception:
    """409, 422, 403 with a Refusal say no; everything else says nothing certain."""
    if status in (403, 409, 422):
        try:
            return Refused(Refusal.model_validate_json(data))
        except ValidationError:
            pass
    return Unreachable(f"HTTP {status}: {data.decode(errors='replace')[:300]}")


def _said(error: Exception) -> str:
    """In words that are the same each time, and without the addresses of Python's objects."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not believed: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        why = f"{os.strerror(cause.errno)}" if isinstance(cause.errno, int) and cause.errno > 0 else str(cause)
        return f"no connection to {error.host}:{error.port}: {why}"
    return str(error) or type(error).__name__
