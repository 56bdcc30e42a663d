"""What runs inside a domain: a small system that writes numbered, checksummed records to its first disk, for ever.

Each record is 512 bytes in a ring of 64 at the beginning of the disk's last MiB (of its last quarter, if the disk is
smaller than 4 MiB), so that a filesystem at the disk's beginning stays what it is. A guest that starts reads the ring,
finds its last record and goes on from there; one that arrives by migration goes on from its memory, and looks whether
the disk agrees. Every record is reported to `truth` before it is written and when its write was acknowledged: a lost,
doubled or torn one shows.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import struct
import uuid
import weakref
import zlib
from typing import TYPE_CHECKING

from agent.simulation.hypervisor import CRASH, POWEROFF, REBOOT
from agent.simulation.save_format import GuestState

if TYPE_CHECKING:
    from agent.simulation.cluster import Simulation
    from agent.simulation.hotplug import Vbd
    from agent.simulation.hypervisor import Domain

RECORD = 512
SLOTS = 64
MIB = 1 << 20
STEP = 0.01  # guests that are due within as many seconds wake together
LOOK = 0.05
_HEAD = struct.Struct("<8s16s16sQQ")
_MAGIC = b"XTRECORD"


def ring_offset(size: int) -> int:
    """Where the ring begins on a disk of that many bytes."""
    return (size - min(MIB, size // 4)) // 4096 * 4096


def pack_record(guest: str, boot: bytes, sequence: int, ticks: int) -> bytes:
    body = _HEAD.pack(_MAGIC, uuid.UUID(guest).bytes, boot, sequence, ticks).ljust(RECORD - 4, b"\xa5")
    return body + struct.pack("<I", zlib.crc32(body))


def parse_record(data: bytes) -> tuple[str, int] | None:
    """(uuid of the guest, sequence); None for anything torn or foreign."""
    if len(data) != RECORD or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        return None
    magic, guest, _, sequence, _ = _HEAD.unpack_from(data)
    return (str(uuid.UUID(bytes=guest)), sequence) if magic == _MAGIC else None


def last_record(ring: bytes, guest: str) -> int:
    """The highest valid sequence number of that guest in a ring's bytes; 0 = it wrote none."""
    found = [parse_record(ring[start : start + RECORD]) for start in range(0, len(ring), RECORD)]
    return max((record[1] for record in found if record is not None and record[0] == guest), default=0)


class Wheel:
    """Wakes all guests of a simulation from one task, so that a thousand of them cost one timer."""

    _of: weakref.WeakKeyDictionary[Simulation, Wheel] = weakref.WeakKeyDictionary()

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._due: list[tuple[float, int, Guest]] = []
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, simulation: Simulation) -> Wheel:
        if simulation not in cls._of:
            cls._of[simulation] = Wheel(simulation)
        return cls._of[simulation]

    @property
    def load(self) -> int:
        """Guests that wait for their turn."""
        return len(self._due)

    def add(self, guest: Guest, seconds: float) -> None:
        """Call `guest.turn` in about so many seconds."""
        self._count += 1
        due = self._simulation.clock.now() + seconds
        heapq.heappush(self._due, (math.ceil(due / STEP) * STEP, self._count, guest))
        if self._task is None or self._task.done():
            self._task = self._simulation.tasks.start(self._turn(), "the guests' wheel")

    async def _turn(self) -> None:
        clock = self._simulation.clock
        while self._due:
            wait = self._due[0][0] - clock.now()
            if wait <= 0:
                heapq.heappop(self._due)[2].turn()
            else:
                await clock.sleep(min(wait, LOOK))  # not longer: a guest that is added may be due before


