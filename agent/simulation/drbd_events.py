"""`drbdsetup events2`: lines for what exists and for what changes (drbdsetup(8)), in 8.4's layout."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.simulation.drbd_volume import Volume

ALWAYS_SHOWN = {
    "size", "read", "written", "al-writes", "bm-writes", "upper-pending", "lower-pending",
    "received", "sent", "out-of-sync", "pending", "unacked",
}  # fmt: skip
"""Statistics that a change repeats; others are in it only when they are different."""


@dataclass(frozen=True)
class Event:
    """One notification of the kernel: what it is about, its state and its statistics in the order of printing."""

    action: str  # exists, create, change, destroy, call, response
    kind: str = ""
    key: str = ""
    info: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, str | int] = field(default_factory=dict)


def device_statistics(volume: Volume) -> dict[str, str | int]:
    attaching = volume.state.disk == "Attaching"
    blocked = attaching or volume.state.cs == "StartingSyncT" or volume.state.suspended != "no"
    return {
        "size": volume.known_size // 1024 if volume.state.disk != "Diskless" or volume.session else 0,
        "read": volume.counters.read // 2,
        "written": volume.counters.written // 2,
        "al-writes": volume.counters.al_writes,
        "bm-writes": 0,
        "upper-pending": len(volume.writing),
        "lower-pending": 2 if attaching else 0,
        "al-suspended": "yes" if volume.state.al_suspended else "no",
        "blocked": "upper" if blocked else "no",
    }


def peer_statistics(volume: Volume) -> dict[str, str | int]:
    return {
        "received": volume.counters.received // 2,
        "sent": volume.counters.sent // 2,
        "out-of-sync": volume.out_of_sync,
        "pending": len(volume.writing) if volume.net is not None else 0,
        "unacked": 0,
    }


def resource(volume: Volume, action: str) -> Event:
    state = volume.state
    info = {"role": state.role, "suspended": state.suspended}
    return Event(action, "resource", f"name:{volume.name}", info, {"write-ordering": "flush"})


def connection(volume: Volume, action: str) -> Event:
    info = {"connection": volume.state.connection, "role": volume.state.peer_role}
    return Event(action, "connection", f"name:{volume.name} {_peer(volume)}", info, {"congested": "no"})


def device(volume: Volume, action: str) -> Event:
    return Event(
        action, "device", f"name:{volume.name} volume:0 minor:{volume.minor}", {"disk": volume.state.disk},
        device_statistics(volume),
    )  # fmt: skip


def peer_device(volume: Volume, action: str) -> Event:
    state = volume.state
    info = {
        "replication": state.replication,
        "peer-disk": state.peer_disk,
        "resync-suspended": state.resync_suspended,
    }
    return Event(action, "peer-device", f"name:{volume.name} {_peer(volume)} volume:0", info, peer_statistics(volume))


def helper(volume: Volume, name: str, status: int | None = None, *, whole: bool = False) -> Event:
    info = {"helper": name} | ({} if status is None else {"status": str(status)})
    key = f"name:{volume.name} {_peer(volume)}"
    if not whole:
        key += f" volume:0 minor:{volume.minor}"
    return Event("call" if status is None else "response", "helper", key, info)


def _peer(volume: Volume) -> str:
    return "peer-node-id:0 conn-name:peer" if volume.net is not None else "peer-node-id:0"


def existing(volume: Volume) -> Iterator[Event]:
    """The dump of one resource. 8.4 tells the connection also when none is configured, without its name."""
    yield resource(volume, "exists")
    if volume.minor is None:
        return
    yield connection(volume, "exists")
    yield device(volume, "exists")
    yield peer_device(volume, "exists")


def shown(volume: Volume) -> tuple[object, ...]:
    """Everything that a dump or /proc/drbd is made of, but for a resync's progress."""
    return (
        volume.minor,
        volume.net is None,
        volume.session is None,
        volume.known_size,
        volume.out_of_sync,
        len(volume.writing),
        *vars(volume.state).values(),
        *vars(volume.counters).values(),
    )


def dump(volume: Volume, *, statistics: bool) -> str:
    """What `--now` prints of one resource; put together again only when something that is in it is different."""
    key = (statistics, *shown(volume))
    if volume.dumped is None or volume.dumped[0] != key:
        listener = Listener(statistics=statistics, timestamps=False, only=None, wake=lambda: None)
        for event in existing(volume):
            listener.tell(event, volume.name, 0.0)
        volume.dumped = (key, listener.take())
    return volume.dumped[1]


class Listener:
    """One `drbdsetup events2`: remembers what it printed, and prints of a change what is different."""

    def __init__(self, *, statistics: bool, timestamps: bool, only: str | None, wake: Callable[[], None]) -> None:
        self._statistics, self._timestamps, self._only, self._wake = statistics, timestamps, only, wake
        self._last: dict[tuple[str, str], dict[str, str | int]] = {}
        self._lines: deque[str] = deque()

    def take(self) -> str:
        """Lines that came since the last call."""
        text = "".join(self._lines)
        self._lines.clear()
        return text

    def tell(self, event: Event, name: str, now: float) -> None:
        if self._only is not None and name != self._only:
            return
        words = [event.action, event.kind or "-", event.key] if event.kind else [event.action, "-"]
        if event.action != "destroy":
            words += self._values(event)
        else:
            self._last.pop((event.kind, event.key), None)
        stamp = f"{timestamp(now)} " if self._timestamps else ""
        self._lines.append(stamp + " ".join(words) + "\n")
        self._wake()

    def _values(self, event: Event) -> list[str]:
        identity = (event.kind, event.key)
        before = self._last.get(identity, {})
        words = [f"{name}:{value}" for name, value in event.info.items() if before.get(name) != value]
        if self._statistics:
            words += [
                f"{name}:{value}"
                for name, value in event.statistics.items()
                if name in ALWAYS_SHOWN or before.get(name) != value
            ]
        if event.kind not in {"", "helper"}:
            self._last[identity] = {**event.info, **event.statistics}
        return words


def timestamp(now: float) -> str:
    """As `--timestamps` prints it, in UTC."""
    seconds, microseconds = divmod(round(now * 1e6), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06d}+00:00"
