"""Fence agents at work: one run for each host at a time, aside from all decisions, its result told to the next one.

Nothing here is remembered beyond this process. What must be is in the XenNode's status before a run begins; a run that
nobody waits for any more has only done again what was decided.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import structlog

from controller.api.xennode import XenNode
from controller.domain.power import PowerCommand, PowerOff, PowerOn, PowerResult
from controller.power.fence_agent import BadInput, FenceAgents
from controller.reconcile.lanes import Deposed
from controller.runtime.api_server import ApiError, ApiServer, Missing, Unanswered
from controller.runtime.queue import ObjectKey, WorkQueue

log = structlog.get_logger(__name__)

Perform = Callable[[ObjectKey, PowerCommand], Awaitable[PowerResult]]
KEPT = 4
"""Results for each host: of the test, and of the last attempts."""


class Fencer:
    """Carries a command out: reads what must still be true and the Secret, and runs the fence agent."""

    def __init__(
        self, api: ApiServer, directory: Path, namespace: str, *, now: Callable[[], float] = time.time
    ) -> None:
        self._api, self._agents, self._namespace, self._now = api, FenceAgents(directory, now), namespace, now

    async def perform(self, command: PowerCommand) -> PowerResult:
        """Never raises for what is wrong with the device or with what is configured: the result says it."""
        began = self._now()
        try:
            secret = await self._secret(command.device.secret)
            if isinstance(command, PowerOff | PowerOn):
                off = isinstance(command, PowerOff)
                no = await (self._overtaken(command) if isinstance(command, PowerOff) else self._stays_off(command))
                if no:
                    return PowerResult("failed", began, self._now(), "Overtaken", no)
                return await (self._agents.off if off else self._agents.on)(command.device, secret)
            return await self._agents.status(command.device, secret)
        except BadInput as error:
            return PowerResult("failed", began, self._now(), error.reason, str(error))
        except (ApiError, Unanswered) as error:
            return PowerResult(
                "failed", began, self._now(), "ApiServer", f"the API server did not answer well: {error}"
            )

    async def _overtaken(self, command: PowerOff) -> str:
        """What has become of the request since it was written: read from the API server, not from the cache.

        Two controllers that both believe to lead may each have begun to fence one host of a pair. Each has written its
        request before it reads the other's here, so that at least one of them sees both, and lets it be.
        """
        now = await self._node(command.host)
        request = now.status.fencing if now else None
        if (
            now is None
            or request is None
            or (request.operation, request.attempt) != (command.operation, command.attempt)
        ):
            return "the request is not there any more"
        if now.spec.out_of_service or now.spec.maintenance or now.deleting:
            return "a person has taken the host out"
        for name in command.partners:
            other = await self._node(name)
            if other is not None and (other.status.fencing is not None or other.status.fenced is not None):
                return f"{name}, which holds the other replica of its volumes, is being fenced: never both"
        return ""

    async def _stays_off(self, command: PowerOn) -> str:
        """What has become of the request to switch it on, read from the API server."""
        now = await self._node(command.host)
        fenced = now.status.fenced if now else None
        asked = (fenced.operation, fenced.power_on.attempt) if fenced and fenced.power_on else None
        if now is None or asked != (command.operation, command.attempt):
            return "the request is not there any more"
        if now.spec.fencing is None or now.spec.fencing.power_on != "AfterFencing":
            return "spec.fencing.powerOn is not AfterFencing any more"
        return "a person has taken the host out" if now.spec.out_of_service or now.deleting else ""

    async def _node(self, name: str) -> XenNode | None:
        try:
            return XenNode.from_object(await self._api.get(("XenNode", "", name)))
        except Missing:
            return None

    async def _secret(self, name: str | None) -> Mapping[str, str]:
        """The Secret's keys and values. Raises BadInput, and what ApiServer.request raises."""
        if name is None:
            return {}
        where = f"Secret {name} in namespace {self._namespace}"
        try:
            path = f"/api/v1/namespaces/{quote(self._namespace, safe='')}/secrets/{quote(name, safe='')}"
            found = await self._api.request("GET", path)
        except Missing:
            raise BadInput(
                "SecretMissing", f"there is no {where}; make it, or correct spec.fencing.secretRef"
            ) from None
        except ApiError as error:
            if error.status == 403:
                raise BadInput("SecretForbidden", f"the controller may not read {where}: see manifests/base") from None
            raise
        try:
            coded = found.get("data") or {}
            return {key: base64.b64decode(value, validate=True).decode() for key, value in coded.items()}
        except (binascii.Error, UnicodeDecodeError):
            raise BadInput("BadSecret", f"{where}: a value is not text in UTF-8") from None


@dataclass(slots=True)
class _Host:
    task: asyncio.Task[None] | None = None
    results: dict[PowerCommand, PowerResult] = field(default_factory=dict)


class Power:
    """What runs, and what came of it, by host."""

    def __init__(self, queue: WorkQueue, perform: Perform, *, now: Callable[[], float] = time.time) -> None:
        self._queue, self._perform, self._now = queue, perform, now
        self._hosts: dict[ObjectKey, _Host] = {}

    def results(self, key: ObjectKey) -> Mapping[PowerCommand, PowerResult]:
        """Of the host's last commands; a running one among them."""
        one = self._hosts.get(key)
        return one.results if one else {}

    def start(self, key: ObjectKey, commands: tuple[PowerCommand, ...]) -> None:
        """Begin the first of a committed decision's commands, unless one is running; returns at once."""
        one = self._hosts.setdefault(key, _Host())
        if one.task is not None or not commands:
            return
        command = next((one for one in commands if isinstance(one, PowerOff | PowerOn)), commands[0])
        one.results.pop(command, None)  # to be the newest
        one.results[command] = PowerResult("running", self._now())
        while len(one.results) > KEPT:
            del one.results[next(iter(one.results))]
        one.task = asyncio.create_task(self._run(key, one, command))

    def forget(self, key: ObjectKey) -> None:
        """The XenNode is gone. What runs ends by itself."""
        self._hosts.pop(key, None)

    @property
    def busy(self) -> int:
        return sum(one.task is not None for one in self._hosts.values())

    async def finish(self, seconds: float) -> None:
        """Give what runs that time to end, then end it."""
        tasks = [one.task for one in self._hosts.values() if one.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        self.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cancel(self) -> None:
        for one in self._hosts.values():
            if one.task is not None:
                one.task.cancel()

    async def _run(self, key: ObjectKey, one: _Host, command: PowerCommand) -> None:
        began = self._now()
        try:
            one.results[command] = await self._perform(key, command)
        except Deposed:
            one.results.pop(command, None)
        except Exception as error:
            # Nothing is known of what it did; the words of an exception may hold anything, its type does not.
            log.error("a fence agent could not be asked", host=command.host, error=type(error).__name__)
            said = f"the controller could not ask {command.device.agent} ({type(error).__name__})"
            one.results[command] = PowerResult("failed", began, self._now(), "NotAsked", said)
        finally:
            one.task = None
            self._queue.add(key)
