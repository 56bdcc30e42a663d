"""Two hosts at the level of their agents' API, asked as the controller does. Everything answered is kept."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agent.protocol import HostState, OperationState, VmState, VolumeState, WatchEvent
from controller.agents.client import Refused
from tests.conformance.answers import Plain
from tests.conformance.scenario import Seen
from tests.conformance.tools import Place
from tests.lab.hosts import RESOURCE, UID, Hosts

_RULES = (
    (r"\b\d+ MiB free", "N MiB free"),
    (r"\bdomain \d+", "domain N"),
    (r"\(id \d+, [r-][b-]", "(id N, **"),
    (r"\b(127\.0\.0\.1|10\.0\.0\.8\d):\d+", "ADDRESS"),
)

STEADY_LOOKS, STEADY_SECONDS = 5, 1.5

Words = Callable[[HostState], str | None]


class Agents:
    """What a scenario is given: `hosts` asks the agents, `place` is for what an administrator does by hand."""

    def __init__(self, hosts: Hosts, place: Place, slow: Callable[[bool], None]) -> None:
        self.hosts = hosts
        self.place = place
        self.slow = slow  # a link on which copying memory takes its time, where it would not anyway
        self.seen: list[Seen] = []
        self._plain = Plain()

    def note(self, label: str, text: str, *, differs: str = "") -> None:
        for pattern, replacement in _RULES:
            text = re.sub(pattern, replacement, text)
        self.seen.append(Seen(label, self._plain(text).strip("\n"), differs))

    async def ask(self, label: str, request: Awaitable[Any], *, differs: str = "") -> None:
        """Keep whether it was granted, or the refusal's reason and words."""
        try:
            await request
        except Refused as error:
            self.note(label, f"{error.refusal.reason}: {error.refusal.message}", differs=differs)
        else:
            self.note(label, "done", differs=differs)

    async def see(self, *names: str, where: str) -> None:
        """Volumes, VMs, domains and logical volumes as the agents there (or both) tell of them."""
        for name in names or ("mk1", "mk2"):
            self.note(f"{name}: {where}", await self._steady(name))

    async def _steady(self, name: str) -> str:
        """What the agent tells when nothing new comes any more: some of it is read now and then only."""
        last, same = "", 0
        async with asyncio.timeout(60):
            while same < STEADY_LOOKS:
                now = told(await self.hosts.state(name))
                last, same = now, same + 1 if now == last else 0
                await asyncio.sleep(STEADY_SECONDS / STEADY_LOOKS)
        return last

    async def see_operation(self, name: str, operation: str) -> None:
        """An operation that has ended."""
        state = await self.hosts.over(name, operation)
        self.note(f"{name}: {operation} ended", told_operation(state))

    @contextlib.asynccontextmanager
    async def watching(self, name: str, what: str, words: Words) -> AsyncIterator[None]:
        """Keep the different words, in their order, that GET /v1/watch leads to meanwhile."""
        heard: list[str] = []
        begun = asyncio.Event()

        async def listen() -> None:
            state: HostState | None = None
            async for event in self.hosts.clients[name].watch():
                state = changed(state, event)
                if state is not None and (word := words(state)) is not None and heard[-1:] != [word]:
                    heard.append(word)
                begun.set()

        task = asyncio.ensure_future(listen())
        try:
            await begun.wait()
            yield
            last = words(await self.hosts.state(name))
            async with asyncio.timeout(20):
                while last is not None and heard[-1:] != [last]:  # noqa: ASYNC110  # the stream is a little behind
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
        self.note(f"{name}: {what}, as GET /v1/watch tells it", "\n".join(heard))


def changed(state: HostState | None, event: WatchEvent) -> HostState | None:
    """The state after an event of the watch."""
    if event.type == "snapshot" or state is None:
        return event.state if event.type == "snapshot" else state
    update: dict[str, Any] = {}
    for section in ("volumes", "vms", "domains", "logical_volumes", "operations"):
        if changes := getattr(event, section):
            merged = getattr(state, section) | changes
            update[section] = {key: value for key, value in merged.items() if value is not None}
    return state.model_copy(update=update)


