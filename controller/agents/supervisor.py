"""One supervisor a host: keeps what its agent says, and whether it is being said now.

The watch gives a snapshot, then each change with the next revision. A gap, another boot or another start of the agent
means a new snapshot. Silence for longer than its limit means not connected: what was known is then old, and so unknown.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from agent.protocol import HostState, WatchEvent
from controller.agents.client import SILENCE_SECONDS, AgentClient, ClientTls, Refused, Unreachable
from controller.domain.world import NO_ANSWER_YET

log = structlog.get_logger(__name__)

SECTIONS = ("volumes", "vms", "domains", "logical_volumes", "operations", "gone")
SCALARS = ("facts", "term", "desired", "problems")
FIRST_RETRY, LAST_RETRY = 0.2, 5.0
GRACE_SECONDS = 3.0

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class HostChange:
    """What one line changed on a host: (section, key, old value, new value); sections of HostState, "host" for its own
    fields. `connection`: it was connected or lost, so that everything there is known anew or not known any more."""

    node: str
    entries: tuple[tuple[str, str, Any, Any], ...] = ()
    connection: bool = False


Notify = Callable[[HostChange], None]


class Gap(Exception):
    """The line does not follow the one before."""


class Supervisor:
    """Follows one agent at one address until `stop`."""

    def __init__(
        self,
        node: str,
        client: AgentClient,
        notify: Notify,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_retry: float = FIRST_RETRY,
    ) -> None:
        self.node, self.client = node, client
        self.state: HostState | None = None
        self.error = NO_ANSWER_YET
        self.versions = dict.fromkeys(SECTIONS, 0)  # another number after every change in a section; never one twice
        self.heard = 0  # a larger number after every line of the agent; never one twice
        self._notify, self._clock, self._first_retry = notify, clock, first_retry
        self._current = False  # `state` is what the agent says, or said a moment ago
        self._synced = False  # this stream has given its snapshot
        self._heard, self._began = float("-inf"), clock()
        self._broken: float | None = None  # since when there is no stream
        self._task: asyncio.Task[None] | None = None
        self.tried = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the state is current; true by the clock, whether or not anybody noticed.

        A broken stream has GRACE_SECONDS to come back: an agent that is restarted is not a host that is lost.
        """
        now = self._clock()
        if not self._current or now - self._heard >= SILENCE_SECONDS:
            return False
        return self._broken is None or now - self._broken < GRACE_SECONDS

    @property
    def silent(self) -> float:
        """Seconds since the last line, or since this supervisor was made."""
        return self._clock() - max(self._heard, self._began)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"agent {self.node}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._current = False
        await self.client.close()

    async def _run(self) -> None:
        retry = self._first_retry
        while True:
            self._synced = False
            try:
                async for event in self.client.watch():
                    self.take(event)
                    retry = self._first_retry
            except (Refused, Unreachable, Gap) as error:
                self.error = str(error).removeprefix(f"{self.node}: ")  # who shows it says of which host
            except Exception as error:  # whatever it is, the other hosts and the next attempt must not suffer
                self.error = f"{type(error).__name__}: {error}"
                log.exception("the watch failed", host=self.node)
            if self._broken is None:
                self._broken = self._clock()
            if self._current and not self.connected:
                self._current = False
                log.warning("agent is lost", host=self.node, error=self.error)
                self._notify(HostChange(self.node, connection=True))
            elif not self.tried.is_set():
                self._notify(HostChange(self.node, connection=True))  # now it is known why there is no answer
            self.tried.set()
            await asyncio.sleep(retry * (0.5 + random.random() / 2))  # noqa: S311 - spreads the reconnections
            retry = min(retry * 2, LAST_RETRY)

    def take(self, event: WatchEvent) -> None:
        """One line of the watch. Raises Gap when it does not follow."""
        if event.type == "snapshot":
            self._snapshot(event)
            return
        state = self.state
        if state is None or not self._synced or event.boot_id != state.boot_id:
            raise Gap(f"{self.node}: a change of what was not told before")
        expected = state.revision if event.type == "heartbeat" else state.revision + 1
        if event.revision != expected:
            raise Gap(f"{self.node}: revision {event.revision} instead of {expected}")
        self._heard, self.heard = self._clock(), next(_numbers)
        if event.type == "changed":
            self._change(state, event)

    def _snapshot(self, event: WatchEvent) -> None:
        new = event.state
        if new is None:
            raise Gap(f"{self.node}: a snapshot without a state")
        if new.node != self.node:
            raise Gap(f"the agent at this address is {new.node}'s, not {self.node}'s")
        old, known = self.state, self.connected
        self.versions = {section: next(_numbers) for section in SECTIONS}
        self.state, self.error, self._heard, self.heard = new, "", self._clock(), next(_numbers)
        self._current, self._synced, self._broken = True, True, None
        self.tried.set()
        if old is None or not known:
            log.info("agent is connected", host=self.node, boot_id=new.boot_id, agent=new.agent_version)
            self._notify(HostChange(self.node, connection=True))
            return
        entries = [("host", "", old, new)]
        for section in SECTIONS:
            before, after = getattr(old, section), getattr(new, section)
            keys = before.keys() | after.keys()
            changed = (key for key in keys if before.get(key) != after.get(key))
            entries += [(section, key, before.get(key), after.get(key)) for key in changed]
        self._notify(HostChange(self.node, tuple(entries)))

    def _change(self, state: HostState, event: WatchEvent) -> None:
        entries: list[tuple[str, str, Any, Any]] = []
        said = event.model_fields_set
        scalars = {name: getattr(event, name) for name in SCALARS if name in said and _given(event, name)}
        # The collections are this supervisor's own and are changed in place: no copy of a thousand entries for one.
        for section in SECTIONS:
            if section not in said:
                continue
            mine, theirs = getattr(state, section), getattr(event, section)
            if theirs:
                self.versions[section] = next(_numbers)
            for key, value in theirs.items():
                entries.append((section, key, mine.get(key), value))
                if value is None:
                    mine.pop(key, None)
                else:
                    mine[key] = value
        self.state = state.model_copy(update={**scalars, "revision": event.revision})
        if scalars:
            entries.append(("host", "", state, self.state))
        self._notify(HostChange(self.node, tuple(entries)))


