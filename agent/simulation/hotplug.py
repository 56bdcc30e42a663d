"""Virtual disks and interfaces of domains: hotplug scripts, blkback, sysfs.

The script decides whether `physical-device` is written to xenstore; the kernel's blkback opens the device when that
appears, now or later, and only logs when it cannot: then the domain has a dead disk, whatever xl said. An open device
stays open until the domain is destroyed, and a DRBD device that is open cannot be demoted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import zlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from agent.simulation.hypervisor import BACKENDS
from agent.simulation.xl_parse import DiskSpec, VifSpec

if TYPE_CHECKING:
    from agent.simulation.devices import Device
    from agent.simulation.hypervisor import Domain, Xen

T = TypeVar("T")
SCRIPTS = "/etc/xen/scripts"
INITIALISING, INIT_WAIT, CONNECTED, CLOSING, CLOSED = 1, 2, 4, 5, 6  # XenbusState
DRBD_MAJOR = 147


class ScriptFailed(Exception):
    """A hotplug script failed; the text is what it left in hotplug-error, "" = nothing. `missing`: there is none."""

    def __init__(self, why: str, *, missing: bool = False) -> None:
        super().__init__(why)
        self.missing = missing


def device_number(path: str) -> str | None:
    """xenstore's word for a DRBD device: major and minor, both hexadecimal. None for any other device."""
    match = re.fullmatch(r"/dev/drbd([0-9]+)", path)
    return f"{DRBD_MAJOR:x}:{int(match[1]):x}" if match else None


