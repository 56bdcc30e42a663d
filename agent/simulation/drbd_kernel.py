"""The DRBD module of one host: its resources, helpers it calls, /proc/drbd."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.simulation import drbd_events, drbd_proc
from agent.simulation.drbd_state import SECONDARY, Failure, disk_rank
from agent.simulation.drbd_volume import Volume

if TYPE_CHECKING:
    from agent.simulation.drbd_link import Fabric
    from agent.simulation.host import SimulatedHost

PEER_INCONSISTENT, PEER_OUTDATED, PEER_DOWN, PEER_PRIMARY, PEER_FENCED = 3, 4, 5, 6, 7
"""Exit statuses of a fence-peer handler (drbd.conf(5))."""


class Kernel:
    """What a power loss wipes out: which resources there are and all their states."""

    def __init__(self, host: SimulatedHost, fabric: Fabric) -> None:
        self.host = host
        self.fabric = fabric
        self.resources: dict[str, Volume] = {}
        self.minors: dict[int, Volume] = {}
        self.listeners: set[drbd_events.Listener] = set()
        host.devices.add_driver(self.find)
        host.on_power_off.append(self._power_off)
        host.on_power_on.append(self._power_on)

    def _power_on(self) -> None:
        self.host.files.provide("/proc/drbd", lambda: drbd_proc.proc(self))
        self.host.files.provide("/sys/module/drbd/parameters/disable_sendpage", lambda: "Y\n")

    def _power_off(self) -> None:
        volumes = list(self.resources.values())
        self.fabric.power_off(volumes)
        for volume in volumes:
            volume.power_lost()
        self.resources.clear()
        self.minors.clear()
        self.listeners.clear()

    def find(self, path: str) -> Volume | None:
        if match := re.fullmatch(r"/dev/drbd([0-9]{1,7})", path):
            return self.minors.get(int(match[1]))
        if match := re.fullmatch(r"/dev/drbd/by-res/([^/]+)(?:/0)?", path):
            volume = self.resources.get(match[1])
            return volume if volume is not None and volume.minor is not None else None
        return None

    def random_uuid(self) -> int:
        return self.host.simulation.random.getrandbits(64) & ~1 | 1 << 63

    def tell(self, event: drbd_events.Event, name: str) -> None:
        now = self.host.clock.now()
        for listener in tuple(self.listeners):
            listener.tell(event, name, now)

    # --- resources ------------------------------------------------------------------------------------------------

    def new_resource(self, name: str) -> Volume:
        if (volume := self.resources.get(name)) is None:
            volume = self.resources[name] = Volume(self, name)
            volume.tell(drbd_events.resource(volume, "create"))
        return volume

    def new_minor(self, name: str, minor: int) -> None:
        volume = self.resource(name)
        if self.minors.get(minor, volume) is not volume or (volume.minor is not None and volume.minor != minor):
            raise Failure(161)
        if volume.minor is None:
            volume.minor = minor
            self.minors[minor] = volume
            volume.tell(drbd_events.device(volume, "create"))

    def del_minor(self, minor: int) -> None:
        volume = self.minor(minor)
        if volume.state.disk != "Diskless" or volume.state.cs != "StandAlone" or volume.state.role != SECONDARY:
            raise Failure(160)
        volume.tell(drbd_events.device(volume, "destroy"))
        del self.minors[minor]
        volume.minor = None

    def del_resource(self, name: str) -> None:
        volume = self.resource(name)
        if volume.minor is not None:
            raise Failure(159)
        volume.tell(drbd_events.resource(volume, "destroy"))
        del self.resources[name]

    def resource(self, name: str) -> Volume:
        if (volume := self.resources.get(name)) is None:
            raise Failure(158)
        return volume

    def minor(self, minor: int) -> Volume:
        if (volume := self.minors.get(minor)) is None:
            raise Failure(127, "unknown minor")
        return volume

    # --- helpers --------------------------------------------------------------------------------------------------

    async def helper(self, volume: Volume, name: str, *, whole: bool = False) -> int:
        """`/sbin/drbdadm NAME minor-N`, which runs the handler that the configuration has for it.

        `whole`: about the connection, not about one device of it (fence-peer, unfence-peer).
        """
        from agent.simulation import drbdadm  # the kernel starts the tool, the tool talks to the kernel

        subject = f"drbd {volume.name}" if whole else f"block drbd{volume.minor}"
        command = f"/sbin/drbdadm {name} {volume.name if whole else f'minor-{volume.minor}'}"
        self.host.log(f"{subject}: helper command: {command}")
        volume.tell(drbd_events.helper(volume, name, whole=whole))
        await self.host.clock.sleep(self.host.simulation.timing.helper)
        status = await drbdadm.run_handler(self.host, volume, name) if self.host.on else 0
        self.host.log(f"{subject}: helper command: {command} exit code {status} (0x{status << 8:x})")
        volume.tell(drbd_events.helper(volume, name, status, whole=whole))
        return status

    def fence_later(self, volume: Volume) -> None:
        self.host.simulation.tasks.start(self.fence_peer(volume), f"{volume.path} fence-peer")

    async def fence_peer(self, volume: Volume) -> bool:
        """Ask the fence-peer handler whether the peer is out of the way (the kernel's conn_try_outdate_peer())."""
        if volume.state.cs not in {"WFConnection", "Unconnected", "NetworkFailure", "BrokenPipe", "TearDown",
                                   "StandAlone", "Timeout", "Disconnecting"}:  # fmt: skip
            return False
        if disk_rank(volume.state.disk) < disk_rank("Consistent"):
            self.host.log(f"drbd {volume.name}: Not fencing peer, I'm not even Consistent myself.")
            volume.thaw()
            return False
        status = await self.helper(volume, "fence-peer", whole=True)
        if not self.host.on or volume.session is not None or self.resources.get(volume.name) is not volume:
            return False
        if status == PEER_PRIMARY:
            self.host.log(f"drbd {volume.name}: Peer is primary, outdating myself.")
            volume.change(disk="Outdated")
            return False
        answers = {PEER_INCONSISTENT: "Inconsistent", PEER_OUTDATED: "Outdated", PEER_FENCED: "Outdated"}
        if status == PEER_DOWN and volume.state.disk == "UpToDate":
            answers[PEER_DOWN] = "Outdated"
        if status not in answers:
            self.host.log(f"drbd {volume.name}: fence-peer helper broken, returned {status}")
            return False
        volume.change(peer_disk=answers[status])
        if volume.new_uuid_due:
            volume.new_current_uuid()
        volume.thaw()
        return True
