"""Taking connections from a listening socket, so that none is ever between two hands.

`loop.sock_accept` in a task can lose one: taken from the kernel, and the task ended before it saw it. Nobody closes
such a connection, and whoever is at its other end waits for an answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

REST_SECONDS = 0.1  # after an error of accept(2): this process has too many files open, as a rule


class Accepting:
    """Until `close`, `take` gets each connection (not blocking) and its peer's address, in the loop's callback.

    `trouble` gets what accept(2) said instead; it goes on after REST_SECONDS. `close` closes the listening socket.
    """

    def __init__(
        self,
        listener: socket.socket,
        take: Callable[[socket.socket, Any], None],
        trouble: Callable[[OSError], None],
    ) -> None:
        listener.setblocking(False)
        self.listener = listener
        self._take, self._trouble = take, trouble
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """No new connection. Repeated, it does nothing."""
        if self._again is not None:
            self._again.cancel()
        if self.listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.listener)
        self.listener.close()

    def _listen(self) -> None:
        self._again = None
        asyncio.get_running_loop().add_reader(self.listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, address = self.listener.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.listener)
            self._again = loop.call_later(REST_SECONDS, self._listen)
            self._trouble(error)
            return
        connection.setblocking(False)
        self._take(connection, address)


def close_unserved(connection: socket.socket, serving: asyncio.Task[None]) -> None:
    """As a task's done callback (partial): one that was cancelled before it began has closed nothing."""
    if serving.cancelled():
        connection.close()
