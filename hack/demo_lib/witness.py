"""Who watches real hosts from outside: each record that a guest tells of, each change of role that a kernel tells of.

Lines come over ssh as they are said and are stamped with this machine's one clock. Both sides' DRBD tell of both roles,
in their order: two Primaries could not pass between two looks.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Self

from lab_lib.lab import Lab

from agent.drivers.drbd_parse import parse_event
from agent.drivers.errors import Unreadable
from demo_lib.screen import DemoFailed

CONSOLES = "/var/log/xen/console/guest-{0}.log /var/log/xen/console/guest-{0}--incoming.log"
START_SECONDS = 30.0
_TICK = re.compile(r"tick (\d+) disk=(ok|FAIL)")


@dataclass(frozen=True)
class Tick:
    """The guest told on that host that it wrote this record (not `good`: that it could not). `at`: Unix time."""

    host: str
    number: int
    good: bool
    at: float


@dataclass(frozen=True)
class Roles:
    """From `at` on, as the DRBD of `host` has it: its own role and its peer's."""

    host: str
    at: float
    own: str
    peer: str

    @property
    def both_primary(self) -> bool:
        return self.own == self.peer == "Primary"


@dataclass
class Witness:
    """`with Witness(lab, "shaolin", "vm_shaolin") as seen:` sees everything from then on, and all earlier records."""

    lab: Lab
    guest: str
    resource: str
    ticks: list[Tick] = field(default_factory=list)
    roles: list[Roles] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # of the guest: a record that it did not find again
    _streams: list[subprocess.Popen[str]] = field(default_factory=list)
    _dumped: set[str] = field(default_factory=set)

    def __enter__(self) -> Self:
        for name in self.lab.names:
            told = f"tail -qF -n +1 {CONSOLES.format(self.guest)} 2>/dev/null"
            self._follow(name, told, lambda line, at, name=name: self._console(name, line, at))  # type: ignore[misc]
            self._follow(
                name,
                f"drbdsetup events2 {self.resource}",
                _roles_of(name, self.roles, self._dumped),
            )
        end = time.monotonic() + START_SECONDS
        while self._dumped != set(self.lab.names):
            self.alive()
            if time.monotonic() > end:
                raise DemoFailed(f"DRBD on {', '.join(self.lab.names)} did not tell its state in {START_SECONDS:.0f} s")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams:
            stream.terminate()
        for stream in self._streams:
            stream.wait()

    def alive(self) -> None:
        """Raises DemoFailed when a host is not seen any more: nothing could be said about it."""
        if any(stream.poll() is not None for stream in self._streams):
            raise DemoFailed("a host was lost from sight while it was watched (its ssh connection ended)")

    def two_primaries(self, until: float) -> float:
        """Seconds, the most that either host's DRBD saw."""
        return max(_lasting(self._on(name), until) for name in self.lab.names)

    def changed(self, host: str, role: str, after: float = 0.0) -> float | None:
        """When that host's own role became so, as its DRBD told; None: it did not."""
        before = None
        for seen in self._on(host):
            if seen.own == role and before is not None and before != role and seen.at > after:
                return seen.at
            before = seen.own
        return None

    def last(self, host: str) -> int:
        """The highest record that was acknowledged there; 0: none."""
        return max((tick.number for tick in list(self.ticks) if tick.host == host and tick.good), default=0)

    def pause(self, after: float = 0.0) -> tuple[float, float, float]:
        """The longest time between two records that follow each other: (seconds, begin, end)."""
        ticks = sorted((tick.at, tick.number) for tick in list(self.ticks) if tick.at >= after)
        return max(((b - a, a, b) for (a, _), (b, _) in pairwise(ticks)), default=(0.0, after, after))

    def crossing(self, source: str, target: str, after: float) -> tuple[float, float]:
        """The last record on the source and the first on the target since `after`: the guest stood still between.

        Raises DemoFailed when there is none on one of them.
        """
        ticks = [tick for tick in list(self.ticks) if tick.at >= after and tick.good]
        left = max((tick.at for tick in ticks if tick.host == source), default=None)
        come = min((tick.at for tick in ticks if tick.host == target), default=None)
        if left is None or come is None:
            raise DemoFailed(f"{self.guest} told of no record on {source if left is None else target}")
        return left, come

    def _on(self, host: str) -> list[Roles]:
        return [seen for seen in list(self.roles) if seen.host == host]

    def _follow(self, name: str, command: str, take: Callable[[str, float], None]) -> None:
        argv = [*self.lab.shell(name).argv(), command]
        stream = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        self._streams.append(stream)
        threading.Thread(target=_read, args=(stream, take), daemon=True).start()

    def _console(self, host: str, line: str, at: float) -> None:
        if found := _TICK.search(line):
            self.ticks.append(Tick(host, int(found[1]), found[2] == "ok", at))
        elif "LOST" in line:
            self.complaints.append(f"{host}: {line.strip()}")


def _read(stream: subprocess.Popen[str], take: Callable[[str, float], None]) -> None:
    assert stream.stdout is not None
    for line in stream.stdout:
        take(line, time.time())


def _roles_of(host: str, into: list[Roles], dumped: set[str]) -> Callable[[str, float], None]:
    """Takes the lines of `drbdsetup events2`."""
    now = {"resource": "Unknown", "connection": "Unknown"}

    def take(line: str, at: float) -> None:
        with contextlib.suppress(Unreadable):
            event = parse_event(line)
            if event.object == "-":
                dumped.add(host)
            elif event.object in now and event.kind == "destroy":
                now[event.object] = "Unknown"
            elif event.object in now and "role" in event.fields:
                now[event.object] = event.fields["role"]
            else:
                return
            into.append(Roles(host, at, now["resource"], now["connection"]))

    return take


def _lasting(seen: list[Roles], until: float) -> float:
    ends = [*(one.at for one in seen[1:]), until]
    spans = ((one, min(end, until) - one.at) for one, end in zip(seen, ends, strict=False))
    return sum((max(0.0, span) for one, span in spans if one.both_primary), 0.0)
