"""One simulated dom0: agent.host.Host answered from memory and from files of the simulation's directory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import shutil
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.download import download
from agent.host import CommandTimedOut, Completed, HostProcess, Job, PipedProcess
from agent.images import require_raw
from agent.real_jobs import MARK
from agent.simulation.devices import Device, Devices, os_error
from agent.simulation.files import VirtualFiles
from agent.simulation.process import (
    Command,
    Lines,
    Pipe,
    Process,
    Processes,
    Program,
    SimulatedJob,
    SimulatedPipedProcess,
    command,
)

if TYPE_CHECKING:
    from agent.simulation.cluster import Simulation
    from agent.simulation.drbd_kernel import Kernel
    from agent.simulation.lvm import VolumeGroups

IMAGE_CHUNK = 1 << 20


class PoweredOff(OSError):
    """The host is off: nothing on it can run. An agent that still runs there is a mistake of the test."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.EHOSTDOWN, f"{name} is off")


class SimulatedHost:
    """A dom0. Parts add programs (`add_command`, `add_program`), virtual files and power hooks.

    `on_power_off` functions run at once, synchronously, when the power goes; `on_power_on` when it is back, in the
    order in which they were added. What a part keeps in plain attributes it must clear there: memory is lost.
    """

    def __init__(self, simulation: Simulation, name: str, address: str, directory: Path) -> None:
        self.simulation = simulation
        self.name = name
        self.address = address
        self.directory = directory
        self.run_dir = directory / "run"
        self.clock = simulation.clock
        self.truth = simulation.truth
        self.files = VirtualFiles()
        self.devices = Devices(self)
        self.processes = Processes(self)
        self.programs: dict[str, Program] = {}
        self.on_power_off: list[Callable[[], None]] = []
        self.on_power_on: list[Callable[[], None]] = []
        self.clock_is_ahead = 0.0  # seconds, of the wall clock: as somebody, or NTP, has set it
        self.on = False
        self.boot_id = ""
        self.booted_at = 0.0
        self.volume_groups: VolumeGroups  # these two are set by `programs.install`
        self.drbd: Kernel
        self._jobs: dict[str, SimulatedJob] = {}
        self._hung: set[str] = set()
        self._dmesg: list[str] = []
        directory.mkdir(parents=True, exist_ok=True)

    # --- programs -------------------------------------------------------------------------------------------------

    def add_command(self, name: str, function: Command) -> None:
        self.programs[name] = command(function)

    def add_program(self, name: str, program: Program) -> None:
        self.programs[name] = program

    def program(self, path: str) -> Program:
        if not self.on:
            raise PoweredOff(self.name)
        found = self.programs.get(posixpath.basename(path))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    async def before_program(self, process: Process) -> None:
        """What every start costs; a program that a fault made hang stays here."""
        await self.clock.sleep(self.simulation.timing.command)
        name = posixpath.basename(process.argv[0])
        await self.simulation.changed.wait_until(lambda: name not in self._hung)

    def hang(self, program: str) -> None:
        """Runs of that program from now on do nothing and never end, until `unhang`."""
        self._hung.add(program)

    def unhang(self, program: str) -> None:
        self._hung.discard(program)
        self.simulation.changed.notify()

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        source = Pipe(None)
        source.put(stdin)
        source.close_write()
        process = self.processes.start(argv, stdin=source)
        try:
            status = await self.clock.wait_for(process.wait(), timeout)
        except TimeoutError:
            raise CommandTimedOut(argv, timeout) from None
        finally:
            process.kill_session()
        if not self.on:
            raise PoweredOff(self.name)
        output = (await process.stdout.read()).decode()
        return Completed(tuple(argv), status, output, process.stderr.text)

    @contextlib.asynccontextmanager
    async def follow(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        process = self.processes.start(argv)

        async def lines() -> AsyncIterator[str]:
            while line := await process.stdout.readline():
                yield line.decode().rstrip("\n")

        try:
            yield lines()
        finally:
            process.kill_session()

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        if scope in self._jobs:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), scope)
        job = SimulatedJob(scope, self.processes.start(argv, stderr=Lines(), environment={MARK: scope}))
        self._jobs[scope] = job
        return job

    async def find_job(self, scope: str) -> Job | None:
        return self._jobs.get(scope)

    async def forget_job(self, scope: str) -> None:
        if (job := self._jobs.get(scope)) is not None and job.ended:
            del self._jobs[scope]

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        return SimulatedPipedProcess(self.processes.start(argv, stdin=Pipe(), environment={MARK: "pipe"}))

    async def find_processes(self, programs: Collection[str]) -> tuple[HostProcess, ...]:
        self._must_be_on()
        if "/proc" in self._hung:  # fault: a /proc that cannot be read
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), "/proc")
        seen = (one.seen for one in self.processes.running.values())
        return tuple(process for process in seen if process.program in programs)

    # --- files and devices ----------------------------------------------------------------------------------------

    async def read_text(self, path: str) -> str:
        self._must_be_on()
        return self.files.read(path)

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        self._must_be_on()
        self.files.write(path, text)

    async def remove(self, path: str) -> None:
        self._must_be_on()
        self.files.remove(path)
        self._real_file(path).unlink(missing_ok=True)

    async def list_dir(self, path: str) -> list[str]:
        self._must_be_on()
        return self.files.names(path)

    async def exists(self, path: str) -> bool:
        self._must_be_on()
        return self.files.exists(path) or self.devices.exists(path)

    def open_device(self, path: str, mode: str = "r") -> Device:
        """Open a block device, `mode` "r" or "w" (read and write).

        Raises OSError as the kernel would: ENOENT, ENXIO, EBUSY; EROFS or EMEDIUMTYPE on a DRBD Secondary.
        """
        self._must_be_on()
        return self.devices.open(path, mode)

    def device_size(self, path: str) -> int:
        """Bytes, also of a device that can't be opened now (as BLKGETSIZE64 on the node). Raises OSError (ENOENT)."""
        self._must_be_on()
        if (block := self.devices.get(path)) is None:
            raise os_error(errno.ENOENT, path)
        return block.size

    async def fetch_image(self, url: str, path: str, limit: int, *, timeout: float) -> tuple[int, str]:
        """By the machine's own network; into a real file under the host's folder `files`."""
        self._must_be_on()
        real = self._real_file(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(real, "wb") as file:  # noqa: ASYNC230  # a local file

                async def write(offset: int, data: bytes) -> None:
                    self._must_be_on()
                    file.seek(offset)
                    file.truncate()
                    file.write(data)

                return await download(url, write, limit, timeout)
        except BaseException:
            real.unlink(missing_ok=True)
            raise

    async def copy_image(self, source_path: str, device: str) -> tuple[int, str]:
        """`source_path` is a virtual file, or a real one under the host's folder `files`."""
        self._must_be_on()
        digest, offset = hashlib.sha256(), 0
        target = self.open_device(device, "w")
        try:
            async for chunk in self._chunks(source_path):
                if not offset:
                    require_raw(chunk)
                await target.write(offset, chunk)
                digest.update(chunk)
                offset += len(chunk)
        finally:
            target.close()
        return offset, digest.hexdigest()

    def _real_file(self, path: str) -> Path:
        return self.directory / "files" / path.lstrip("/")

    async def _chunks(self, path: str) -> AsyncIterator[bytes]:
        if self.files.exists(path):
            yield self.files.read(path).encode()
            return
        real = self._real_file(path)
        if not real.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with open(real, "rb") as file:  # noqa: ASYNC230  # a local sparse file
            while chunk := file.read(IMAGE_CHUNK):
                yield chunk

    # --- time and kernel ------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.now() + self.clock_is_ahead

    def monotonic(self) -> float:
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    def log(self, line: str) -> None:
        """A line of the kernel's log, as dmesg(1) shows it."""
        self._dmesg.append(f"[{self.clock.now() - self.booted_at:12.6f}] {line}")

    @property
    def dmesg(self) -> tuple[str, ...]:
        return tuple(self._dmesg)

    def _must_be_on(self) -> None:
        if not self.on:
            raise PoweredOff(self.name)

    def power_off(self) -> None:
        """The plug is pulled: what was in memory is gone at this instant, disks keep what was written."""
        if not self.on:
            return
        self.on = False
        self.truth.note(self.name, "loses power")
        self.processes.power_off()
        for hook in self.on_power_off:
            hook()
        self.devices.power_off()
        self.files.power_off()
        self._dmesg.clear()
        self._hung.clear()
        self.simulation.link_changed()

    def power_on(self) -> None:
        """Boots: a new boot id, no domains, DRBD loaded and unconfigured, logical volumes active."""
        if self.on:
            return
        self.on = True
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.boot_id = self.simulation.random_uuid()
        self.booted_at = self.clock.now()
        self.files.provide("/proc/sys/kernel/random/boot_id", lambda: self.boot_id + "\n")
        self.files.provide("/proc/uptime", lambda: f"{self.clock.now() - self.booted_at:.2f} 0.00\n")
        self.files.provide("/proc/sys/kernel/hostname", lambda: self.name + "\n")
        self.truth.note(self.name, "boots")
        for hook in self.on_power_on:
            hook()
        self.simulation.link_changed()
