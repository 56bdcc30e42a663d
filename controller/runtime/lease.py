"""Leader election on a coordination.k8s.io/v1 Lease; its `leaseTransitions` is the term that every agent checks.

A leader is one only while less than `renew_deadline` has passed on its own monotonic clock since it *sent* its last
successful renewal; another may take the lease only after it has seen it unchanged for `duration` on *its* clock. Clocks
of different machines are never compared. Should both hold nevertheless (a machine that was suspended), the term
decides: agents refuse the lower one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from controller.runtime.api_server import ApiError, ApiServer, Conflict, Missing, Unanswered

log = structlog.get_logger(__name__)

LEASE = "xentandem-controller"


class LeadershipLost(Exception):
    """This process is the leader no more; it must act no more, and exit."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. renew_deadline < duration, so that a leader stops before another may begin."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.renew_deadline < self.duration:
            raise ValueError("wanted: retry < renew deadline < lease duration")

    @property
    def request(self) -> float:
        return self.renew_deadline / 2


def unique_identity() -> str:
    """Never the same for two processes, also not for one that was restarted."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:12]}"


class Elector:
    """One candidate. `run` waits for the lease and keeps it; `leading` says whether it may act right now."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        identity: str | None = None,
        *,
        timing: Timing | None = None,
        name: str = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.identity = identity or unique_identity()
        self.term = 0
        self._api, self._clock, self._timing = api, clock, timing or Timing()
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path, self._name = f"{self._collection}/{name}", name
        self._lease: dict[str, Any] | None = None  # ours, as last written
        self._valid_until = float("-inf")
        self._lost = False
        self._changing = asyncio.Lock()

    @property
    def leading(self) -> bool:
        """Whether this process holds the lease by its own clock now."""
        return not self._lost and self._clock() < self._valid_until

    @property
    def age(self) -> float | None:
        """Seconds since the last successful renewal was sent; None while not leading."""
        return self._clock() - (self._valid_until - self._timing.renew_deadline) if self.leading else None

    async def acquire(self, *, seize: bool = False) -> int:
        """Wait until the lease is ours; returns the term. `seize`: don't wait for another holder's to run out."""
        seen: tuple[str, float] | None = None  # (resourceVersion, when it was first seen)
        waiting = ""
        while True:
            try:
                found = await self._read()
                if found is None:
                    if await self._take(None):
                        return self.term
                else:
                    holder = found["spec"].get("holderIdentity") or ""
                    version = found["metadata"]["resourceVersion"]
                    if seen is None or seen[0] != version:
                        seen = (version, self._clock())
                    duration = float(found["spec"].get("leaseDurationSeconds") or self._timing.duration)
                    expired = self._clock() - seen[1] >= duration
                    if (seize or expired or holder in ("", self.identity)) and await self._take(found):
                        return self.term
                    if holder != waiting:
                        waiting = holder
                        log.info("waiting for leadership", holder=holder)
            except (ApiError, Unanswered) as error:
                log.warning("leader election: no answer", error=str(error))
            await asyncio.sleep(self._timing.retry * (0.5 + random.random() / 2))  # noqa: S311 - spreads the candidates

    async def keep(self) -> None:
        """Renew until it fails for longer than the renew deadline. Raises LeadershipLost, and never returns."""
        while True:
            await asyncio.sleep(self._timing.retry)
            try:
                async with self._changing:
                    await self._renew({})
            except Conflict:
                await self._check()
            except (ApiError, Unanswered) as error:
                log.warning("lease was not renewed", error=str(error))
            if not self.leading:
                self._lost = True
                raise LeadershipLost(f"{self.identity} could not renew its lease")

    async def raise_term(self, above: int) -> bool:
        """Go to a term above the one that an agent has promised (the Lease was deleted, or restored from a copy).

        Only the holder of the lease can: False when it is not us any more.
        """
        async with self._changing:
            if not self.leading:
                return False
            if self.term > above:
                return True
            try:
                await self._renew({"leaseTransitions": above + 1})
            except Conflict:
                with contextlib.suppress(LeadershipLost):  # `keep` ends the process for it
                    await self._check()
                return False
            except (ApiError, Unanswered) as error:
                log.warning("term was not raised", error=str(error))
                return False
            log.warning("an agent knew a higher term: raised", promised=above, term=self.term)
            return True

    async def release(self) -> None:
        """Give the lease up, so that another need not wait. Act no more before calling it."""
        was, self._lost = self.leading, True
        if was:
            try:
                await self._put({"holderIdentity": ""}, self._lease)
            except (ApiError, Unanswered) as error:
                log.info("lease was not released", error=str(error))

    def abandon(self) -> None:
        """Act no more, and leave the lease to run out."""
        self._lost = True

    # --- inside

    async def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._api.request("GET", self._path, seconds=self._timing.request)
        except Missing:
            return None
        return found

    async def _take(self, found: dict[str, Any] | None) -> bool:
        term = int((found or {"spec": {}})["spec"].get("leaseTransitions") or 0) + 1
        sent = self._clock()
        try:
            await self._put({"leaseTransitions": term, "acquireTime": _now()}, found)
        except Conflict:
            return False
        self._held(sent)
        log.info("leading", identity=self.identity, term=self.term)
        return True

    async def _renew(self, changes: dict[str, Any]) -> None:
        sent = self._clock()
        await self._put(changes, self._lease)
        self._held(sent)

    async def _check(self) -> None:
        """A renewal met another version: our own whose answer was lost, or another's."""
        sent = self._clock()
        try:
            found = await self._read()
        except (ApiError, Unanswered):
            return
        spec = found["spec"] if found else {}
        if spec.get("holderIdentity") != self.identity:
            self._lost = True
            raise LeadershipLost(f"{spec.get('holderIdentity') or 'nobody'} holds the lease of {self.identity}")
        self._lease = found
        self._held(sent)

    async def _put(self, changes: dict[str, Any], base: dict[str, Any] | None) -> None:
        """Create the Lease, or replace exactly the version that `base` is. Raises Conflict when it is another."""
        meta = base["metadata"] if base else {"name": self._name}
        spec = {
            **(base["spec"] if base else {}),
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "renewTime": _now(),
            **changes,
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        method, path = ("PUT", self._path) if base else ("POST", self._collection)
        self._lease = await self._api.request(method, path, body, seconds=self._timing.request)

    def _held(self, sent: float) -> None:
        assert self._lease is not None
        self.term = int(self._lease["spec"]["leaseTransitions"])
        self._valid_until = sent + self._timing.renew_deadline


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
