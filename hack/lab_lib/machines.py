"""The QEMU processes: one a host, two CPUs' worth of software emulation at most, network on loopback alone.

Any two hosts have a cable of their own (UDP between two ports of 127.0.0.1), so that each can be pulled alone and a
host can come and go without the others noticing more than that.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lab_lib import settings
from lab_lib.image import Image
from lab_lib.qmp import Qmp
from lab_lib.tools import LabFailed, run

# Carries shadow paging and hardware-assisted paging, so PV and PVH; no AVX, whose state emulated domains would mix up
CPU = "Opteron_G3,+svm,+npt,-rdtscp,+rdrand"
MEMORY, DOM0_MEMORY = 1536, 640
XEN = (
    f"com1=115200,8n1 console=com1 dom0_mem={DOM0_MEMORY}M,max:{DOM0_MEMORY}M dom0_max_vcpus=1 eager-fpu=on xpti=no "
    "spec-ctrl=no pv-l1tf=no smap=0 smep=0 ucode=no cpuidle=0 cpufreq=none watchdog=0 vpmu=0 noreboot "
    "loglvl=warning guest_loglvl=warning"
)
LINUX = (
    "console=hvc0 mitigations=off nopti audit=0 selinux=0 apparmor=0 random.trust_cpu=on quiet loglevel=4 "
    "net.ifnames=0 systemd.show_status=no"
)
DISK_SIZE = "2G"


@dataclass(frozen=True)
class Cable:
    """Between two hosts: the UDP ports of its two ends."""

    ends: tuple[int, int]
    ports: tuple[int, int]

    def of(self, index: int) -> tuple[int, int] | None:
        """(own port, the other's) of that host; None when the cable is not there."""
        if index not in self.ends:
            return None
        here = self.ends.index(index)
        return self.ports[here], self.ports[1 - here]


@dataclass(frozen=True)
class Plan:
    """What all hosts of a lab have in common."""

    image: Image
    xen: str  # build of the hypervisor
    package: Path  # disk with /opt/xentandem
    cables: list[Cable]


@dataclass
class Machine:
    """One host: its files in the lab's folder, its ports, and its process when it is on."""

    index: int
    ssh_port: int
    api_port: int
    pid: int = 0
    started: str = ""  # the kernel's start time of the process: a pid alone may be another's by now

    @property
    def name(self) -> str:
        return settings.name(self.index)

    def on(self) -> bool:
        return self.pid > 0 and _started(self.pid) == self.started

    def start(self, folder: Path, plan: Plan, *, snapshot: str = "", bare: bool = False) -> None:
        """Power on; `bare`: without the agent, to be kept for later. From a snapshot it stands still until `go_on`.

        Raises LabFailed.
        """
        if self.on():
            raise LabFailed(f"{self.name} is on already")
        for path in (self._path(folder, "console"), self._path(folder, "qmp")):
            path.unlink(missing_ok=True)
        argv = self._argv(folder, plan, "lab.bare" if bare else "")
        if snapshot:
            argv += ["-loadvm", snapshot, "-S"]
        with self._path(folder, "log").open("w") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.pid, self.started = process.pid, _started(process.pid)
        end = time.monotonic() + 60
        while not self._path(folder, "qmp").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise LabFailed(f"QEMU of {self.name} ended: {self._path(folder, 'log').read_text().strip()}")
            time.sleep(0.01)

    def go_on(self, folder: Path) -> None:
        """After a snapshot was loaded; waits for that. Raises LabFailed."""
        try:
            with self.qmp(folder) as qmp:
                qmp.do("cont")
        except OSError as error:
            raise LabFailed(f"QEMU of {self.name} ended: {self.said(folder)}") from error

    def disks(self, folder: Path) -> list[Path]:
        """Those that are written to."""
        return [self.disk(folder, part) for part in ("root", "vg0")]

    def make_disks(self, folder: Path, image: Image) -> None:
        """New ones: what was on them is gone."""
        for disk in self.disks(folder):
            disk.unlink(missing_ok=True)
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image.disk, self.disk(folder, "root")])
        run(["qemu-img", "create", "-q", "-f", "qcow2", self.disk(folder, "vg0"), DISK_SIZE])

    def kill(self) -> None:
        """Power off, as by pulling the plug; returns when it is off."""
        if self.on():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        # Until it is reaped: a zombie's other threads may still hold the disks' locks and the ports
        while self.pid > 0 and _started(self.pid, dead=True) == self.started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.01)
        self.pid = 0

    def qmp(self, folder: Path) -> Qmp:
        return Qmp(self._path(folder, "qmp"))

    def console(self, folder: Path) -> str:
        """Of Xen and dom0 since it was started."""
        try:
            return self._path(folder, "console").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def said(self, folder: Path) -> str:
        """By QEMU itself since it was started."""
        return f"{self._path(folder, 'log').read_text().strip()} ({'on' if self.on() else 'off'})"

    def seed(self, folder: Path) -> Path:
        return self._path(folder, "seed.img")

    def disk(self, folder: Path, part: str) -> Path:
        return self._path(folder, f"{part}.qcow2")

    def _path(self, folder: Path, kind: str) -> Path:
        return folder / f"{self.name}.{kind}"

    def _argv(self, folder: Path, plan: Plan, more: str) -> list[str]:
        mine = [ports for cable in plan.cables if (ports := cable.of(self.index)) is not None]
        words = (
            f"{LINUX} systemd.hostname={self.name} systemd.machine_id={self.index:032x} "
            f"lab.ip={settings.address(self.index)} lab.links={len(mine)} {more}"
        )
        forward = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,hostfwd=tcp:127.0.0.1:{self.api_port}-:8003"
        argv = [
            "qemu-system-x86_64", "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none",
            "-accel", "tcg,thread=multi,tb-size=512", "-machine", "pc,hpet=off", "-cpu", CPU, "-smp", "1",
            "-m", str(MEMORY), "-no-reboot",
            "-kernel", str(plan.image.xen(plan.xen)), "-append", XEN,
            "-initrd", f"{_escaped(plan.image.kernel)} {words},{_escaped(plan.image.initrd)}",
            "-netdev", f"user,id=n0,restrict=on,{forward}",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{self.index}",
            "-device", "virtio-rng-pci",
            "-chardev", f"file,id=c0,path={self._path(folder, 'console')}", "-serial", "chardev:c0",
            "-qmp", f"unix:{self._path(folder, 'qmp')},server=on,wait=off",
        ]  # fmt: skip
        for disk in self.disks(folder):
            argv += ["-drive", f"file={disk},if=virtio,cache=unsafe,discard=unmap"]
        for disk in (plan.package, self.seed(folder)):
            argv += ["-drive", f"file={disk},if=virtio,format=raw,read-only=on"]
        for number, (own, others) in enumerate(mine, 1):
            cable = f"socket,id=l{number},udp=127.0.0.1:{others},localaddr=127.0.0.1:{own}"
            mac = f"52:54:00:00:{number:02}:0{self.index}"
            argv += ["-netdev", cable, "-device", f"virtio-net-pci,id=cable{number},netdev=l{number},mac={mac}"]
        return argv


def hardware() -> str:
    """All that a booted host's memory depends on, but for the image."""
    return repr((CPU, MEMORY, XEN, LINUX, DISK_SIZE, inspect.getsource(Machine._argv)))


def free_udp_ports(count: int) -> list[int]:
    """Bound all at once, so all different."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _started(pid: int, *, dead: bool = False) -> str:
    """Start time in ticks (proc(5)); empty when there is no such living (or, if `dead`, not yet reaped) process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" and not dead else fields[19]
