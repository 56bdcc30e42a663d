"""Not looking around while a guest stands still: each look is processes on the processors that its hand-over needs."""

from __future__ import annotations

import contextlib

from agent.core import within
from agent.host import Host
from agent.signals import Signal

LIMIT_SECONDS = 15.0
REST = 19.0  # times what the last look took ...
LONGEST_REST = 15.0  # ... but not more


class Quiet:
    """From `begin` to `end` of an operation, at the longest LIMIT_SECONDS, whoever looks by himself waits in `over`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._until: dict[str, float] = {}
        self._ended = Signal()

    def begin(self, operation_id: str) -> None:
        """May be called again: the first one counts."""
        self._until.setdefault(operation_id, self._host.monotonic() + LIMIT_SECONDS)

    def end(self, operation_id: str) -> None:
        if self._until.pop(operation_id, None) is not None:
            self._ended.notify()

    async def over(self) -> None:
        while (left := max(self._until.values(), default=0.0) - self._host.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await within(self._host, left, self._ended.wait())


def rest(took: float) -> float:
    """Seconds until the next look, after one that took so long: a slow host is not kept busy by being looked at."""
    return min(REST * took, LONGEST_REST)