def volume_words(state: HostState) -> str | None:
    """What does not pass in an instant: the way up to a connection and the bitmaps' exchange are seen by luck."""
    volume = state.volumes.get(RESOURCE)
    if volume is None or volume.disk not in ("Diskless", "Inconsistent", "UpToDate", "Outdated"):
        return None
    if volume.peer is None:
        return f"{volume.role} {volume.disk}"
    peer = volume.peer
    if peer.connection != "Connected" or peer.replication not in ("Established", "SyncSource", "SyncTarget"):
        return None
    return f"{volume.role}/{peer.role} {volume.disk}/{peer.disk} {peer.connection} {peer.replication}"


def vm_words(state: HostState) -> str | None:
    """`unknown` is left out: while it is suspended for the hand-over, seen by luck."""
    vm = state.vms.get(UID)
    return (
        None
        if vm is None or vm.status == "unknown"
        else f"{vm.status}{f' ({vm.halted_reason})' if vm.halted_reason else ''}"
    )


def ownership_words(state: HostState) -> str | None:
    """Epoch and grant of the VM, role of its disk."""
    vm, volume = state.vms.get(UID), state.volumes.get(RESOURCE)
    granted = "nothing" if vm is None else f"epoch {vm.epoch} {'granted' if vm.granted else 'given away'}"
    return f"{granted}, {'no volume' if volume is None else volume.role}"


def told(state: HostState) -> str:
    lines = [_volume(one) for one in state.volumes.values()] + [_vm(one) for one in state.vms.values()]
    lines += [
        f"domain {one.name} {one.kind} {one.state} {one.memory_mib} MiB, {one.vcpus} vcpus, disks "
        + " ".join(f"{disk.vdev}={disk.device}{'' if disk.attached else ' (not attached)'}" for disk in one.disks or ())
        for one in state.domains.values()
    ]
    lines += [
        f"LV {key} {one.size} bytes, tags {' '.join(sorted(one.tags)) or 'none'}{', retained' if one.retained else ''}"
        for key, one in sorted(state.logical_volumes.items())
    ]
    lines += [f"gone {uid}" for uid in state.gone]
    return "\n".join([*lines, *(f"problem {one.reason}: {one.message}" for one in state.problems)]) or "nothing"


def _volume(one: VolumeState) -> str:
    peer = (
        "none" if one.peer is None else f"{one.peer.connection} {one.peer.role} {one.peer.disk} {one.peer.replication}"
    )
    out_of_sync = None if one.peer is None else one.peer.out_of_sync_kib
    generation = "none" if one.generation is None else f"{one.generation.current} {one.generation.bitmap}"
    problem = "" if one.problem is None else f", problem {one.problem.reason}: {one.problem.message}"
    return (
        f"volume {one.resource} of {one.namespace}/{one.name}: minor {one.minor}, port {one.port}, {one.size} bytes,"
        f" {one.role} {one.disk}, metadata {one.metadata}, configured {one.configured}, suspended {one.suspended},"
        f" forced {one.forced}, content {one.content}, used by {' '.join(one.used_by) or 'none'}, peer {peer},"
        f" out of sync {out_of_sync} KiB, generation {generation}{problem}"
    )


def _vm(one: VmState) -> str:
    halted = f" ({one.halted_reason})" if one.halted_reason else ""
    problem = "" if one.problem is None else f", problem {one.problem.reason}: {one.problem.message}"
    return (
        f"VM {one.name}: epoch {one.epoch}, granted {one.granted}, wanted {one.desired}, run {one.run},"
        f" {one.status}{halted}, restarts {one.restart.count} {one.restart.last_reason}{problem}"
    )


def told_operation(one: OperationState) -> str:
    refusal = "" if one.refusal is None else f", {one.refusal.reason}: {one.refusal.message}"
    pages = ""
    if one.transfer is not None and one.outcome == "Succeeded":
        pages = f"\n{one.transfer.pages_total} pages, {one.transfer.percent:g}%"
    return f"{one.kind} of {one.subject}: {one.outcome}{refusal}\n{' '.join(step.name for step in one.steps)}{pages}"
