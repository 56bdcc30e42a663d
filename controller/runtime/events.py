"""Kubernetes Events about our objects: best effort, never waited for.

The same event again within its window only raises `count` and the time it was last seen, at most once in a while; an
object that makes too many different ones is cut short, as client-go's correlator does. What cannot be posted is
dropped, and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog

from controller.api.common import API_VERSION, ApiObject
from controller.runtime.api_server import ApiError, ApiServer, Unanswered

log = structlog.get_logger(__name__)

COMPONENT = "xentandem-controller"
WINDOW = 600.0  # the same event within this time is a repetition
REFRESH = 60.0  # a repetition is written at most this often
BURST, REFILL = 25.0, 1.0 / 120.0  # different events of one object: at once, and per second after that
QUEUE = 2_000
REMEMBERED = 4_096
MESSAGE = 1_000  # the API server's limit is 1,024 bytes


@dataclass(frozen=True, slots=True)
class _About:
    kind: str
    namespace: str
    name: str
    uid: str


_Identity = tuple[_About, str, str, str]  # about, type, reason, message


@dataclass(slots=True)
class _Posted:
    name: str
    count: int
    first: str
    last: str
    seen: float
    written: float
    created: bool = False
    waits: bool = False  # repeated since it was written: written again when its time has come


class Recorder:
    """Posts Events in a task of its own (`run`). `record` returns at once."""

    def __init__(self, api: ApiServer, instance: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._instance, self._clock = api, instance, clock
        self._queue: asyncio.Queue[_Identity] = asyncio.Queue(QUEUE)
        self._posted: OrderedDict[_Identity, _Posted] = OrderedDict()
        self._budget: OrderedDict[str, tuple[float, float]] = OrderedDict()  # uid: tokens, at
        self.dropped = 0

    def record(self, about: ApiObject, type_: str, reason: str, message: str) -> None:
        """An event about the object; `type_` is Normal or Warning."""
        meta = about.metadata
        target = _About(about.kind, meta.namespace, meta.name, meta.uid)
        text = message if len(message) <= MESSAGE else message[: MESSAGE - 1] + "…"
        identity = (target, type_, reason, text)
        now = self._clock()
        known = self._posted.get(identity)
        if known and now - known.seen < WINDOW:
            known.count, known.seen, known.last = known.count + 1, now, _now()
            if now - known.written < REFRESH:
                if not known.waits:
                    known.waits = True
                    asyncio.get_running_loop().call_later(known.written + REFRESH - now, self._put_late, identity)
                return
        else:
            if not self._affordable(meta.uid, now):
                self.dropped += 1
                return
            known = _Posted(f"{meta.name[:200]}.{uuid4().hex[:16]}", 1, _now(), _now(), now, float("-inf"))
            self._posted[identity] = known
        self._posted.move_to_end(identity)
        while len(self._posted) > REMEMBERED:
            self._posted.popitem(last=False)
        self._put(identity)

    def _put_late(self, identity: _Identity) -> None:
        if (known := self._posted.get(identity)) is not None and known.waits:
            self._put(identity)

    def _put(self, identity: _Identity) -> None:
        known = self._posted[identity]
        known.written, known.waits = self._clock(), False
        try:
            self._queue.put_nowait(identity)
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Post what was recorded, until cancelled."""
        while True:
            await self._post(await self._queue.get())
            self._queue.task_done()

    async def flush(self, seconds: float) -> None:
        """Give what is recorded that time to be posted."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            log.info("events were not posted", count=self._queue.qsize())

    async def _post(self, identity: _Identity) -> None:
        known = self._posted.get(identity)
        if known is None:
            return
        target, type_, reason, message = identity
        namespace = target.namespace or "default"  # where Events of cluster-scoped objects go
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            if known.created:
                change: dict[str, Any] = {"count": known.count, "lastTimestamp": known.last}
                path, kind = f"{path}/{known.name}", "application/strategic-merge-patch+json"
                await self._api.request("PATCH", path, change, content_type=kind)
                return
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": known.name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": API_VERSION,
                    "kind": target.kind,
                    "name": target.name,
                    "uid": target.uid,
                    **({"namespace": target.namespace} if target.namespace else {}),
                },
                "type": type_,
                "reason": reason,
                "message": message,
                "count": known.count,
                "firstTimestamp": known.first,
                "lastTimestamp": known.last,
                "source": {"component": COMPONENT},
                "reportingComponent": COMPONENT,
                "reportingInstance": self._instance,
            }
            await self._api.request("POST", path, body)
            known.created = True
        except (ApiError, Unanswered) as error:
            # In a namespace that is being deleted, or without permission: the object's conditions say it all anyway.
            self.dropped += 1
            self._posted.pop(identity, None)
            log.info("event was not posted", object=f"{target.kind}/{target.name}", reason=reason, error=str(error))

    def _affordable(self, uid: str, now: float) -> bool:
        tokens, at = self._budget.pop(uid, (BURST, now))
        tokens = min(BURST, tokens + (now - at) * REFILL)
        allowed = tokens >= 1.0
        self._budget[uid] = (tokens - 1.0 if allowed else tokens, now)
        while len(self._budget) > REMEMBERED:
            self._budget.popitem(last=False)
        return allowed


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