class Vbd:
    """One virtual disk of a domain: xenstore's entries, and blkback with the device that it has open."""

    def __init__(self, domain: Domain, disk: DiskSpec) -> None:
        self.domain = domain
        self.disk = disk
        self.path = f"{domain.xen.backend}/vbd/{domain.domid}/{disk.devid}"
        self.frontend = f"{domain.path}/device/vbd/{disk.devid}"
        self.sysfs = f"{BACKENDS}/vbd-{domain.domid}-{disk.devid}"
        self.script = disk.script or "block"
        self.device: Device | None = None
        self.number = ""  # "93:1" while the device is open
        self.dead = False  # blkback could not open it: every request of the guest fails
        self._in_flight = 0
        self._changed = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._closed: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self.device is not None

    def make(self) -> None:
        """libxl's part: the entries of both ends; the backend waits in state 2."""
        store, domain = self.domain.xen.store, self.domain
        store.write_all(
            self.path,
            {
                "frontend": self.frontend,
                "params": self.disk.target,
                "script": f"{SCRIPTS}/{self.script}",
                "frontend-id": str(domain.domid),
                "online": "1",
                "removable": "0",
                "bootable": "1",
                "state": str(INITIALISING),
                "dev": self.disk.vdev,
                "type": "phy",
                "mode": self.disk.access,
                "device-type": "disk",
                "discard-enable": str(int(self.disk.access == "w")),
                "specification": "xen",
            },
        )
        store.write_all(
            self.frontend,
            {
                "backend": self.path,
                "backend-id": "0",
                "state": str(INITIALISING),
                "virtual-device": str(self.disk.devid),
                "device-type": "disk",
            },
        )
        store.write(f"/libxl/{domain.domid}/device/vbd/{self.disk.devid}/backend", self.path)
        files = domain.xen.host.files
        files.provide(f"{self.sysfs}/nodename", lambda: self.path.removeprefix("/local/domain/0/") + "\n")
        files.provide(f"{self.sysfs}/devtype", lambda: "vbd\n")
        store.write_all(self.path, {"feature-max-indirect-segments": "256", "state": str(INIT_WAIT)})
        self._unwatch = store.watch(f"{self.path}/physical-device", lambda _: self._opens())

    def _opens(self) -> None:
        """blkback's watch: open what xenstore names, once."""
        xen = self.domain.xen
        word = xen.store.read(f"{self.path}/physical-device")
        if not word or self.connected or self.dead or self._closed is not None:
            return
        major, _, minor = word.partition(":")
        try:
            number = int(major, 16) << 20 | int(minor, 16)
            named = xen.store.read(f"{self.path}/physical-device-path") or ""
            path = f"/dev/drbd{int(minor, 16)}" if int(major, 16) == DRBD_MAJOR else named
            self.device = xen.host.open_device(path, self.disk.access)
        except (OSError, ValueError):
            self.dead = True
            xen.host.log(f"xen-blkback: xen_vbd_create: device {number:08x} could not be opened")
            xen.host.log(f"vbd vbd-{self.domain.domid}-{self.disk.devid}: 2 creating vbd structure")
            errors = f"/local/domain/0/error/backend/vbd/{self.domain.domid}/{self.disk.devid}/error"
            xen.store.write(errors, "2 creating vbd structure")
            self._state(CLOSED)
        else:
            self.number = word
            xen.host.files.provide(f"{self.sysfs}/physical_device", lambda: f"{self.number}\n")
            xen.host.files.provide(f"{self.sysfs}/mode", lambda: f"{self.disk.access}\n")
            self.frontend_starts()
        self._tell()

    def frontend_starts(self) -> None:
        """The guest's driver looks for its disk: both ends connect if the device is open and the guest runs."""
        if self.device is None or not self.domain.running:
            return
        xen = self.domain.xen
        if xen.store.read(f"{self.path}/state") == str(CONNECTED):
            return
        for feature in ("flush-cache", "discard", "barrier", "persistent"):
            xen.store.write(f"{self.path}/feature-{feature}", "1")
        xen.store.write_all(self.path, {"sectors": str(self.device.size // 512), "info": "0", "sector-size": "512"})
        xen.store.write_all(self.frontend, {"ring-ref": "8", "event-channel": "8", "protocol": "x86_64-abi"})
        self._state(CONNECTED)
        where = f"backend/vbd/{self.domain.domid}/{self.disk.devid}"
        xen.host.log(f"xen-blkback: {where}: using 1 queues, protocol 1 (x86_64-abi) persistent grants")

    def _state(self, state: int) -> None:
        store = self.domain.xen.store
        if store.read(self.path) is not None:
            store.write(f"{self.path}/state", str(state))
        if store.read(self.frontend) is not None:
            store.write(f"{self.frontend}/state", str(state))

    async def read(self, offset: int, length: int) -> bytes:
        return await self._request(lambda device: device.read(offset, length))

    async def write(self, offset: int, data: bytes) -> None:
        """Returns when acknowledged. Waits for the device to be attached; raises OSError (EIO) on a dead disk."""
        await self._request(lambda device: device.write(offset, data))

    async def size(self) -> int:
        return (await self._attached()).size

    async def _attached(self) -> Device:
        while self.device is None:
            if self.dead or self._closed is not None:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self.disk.target)
            self._changed.clear()
            await self._changed.wait()
        return self.device

    async def _request(self, use: Callable[[Device], Awaitable[T]]) -> T:
        device = await self._attached()
        self._in_flight += 1
        try:
            return await use(device)
        finally:
            self._in_flight -= 1
            self._tell()

    def start_closing(self) -> None:
        """libxl asks the backend to close; the kernel does it, also when xl is gone by then."""
        if self._closed is None:
            store = self.domain.xen.store
            if store.read(self.path) is not None:
                store.write_all(self.path, {"online": "0", "state": str(CLOSING)})
            self._closed = self.domain.xen.start(self._close(), f"blkback closes {self.path}")
            self._tell()

    async def _close(self) -> None:
        xen = self.domain.xen
        await xen.host.clock.sleep(xen.settings.close)
        while self._in_flight or (xen.zombies and self.device is not None):
            self._changed.clear()
            await self._changed.wait()
        for name in ("physical_device", "mode", "nodename", "devtype"):
            xen.host.files.withdraw(f"{self.sysfs}/{name}")
        if self.device is not None:
            self.device.close()
        self.device, self.number = None, ""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        self._state(CLOSED)

    async def until_closed(self) -> None:
        """Wait for what `start_closing` began."""
        if self._closed is not None:
            await asyncio.wait({self._closed})

    @property
    def closed(self) -> bool:
        return self._closed is not None and self._closed.done()

    def _tell(self) -> None:
        self._changed.set()


class Vif:
    """One virtual network interface: only its bridge and its place in xenstore matter here."""

    def __init__(self, domain: Domain, index: int, vif: VifSpec) -> None:
        self.domain = domain
        self.index = index
        self.vif = vif
        self.path = f"{domain.xen.backend}/vif/{domain.domid}/{index}"
        self.sysfs = f"{BACKENDS}/vif-{domain.domid}-{index}"
        self.failure: ScriptFailed | None = None  # of its script

    def make(self) -> None:
        store = self.domain.xen.store
        store.write_all(
            self.path,
            {
                "frontend": f"{self.domain.path}/device/vif/{self.index}",
                "frontend-id": str(self.domain.domid),
                "online": "1",
                "state": str(INIT_WAIT),
                "script": f"{SCRIPTS}/{self.vif.script}",
                "mac": self.vif.mac or "",
                "bridge": self.vif.bridge,
                "handle": str(self.index),
                "type": "vif",
            },
        )
        self.domain.xen.host.files.provide(f"{self.sysfs}/devtype", lambda: "vif\n")

    def unplug(self) -> None:
        self.domain.xen.store.remove(self.path)
        self.domain.xen.host.files.withdraw(f"{self.sysfs}/devtype")


# --- the scripts, as /etc/xen/scripts has them ---------------------------------------------------------------------


async def add_disk(vbd: Vbd) -> None:
    """Run the disk's hotplug script with `add`. Raises ScriptFailed."""
    xen = vbd.domain.xen
    await xen.host.clock.sleep(xen.settings.hotplug)
    _must_exist(xen, vbd.script)
    if vbd.script == "block-xentandem":
        _block_xentandem(xen, vbd)
    elif vbd.script == "block":
        _block(xen, vbd)
    else:
        raise ScriptFailed("")


def _must_exist(xen: Xen, script: str) -> None:
    if not xen.host.files.exists(f"{SCRIPTS}/{script}"):
        raise ScriptFailed("", missing=True)


def _block(xen: Xen, vbd: Vbd) -> None:
    """The plain script: names the device, whatever its role; never opens it."""
    path = vbd.disk.target
    number = device_number(path) or f"fd:{zlib.crc32(path.encode()) & 0xFFFFF:x}"
    if not xen.host.devices.exists(path):
        raise _fails(vbd, f"{path} does not exist.")
    for other in (other for domain in xen for other in domain.vbds.values() if other.number == number):
        if other.domain.uuid != vbd.domain.uuid and "w" in (vbd.disk.access, other.disk.access):
            raise _fails(vbd, f"Device {path} is mounted in a guest domain,\nand so cannot be mounted now.")
    _write_device(xen, vbd, path, number)


def _block_xentandem(xen: Xen, vbd: Vbd) -> None:
    """Ours: names the device only where its DRBD is Primary, and leaves any other alone, successfully."""
    path = vbd.disk.target
    number = device_number(path)
    if number is None:
        raise _fails(vbd, f"{path} is not /dev/drbd<minor>")
    try:
        xen.host.open_device(path, "w").close()  # what a Secondary refuses
    except OSError:
        xen.store.write(f"{vbd.path}/hotplug-status", "connected")
    else:
        _write_device(xen, vbd, path, number)


def _write_device(xen: Xen, vbd: Vbd, path: str, number: str) -> None:
    xen.store.write(f"{vbd.path}/physical-device-path", path)
    xen.store.write(f"{vbd.path}/physical-device", number)
    xen.store.write(f"{vbd.path}/hotplug-status", "connected")


def _fails(vbd: Vbd, why: str) -> ScriptFailed:
    vbd.domain.xen.store.write_all(vbd.path, {"hotplug-error": why, "hotplug-status": "error"})
    return ScriptFailed(why)


async def add_interface(vif: Vif) -> None:
    """vif-bridge: the bridge must be there. Raises ScriptFailed."""
    xen = vif.domain.xen
    await xen.host.clock.sleep(xen.settings.hotplug)
    _must_exist(xen, vif.vif.script)
    bridge = vif.vif.bridge
    if not xen.host.files.exists(f"/sys/class/net/{bridge}"):
        why = f"Could not find bridge device {bridge}"
        xen.store.write_all(vif.path, {"hotplug-error": why, "hotplug-status": "error"})
        raise ScriptFailed(why)
    xen.store.write(f"{vif.path}/hotplug-status", "connected")
    device = f"vif{vif.domain.domid}.{vif.index}"
    xen.host.log(f"{bridge}: port 2({device}) entered blocking state")
    xen.host.log(f"device {device} entered promiscuous mode")