class Guest:
    """The system inside one domain. It acts only while the domain's virtual CPUs run."""

    def __init__(self, domain: Domain, state: GuestState | None = None) -> None:
        xen = domain.xen
        self.domain = domain
        self._random = random.Random(xen.host.simulation.random.getrandbits(64))  # noqa: S311  # repeatable
        self.state = state or GuestState(0, 0, 0, self._random.randbytes(16))
        self.found: int | None = None  # the last record on its disk when it looked; None = has not looked yet
        self.disk_errors = 0
        self.disk = "ok"  # "ok" or "bad", as the last request ended
        self.dirty_pages_per_second: float | None = None  # None = the host's setting
        self.deaf = False  # fault: does not answer a request to shut down
        self._booted = state is not None
        self._asked: int | None = None
        self._waiting = False  # in the wheel
        self._busy: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Its virtual CPUs may run from now on."""
        for vbd in self.domain.vbds.values():
            vbd.frontend_starts()
        if self._booted:
            asyncio.get_running_loop().call_soon(self._act)
        if not self._waiting:
            self._wait(self.interval() if self._booted else self.domain.xen.settings.boot)

    def _wait(self, seconds: float) -> None:
        self._waiting = True
        Wheel.of(self.domain.xen.host.simulation).add(self, seconds)

    def turn(self) -> None:
        """From the wheel: its time has come, if its CPUs run; otherwise `run` begins again."""
        self._waiting = False
        self._act()
        if self.domain.running:
            self._wait(self.interval())

    def _act(self) -> None:
        if not self.domain.running:
            return
        self._booted = True
        self.state = GuestState(self.state.counter, self.state.pending, self.state.ticks + 1, self.state.boot)
        if self._busy is None or self._busy.done():
            if self._asked is not None:
                self._halt(self._asked)
                return
            vbd = next(iter(self.domain.vbds.values()), None)
            if vbd is not None and vbd.disk.access == "w":
                self._busy = self.domain.xen.start(self._record(vbd), f"guest {self.domain.domid} writes")

    def interval(self) -> float:
        """Seconds to its next turn: longer when many guests share the simulation."""
        settings = self.domain.xen.settings
        crowd = Wheel.of(self.domain.xen.host.simulation).load / settings.records_per_second
        return max(settings.record_interval, crowd) * self._random.uniform(0.9, 1.1)

    async def _record(self, vbd: Vbd) -> None:
        """Write the next record, or the one whose write was not acknowledged yet."""
        truth, host, guest = self.domain.xen.host.truth, self.domain.xen.host.name, self.domain.uuid
        try:
            size = await vbd.size()
            if self.found is None:
                await self._look(vbd, size)
            state = self.state
            sequence = state.pending or state.counter + 1
            self.state = GuestState(state.counter, sequence, state.ticks, state.boot)
            truth.record_issued(guest, host, sequence)
            data = pack_record(guest, state.boot, sequence, state.ticks)
            await vbd.write(ring_offset(size) + sequence % SLOTS * RECORD, data)
        except OSError:
            if await self.domain.until_running():
                self.disk_errors += 1
                self.disk = "bad"
            return
        # The answer waits in the ring until the guest's CPUs run again; a guest that is gone never reads it.
        if await self.domain.until_running():
            self.disk = "ok"
            self.state = GuestState(sequence, 0, self.state.ticks, self.state.boot)
            truth.record_acknowledged(guest, host, sequence)

    async def _look(self, vbd: Vbd, size: int) -> None:
        """Find the last record: a guest that just started goes on after it; one with memory only checks."""
        ring = await vbd.read(ring_offset(size), SLOTS * RECORD)
        found = last_record(ring, self.domain.uuid)
        self.domain.xen.host.truth.record_found(self.domain.uuid, self.domain.xen.host.name, found)
        if self.state.counter == 0 and self.state.pending == 0:
            self.state = GuestState(found, 0, self.state.ticks, self.state.boot)
        self.found = found

    # --- what a person or the toolstack can make it do ------------------------------------------------------------

    def ask(self, word: str) -> None:
        """xenstore's control/shutdown: "poweroff", "reboot", "halt"; done when its requests to the disk are through."""
        if not self.deaf:
            self._asked = REBOOT if word == "reboot" else POWEROFF

    def poweroff(self) -> None:
        """From inside, as `poweroff` on its console."""
        self._asked = POWEROFF

    def reboot(self) -> None:
        self._asked = REBOOT

    def crash(self) -> None:
        """At once, whatever it was doing."""
        self.domain.shut_down(CRASH)

    def _halt(self, reason: int) -> None:
        self.domain.shut_down(reason)

    @property
    def dirty_rate(self) -> float:
        """Pages that it changes in a second."""
        rate = self.dirty_pages_per_second
        return self.domain.xen.settings.dirty_pages_per_second if rate is None else rate

    @property
    def console(self) -> str:
        """Its last console line, in the words of the laboratory's guest."""
        return f"tick {self.state.counter} disk={'ok' if self.disk == 'ok' else 'FAIL'}"
