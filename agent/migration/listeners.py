"""The sockets of the relocation endpoint: where the host's desired state says, and where moves that run were told.

A source knows its target's address and port from the beginning of a move, and may have to say there at its very end
that it let go: that place stays open until the move has ended, whatever the XenNode says meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.accepting import Accepting
from agent.core import Context
from agent.facts import put_facts

Place = tuple[str, int]
"""Address ("" is every one) and port (0: one that the kernel chooses)."""
BIND_AGAIN_SECONDS = 2.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Listener:
    place: Place
    accepting: Accepting

    @property
    def port(self) -> int:
        return int(self.accepting.listener.getsockname()[1])

    def serves(self, place: Place) -> bool:
        return place == self.place or (place[1] == self.port and self.place[0] in ("", place[0]))


class Listeners:
    """`take` gets each connection and its peer's address."""

    def __init__(self, context: Context, take: Callable[[socket.socket, Any], None]) -> None:
        self._context, self._take = context, take
        self._current: Place | None = None
        self._told: dict[str, Place] = {}  # by operation
        self._open: list[_Listener] = []
        self._again: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def port(self) -> int:
        """Of the place where the host's desired state wants it; 0 when nobody listens there."""
        return next((one.port for one in self._open if self._current and one.serves(self._current)), 0)

    @property
    def place(self) -> Place | None:
        """What a source that comes now is told."""
        return None if self._current is None else (self._current[0], self.port or self._current[1])

    def move(self, place: Place | None) -> None:
        """Listen there from now on; None: nowhere."""
        self._current = place
        self._arrange()

    @contextlib.contextmanager
    def keep(self, operation: str, place: Sequence[Any] | None) -> Iterator[None]:
        """Listen there, too, while that operation runs."""
        if place is not None:
            self._told[operation] = (str(place[0]), int(place[1]))
            self._arrange()
        try:
            yield
        finally:
            self._told.pop(operation, None)
            self._arrange()

    def close(self) -> None:
        self._closed = True
        self._arrange()

    def _arrange(self) -> None:
        """Close what nobody wants any more, open what is missing, and show at once how it stands."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        current = None if self._closed else self._current
        told = [] if self._closed else [*self._told.values()]
        for one in list(self._open):
            if one.place != current and not any(one.serves(place) for place in told):
                self._close(one)
        wanted = dict.fromkeys([*([current] if current else []), *told])
        missing = [place for place in wanted if not self._listen(place)]
        if missing:
            self._again = self._context.tasks.spawn(self._later(), name="relocation: listen again")
        if not self._closed:
            put_facts(self._context, relocation_listening=self.port != 0)

    def _listen(self, place: Place) -> bool:
        if any(one.serves(place) for one in self._open):
            return True
        log = self._context.log(address=place[0], port=place[1])
        try:
            listener = bind(*place)
        except OSError as error:
            log.error("relocation cannot listen", problem=str(error))
            return False
        self._open.append(_Listener(place, Accepting(listener, self._take, self._trouble)))
        log.info("relocation listens", bound=self._open[-1].port)
        return True

    async def _later(self) -> None:
        await self._context.host.sleep(BIND_AGAIN_SECONDS)
        self._again = None
        self._arrange()

    def _trouble(self, error: OSError) -> None:
        """The other side left already, or this process has too many files open."""
        self._context.log().warning("relocation cannot accept", problem=str(error))

    def _close(self, one: _Listener) -> None:
        self._open.remove(one)
        one.accepting.close()
        self._context.log(address=one.place[0], port=one.place[1]).info("relocation listens no more")


def bind(address: str, port: int) -> socket.socket:
    """A listening socket; "" is every address of both families. Raises OSError."""
    if not address and socket.has_dualstack_ipv6():
        listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
    return listener


def to_drop(waiting: Mapping[T, str]) -> T:
    """Which of those who wait (the oldest first, each with its address) makes room for one more.

    The oldest of the address that has most of them: whoever holds many open keeps nobody else out.
    """
    crowded = Counter(waiting.values()).most_common(1)[0][0]
    return next(one for one, address in waiting.items() if address == crowded)