def _given(event: WatchEvent, name: str) -> bool:
    """None means not changed, also in a line that spells every field out."""
    return getattr(event, name) is not None


class Supervisors:
    """The supervisors of all hosts, kept to what the XenNodes say."""

    def __init__(self, tls: ClientTls, notify: Notify) -> None:
        self._tls, self._notify = tls, notify
        self._by_node: dict[str, Supervisor] = {}
        self._endpoints: dict[str, tuple[str, int]] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    def get(self, node: str) -> Supervisor | None:
        return self._by_node.get(node)

    def all(self) -> Iterable[Supervisor]:
        return self._by_node.values()

    def follow(self, node: str, address: str, port: int) -> None:
        """Follow the agent of that node there, and nowhere else any more."""
        if self._endpoints.get(node) == (address, port):
            return
        self.forget(node)
        self._endpoints[node] = (address, port)
        supervisor = Supervisor(node, AgentClient(node, address, port, self._tls), self._notify)
        self._by_node[node] = supervisor
        supervisor.start()

    def forget(self, node: str) -> None:
        """The node is gone, or somewhere else."""
        self._endpoints.pop(node, None)
        old = self._by_node.pop(node, None)
        if old is not None:
            task = asyncio.create_task(old.stop())
            self._stopping.add(task)
            self._notify(HostChange(node, connection=True))
            task.add_done_callback(self._stopping.discard)

    def certificates(self) -> dict[str, datetime]:
        """When they expire, by whose they are: the agents' as last told, and "controller"."""
        told = {one.node: one.state.facts.certificate_expires_at for one in self._by_node.values() if one.state}
        found = {node: datetime.fromisoformat(expires) for node, expires in told.items() if expires}
        return found | ({"controller": self._tls.expires} if self._tls.expires else {})

    async def settle(self, seconds: float) -> None:
        """Wait until every agent has answered or failed to for the first time, but no longer than that."""
        waiting = [asyncio.create_task(one.tried.wait()) for one in self._by_node.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        for task in waiting:
            task.cancel()

    async def stop(self) -> None:
        for node in list(self._by_node):
            self.forget(node)
        await asyncio.gather(*self._stopping, return_exceptions=True)
