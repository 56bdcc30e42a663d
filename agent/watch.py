"""GET /v1/watch: one snapshot, then changes, a heartbeat when nothing changed. Bounded for every watcher."""

from __future__ import annotations

from collections import deque
from typing import Any

from agent.core import within
from agent.host import Host
from agent.protocol import HEARTBEAT_SECONDS, HostState, WatchEvent
from agent.signals import Signal

QUEUE_LIMIT = 256
SECTIONS = ("volumes", "vms", "domains", "logical_volumes", "operations", "gone")
SCALARS = ("facts", "term", "desired", "problems")


def difference(old: HostState, new: HostState) -> WatchEvent | None:
    """What changed from `old` to `new`, by value; None when nothing did. A key that is gone has the value None."""
    changes: dict[str, Any] = {}
    for name in SCALARS:
        if getattr(old, name) != getattr(new, name):
            changes[name] = getattr(new, name)
    for name in SECTIONS:
        before, after = getattr(old, name), getattr(new, name)
        if before is after:
            continue
        changed = {k: one for k, one in after.items() if (old_one := before.get(k)) is not one and old_one != one}
        changed |= {key: None for key in before if key not in after}
        if changed:
            changes[name] = changed
    if not changes:
        return None
    return WatchEvent(type="changed", boot_id=new.boot_id, revision=new.revision, **changes)


class Watcher:
    """One client of the stream. One that reads too slowly loses its queue and gets a new snapshot instead."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._queue: deque[WatchEvent] = deque()
        self._snapshot_due = True
        self._signal = Signal()

    def offer(self, event: WatchEvent) -> None:
        if self._snapshot_due:
            return
        if len(self._queue) >= QUEUE_LIMIT:
            self._queue.clear()
            self._snapshot_due = True
        else:
            self._queue.append(event)
        self._signal.notify()

    async def next(self, watch: Watch) -> WatchEvent:
        """The next line; waits up to HEARTBEAT_SECONDS of the host's clock before it is a heartbeat."""
        if not self._ready:
            try:
                await within(self._host, HEARTBEAT_SECONDS, self._until_ready())
            except TimeoutError:
                state = watch.state
                return WatchEvent(type="heartbeat", boot_id=state.boot_id, revision=state.revision)
        if self._snapshot_due:
            self._snapshot_due = False
            state = watch.state
            return WatchEvent(type="snapshot", boot_id=state.boot_id, revision=state.revision, state=state)
        return self._queue.popleft()

    @property
    def _ready(self) -> bool:
        return self._snapshot_due or bool(self._queue)

    async def _until_ready(self) -> None:
        while not self._ready:
            await self._signal.wait()


class Watch:
    """The newest state and everybody who follows it."""

    def __init__(self, host: Host, state: HostState) -> None:
        self.state = state
        self._host = host
        self._watchers: set[Watcher] = set()
        self._signal = Signal()

    def subscribe(self) -> Watcher:
        watcher = Watcher(self._host)
        self._watchers.add(watcher)
        return watcher

    def unsubscribe(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def publish(self, new: HostState) -> bool:
        """Take `new` as the state if it differs; its revision is set here. Wakes watchers and `changed`."""
        event = difference(self.state, new)
        if event is None:
            return False
        revision = self.state.revision + 1
        self.state = new.model_copy(update={"revision": revision})
        event = event.model_copy(update={"revision": revision})
        for watcher in self._watchers:
            watcher.offer(event)
        self._signal.notify()
        return True

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._signal.wait()
