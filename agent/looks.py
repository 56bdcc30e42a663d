"""What a host's tools said just now, for a decision that rests on all of them.

Looking costs processes, and a move looks three times within moments: the preflight, then each side's check. A look that
could be read holds for a moment, unless one of the pushes (xenstore, DRBD's events) told of something new since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from agent.core import Context
from agent.domain_view import identities
from agent.drivers.errors import DriverError
from agent.host import CommandTimedOut
from agent.protocol import DomainState, HostFacts

if TYPE_CHECKING:
    from agent.drivers.drbd_parse import DrbdResource

T = TypeVar("T")
HOLDS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """None: it could not be read."""

    domains: Sequence[DomainState] | None
    drbd: Mapping[str, DrbdResource] | None
    facts: HostFacts | None


class Looks:
    """The host's newest look."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._newest: Look | None = None
        self._begun = 0.0

    async def now(self) -> Look:
        """Read everything, side by side."""
        observer, begun = self._context.observer, self._context.host.monotonic()
        domains, drbd, facts = await asyncio.gather(
            _readable(observer.read_domains()),
            _readable(observer.read_drbd()),
            _readable(self._context.xen.host_facts()),
        )
        self._newest, self._begun = Look(domains, drbd, facts), begun
        return self._newest

    async def recent(self, resources: Iterable[str]) -> Look:
        """The newest one while it holds for these resources, else a new one."""
        if self._newest is not None and self._holds(self._newest, resources):
            return self._newest
        return await self.now()

    def _holds(self, look: Look, resources: Iterable[str]) -> bool:
        if self._context.host.monotonic() - self._begun >= HOLDS_SECONDS:
            return False
        if look.domains is None or look.drbd is None or look.facts is None or look.facts.xen_version is None:
            return False
        observer = self._context.observer
        same = identities(look.domains) == identities(observer.state.domains.values())
        return same and all(observer.seen(one) == look.drbd.get(one) for one in resources)


async def _readable(reading: Awaitable[T]) -> T | None:
    try:
        return await reading
    except (DriverError, CommandTimedOut):
        return None
