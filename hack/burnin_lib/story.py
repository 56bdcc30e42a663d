"""A random story: what people and bad luck do to some VMs on some hosts, made from a seed, told and played."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass

from api_objects import Manifest, howto
from harness import Scene, is_ready

from agent.simulation.hypervisor import Xen
from burnin_lib.keeper import Keeper
from burnin_lib.proxy import BAD, NONE, Proxy
from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM
from controller.domain.volume_case import created

SETTLED_SECONDS = 150.0
RESYNC_SECONDS = 2.0
MADE_SECONDS = 15.0
"""A disk fails later, if its volume is being made: unless what happened before keeps it from that for so long."""


@dataclass(frozen=True)
class Step:
    """One thing that happens, `after` seconds."""

    what: str
    subject: str = ""
    other: str = ""
    after: float = 0.0

    def __str__(self) -> str:
        return f"after {self.after:.1f} s: {self.what} {self.subject} {self.other}".rstrip()


KINDS = {
    "move": 8, "stop": 2, "run": 3, "pause": 1, "reboot the guest of": 1, "crash the guest of": 1,
    "kill the controller": 2, "kill the agent of": 3, "power off": 1, "power on": 3, "cut": 1, "restore": 3,
    "slow": 1, "hang xl on": 1, "unhang xl on": 3, "spoil the API server": 1, "heal the API server": 2,
    "fail the disk of": 2, "replace the disk of": 4,
}  # fmt: skip
OF_VMS = ("move", "stop", "run", "pause", "reboot the guest of", "crash the guest of")
OF_DISKS = ("fail the disk of", "replace the disk of")
OF_HOSTS = ("kill the agent of", "power off", "power on", "hang xl on", "unhang xl on")
STATES = {"stop": "Stopped", "run": "Running", "pause": "Paused"}


def story(seed: int, names: tuple[str, ...], vms: int, steps: int) -> list[Step]:
    chance = random.Random(seed)  # noqa: S311  # repeatable, not secret
    made = []
    for _ in range(steps):
        what = chance.choices(list(KINDS), list(KINDS.values()))[0]
        subject = other = ""
        if what in OF_VMS or what in OF_DISKS:
            subject = f"vm{chance.randrange(vms)}"
            other = chance.choice(names) if what in OF_DISKS else ""
        if what in OF_VMS:
            other = chance.choice(names) if what == "move" else ""
        elif what in OF_HOSTS:
            subject = chance.choice(names)
        elif what in ("cut", "restore"):
            subject, other = chance.sample(names, 2)
        made.append(Step(what, subject, other, chance.random() * 0.8))
    return made


def _path(name: str) -> str:
    return f"/dev/vg0/{name}"


def objects(names: tuple[str, ...], vms: int, chance: random.Random) -> list[Manifest]:
    """Each VM with a volume on two of the hosts."""
    made = []
    for number in range(vms):
        pair = chance.sample(names, 2)
        volume, vm = howto("DrbdVolume", f"vm{number}"), howto("XenVM", f"vm{number}")
        volume["spec"] = {
            "size": "8Mi", "logicalVolume": {"group": "vg0"}, "nodes": pair, "content": {"filesystem": "ext4"},
        }  # fmt: skip
        vm["spec"] |= {"node": pair[0], "memory": "32Mi", "maxMemory": "32Mi", "shutdownGraceSeconds": 3}
        vm["spec"] |= {"disks": [{"volume": f"vm{number}", "device": "xvda"}], "networks": [{"bridge": "xenbr0"}]}
        made += [volume, vm]
    return made


class Player:
    """Plays a story on a scene, then mends everything that was broken, and says what is not as declared then."""

    def __init__(self, scene: Scene, proxy: Proxy, keeper: Keeper, vms: int) -> None:
        self._scene, self._proxy, self._keeper, self._vms = scene, proxy, keeper, vms
        self._members: dict[str, tuple[str, ...]] = {}
        self._broken: set[tuple[str, str]] = set()  # volumes and the hosts on which their disk has failed

    async def create(self, chance: random.Random) -> None:
        scene = self._scene
        await asyncio.gather(*(scene.start_agent(name) for name in scene.names))
        for name in scene.names:
            await scene.apply(scene.node_manifest(name))
        made = objects(scene.names, self._vms, chance)
        self._members = {one["metadata"]["name"]: tuple(one["spec"]["nodes"]) for one in made[::2]}
        await scene.apply(*made)

    async def play(self, step: Step) -> None:
        await asyncio.sleep(step.after)
        simulation = self._scene.simulation
        if step.what in OF_VMS:
            await self._to_vm(step)
        elif step.what in OF_DISKS:
            members = self._members[step.subject]
            host = step.other if step.other in members else members[0]
            await (self._fail if step.what == OF_DISKS[0] else self._replace)(step.subject, host)
        elif step.what in OF_HOSTS:
            await self._to_host(step.what, step.subject)
        match step.what:
            case "kill the controller":
                self._keeper.kill()
            case "cut":
                simulation.cut_link(step.subject, step.other)
            case "restore":
                simulation.restore_link(step.subject, step.other)
            case "slow":
                simulation.slow_link(5e7)
            case "spoil the API server":
                self._proxy.faults = BAD
            case "heal the API server":
                self._proxy.faults = NONE

    async def _to_vm(self, step: Step) -> None:
        if step.what == "move":
            members = self._members[step.subject]
            await self._scene.move(step.subject, step.other if step.other in members else members[0])
        elif step.what in STATES:
            await self._scene.patch("XenVM", step.subject, {"spec": {"state": STATES[step.what]}})
        else:
            self._guest(step.subject, step.what.split()[0])

    async def _fail(self, name: str, host: str) -> None:
        """IO errors from now on. One disk of a volume at a time: who loses both has lost the data. Not before the
        volume is made: a person makes one anew whose disk fails in the first sync."""
        simulation = self._scene.simulation
        if not any(broken == name for broken, _ in self._broken) and await self._is_made(name):
            self._broken.add((name, host))
            simulation.fail_disk(host, _path(name))

    async def _is_made(self, name: str) -> bool:
        end = asyncio.get_running_loop().time() + MADE_SECONDS
        while not created((volume := await self._scene.volume(name)).status, volume):
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(0.2)
        return True

    async def _replace(self, name: str, host: str) -> None:
        """By a new one where DRBD let go of it and the other host has all of the data; else it works again."""
        simulation, one = self._scene.simulation, self._scene.simulation.hosts[host]
        if (name, host) not in self._broken or not one.on:
            return
        self._broken.discard((name, host))
        simulation.repair_disk(host, _path(name))
        state = one.drbd.resources[name].state if name in one.drbd.resources else None
        if state is not None and (state.disk, state.peer_disk) == ("Diskless", "UpToDate"):
            tag = f"xentandem.uid={(await self._scene.volume(name)).metadata.uid}"
            await self._ok(host, "lvremove", "-f", f"vg0/{name}")
            await self._ok(host, "lvcreate", "-y", "-n", name, "-L", "8M", "--addtag", tag, "vg0")
            await self._ok(host, "drbdadm", "create-md", "--force", name)
        await self._attach(name, host)

    async def _attach(self, name: str, host: str) -> bool:
        """As docs/operations.md says. Whether DRBD has a disk there now."""
        one = self._scene.simulation.hosts[host]
        if one.on and name in one.drbd.resources and one.drbd.resources[name].state.disk == "Diskless":
            done = await one.run(["drbdadm", "attach", name])
            if "(150)" in done.stderr:  # it failed when DRBD noted on it that it is alone: no guest can go on with it
                for end in (["drbdadm", "resume-io"], ["xl", "destroy"], ["drbdadm", "secondary"]):
                    await one.run([*end, name])
        return one.on and name in one.drbd.resources and one.drbd.resources[name].state.disk != "Diskless"

    async def _ok(self, host: str, *argv: str) -> None:
        done = await self._scene.simulation.hosts[host].run(list(argv))
        assert done.exit == 0, f"{host}: {' '.join(argv)}: {done}"

    async def _to_host(self, what: str, name: str) -> None:
        scene, host = self._scene, self._scene.simulation.hosts[name]
        match what:
            case "kill the agent of" if name in scene.agents:
                await scene.kill_agent(name)
                await scene.start_agent(name)
            case "power off" if host.on:
                await scene.crash_host(name)
            case "power on" if not host.on:
                await scene.boot_host(name)
            case "hang xl on":
                host.hang("xl")
            case "unhang xl on":
                host.unhang("xl")

    def _guest(self, name: str, what: str) -> None:
        for host in self._scene.simulation.hosts.values():
            found = Xen.of(host).find(name) if host.on else None
            if found is not None and found.guest is not None:
                with suppress(RuntimeError):  # it does not run now
                    getattr(found.guest, what)()

    async def mend(self) -> None:
        """Everything works again, and every VM shall run."""
        scene, simulation = self._scene, self._scene.simulation
        self._proxy.heal()
        simulation.slow_link(1e9)
        for name in scene.names:
            simulation.unhang(name, "xl")
            for other in scene.names:
                if name < other:
                    simulation.restore_link(name, other)
            if not simulation.hosts[name].on:
                await scene.boot_host(name)
        for name, host in sorted(self._broken):
            await self._replace(name, host)
        await asyncio.gather(*(self._has_disk(f"vm{number}") for number in range(self._vms)))
        for number in range(self._vms):
            await scene.patch("XenVM", f"vm{number}", {"spec": {"state": "Running"}})

    async def _has_disk(self, name: str) -> None:
        """Both of its disks are attached; what is not made yet is not waited for."""
        end = asyncio.get_running_loop().time() + SETTLED_SECONDS
        for host in self._members[name]:
            known = name in self._scene.simulation.hosts[host].drbd.resources
            while known and not await self._attach(name, host):
                assert asyncio.get_running_loop().time() < end, f"{name} has no disk on {host}"
                await asyncio.sleep(0.5)

    async def settle(self) -> None:
        """Raises AssertionError with the object that does not become as declared, and with every violation."""
        scene, truth = self._scene, self._scene.simulation.truth

        def runs(vm: XenVM) -> bool:
            return bool(truth.running(vm.metadata.uid) == (vm.spec.node,))

        def is_whole(volume: DrbdVolume) -> bool:
            return bool(is_ready(volume) and truth.replicas_identical(volume.status.resource or ""))

        for number in range(self._vms):
            # What is told may be older than what was mended last
            vm = await scene.until("XenVM", f"vm{number}", lambda vm: as_declared(vm) and runs(vm), SETTLED_SECONDS)
            volume = await scene.until("DrbdVolume", f"vm{number}", is_whole, SETTLED_SECONDS)
            assert runs(vm), f"vm{number} runs on {truth.running(vm.metadata.uid)}"
            assert truth.replicas_identical(volume.status.resource), truth.difference(volume.status.resource)
        truth.check()


def as_declared(vm: XenVM) -> bool:
    placement = vm.status.placement
    return is_ready(vm) and vm.status.phase == "Running" and placement is not None and placement.node == vm.spec.node
