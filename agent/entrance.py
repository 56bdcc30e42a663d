"""Who gets as far as the API's HTTP: so many handshakes, so many connections, and none that waits for ever.

Whoever reaches the port can open connections, and only the end of the handshake says who somebody is. Each of them is
a file of this process, which needs files for its journal and its commands: nobody may use them up, and nobody may take
the controller's place by holding many open.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial

from aiohttp import web

from agent.accepting import Accepting, close_unserved
from agent.core import Context
from agent.migration.listeners import bind, to_drop
from agent.tls import is_controller

HANDSHAKES = 64  # at once; with one more, whoever has most of them loses the oldest
HANDSHAKE_SECONDS = 10.0
CONNECTIONS = 256  # of controllers; one has 33 at most
STRANGERS = 16  # with a certificate of our CA that is not the controller's
STRANGER_SECONDS = 5.0  # enough to be told so
IDLE_SECONDS = 75.0  # without a whole request


class Entrance:
    """Listens on `address`, `port` (0: any; then see `port`), and gives `server` what came through the handshake."""

    def __init__(self, context: Context, server: web.Server, address: str, port: int) -> None:
        """Raises OSError when the address cannot be bound."""
        self._context, self._server = context, server
        self._tls = context.credentials.listener()
        self._arriving: dict[asyncio.Task[None], str] = {}  # the oldest first; by address
        self._strangers: list[asyncio.Transport] = []
        self._accepting = Accepting(bind(address, port), self._take, self._trouble)

    @property
    def port(self) -> int:
        return int(self._accepting.listener.getsockname()[1])

    def close(self) -> None:
        """No new connection; whoever is in the handshake is dropped."""
        self._accepting.close()
        for arriving in list(self._arriving):
            arriving.cancel()

    def _take(self, sock: socket.socket, address: tuple[str, int]) -> None:
        if len(self._arriving) >= HANDSHAKES:
            dropped = to_drop(self._arriving)
            self._arrived(dropped)
            dropped.cancel()
        arriving = self._context.tasks.spawn(self._admit(sock), name=f"server: {address[0]}")
        self._arriving[arriving] = str(address[0])
        arriving.add_done_callback(self._arrived)
        arriving.add_done_callback(partial(close_unserved, sock))

    def _trouble(self, error: OSError) -> None:
        """The other side left already, or this process has too many files open."""
        self._context.log().warning("API cannot accept", problem=str(error))

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._arriving.pop(task, None)

    async def _admit(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                self._server, sock, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except (OSError, ssl.SSLError) as error:
            self._context.log().debug("handshake failed", problem=str(error) or type(error).__name__)
            sock.close()
            return
        self._strangers = [one for one in self._strangers if not one.is_closing()]
        if not is_controller(transport.get_extra_info("peercert")):
            if len(self._strangers) >= STRANGERS:
                transport.abort()
                return
            self._strangers.append(transport)
            loop.call_later(STRANGER_SECONDS, transport.abort)
        elif len(self._server.connections) - len(self._strangers) > CONNECTIONS:
            transport.abort()
