"""The whole simulation: hosts, the links between them, faults, and the monitor."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from agent.simulation.clock import Clock, RealClock, Tasks, VirtualClock
from agent.simulation.drbd_link import Fabric
from agent.simulation.host import SimulatedHost
from agent.simulation.truth import Truth

MIB = 1 << 20


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds of the simulation's clock. `REAL` has drbd.conf(5)'s defaults."""

    command: float = 0.003  # starting a process
    latency: float = 0.0002  # one message between two hosts
    ping_interval: float = 1.0  # DRBD notices a dead idle peer after ping_interval + ping_timeout,
    ping_timeout: float = 0.1
    request_timeout: float = 0.6  # and with a write under way after this
    connect_interval: float = 0.5  # between two attempts to connect
    helper: float = 0.01  # a helper script called by the kernel
    resync_step: float = 0.05  # how often a resync's progress becomes visible


REAL = Timing(
    command=0.02,
    latency=0.0002,
    ping_interval=10.0,
    ping_timeout=0.5,
    request_timeout=6.0,
    connect_interval=10.0,
    helper=0.1,
    resync_step=0.1,
)


@dataclass(frozen=True)
class Hardware:
    """What each host is made of."""

    memory_mib: int = 2048
    cpus: int = 2
    volume_groups: tuple[tuple[str, int], ...] = (("vg0", 20 << 30),)  # name, bytes
    bridges: tuple[str, ...] = ("xenbr0",)


class Changed:
    """Something in the simulation changed: everybody who waits for a condition looks again."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)


class Simulation:
    """N dom0s in one process. Make it inside a running event loop; close it (or use `async with`) at the end.

    `link_rate` is bytes per second of every link between two hosts; memory streams and resyncs share nothing and
    each get it whole. Randomness comes from `seed` alone.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str] = ("mk1", "mk2"),
        *,
        clock: Literal["real", "virtual"] | Clock = "real",
        seed: int = 0,
        link_rate: float = 1e9,
        timing: Timing | None = None,
        hardware: Hardware | None = None,
    ) -> None:
        self.directory = directory
        if isinstance(clock, str):
            self.clock: Clock = RealClock() if clock == "real" else VirtualClock()
        else:
            self.clock = clock
        self.random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self.timing = timing or Timing()
        self.hardware = hardware or Hardware()
        self.changed = Changed()
        self.tasks = Tasks()
        self.defects: list[BaseException] = []
        self.truth = Truth(self)
        self._link_rate = link_rate
        self._rates: dict[frozenset[str], float] = {}
        self._cut: set[frozenset[str]] = set()
        self.on_link_changed: list[Callable[[], None]] = []
        self.drbd = Fabric(self)
        self.hosts: dict[str, SimulatedHost] = {}
        for index, name in enumerate(names):
            host = SimulatedHost(self, name, f"10.0.0.{81 + index}", directory / name)
            self.hosts[name] = host
            self._equip(host)
            host.power_on()

    def _equip(self, host: SimulatedHost) -> None:
        """Every part installs itself once; what is lost with the power it sets up in `host.on_power_on`."""
        from agent.simulation import programs  # here: the parts know the simulation

        programs.install(host)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for host in self.hosts.values():
            host.power_off()
        await self.tasks.close()

    def random_uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def host_by_address(self, address: str) -> SimulatedHost | None:
        return next((host for host in self.hosts.values() if host.address == address), None)

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, a: str, b: str) -> bool:
        """Whether bytes pass between two hosts now: the cable is in and both are on."""
        return frozenset((a, b)) not in self._cut and self.hosts[a].on and self.hosts[b].on

    def link_rate(self, a: str, b: str) -> float:
        return self._rates.get(frozenset((a, b)), self._link_rate)

    async def transmit(self, a: str, b: str, size: int) -> None:
        """The time that `size` bytes take from a to b; waits (as TCP does) while the cable is out."""
        await self.changed.wait_until(lambda: frozenset((a, b)) not in self._cut)
        await self.clock.sleep(self.timing.latency + size / self.link_rate(a, b))
        await self.changed.wait_until(lambda: frozenset((a, b)) not in self._cut)

    def cut_link(self, a: str, b: str) -> None:
        self._cut.add(frozenset((a, b)))
        self.truth.note("link", f"cut between {a} and {b}")
        self.link_changed()

    def restore_link(self, a: str, b: str) -> None:
        self._cut.discard(frozenset((a, b)))
        self.truth.note("link", f"restored between {a} and {b}")
        self.link_changed()

    def slow_link(self, rate: float, a: str | None = None, b: str | None = None) -> None:
        """Bytes per second, of one link or of all."""
        if a is not None and b is not None:
            self._rates[frozenset((a, b))] = rate
        else:
            self._rates.clear()
            self._link_rate = rate
        self.truth.note("link", f"{rate:g} bytes/s")
        self.link_changed()

    def link_changed(self) -> None:
        """Bytes pass, or no longer pass, between some hosts."""
        for hook in self.on_link_changed:
            hook()
        self.changed.notify()

    # --- faults of hosts ------------------------------------------------------------------------------------------

    def power_off(self, name: str) -> None:
        self.hosts[name].power_off()

    def power_on(self, name: str) -> None:
        self.hosts[name].power_on()

    def fail_disk(self, name: str, path: str | None = None) -> None:
        """IO errors from now on: of one logical volume (/dev/GROUP/NAME), or of every disk of the host.

        What DRBD has attached there is detached at its next access, as with on-io-error detach.
        """
        self.truth.note(name, f"disk fails: {path or 'all'}")
        self._set_disk(name, path, failed=True)

    def repair_disk(self, name: str, path: str | None = None) -> None:
        self.truth.note(name, f"disk works again: {path or 'all'}")
        self._set_disk(name, path, failed=False)

    def _set_disk(self, name: str, path: str | None, *, failed: bool) -> None:
        """Raises KeyError when there is no such volume."""
        groups = self.hosts[name].volume_groups
        if path is None:
            for group in groups.groups.values():
                group.failed = failed
            return
        if (volume := groups.find(path)) is None:
            raise KeyError(path)
        volume.failed = failed

    def hang(self, name: str, program: str) -> None:
        self.truth.note(name, f"{program} hangs from now on")
        self.hosts[name].hang(program)

    def unhang(self, name: str, program: str) -> None:
        self.hosts[name].unhang(program)
