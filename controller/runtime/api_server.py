"""Requests to the Kubernetes API server: one place for the login, the time limit, the errors and the count of writes.

Paths and bodies are spelled out here instead of taking the generated methods of `kubernetes.aio`, whose model classes
would parse each object a second time; the client's login, TLS and connection pool are used.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.config.config_exception import ConfigException

from controller.api.common import GROUP, VERSION, ApiObject
from controller.api.drbdvolume import DrbdVolume
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.runtime.queue import ObjectKey

READ_SECONDS = 30.0
WRITE_SECONDS = 10.0
PAGE = 500
FIELD_MANAGER = "xentandem-controller"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the kinds that this controller reconciles."""

    name: str
    plural: str
    namespaced: bool
    model: type[ApiObject]

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection (in all namespaces when `namespace` is empty) or of one object."""
        parts = ["/apis", GROUP, VERSION]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(name, safe="")] if name else []
        parts += [subresource] if subresource else []
        return "/".join(parts)


KINDS: Mapping[str, Kind] = {
    "XenNode": Kind("XenNode", "xennodes", False, XenNode),
    "DrbdVolume": Kind("DrbdVolume", "drbdvolumes", True, DrbdVolume),
    "XenVM": Kind("XenVM", "xenvms", True, XenVM),
}


def object_path(key: ObjectKey, subresource: str = "") -> str:
    kind, namespace, name = key
    return KINDS[kind].path(namespace, name, subresource)


class ApiError(Exception):
    """The API server answered with an error: `status` is HTTP's, `message` the Status object's."""

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        super().__init__(f"{method} {path}: HTTP {status}: {message}")
        self.status, self.message = status, message


class Conflict(ApiError):
    """409: the object changed since it was read, or is there already."""


class Missing(ApiError):
    """404: the object, or its kind, is not there."""


class Invalid(ApiError):
    """422: the schema or a CEL rule refused what we sent. A defect of ours, never to be swallowed."""


class Unanswered(Exception):
    """No answer in time, or the connection broke: whether a write happened is unknown."""


_ERRORS: Mapping[int, type[ApiError]] = {404: Missing, 409: Conflict, 422: Invalid}


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach the API server and as whom: what kopf's ConnectionInfo needs."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    private_key_path: str | None
    token: str | None


async def load(kubeconfig: str | None, context: str | None) -> client.Configuration:
    """As kubectl does: the named file, else the pod's service account, else KUBECONFIG or ~/.kube/config.

    Raises LoginMissing when there is none.
    """
    configuration = client.Configuration()
    inside = "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG")
    if kubeconfig is None and context is None and inside:
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
    return configuration


LoginMissing = ConfigException


async def login(kubeconfig: str | None, context: str | None) -> Login:
    """The same login for another client (kopf's)."""
    configuration = await load(kubeconfig, context)
    authorization = (await configuration.auth_settings()).get("BearerToken", {}).get("value")
    return Login(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=str(authorization).split(" ", 1)[-1] if authorization else None,
    )


class ApiServer:
    """One connection pool. `writes` counts requests that change something, by (verb, resource)."""

    def __init__(self, kubeconfig: str | None = None, context: str | None = None) -> None:
        self.source = (kubeconfig, context)
        self._client: client.ApiClient | None = None
        self._connecting = asyncio.Lock()
        self.writes: Counter[tuple[str, str]] = Counter()
        self.reads = 0

    async def close(self) -> None:
        if self._client is not None:
            api, self._client = self._client, None
            await api.close()

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        seconds: float | None = None,
    ) -> Any:
        """The parsed JSON answer. Raises ApiError (Missing, Conflict, Invalid, ...) and Unanswered."""
        write = method != "GET"
        if write:
            self.writes[method.lower(), _resource(path)] += 1
        else:
            self.reads += 1
        limit = aiohttp.ClientTimeout(total=seconds or (WRITE_SECONDS if write else READ_SECONDS))
        target = f"{path}?{urlencode(query)}" if query else path
        status, data = await self._send(method, target, body, content_type, limit)
        if status == 401:  # a token that ended was not acted upon: log in anew and repeat, once
            await self.close()
            status, data = await self._send(method, target, body, content_type, limit)
        if status >= 400:
            raise _ERRORS.get(status, ApiError)(method, path, status, _message(data))
        return json.loads(data) if data else None

    async def _send(
        self, method: str, target: str, body: object, content_type: str, limit: aiohttp.ClientTimeout
    ) -> tuple[int, bytes]:
        async with self._connecting:
            if self._client is None:
                self._client = client.ApiClient(await load(*self.source))
            api = self._client
        headers = {"Accept": "application/json", "Content-Type": content_type}
        _, url, headers, sent, _ = await api.param_serialize(
            method, target, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = await api.rest_client.request(method, url, headers=headers, body=sent, _request_timeout=limit)
            return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unanswered(f"{method} {target}: {error or type(error).__name__}") from error

    async def get(self, key: ObjectKey) -> dict[str, Any]:
        """The object as the API server has it now (a consistent read)."""
        found: dict[str, Any] = await self.request("GET", object_path(key))
        return found

    async def pages(self, kind: str) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
        """All objects of the kind in all namespaces, in pages, each with the resourceVersion of the whole list.

        Raises ApiError 410 when the list expired before its last page.
        """
        path, version, proceed = KINDS[kind].path(), "", ""
        while True:
            query = {"limit": str(PAGE), **({"continue": proceed} if proceed else {})}
            page = await self.request("GET", path, query=query)
            version = version or page["metadata"]["resourceVersion"]
            yield version, page["items"]
            proceed = page["metadata"].get("continue", "")
            if not proceed:
                return


def _resource(path: str) -> str:
    """ "/apis/g/v/namespaces/n/xenvms/shaolin/status" -> "xenvms/status"."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    return "/".join([parts[0], *parts[2:]])


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace")[:500]
