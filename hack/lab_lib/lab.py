"""A lab: hosts that are on, and what may be done to them."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ports import free_ports

from lab_lib import agents, image, machines, settings
from lab_lib.image import Image
from lab_lib.machines import Cable, Machine, Plan, free_udp_ports
from lab_lib.shell import Shell
from lab_lib.tools import LabFailed, prepare, step

BOOT_LIMIT = 300.0
RECORD = "lab.json"
BOOTED = "booted"
LINKS = f"ln -sf /{agents.SITE}/agent/scripts/*-xentandem /etc/xen/scripts/"  # as docs/start.md installs them


@dataclass
class Lab:
    """Of one folder. What it is, is kept in `lab.json` there."""

    folder: Path
    plan: Plan
    machines: list[Machine]
    cut: list[str] = field(default_factory=list)  # cables that are pulled: "mk1-mk2"
    kept: list[str] = field(default_factory=list)  # tags of snapshots

    # --- making and finding -------------------------------------------------------------------------------------

    @classmethod
    def make(cls, folder: Path, *, hosts: int = 2, xen: str = "main") -> Lab:
        """New hosts with empty disks, off. Raises LabFailed."""
        prepare()
        if (folder / RECORD).exists():
            cls.load(folder).down()
        built = image.built()
        folder.mkdir(parents=True, exist_ok=True)
        numbers = range(1, hosts + 1)
        ports = iter(free_ports(2 * hosts))
        pairs = list(itertools.combinations(numbers, 2))
        udp = iter(free_udp_ports(2 * len(pairs)))
        cables = [Cable(pair, (next(udp), next(udp))) for pair in pairs]
        lab = cls(
            folder,
            Plan(built, xen, agents.package_disk(built), cables),
            [Machine(number, next(ports), next(ports)) for number in numbers],
        )
        for machine in lab.machines:
            agents.seed_disk(folder, machine.index)
        agents.controller_files(folder)
        lab.save()
        return lab

    @classmethod
    def load(cls, folder: Path) -> Lab:
        """The lab that was made there. Raises LabFailed."""
        try:
            record = json.loads((folder / RECORD).read_text())
        except FileNotFoundError:
            raise LabFailed("there is no lab: hack/lab up makes one") from None
        cables = [Cable(tuple(cable["ends"]), tuple(cable["ports"])) for cable in record["cables"]]
        plan = Plan(Image(Path(record["image"])), record["xen"], Path(record["package"]), cables)
        return cls(folder, plan, [Machine(**machine) for machine in record["machines"]], record["cut"], record["kept"])

    def save(self) -> None:
        plan = self.plan
        record = {
            "image": str(plan.image.folder), "xen": plan.xen, "package": str(plan.package), "cut": self.cut,
            "kept": self.kept,
            "cables": [asdict(one) for one in plan.cables], "machines": [asdict(one) for one in self.machines],
        }  # fmt: skip
        partial = self.folder / f"{RECORD}.new"
        partial.write_text(json.dumps(record, indent=1))
        partial.rename(self.folder / RECORD)

    # --- parts --------------------------------------------------------------------------------------------------

    def machine(self, name: str) -> Machine:
        """Raises LabFailed."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise LabFailed(f"there is no host {name}; there are: {', '.join(self.names)}")

    def shell(self, name: str) -> Shell:
        return Shell(name, self.machine(name).ssh_port, self.folder)

    @property
    def names(self) -> list[str]:
        return [machine.name for machine in self.machines]

    # --- power --------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power on all hosts for the first time, from the cache as far as they were booted before. Raises LabFailed."""
        kept = self._booted()
        with step(f"  {', '.join(self.names)} as they were after their first boot"):
            for machine in self.machines:
                for disk in machine.disks(self.folder):
                    shutil.copyfile(kept / disk.name, disk)
            self._on(self.machines, snapshot=BOOTED)
        with step("  the agents"):
            for machine in self.machines:
                shell = self.shell(machine.name)
                shell.ok(f"date -s @{time.time():.3f} >/dev/null && mount /opt/xentandem && mount /etc/xentandem")
                shell.ok(f"{LINKS}; systemctl start --no-block xentandem-agent")
            self._agents(self.machines)

    def start(self, name: str) -> None:
        """Power on a host that has been on before; its agent comes by itself. Raises LabFailed."""
        machine = self.machine(name)
        self._on([machine])
        self._agents([machine])

    def _on(self, chosen: list[Machine], *, snapshot: str = "", bare: bool = False) -> None:
        for machine in chosen:
            machine.start(self.folder, self.plan, snapshot=snapshot, bare=bare)
            self.save()
        if snapshot:  # all at once, as they stood still at once: what they say to each other survives
            for machine in chosen:
                machine.go_on(self.folder)
        for pair in self.cut:
            for name in set(pair.split("-")) & {machine.name for machine in chosen}:
                self._set_link(pair, name, up=False)
        end = time.monotonic() + BOOT_LIMIT
        for machine in chosen:
            while not snapshot and "LAB ready" not in machine.console(self.folder):
                self._expect(machine, end, "did not come up")
            self.shell(machine.name).close()
            try:
                self.shell(machine.name).connect()
            except LabFailed as error:
                raise LabFailed(f"{error}; QEMU says: {machine.said(self.folder)}") from error

    def _agents(self, chosen: list[Machine]) -> None:
        """Until they answer."""
        end = time.monotonic() + BOOT_LIMIT
        for machine in chosen:
            listens = "ss -Hltn 'sport = 8003' | grep -q ."
            while self.shell(machine.name).run(listens).exit:
                self._expect(machine, end, "has no agent that listens (journalctl -u xentandem-agent)")

    def _expect(self, machine: Machine, end: float, what: str) -> None:
        if not machine.on() or time.monotonic() > end:
            tail = "\n".join(machine.console(self.folder).splitlines()[-15:])
            raise LabFailed(f"{machine.name} {what}; its console ends with:\n{tail}")
        time.sleep(0.1)

    def kill(self, name: str) -> None:
        """Power off as by pulling the plug; its disks keep what was written."""
        self.machine(name).kill()
        self.shell(name).close()
        self.save()

    def down(self) -> None:
        """Everything off and gone; what is in the cache stays."""
        for machine in self.machines:
            machine.kill()
            self.shell(machine.name).close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def push(self) -> None:
        """The agents' code as it is in this tree now, on clean hosts, which are kept as `clean`. Raises LabFailed."""
        self.restore("clean")
        archive, place = agents.code(), "/run/xentandem-code"
        for machine in self.machines:
            shell = self.shell(machine.name)
            shell.send(archive, f"rm -rf {place} && mkdir {place} && tar -xf - -C {place} --no-same-owner")
            mounted = f"/{agents.SITE}/agent"
            shell.ok(f"mountpoint -q {mounted} && umount {mounted}; mount --bind {place} {mounted}")
            shell.ok(f"{LINKS}; systemctl restart --no-block xentandem-agent; sleep 1")
        self._agents(self.machines)
        self.kept = []
        self.snapshot("clean")

    # --- booted once, kept --------------------------------------------------------------------------------------

    def _booted(self) -> Path:
        """Disks with the memory of hosts like these after their first boot, without agents; made when not there."""
        source = f"{machines.hardware()} {self.plan.xen} {len(self.machines)}".encode()
        kept = self.plan.image.folder / f"booted-{hashlib.sha256(source).hexdigest()[:16]}"
        with (settings.cache() / "build.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                with step(f"  first boot of {', '.join(self.names)} (once for this image)"):
                    self._first_boot(kept)
        return kept

    def _first_boot(self, kept: Path) -> None:
        for machine in self.machines:
            machine.make_disks(self.folder, self.plan.image)
        try:
            self._on(self.machines, bare=True)
            self.snapshot(BOOTED)
        finally:
            self.kept = []
            for machine in self.machines:
                self.kill(machine.name)
        partial = kept.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for machine in self.machines:
            for disk in machine.disks(self.folder):
                disk.rename(partial / disk.name)
        partial.rename(kept)

    # --- cables -------------------------------------------------------------------------------------------------

    def set_link(self, one: str, other: str, *, up: bool) -> None:
        """Pull the cable between two hosts, or plug it in again; both see it. Raises LabFailed."""
        pair = "-".join(sorted((self.machine(one).name, self.machine(other).name)))
        if one == other:
            raise LabFailed(f"{one} has no cable to itself: name two hosts")
        if up == (pair not in self.cut):
            return
        if up:
            self.cut.remove(pair)
        else:
            self.cut.append(pair)
        for name in (one, other):
            if self.machine(name).on():
                self._set_link(pair, name, up=up)
        self.save()

    def _set_link(self, pair: str, name: str, *, up: bool) -> None:
        machine = self.machine(name)
        ends = tuple(sorted(self.machine(one).index for one in pair.split("-")))
        mine = [cable for cable in self.plan.cables if cable.of(machine.index) is not None]
        number = next(at for at, cable in enumerate(mine, 1) if cable.ends == ends)
        with machine.qmp(self.folder) as qmp:
            qmp.do("set_link", name=f"cable{number}", up=up)

    # --- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self, tag: str) -> None:
        """Memory and disks of all hosts, as of one instant: what they say to each other survives. Raises LabFailed."""
        if off := [machine.name for machine in self.machines if not machine.on()]:
            raise LabFailed(f"{', '.join(off)} is off: only hosts that are on can be kept")
        connections = [machine.qmp(self.folder) for machine in self.machines]
        try:
            for qmp in connections:
                qmp.do("stop")
            for qmp in connections:
                qmp.monitor(f"savevm {tag}")
        finally:
            for qmp in connections:
                with qmp:
                    qmp.do("cont")
        self.kept = sorted({*self.kept, tag})
        self.save()

    def restore(self, tag: str, *, set_clock: bool = True) -> None:
        """As they were at the snapshot, with this machine's time unless told otherwise. Raises LabFailed."""
        if tag not in self.kept:
            raise LabFailed(f"there is no snapshot {tag}; there are: {', '.join(self.kept) or 'none'}")
        for machine in self.machines:
            machine.kill()
        self.cut = []
        self._on(self.machines, snapshot=tag)
        for name in self.names if set_clock else ():
            # In a QEMU of its own: the clock of one that goes back within itself would jump
            self.shell(name).ok(f"date -s @{time.time():.3f}")
