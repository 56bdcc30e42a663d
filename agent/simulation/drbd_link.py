"""Connections of DRBD between two hosts: finding each other, noticing that the other is gone, carrying writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.simulation import drbd_events
from agent.simulation.drbd_handshake import handshake
from agent.simulation.drbd_io import sectors, usable_disk, write_received
from agent.simulation.drbd_resync import Resync
from agent.simulation.drbd_state import UNKNOWN, StateError, disk_rank

if TYPE_CHECKING:
    from agent.simulation.cluster import Simulation
    from agent.simulation.drbd_volume import Volume

Endpoint = tuple[str, int]


class Session:
    """One established connection. Each end leaves it when it notices that it is over."""

    def __init__(self, fabric: Fabric, first: Volume, second: Volume) -> None:
        self.fabric = fabric
        self.first, self.second = first, second
        self.ends = {first, second}
        self.resync: Resync | None = None
        self._simulation = fabric.simulation
        self._expiring: set[Volume] = set()

    def peer(self, volume: Volume) -> Volume:
        return self.second if volume is self.first else self.first

    @property
    def alive(self) -> bool:
        """Both ends are in it and bytes pass."""
        return len(self.ends) == 2 and self._simulation.link_up(self.first.host.name, self.second.host.name)

    async def reach(self, volume: Volume) -> bool:
        """One message to the peer; waits while the cable is out. False when the connection was lost meanwhile."""
        await self._simulation.clock.sleep(self._simulation.timing.latency)
        if not self.alive and volume in self.ends:
            self.expire(volume, self._simulation.timing.request_timeout)
            await self._simulation.changed.wait_until(lambda: self.alive or volume not in self.ends)
        return self.alive and volume in self.ends

    async def replicate(self, volume: Volume, offset: int, data: bytes) -> bool:
        """Write on the peer; True when it has it and said so."""
        if not await self.reach(volume):
            return False
        peer = self.peer(volume)
        if not usable_disk(peer):
            return False
        volume.counters.sent += sectors(len(data))
        if not write_received(peer, offset, data):
            return False
        if peer.state.disk == "Inconsistent":
            # During a resync a block that was written whole is in sync
            for end in (volume, peer):
                end.mark(offset, len(data), out_of_sync=False)
        return await self.reach(volume)

    async def fetch(self, volume: Volume, offset: int, length: int) -> bytes | None:
        """Read on the peer."""
        peer = self.peer(volume)
        if not await self.reach(volume) or peer.backing is None or peer.state.disk != "UpToDate":
            return None
        try:
            data = peer.backing.read_now(offset, length)
        except OSError:
            peer.disk_failed()
            return None
        peer.counters.read += sectors(length)
        peer.counters.sent += sectors(length)
        volume.counters.received += sectors(length)
        return data if await self.reach(volume) else None

    def expire(self, volume: Volume, seconds: float) -> None:
        """Let this end notice after that time that the peer no longer answers, unless it does again."""
        if volume in self._expiring or volume not in self.ends:
            return
        self._expiring.add(volume)
        self._simulation.tasks.start(self._expire(volume, seconds), f"{volume.path} timeout")

    async def _expire(self, volume: Volume, seconds: float) -> None:
        await self._simulation.clock.sleep(seconds)
        self._expiring.discard(volume)
        if volume in self.ends and not self.alive:
            await self.lose(volume, "NetworkFailure")

    async def lose(self, volume: Volume, state: str) -> None:
        """This end sees the connection break; it looks for the peer again."""
        if volume not in self.ends:
            return
        self.leave(volume, state)
        volume.tell(drbd_events.connection(volume, "change"))
        volume.tell(drbd_events.peer_device(volume, "change"))
        await self._simulation.clock.sleep(self._simulation.timing.latency)
        if volume.net is not None and volume.state.cs == state and volume.host.on:
            volume.change(cs="Unconnected")
            volume.change(cs="WFConnection")
            self.fabric.look_for_peer(volume)

    def leave(self, volume: Volume, state: str, **values: str | bool) -> None:
        """This end is out, at once; the other end notices by a closed socket if bytes still pass."""
        self.ends.discard(volume)
        volume.session = None
        if self.resync is not None:
            self.resync.interrupted(volume)
        was_primary = volume.primary
        # What is known to be no good stays so (the kernel's sanitize_state())
        known = volume.state.peer_disk if volume.state.peer_disk in {"Inconsistent", "Outdated"} else "DUnknown"
        peer_disk = str(values.pop("peer_disk", known))
        has_disk = disk_rank(volume.state.disk) >= disk_rank("Inconsistent")
        frozen = was_primary and has_disk and volume.fencing == "resource-and-stonith" and peer_disk == "DUnknown"
        if frozen:
            values["suspended_fencing"] = True
        disk = volume.state.disk
        if disk == "Negotiating":
            values["disk"] = "Consistent"
        volume.change(cs=state, peer_role=UNKNOWN, peer_disk=peer_disk, paused_peer=False, **values)
        if was_primary and peer_disk == "DUnknown" and volume.fencing != "dont-care":
            volume.kernel.fence_later(volume)
        other = self.peer(volume)
        if other in self.ends and self._simulation.link_up(volume.host.name, other.host.name):
            self._simulation.tasks.start(self.lose(other, "BrokenPipe"), f"{other.path} closed by peer")
        if not self.ends:
            self.fabric.sessions.discard(self)
        self._simulation.changed.notify()

    def disk_lost(self, volume: Volume) -> None:
        """The disk of one end failed or was detached while connected: the other end is told."""
        peer = self.peer(volume)
        if self.resync is not None:
            self.resync.interrupted(volume)
            for end in self.ends:
                end.change(cs="Connected")
        if self.alive:
            peer.change(peer_disk=volume.state.disk)
            volume.exposed = peer.block.generation.masked.current

    def tell_role(self, volume: Volume) -> None:
        self.peer(volume).change(peer_role=volume.state.role)


class Fabric:
    """All DRBD connections of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.volumes: dict[tuple[Endpoint, Endpoint], Volume] = {}  # (local, remote) of every configured connection
        self.taken: set[Endpoint] = set()  # local addresses and ports in use
        self.sessions: set[Session] = set()
        self._connecting: set[frozenset[Volume]] = set()
        self._looking = False
        simulation.on_link_changed.append(self.link_changed)

    def link_changed(self) -> None:
        """A cable was pulled or put in, a host went off or came on."""
        timing = self.simulation.timing
        for session in tuple(self.sessions):
            if session.alive:
                continue
            up = self.simulation.link_up(session.first.host.name, session.second.host.name)
            for end in tuple(session.ends):
                if not end.host.on:
                    session.ends.discard(end)
                elif up and len(session.ends) == 1:
                    self.simulation.tasks.start(session.lose(end, "BrokenPipe"), f"{end.path} reset")
                else:
                    session.expire(end, timing.ping_interval + timing.ping_timeout)
            if not session.ends:
                self.sessions.discard(session)
        for volume in tuple(self.volumes.values()):
            self.look_for_peer(volume, timing.connect_interval)

    def look_for_peer(self, volume: Volume, delay: float | None = None) -> None:
        """If both wait for a connection, let them try after `delay` seconds (default: at once)."""
        if volume.net is None or volume.state.cs != "WFConnection":
            return
        peer = self.volumes.get((volume.net.remote, volume.net.local))
        if peer is None or peer is volume or peer.state.cs != "WFConnection":
            return
        pair = frozenset((volume, peer))
        if pair not in self._connecting and self._reachable(volume, peer):
            self._connecting.add(pair)
            first, second = sorted(pair, key=lambda end: end.host.name)
            self.simulation.tasks.start(
                self._connect(first, second, self.simulation.timing.latency if delay is None else delay),
                f"{volume.path} connect",
            )

    def _reachable(self, volume: Volume, peer: Volume) -> bool:
        return self.simulation.link_up(volume.host.name, peer.host.name)

    async def _connect(self, first: Volume, second: Volume, delay: float) -> None:
        pair = frozenset((first, second))
        try:
            await self.simulation.clock.sleep(delay)
            if not self._reachable(first, second) or any(end.state.cs != "WFConnection" for end in pair):
                return
            session = Session(self, first, second)
            self.sessions.add(session)
            for end in (first, second):
                end.session = session
                end.change(cs="WFReportParams")
            if await session.reach(first) and second in session.ends:
                await handshake(session)
        finally:
            self._connecting.discard(pair)
            if any(end.state.cs == "WFConnection" and end.session is None for end in pair):
                await asyncio.sleep(0)
                self.look_for_peer(first, self.simulation.timing.connect_interval)

    # --- asked by the commands ------------------------------------------------------------------------------------

    def connect(self, volume: Volume) -> None:
        """The volume has a `net` now: look for the peer."""
        assert volume.net is not None
        volume.counters.sent = volume.counters.received = 0
        volume.tell(drbd_events.connection(volume, "create"))
        volume.tell(drbd_events.peer_device(volume, "create"))
        self.volumes[volume.net.local, volume.net.remote] = volume
        self.taken.add(volume.net.local)
        volume.change(cs="Unconnected")
        volume.change(cs="WFConnection")
        self.look_for_peer(volume)

    async def disconnect(self, volume: Volume, *, force: bool = False) -> None:
        """To StandAlone. Raises StateError when the peer, as Primary with fencing, would need to see us outdated and
        that can't be."""
        if volume.net is None or volume.state.cs == "StandAlone":
            return
        session = volume.session
        if session is not None:
            peer = session.peer(volume)
            reached = force or await session.reach(volume)
            if volume.session is session:
                outdate_me = reached and peer.primary and peer.fencing != "dont-care" and not volume.primary
                outdate_peer = reached and volume.primary and volume.fencing != "dont-care" and not peer.primary
                if volume.primary and peer.primary and volume.fencing != "dont-care" and reached:
                    raise StateError(-7)
                self._leave_together(session, volume, outdate_me, outdate_peer)
                volume.tell(drbd_events.connection(volume, "change"))
                volume.tell(drbd_events.peer_device(volume, "change"))
        volume.change(cs="Disconnecting")
        self.stand_alone(volume)

    def _leave_together(self, session: Session, volume: Volume, outdate_me: bool, outdate_peer: bool) -> None:
        """A graceful end: the peer is told before (and which side is outdated from now on)."""
        peer = session.peer(volume)
        told = session.alive
        mine: dict[str, str | bool] = {"peer_disk": "Outdated"} if outdate_peer else {}
        if outdate_me and disk_rank(volume.state.disk) > disk_rank("Outdated"):
            mine["disk"] = "Outdated"
        if told and peer in session.ends:
            session.ends.discard(volume)  # so that the peer's leaving does not come back
            theirs: dict[str, str | bool] = {"peer_disk": "Outdated"} if outdate_me else {}
            if outdate_peer and disk_rank(peer.state.disk) > disk_rank("Outdated"):
                theirs["disk"] = "Outdated"
            session.leave(peer, "TearDown", **theirs)
            peer.tell(drbd_events.connection(peer, "change"))
            peer.tell(drbd_events.peer_device(peer, "change"))
            self.simulation.tasks.start(self._wait_again(peer), f"{peer.path} waits again")
            session.ends.add(volume)
        session.leave(volume, "Disconnecting", **mine)
        self.sessions.discard(session)

    async def _wait_again(self, volume: Volume) -> None:
        await self.simulation.clock.sleep(self.simulation.timing.latency)
        if volume.state.cs == "TearDown" and volume.net is not None and volume.host.on:
            volume.change(cs="Unconnected")
            volume.change(cs="WFConnection")
            self.look_for_peer(volume)

    def stand_alone(self, volume: Volume) -> None:
        """From Disconnecting to StandAlone; the connection's configuration is gone."""
        volume.change(cs="StandAlone", peer_role=UNKNOWN)
        volume.host.log(f"drbd {volume.name}: conn( Disconnecting -> StandAlone ) ")
        if volume.net is not None:
            volume.tell(drbd_events.peer_device(volume, "destroy"))
            volume.tell(drbd_events.connection(volume, "destroy"))
            self.forget(volume)

    def forget(self, volume: Volume) -> None:
        if volume.net is not None:
            self.volumes.pop((volume.net.local, volume.net.remote), None)
            self.taken.discard(volume.net.local)
            volume.net = None

    def power_off(self, volumes: list[Volume]) -> None:
        """One host's connections are gone without a word; their peers notice in time."""
        for volume in volumes:
            self.forget(volume)
            session, volume.session = volume.session, None
            if session is not None:
                session.ends.discard(volume)
                if session.resync is not None:
                    session.resync.interrupted(volume)
