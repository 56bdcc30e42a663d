"""Xen of one host: its domains, their memory, who runs, and what xenstore says of them.

A domain's life here is the hypervisor's: pause counts, shutdown reasons, dying. What libxl and xl do with it is in
`libxl` and `xl`; its disks are in `hotplug`; what runs inside it is in `guest`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from agent.simulation.clock import Tasks
from agent.simulation.xenstore import XenStore
from agent.simulation.xl_parse import DomainSpec

if TYPE_CHECKING:
    from agent.simulation.guest import Guest
    from agent.simulation.host import SimulatedHost
    from agent.simulation.hotplug import Vbd, Vif

POWEROFF, REBOOT, SUSPEND, CRASH = 0, 1, 2, 3  # SHUTDOWN_* of xen/sched.h
HVM_CAPS = "pv hvm hap shadow gnttab-v1 gnttab-v2"
BACKENDS = "/sys/bus/xen-backend/devices"
DOM0_UUID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class XenSettings:
    """What a host's Xen is, and how long its tools take (seconds of the simulation's clock)."""

    version: tuple[int, int, int] = (4, 17, 5)
    virt_caps: str = HVM_CAPS
    hw_caps: str = "0fcbf3fd:f6d8320b:ec500800:00000071:00000005:01884329:0000020c:00000000"
    cpu_vendor: str = "GenuineIntel"
    memory_mib: int | None = None  # of the whole host; None = as the simulation's hardware has it
    dom0_mib: int = 512
    hypervisor_mib: int = 13  # what Xen keeps for itself
    build: float = 0.02  # domain builder, without the memory of a restore
    hotplug: float = 0.01  # one hotplug script
    close: float = 0.01  # blkback: from "close" to the device being closed
    teardown: float = 0.1  # the rest of a domain's end, after its disks were closed
    destroy_timeout: float = 10.0  # libxl's LIBXL_DESTROY_TIMEOUT
    suspend: float = 0.005  # from the request to the guest's answer
    boot: float = 0.02  # from the first instruction to the first look at the disk
    record_interval: float = 0.25  # between two records of one guest
    records_per_second: float = 400.0  # of all guests of the simulation: many guests write more seldom
    dirty_pages_per_second: float = 200.0
    kept_pages_per_mib: int = 1  # pages of a MiB that travel with their contents


@dataclass(frozen=True)
class StreamFault:
    """Where the next migration that leaves this host is cut, as a transport that dies there: once.

    bytes: after `after` bytes; ready, go, report: that message is not delivered.
    """

    at: Literal["bytes", "ready", "go", "report"]
    after: int = 0


class Domain:
    """One domain of a host. `name` is what xenstore says: gone (None) once it is being destroyed."""

    def __init__(self, xen: Xen, domid: int, spec: DomainSpec, uuid: str) -> None:
        self.xen = xen
        self.domid = domid
        self.uuid = uuid
        self.spec = spec
        self.name: str | None = None
        self.pauses = 1  # a new domain is paused until its toolstack lets it go
        self.shutdown: int | None = None
        self.dying = False
        self.memory_kib = 0
        self.vcpus_online = 0
        self.vbds: dict[int, Vbd] = {}
        self.vifs: dict[int, Vif] = {}
        self.guest: Guest | None = None
        self._was_running = False
        self._ran_seconds = 0.0
        self._ran_since = 0.0
        self._start_cost = 0.0
        self._changed = asyncio.Event()

    @property
    def path(self) -> str:
        return f"/local/domain/{self.domid}"

    @property
    def running(self) -> bool:
        """Its virtual CPUs may run."""
        return self.pauses == 0 and self.shutdown is None and not self.dying

    @property
    def gone(self) -> bool:
        """Nothing of it will ever run again."""
        return self.dying or self.xen.domains.get(self.domid) is not self

    @property
    def cpu_seconds(self) -> float:
        now = self.xen.host.clock.now()
        ran = self._ran_seconds + (now - self._ran_since if self._was_running else 0.0)
        return self._start_cost + 0.04 * ran

    @property
    def flags(self) -> str:
        """The six columns of `xl list`; a running guest mostly waits."""
        letters = ["-"] * 6
        if self.running:
            turn = self.guest.state.ticks % 8 if self.guest is not None else 1
            if turn == 0:
                letters[0] = "r"
            elif turn != 3:
                letters[1] = "b"
        if self.pauses or self.dying:
            letters[2] = "p"
        if self.shutdown is not None:
            letters[3], letters[4] = "s", "-rscwS"[self.shutdown]
        if self.dying:
            letters[5] = "d"
        return "".join(letters)

    def pause(self) -> None:
        self.pauses += 1
        self.update()

    def unpause(self) -> bool:
        """False (EINVAL) when it is not paused."""
        if self.pauses == 0:
            return False
        self.pauses -= 1
        self.update()
        return True

    def shut_down(self, reason: int) -> None:
        """The guest stopped itself, crashed, or was suspended."""
        if self.shutdown is None:
            self.shutdown = reason
            self.update()
            self.xen.store.announce("@releaseDomain")

    def resume(self) -> bool:
        """Let a suspended guest go on where it was; False when it is not suspended."""
        if self.shutdown != SUSPEND or self.dying:
            return False
        self.shutdown = None
        self.update()
        return True

    def kill(self) -> None:
        """Dying: never runs again, its memory is given back."""
        self.dying = True
        self.memory_kib = 0
        self.update()

    def update(self) -> None:
        """Called at every change of state: tells the monitor at this very instant, then the guest."""
        now, truth = self.xen.host.clock.now(), self.xen.host.truth
        if self.running and not self._was_running:
            self._was_running, self._ran_since = True, now
            self._start_cost = self._start_cost or 0.2
            truth.domain_runs(self.uuid, self.xen.host.name, self.domid, self.name or "(null)")
            if self.guest is not None:
                self.guest.run()
        elif not self.running and self._was_running:
            self._was_running = False
            self._ran_seconds += now - self._ran_since
            truth.domain_stops(self.uuid, self.xen.host.name, self.domid, self.name or "(null)")
        self._changed.set()
        self.xen.host.simulation.changed.notify()

    async def until_running(self) -> bool:
        """True when its virtual CPUs run, False when they never will again."""
        while not self.running:
            if self.gone:
                return False
            self._changed.clear()
            await self._changed.wait()
        return True


class Xen:
    """The hypervisor and the xenstored of one host; everything here is lost with its power."""

    _of: weakref.WeakKeyDictionary[SimulatedHost, Xen] = weakref.WeakKeyDictionary()

    def __init__(self, host: SimulatedHost, settings: XenSettings | None = None) -> None:
        self.host = host
        self.settings = settings or XenSettings()
        self.domains: dict[int, Domain] = {}
        self.store = XenStore()
        self.tasks = Tasks()
        self.bridges = set(host.simulation.hardware.bridges)
        self.stream_fault: StreamFault | None = None
        self.zombies = False  # fault: a domain that is destroyed keeps its disks open (xenwatch stuck)
        self._next_domid = 1
        Xen._of[host] = self
        host.on_power_off.append(self._power_off)
        host.on_power_on.append(self._power_on)

    @classmethod
    def of(cls, host: SimulatedHost) -> Xen:
        return cls._of[host]

    def configure(self, **changes: object) -> None:
        """Change settings by name (XenSettings)."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]

    # --- domains --------------------------------------------------------------------------------------------------

    def find(self, word: str) -> Domain | None:
        """By name, as libxl looks for one."""
        return next((domain for domain in self if domain.name == word), None)

    def by_uuid(self, uuid: str) -> Domain | None:
        return next((domain for domain in self if domain.uuid == uuid and not domain.dying), None)

    def __iter__(self) -> Iterator[Domain]:
        return iter([self.domains[domid] for domid in sorted(self.domains)])

    def new_domain(self, spec: DomainSpec, uuid: str) -> Domain:
        """A domain without memory and name, paused."""
        domain = Domain(self, self._next_domid, spec, uuid)
        self._next_domid += 1
        self.domains[domain.domid] = domain
        return domain

    def introduce(self, domain: Domain, name: str) -> None:
        """Write what xenstore has of a domain from its making on."""
        spec, store, path = domain.spec, self.store, domain.path
        store.write(f"{path}/vm", f"/vm/{domain.uuid}")
        self.rename(domain, name)
        for index in range(spec.vcpus):
            store.write(f"{path}/cpu/{index}/availability", "online")
        memory = {"static-max": str(spec.max_kib), "target": str(spec.target_kib), "videoram": "0"}
        store.write_all(f"{path}/memory", memory)
        store.write(f"{path}/control/shutdown", "")
        for feature in ("poweroff", "reboot", "suspend"):
            store.write(f"{path}/control/feature-{feature}", "1")
        store.write(f"{path}/domid", str(domain.domid))
        store.write(f"/vm/{domain.uuid}/uuid", domain.uuid)
        store.write_all(f"/vm/{domain.uuid}/image", {"ostype": "linux", "kernel": spec.kernel or ""})
        store.write_all(f"/libxl/{domain.domid}", {"type": spec.type, "dm-version": "qemu_xen"})
        self.host.files.provide(f"{BACKENDS}/console-{domain.domid}-0/devtype", lambda: "console\n")
        store.announce("@introduceDomain")

    def rename(self, domain: Domain, name: str) -> None:
        domain.name = name
        self.store.write(f"{domain.path}/name", name)
        self.store.write(f"/vm/{domain.uuid}/name", name)
        self.host.truth.note(self.host.name, f"domain {domain.domid} is named {name}")

    def forget_paths(self, domain: Domain) -> None:
        """xenstore forgets the domain: from here on its name is (null)."""
        self.host.files.withdraw(f"{BACKENDS}/console-{domain.domid}-0/devtype")
        domain.name = None
        self.store.remove(domain.path)
        if self.by_uuid(domain.uuid) in (None, domain):
            self.store.remove(f"/vm/{domain.uuid}")
        self.store.remove(f"/libxl/{domain.domid}")
        for kind in ("vbd", "vif"):
            self.store.prune(f"{self.backend}/{kind}/{domain.domid}")

    def release(self, domain: Domain) -> None:
        """The last reference is gone: the domain is not there any more."""
        self.domains.pop(domain.domid, None)
        domain.update()
        self.store.announce("@releaseDomain")
        self.host.truth.note(self.host.name, f"domain {domain.domid} is gone")

    backend = "/local/domain/0/backend"

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Something that the kernel or a guest does by itself, until the power goes. A failure is the simulation's."""
        task = self.tasks.start(coroutine, name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.host.simulation.defects.append(failure)

    # --- memory ---------------------------------------------------------------------------------------------------

    @property
    def total_mib(self) -> int:
        return self.settings.memory_mib or self.host.simulation.hardware.memory_mib

    @property
    def free_kib(self) -> int:
        used = self.settings.hypervisor_mib + self.settings.dom0_mib
        return (self.total_mib - used) * 1024 - sum(domain.memory_kib for domain in self.domains.values())

    def allocate(self, domain: Domain, kib: int) -> bool:
        """Give memory to a domain; False, and nothing given, when Xen has not that much."""
        if kib > self.free_kib - 1024:  # page tables and such need a little as well
            return False
        domain.memory_kib += kib
        return True

    # --- power ----------------------------------------------------------------------------------------------------

    def _power_off(self) -> None:
        self.tasks.cancel()
        for domain in self:
            domain.kill()
        self.domains.clear()
        self.zombies = False

    def _power_on(self) -> None:
        self.store = XenStore()
        self._next_domid = 1
        dom0_kib = str(self.settings.dom0_mib * 1024)
        self.store.write("/tool/xenstored", "")
        for feature in ("poweroff", "reboot", "suspend"):
            self.store.write(f"/local/domain/0/control/feature-{feature}", "1")
        self.store.write_all("/local/domain/0", {"domid": "0", "name": "Domain-0"})
        self.store.write_all("/local/domain/0/memory", {"target": dom0_kib, "static-max": "17179869180"})
        self.store.write("/local/pool/0/name", "Pool-0")
        files = self.host.files
        for bridge in sorted(self.bridges):
            self.add_bridge(bridge)
        files.provide("/sys/class/net/eth0/operstate", lambda: "up\n")
        files.provide("/proc/xen/capabilities", lambda: "control_d\n")
        files.provide("/proc/cpuinfo", self._cpuinfo)

    def add_bridge(self, name: str) -> None:
        self.bridges.add(name)
        self.host.files.provide(f"/sys/class/net/{name}/bridge/bridge_id", lambda: "8000.feffffffffff\n")
        self.host.files.provide(f"/sys/class/net/{name}/operstate", lambda: "up\n")

    def remove_bridge(self, name: str) -> None:
        """As somebody who changed the host's network; interfaces that are plugged in stay."""
        self.bridges.discard(name)
        self.host.files.withdraw(f"/sys/class/net/{name}/bridge/bridge_id")
        self.host.files.withdraw(f"/sys/class/net/{name}/operstate")

    def _cpuinfo(self) -> str:
        cpu = f"vendor_id\t: {self.settings.cpu_vendor}\nmodel name\t: Simulated CPU\n\n"
        return "".join(f"processor\t: {index}\n{cpu}" for index in range(self.host.simulation.hardware.cpus))
