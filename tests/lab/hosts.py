"""The lab's hosts, asked over their agents' API as the controller does, and looked at by hand to judge its answers."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lab_lib import agents, settings
from lab_lib.lab import Lab

from agent.protocol import (
    DiskConfig,
    DomainConfig,
    DomainDesired,
    DomainState,
    HostState,
    InitialSync,
    Member,
    MigrateReceive,
    MigrateSend,
    NetworkConfig,
    OperationCancel,
    OperationRequest,
    OperationState,
    Refusal,
    VmState,
    VolumeDesired,
    VolumeState,
)
from agent.simulation.guest import RECORD, SLOTS, last_record, ring_offset
from controller.agents.client import AgentClient, ClientTls, Refused, Unreachable

UID = "11111111-1111-4111-8111-111111111111"
VOLUME_UID = "99999999-9999-4999-8999-999999999999"
NAME, RESOURCE, DEVICE = "shaolin", "vm_shaolin", "/dev/drbd1"
GUEST_ADDRESS = "10.0.0.91"
LIMIT = 600.0  # seconds, under emulation on a busy machine
SIZE = 64 << 20


@dataclass(frozen=True)
class Tick:
    """A line of the guest's console: a record that was acknowledged (or, not `good`, was not)."""

    number: int
    good: bool


