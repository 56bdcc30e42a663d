"""Questions to other agents' relocation endpoints, on connections that can be dialled before there is one to ask."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from agent.core import Context, within
from agent.tls import peer_node

LINE_LIMIT = 4096
TELL_SECONDS = 300.0
LIMIT_SECONDS = 10.0  # each for the handshake and the answer; the other side waits as long for the question


@dataclass(frozen=True, slots=True)
class Peer:
    """An agent and where it listens."""

    node: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class _Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.writer.write(json.dumps({"version": 1, **question}).encode() + b"\n")
        await self.writer.drain()
        answer = json.loads(await self.reader.readline())
        if not isinstance(answer, dict):
            raise ValueError("not an answer")
        return answer

    def close(self) -> None:
        self.writer.transport.abort()


class Lines:
    """One connection an operation at most, each for one question."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dialled: dict[str, asyncio.Future[_Line]] = {}

    def dial(self, operation_id: str, peer: Peer) -> None:
        """Begin with the handshake. What goes wrong is told by `ask`."""
        if operation_id not in self._dialled:
            self._dialled[operation_id] = asyncio.ensure_future(self._connect(peer))

    async def ask(self, operation_id: str, peer: Peer, question: dict[str, Any]) -> dict[str, Any]:
        """Its answer. Raises OSError, ValueError, TimeoutError; then ask again, on a connection of its own."""
        self.dial(operation_id, peer)
        try:
            line = await self._dialled[operation_id]
            return await within(self._context.host, LIMIT_SECONDS, line.ask(question))
        finally:
            self.hang_up(operation_id)

    async def tell(self, operation_id: str, peer: Peer, what: dict[str, Any]) -> None:
        """Ask until there is an answer, of whatever kind, or TELL_SECONDS are over. Raises nothing."""
        log, end, pause = self._context.log(operation=operation_id), self._context.host.monotonic() + TELL_SECONDS, 0.05
        while True:
            try:
                answer = await self.ask(operation_id, peer, what)
                if not answer.get("accepted"):
                    log.warning("not taken", told=what["kind"], by=peer.node, answer=answer)
                return
            except (OSError, ValueError, TimeoutError) as error:
                if self._context.host.monotonic() > end:
                    log.error("not told", what=what["kind"], to=peer.node, problem=str(error) or type(error).__name__)
                    return
            await self._context.host.sleep(pause)
            pause = min(1.0, pause * 2)

    def hang_up(self, operation_id: str) -> None:
        """Close it, asked or not."""
        if (dialled := self._dialled.pop(operation_id, None)) is not None:
            dialled.add_done_callback(_close)
            dialled.cancel()

    async def _connect(self, peer: Peer) -> _Line:
        tls = self._context.credentials.client
        opening = asyncio.open_connection(peer.address, peer.port, ssl=tls, limit=LINE_LIMIT)
        line = _Line(*await within(self._context.host, LIMIT_SECONDS, opening))
        if (who := peer_node(line.writer.get_extra_info("peercert"))) != peer.node:
            line.close()
            raise ConnectionError(f"{peer.address}:{peer.port} is {who or 'no agent'}, expected {peer.node}")
        return line


def _close(dialled: asyncio.Future[_Line]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result().close()
