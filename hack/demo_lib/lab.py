"""`hack/demo --lab`: the same story on two real Xen hosts in QEMU, and what proves it there."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import bootstrap
import yaml
from lab_lib import agents, settings
from lab_lib.lab import RECORD, Lab
from lab_lib.tools import LabFailed

from demo_lib.cast import Guest, HostPlace, guest_of
from demo_lib.screen import DemoFailed, Screen
from demo_lib.story import Story
from demo_lib.witness import Witness

GUEST = "hack/lab_lib/shaolin.yaml"
CLEAN = "clean"
RELOCATION_PORT = 8002
ENOUGH_RECORDS = 10
PATIENCE = 300.0


@dataclass
class LabHosts:
    """Real hosts that are on and clean, for as long as `cleanup` is not closed."""

    lab: Lab
    screen: Screen
    guests: list[Guest]
    sample: str = GUEST
    _cleanup: ExitStack = field(default_factory=ExitStack)
    _written: int = 0

    @classmethod
    def boot(cls, screen: Screen, cleanup: ExitStack) -> LabHosts:
        """A lab that is on is used and put back as it was; else one is made, and taken down. Raises LabFailed."""
        lab = _found(screen)
        if lab is None:
            lab = Lab.make(settings.run_folder())
            cleanup.callback(lab.down)
            lab.boot()
            lab.snapshot(CLEAN)
        else:
            cleanup.callback(_put_back, screen, lab)
        for name in lab.names:
            lab.shell(name).ok(f"date -s @{time.time():.3f}")
        (guest,) = [guest_of(list(yaml.safe_load_all((bootstrap.PROJECT / GUEST).read_text())))]
        return cls(lab, screen, [guest], _cleanup=cleanup)

    @property
    def places(self) -> list[HostPlace]:
        return [
            HostPlace(one.name, one.api_port, RELOCATION_PORT, address, address)
            for one in self.lab.machines[:2]
            for address in [settings.address(one.index)]
        ]

    @property
    def controller_tls(self) -> Path:
        return agents.controller_files(self.lab.folder).certificate.parent

    def run(self, host: str, command: str) -> str:
        """What it prints there. Raises LabFailed."""
        return self.lab.shell(host).ok(command)

    # --- the story's ground ---------------------------------------------------------------------------------------

    def before(self, story: Story) -> None:
        (guest,) = self.guests
        self._witness = self._cleanup.enter_context(Witness(self.lab, guest.name, guest.resource))
        self._until_written(story, guest.first)
        self._written = self._witness.last(guest.first)

    def show(self) -> None:
        for place in self.places:
            self.screen.heading(f"On {place.name}")
            for command in ("xl list", "cat /proc/drbd"):
                self.screen.command(command)
                self.screen.block(self.run(place.name, command))

    def judge(self, story: Story) -> None:
        (guest,) = self.guests
        self.screen.heading("The proof, from the kernels and the guest, watched from outside")
        self._until_written(story, guest.second)
        now, seen = time.time(), self._witness
        lines = [self._primaries(guest, now), *self._records(guest)]
        seconds, begin, _ = seen.pause()
        across = seen.changed(guest.first, "Secondary")
        where = "at the hand-over" if across is not None and begin < across < begin + seconds else "elsewhere"
        lines.append(f"the longest time without a record was {seconds:.2f} s, {where}")
        for line in lines:
            self.screen.proved(line)
        self.screen.proved(self._replicas(guest, story))

    def tips(self) -> list[str]:
        return ["hack/lab ssh mk2 xl list", "hack/lab console shaolin   # Ctrl-] ends it", "hack/lab cut-link mk1 mk2"]

    # --- what proves it -------------------------------------------------------------------------------------------

    def _primaries(self, guest: Guest, now: float) -> str:
        seen = self._witness
        two = seen.two_primaries(now)
        if two or any(one.both_primary for one in seen.roles):
            raise DemoFailed(f"a promise was broken: {guest.resource} was Primary on two hosts for {two:.3f} s")
        demoted, promoted = seen.changed(guest.first, "Secondary"), seen.changed(guest.second, "Primary")
        if demoted is None or promoted is None:
            raise DemoFailed(f"DRBD did not tell of the hand-over: {seen.roles}")
        return (
            f"at no instant was {guest.resource} Primary on two hosts: {len(seen.roles)} states that both kernels told"
            f" of; {guest.second} was promoted {promoted - demoted:.2f} s after {guest.first} was demoted"
        )

    def _records(self, guest: Guest) -> list[str]:
        ticks = sorted(self._witness.ticks, key=lambda tick: tick.number)
        broken = [
            *self._witness.complaints,
            *(f"{one.host}: record {one.number} failed" for one in ticks if not one.good),
        ]
        numbers = [tick.number for tick in ticks]
        if numbers != list(range(1, len(numbers) + 1)):
            odd = next(at for at, number in enumerate(numbers, 1) if number != at)
            broken.append(f"after record {odd - 1} came {numbers[odd - 1]}")
        hosts = [tick.host for tick in ticks]
        if hosts != sorted(hosts, key=[guest.first, guest.second].index):
            broken.append(f"the guest wrote on {guest.first} and on {guest.second} by turns")
        if broken:
            raise DemoFailed("a promise was broken:\n" + "\n".join(f"- {one}" for one in broken))
        return [
            f"{guest.name} wrote records 1 to {len(numbers)} without a gap or a repetition, the first"
            f" {hosts.count(guest.first)} of them on {guest.first}, and read each of them back",
            f"at no instant did it run on two hosts: after its first record on {guest.second} none came from"
            f" {guest.first}",
        ]

    def _replicas(self, guest: Guest, story: Story) -> str:
        """Compared while the VM is paused: byte for byte, each host's own logical volume, past all caches."""
        story.to_state(guest, "Paused")
        size = int(self.run(guest.second, "cat /sys/block/drbd1/size")) * 512
        look = f"dd if=/dev/vg0/{guest.resource} iflag=direct,count_bytes bs=1M count={size} status=none | sha256sum"
        with self.screen.step(f"  Reading {size:,} bytes on both hosts"), ThreadPoolExecutor() as pool:
            sums = list(pool.map(lambda place: self.run(place.name, look).split()[0], self.places))
        if len(set(sums)) != 1:
            raise DemoFailed(
                f"a promise was broken: the replicas of {guest.resource} differ (sha256 {' and '.join(sums)})"
            )
        story.to_state(guest, "Running")
        return (
            f"both replicas are identical, byte for byte ({guest.resource}, {size:,} bytes, sha256 {sums[0][:12]}...)"
        )

    def _until_written(self, story: Story, host: str) -> None:
        deadline, than = time.monotonic() + PATIENCE, self._witness.last(host)
        while self._witness.last(host) < than + ENOUGH_RECORDS:
            story.alive()
            self._witness.alive()
            if time.monotonic() > deadline:
                raise DemoFailed(f"no new records on {host} for {PATIENCE:.0f} s: the guest stands still")
            time.sleep(0.1)


def _found(screen: Screen) -> Lab | None:
    """The lab that is on, if there is one; used only when nothing is on it. Raises LabFailed."""
    if not (settings.run_folder() / RECORD).exists():
        return None
    lab = Lab.load(settings.run_folder())
    on = [one.name for one in lab.machines if one.on()]
    if not on:
        return None
    say = "power the lab off (hack/lab down) or make it clean (hack/lab restore clean), then run this again"
    if len(lab.machines) < 2 or len(on) != len(lab.machines) or CLEAN not in lab.kept or lab.cut:
        raise LabFailed(f"a lab is on ({', '.join(on)}), but not as `hack/lab up` left it: {say}")
    for name in lab.names:
        busy = lab.shell(name).ok("xl list | tail -n +3; lvs --noheadings; ls /etc/drbd.d | grep '[.]res$' || true")
        if busy.strip():
            raise LabFailed(f"there is something on {name} of the lab that is on already:\n{busy.rstrip()}\n{say}")
    screen.line(f"The lab that is on is used: {', '.join(lab.names)}")
    return lab


def _put_back(screen: Screen, lab: Lab) -> None:
    with screen.step(f"The lab as it was (hack/lab restore {CLEAN})"):
        lab.restore(CLEAN)