class Hosts:
    """mk1, mk2 ... of a lab that is on."""

    uid = UID  # of the VM that is looked at: a controller's has its object's

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        files = agents.controller_files(lab.folder)
        tls = ClientTls(files.certificate, files.key, files.authority)
        self.clients = {one.name: AgentClient(one.name, "127.0.0.1", one.api_port, tls) for one in lab.machines}
        self.times: list[tuple[str, float]] = []

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()

    # --- looking ------------------------------------------------------------------------------------------------

    async def state(self, name: str) -> HostState:
        return await self.clients[name].state()

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, *, limit: float = LIMIT) -> None:
        """Wait for a condition; fails with `what` after `limit` seconds."""
        begun = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                if await condition():
                    self.times.append((what, time.monotonic() - begun))
                    return
            except Unreachable:
                pass
            assert time.monotonic() - begun < limit, f"never came: {what}\n{await self.story()}"
            # Looking costs the emulated host most of what it has: it shall have time for what is waited for
            await asyncio.sleep(max(0.2, 2 * (time.monotonic() - asked)))

    async def becomes(self, name: str, what: str, condition: Callable[[HostState], bool], **more: Any) -> HostState:
        seen: list[HostState] = []

        async def now() -> bool:
            seen[:] = [await self.state(name)]
            return condition(seen[0])

        await self.until(now, f"{what} on {name}", **more)
        return seen[0]

    async def story(self) -> str:
        """What the hosts and their agents say, for a failure."""
        told = []
        for name in self.clients:
            if not self.lab.machine(name).on():
                told.append(f"--- {name} is off")
                continue
            look = (
                "grep -A1 ' 1:' /proc/drbd; xl list; tail -qn2 /var/log/xen/console/guest-*; dmesg | tail -n 15;"
                "journalctl -u xentandem-agent -n 30 -o cat"
            )
            told.append(f"--- {name}\n{self.on(name, look, fails=True)}")
            try:
                state = await self.state(name)
                told += [str(one) for one in (*state.problems, *state.vms.values(), *state.operations.values())]
                told += [str(one) for one in state.volumes.values()]
            except Unreachable as error:
                told.append(str(error))
        return "\n".join(told)

    def on(self, name: str, command: str, *, fails: bool = False) -> str:
        """Output of a command on a host, as an administrator would type it."""
        shell = self.lab.shell(name)
        if not fails:
            return shell.ok(command)
        done = shell.run(command)
        return done.stdout + done.stderr

    # --- volume -------------------------------------------------------------------------------------------------

    def volume_wish(self, **changes: Any) -> VolumeDesired:
        members = tuple(Member(node=one.name, address=settings.address(one.index)) for one in self.lab.machines[:2])
        values: dict[str, Any] = {
            "term": 1, "uid": VOLUME_UID, "namespace": "default", "name": "vm-shaolin", "resource": RESOURCE,
            "minor": 1, "port": 7789, "group": "vg0", "logical_volume": RESOURCE, "size": SIZE, "members": members,
        }  # fmt: skip
        return VolumeDesired(**(values | changes))

    async def put_volume(self, name: str, /, **changes: Any) -> VolumeState:
        return await self.clients[name].put_volume(self.volume_wish(**changes))

    async def volume(self, name: str) -> VolumeState:
        return (await self.state(name)).volumes[RESOURCE]

    async def make_volume(self) -> None:
        """On mk1 and mk2, synced, Primary on mk1."""
        await asyncio.gather(self.put_volume("mk1"), self.put_volume("mk2"))
        await self.becomes("mk1", "Connected", lambda state: peer_of(state) == ("Connected", "Inconsistent"))
        await self.operate("mk1", "sync", InitialSync(resource=RESOURCE, uid=VOLUME_UID))
        await self.ended("mk1", "sync")
        await self.synced()
        await self.put_volume("mk1", role="Primary")

    async def synced(self) -> None:
        for name in ("mk1", "mk2"):
            await self.becomes(name, "UpToDate/UpToDate", up_to_date)

    # --- VM -----------------------------------------------------------------------------------------------------

    def wish(self, **changes: Any) -> DomainDesired:
        config = {
            "type": "pv", "memory_mib": 128, "max_memory_mib": 128, "kernel": "/boot/xenU/vmlinux",
            "ramdisk": "/boot/xenU/initrd.img",
            "cmdline": f"console=hvc0 mitigations=off quiet guest.ip={GUEST_ADDRESS}",
            "disks": (DiskConfig(resource=RESOURCE, minor=1, vdev="xvda"),),
            "networks": (NetworkConfig(bridge="xenbr0", mac="00:16:3e:00:00:91"),),
        }  # fmt: skip
        config |= changes.pop("config", {})
        values: dict[str, Any] = {
            "term": 1, "epoch": 1, "uid": UID, "namespace": "default", "name": NAME, "state": "Running",
            "config": DomainConfig.model_validate(config), "shutdown_grace_seconds": 30.0,
        }  # fmt: skip
        return DomainDesired(**(values | changes))

    async def put_domain(self, name: str, /, **changes: Any) -> VmState:
        return await self.clients[name].put_domain(self.wish(**changes))

    async def vm_becomes(self, name: str, status: str) -> VmState:
        def so(state: HostState) -> bool:
            return self.uid in state.vms and state.vms[self.uid].status == status

        return (await self.becomes(name, f"{NAME} {status}", so)).vms[self.uid]

    async def run_vm(self, name: str = "mk1", **changes: Any) -> None:
        await self.put_domain(name, **changes)
        await self.vm_becomes(name, "running")
        await self.writes(name)

    def domains(self, name: str) -> list[DomainState]:
        from agent.drivers.xen_parse import parse_list

        return list(parse_list(self.on(name, "xl list -v")))

    # --- the guest, judged from outside -------------------------------------------------------------------------

    def console(self, name: str) -> str:
        """All that the guest said on that host."""
        return self.on(
            name,
            f"cat /var/log/xen/console/guest-{NAME}.log /var/log/xen/console/guest-{NAME}--incoming.log",
            fails=True,
        )

    def ticks(self, name: str) -> list[Tick]:
        found = re.findall(r"^tick (\d+) disk=(ok|FAIL)", self.console(name), re.MULTILINE)
        return [Tick(int(number), word == "ok") for number, word in found]

    async def writes(self, name: str) -> None:
        """The guest acknowledges new records there: it lives, and so does its disk."""
        before = max((tick.number for tick in self.ticks(name) if tick.good), default=0)

        async def more() -> bool:
            return max((tick.number for tick in self.ticks(name) if tick.good), default=0) > before + 2

        await self.until(more, f"records of the guest on {name}")

    def last_record_found(self, name: str) -> int:
        """By the guest when it booted there last: what it had been told was written must be there."""
        return int(re.findall(r"guest: last record found (\d+)", self.console(name))[-1])

    def answers_ping(self, name: str) -> bool:
        return self.lab.shell(name).run(f"ping -c3 -i0.3 -W5 {GUEST_ADDRESS}").exit == 0

    def type(self, name: str, words: str) -> None:
        """On the guest's console."""
        self.on(name, f"tty=$(xenstore-read /local/domain/$(xl domid {NAME})/console/tty) && echo '{words}' > $tty")

    def record_on_disk(self, name: str) -> int:
        """The highest of the guest's records, read where the disk is Primary."""
        size = int(self.on(name, f"blockdev --getsize64 {DEVICE}"))
        at = ring_offset(size)
        read = f"dd if={DEVICE} iflag=direct bs={RECORD} skip={at // RECORD} count={SLOTS} status=none | base64"
        return last_record(base64.b64decode(self.on(name, read)), UID)

    def nothing_lost(self, *names: str) -> None:
        """Every record that the guest says was acknowledged came in its order, none was missed by it later."""
        ticks = sorted((tick for name in names for tick in self.ticks(name)), key=lambda tick: tick.number)
        assert all(tick.good for tick in ticks), [tick for tick in ticks if not tick.good]
        numbers = [tick.number for tick in ticks]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), numbers
        for name in names:
            assert "LOST" not in self.console(name)

    # --- operations ---------------------------------------------------------------------------------------------

    async def operate(self, name: str, operation: str, body: Any) -> OperationState:
        return await self.clients[name].operate(OperationRequest(id=operation, term=1, body=body))

    async def ended(self, name: str, operation: str, outcome: str = "Succeeded") -> OperationState:
        seen = await self.over(name, operation)
        assert seen.outcome == outcome, f"{seen}\n{await self.story()}"
        return seen

    async def over(self, name: str, operation: str) -> OperationState:
        """Its end, whatever the outcome."""

        def ended(state: HostState) -> bool:
            return operation in state.operations and state.operations[operation].outcome is not None

        return (await self.becomes(name, f"the end of {operation}", ended)).operations[operation]

    async def operation(self, name: str, operation: str = "move") -> OperationState | None:
        return (await self.state(name)).operations.get(operation)

    async def phase(self, name: str, phase: str, operation: str = "move") -> None:
        def there(state: HostState) -> bool:
            seen = state.operations.get(operation)
            return seen is not None and any(step.name == phase for step in seen.steps)

        await self.becomes(name, f"{operation} at {phase}", there)

    async def move(self, operation: str = "move", *, to: str = "mk2", epoch: int = 1, **changes: Any) -> None:
        """Both sides asked, as the controller does; not waited for."""
        source = "mk1" if to == "mk2" else "mk2"
        await self.operate(to, operation, MigrateReceive(domain=self.wish(epoch=epoch + 1, **changes), source=source))
        body = MigrateSend(
            domain=self.wish(epoch=epoch, **changes),
            target=to,
            target_address=settings.address(self.lab.machine(to).index),
        )
        await self.operate(source, operation, body)

    async def cancel(self, name: str, operation: str = "move", *, source_keeps: bool = True) -> OperationState:
        request = OperationCancel(term=1, uid=UID, source_keeps=source_keeps)
        return await self.clients[name].cancel(operation, request)

    async def resolve(self, operation: str = "move") -> str:
        """What the controller does until both sides have ended (both hosts on); returns who has the VM then."""
        parts: list[OperationState | None] = []

        async def over() -> bool:
            parts[:] = [(await self.state(name)).operations.get(operation) for name in ("mk1", "mk2")]
            sent, received = parts
            sent_over = sent is None or sent.outcome is not None
            received_over = received is None or received.outcome is not None
            if sent_over and received_over:
                return True
            unclear = sent is not None and sent.refusal is not None and sent.refusal.reason == "HandOverUnclear"
            with suppress(Refused):
                if not received_over and (unclear or (sent_over and (sent is None or sent.outcome != "Succeeded"))):
                    await self.cancel("mk2", operation)
                elif received_over and unclear and (received is None or received.outcome != "Succeeded"):
                    await self.cancel("mk1", operation)
            return False

        await self.until(over, f"both ends of {operation}")
        received = parts[1]
        return "mk2" if received is not None and received.outcome == "Succeeded" else "mk1"

    async def troubled(self, name: str, reason: str, operation: str = "move") -> Refusal:
        def held(state: HostState) -> bool:
            seen = state.operations.get(operation)
            return seen is not None and seen.refusal is not None and seen.refusal.reason == reason

        seen = (await self.becomes(name, f"{operation} held up by {reason}", held)).operations[operation]
        assert seen.refusal is not None
        return seen.refusal

    async def runs_only_on(self, name: str) -> None:
        """It runs there, writes, its disk is Primary there alone, and nothing of it is left elsewhere."""
        await self.vm_becomes(name, "running")
        await self.writes(name)
        for where in self.clients:
            if not self.lab.machine(where).on():
                continue
            left = [
                one.name
                for one in self.domains(where)
                if one.uuid == self.uid or NAME in one.name or "null" in one.name
            ]
            assert left == ([NAME] if where == name else []), await self.story()
            role = "Primary" if where == name else "Secondary"
            await self.becomes(where, role, lambda state, role=role: state.volumes[RESOURCE].role == role)  # type: ignore[misc]
            assert self.on(where, f"drbdadm role {RESOURCE}").partition("/")[0] == role, await self.story()


def peer_of(state: HostState) -> tuple[str, str] | None:
    volume = state.volumes.get(RESOURCE)
    return (volume.peer.connection, volume.peer.disk) if volume is not None and volume.peer is not None else None


def up_to_date(state: HostState) -> bool:
    volume = state.volumes.get(RESOURCE)
    return volume is not None and volume.disk == "UpToDate" and peer_of(state) == ("Connected", "UpToDate")
