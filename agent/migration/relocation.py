"""The relocation endpoint: mutual TLS 1.3, one line of JSON that says what for, and nothing that was not expected.

    {"version": 1, "kind": "stream", "operation": ID, "zeros": true}\\n -> the memory stream of that migration follows
    {"version": 1, "kind": "released", "operation": ID, "epoch": N, "alone": [...]}\\n
                                                      -> the source gave the VM away for epoch N
    answer: {"accepted": true}\\n or {"accepted": false, "reason": ..., "message": ...}\\n

A source that says "zeros", and hears it in the answer, sends the stream in frames: see zeros.py.

Who asks is the node in the certificate's URI `xentandem:agent:<node>`, and it must be the operation's source.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

from agent.core import Context, Refused, within
from agent.migration.lines import LINE_LIMIT, Lines
from agent.migration.listeners import Listeners, Place, to_drop
from agent.migration.relay_line import tune
from agent.migration.source import Send
from agent.migration.target import Receive
from agent.migration.tls_stream import TlsStream
from agent.migration.transfer import Connection
from agent.tls import peer_node

FIRST_LINE_SECONDS = 10.0
CONNECTIONS = 64  # that have not said yet what they are for, at once; with one more, `to_drop` says who goes


@dataclass(slots=True)
class Expected:
    """One stream that an operation waits for."""

    source: str
    connected: asyncio.Future[Connection]


class Relocation:
    """`agent.core.RelocationService`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._limit = context.stream_limit
        self.listeners = Listeners(context, self._take)
        self.lines = Lines(context)
        self._expected: dict[str, Expected] = {}
        self._streams: set[TlsStream] = set()
        self._waiting: dict[TlsStream, str] = {}  # those of them that have not said what they are for; by address
        self._receive = Receive(context, self)
        context.operations.register("migrate-receive", self._receive)
        context.operations.register("migrate-send", Send(context, self))

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.apply()

    async def apply(self) -> None:
        """Listen where the host's desired state says; what cannot be bound now is tried again."""
        desired = self._context.observer.state.desired
        wanted: Place | None = self._context.relocation
        if desired is not None:
            address = desired.relocation_address or self._context.relocation[0]
            wanted = (address, desired.relocation_port) if desired.relocation_enabled else None
        self.listeners.move(wanted)

    @property
    def port(self) -> int:
        return self.listeners.port

    async def stop(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.listeners.close()
        for stream in list(self._streams):
            stream.abort()

    # --- for the target's side ----------------------------------------------------------------------------------

    def expect(self, operation: str, source: str) -> asyncio.Future[Connection]:
        """From now on one stream for that operation is taken, from that node's certificate only."""
        future: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._expected[operation] = Expected(source, future)
        return future

    def expect_no_more(self, operation: str) -> None:
        self._expected.pop(operation, None)

    # --- serving ------------------------------------------------------------------------------------------------

    def _take(self, sock: socket.socket, address: tuple[str, int]) -> None:
        if len(self._waiting) >= CONNECTIONS:
            dropped = to_drop(self._waiting)
            del self._waiting[dropped]
            dropped.abort()
        stream = TlsStream(sock, self._context.credentials.server, server_side=True)
        self._streams.add(stream)
        self._waiting[stream] = str(address[0])
        self._context.tasks.spawn(self._serve(stream, str(address[0])), name=f"relocation: {address[0]}")

    async def _serve(self, stream: TlsStream, address: str) -> None:
        log, node = self._context.log(peer=address), ""
        try:
            await within(self._context.host, FIRST_LINE_SECONDS, stream.handshake())
            node = peer_node(stream.certificate) or ""
            line = await within(self._context.host, FIRST_LINE_SECONDS, stream.read_line(LINE_LIMIT))
            if (connection := await self._answer(node, _parse(line), stream)) is not None:
                self._waiting.pop(stream, None)
                await connection.ended.wait()
        except (Refused, ValueError) as error:
            refusal = error.refusal if isinstance(error, Refused) else Refused("NotUnderstood", str(error)).refusal
            log.warning("relocation refused", peer_node=node, reason=refusal.reason, problem=refusal.message)
            await _say(stream, {"accepted": False, "reason": refusal.reason, "message": refusal.message})
        except (OSError, TimeoutError) as error:
            log.warning("relocation connection ended early", peer_node=node, problem=str(error) or type(error).__name__)
        finally:
            self._streams.discard(stream)
            self._waiting.pop(stream, None)
            stream.close()

    async def _answer(self, node: str, question: dict[str, Any], stream: TlsStream) -> Connection | None:
        """Raises Refused. Returns the stream's connection, which the operation answers and uses from here on."""
        kind, operation = question.get("kind"), question.get("operation")
        if kind == "released" and isinstance(operation, str) and isinstance(epoch := question.get("epoch"), int):
            self._receive.released(operation, node, epoch, _names(question.get("alone")))
            await _say(stream, {"accepted": True})
            return None
        if kind != "stream" or not isinstance(operation, str):
            raise Refused("NotUnderstood", f"{self._context.node} does not know what {kind!r} is")
        expected = self._expected.get(operation)
        if expected is None:
            raise Refused("NotExpected", f"{self._context.node} expects no stream for operation {operation} now")
        if expected.source != node:
            raise Refused("WrongSource", f"operation {operation} comes from {expected.source}, this is {node}")
        if expected.connected.done():
            raise Refused("AlreadyConnected", f"operation {operation} has its stream already")
        tune(stream.socket, self._limit)
        connection = Connection(stream, zeros=question.get("zeros") is True)
        expected.connected.set_result(connection)
        return connection


def _parse(line: bytes) -> dict[str, Any]:
    try:
        question = json.loads(line) if len(line) <= LINE_LIMIT else None
    except (ValueError, RecursionError):
        question = None
    if not isinstance(question, dict) or question.get("version") != 1:
        raise Refused("NotUnderstood", "the first line is not one of this protocol's version 1")
    return question


def _names(value: object) -> list[str] | None:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    return None


async def _say(stream: TlsStream, answer: dict[str, Any]) -> None:
    await stream.write(json.dumps(answer).encode() + b"\n")
