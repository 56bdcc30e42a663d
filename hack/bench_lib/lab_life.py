"""On real hosts: how long until a VM runs, and how soon the controller knows what happened on a host."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from demo_lib.witness import Witness

from agent.protocol import WatchEvent
from bench_lib.by_hand import CONFIGURATION, GUEST, RESOURCE
from bench_lib.lab_stage import LabStage
from bench_lib.report import Listing, Result, Row, number
from bench_lib.stage import Failed
from controller.agents.client import AgentClient, ClientTls, Unreachable
from kubectl_xen import view
from kubectl_xen.cluster import Object

START_LIMIT = 300.0


def make(stage: LabStage) -> tuple[list[Row], Witness]:
    """The hosts, the volume and the VM from the manifest, as new; and what they took."""
    stage.story.nodes()
    guest = stage.guest
    seen = stage.witness(guest.name, guest.resource)
    volume = [one for one in guest.documents if one["kind"] == "DrbdVolume"]
    vm = [one for one in guest.documents if one["kind"] == "XenVM"]
    began = time.time()
    stage.kube.apply(volume, stage.kube.namespace)
    ready = stage.until(
        lambda: all(view.note(one) is None for one in stage.cluster.volumes()), "the volume is Ready", step=0.05
    )
    applied = time.time()
    stage.kube.apply(vm, stage.kube.namespace)
    running = stage.until(lambda: _runs(stage.vm()), "the VM runs", step=0.05)
    stage.records(seen, guest.first, 1)
    first = min(tick.at for tick in seen.ticks)
    rows = [
        Row("new volume of 64 MiB on both hosts: applied until Ready", ready - began, "s"),
        Row("new VM on it: applied until Running in the status", running - applied, "s"),
        Row("... until its guest wrote its first record", first - applied, "s"),
    ]
    return rows, seen


def starts(stage: LabStage, rounds: int) -> tuple[list[float], list[float]]:
    """spec.state Stopped, then Running until the status says so; beside it promotion and `xl create` by hand."""
    ours, theirs = [], []
    for _ in range(rounds):
        stage.settled()
        _state(stage, "Stopped")
        stage.until(lambda: view.phase_of(stage.vm()) == "Stopped" and view.current(stage.vm()), "the VM is stopped")
        with stage.follow(lambda vm, _: _runs(vm)) as told:
            time.sleep(1.0)
            began = time.time()
            _state(stage, "Running")
            ours.append(told.wait(START_LIMIT, "the VM runs again") - began)
        stage.settled()
        stage.freeze()
        try:
            console = stage.consoles[stage.hand.on]
            # blkback closes the disk a little after its domain has gone
            console.ok(f"xl destroy {GUEST}; until drbdadm secondary {RESOURCE}; do sleep 0.2; done", limit=60)
            done = (console.ok(f"drbdadm primary {RESOURCE}"), console.ok(f"xl create {CONFIGURATION}"))
            theirs.append(done[1].ended - done[0].begun)
            stage.hand.stand_still(still=True)
        finally:
            stage.thaw()
        stage.screen.progress(f"start: {ours[-1]:.2f} s by spec.state, {theirs[-1]:.2f} s by hand")
    return ours, theirs


def knowledge(stage: LabStage, rounds: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(agent's watch, status) in seconds after the fact: a domain destroyed, a connection of DRBD cut."""
    destroyed, cut = [], []
    for _ in range(rounds):
        destroyed.append(_destroyed(stage))
        cut.append(_disconnected(stage))
        stage.screen.progress(
            f"known: domain destroyed {destroyed[-1][0]:.2f} s (agent) {destroyed[-1][1]:.2f} s (status); connection"
            f" lost {cut[-1][0]:.2f} s, {cut[-1][1]:.2f} s"
        )
    stage.settled()
    return destroyed, cut


def _destroyed(stage: LabStage) -> tuple[float, float]:
    stage.settled()
    host = view.placed_on(stage.vm())

    def gone(event: WatchEvent) -> bool:
        return any(one is None for one in event.domains.values())

    with Listener(stage, host, gone) as heard, stage.follow(lambda vm, _: not _runs(vm)) as told:
        time.sleep(1.0)
        fact = stage.consoles[host].ok(f"xl destroy {stage.guest.name}").ended
        found = heard.wait(60) - fact, told.wait(60, "the status tells of the destroyed domain") - fact
    stage.until(lambda: _runs(stage.vm()), "the VM was started again", seconds=START_LIMIT)
    return found


def _disconnected(stage: LabStage) -> tuple[float, float]:
    stage.settled()
    host, resource = view.placed_on(stage.vm()), stage.guest.resource

    def lost(event: WatchEvent) -> bool:
        volume = event.volumes.get(resource)
        return volume is not None and volume.peer is not None and volume.peer.connection != "Connected"

    def told() -> bool:
        return any(view.status_of(one).get("connection") != "Connected" for one in stage.cluster.volumes())

    with Listener(stage, host, lost) as heard:
        time.sleep(1.0)
        fact = stage.consoles[host].ok(f"drbdadm disconnect {resource}").ended
        seen = stage.until(told, "the status tells of the lost connection", seconds=60, step=0.02)
        found = heard.wait(60) - fact, seen - fact
    stage.consoles[host].run(f"drbdadm connect {resource}")  # the agent may have done it by now
    return found


def result(
    rows: list[Row],
    starts_: tuple[list[float], list[float]] | None,
    known: tuple[list[tuple[float, float]], list[tuple[float, float]]] | None,
) -> Result:
    listings = []
    if starts_ is not None and starts_[0]:
        ours, theirs = starts_
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=False))
        rows = [*rows, Row("start of a VM by spec.state, of `drbdadm primary; xl create` by hand", ratio, "times")]
        listings.append(
            Listing(
                "Starts, seconds: median (least to most)",
                ("started by", "until"),
                (("edit of spec.state until Running in the status", _spread(ours)), ("by hand", _spread(theirs))),
            )
        )
    if known is not None:
        facts = (("domain destroyed on its host", known[0]), ("DRBD disconnected on its host", known[1]))
        cells = tuple((what, _spread([a for a, _ in found]), _spread([b for _, b in found])) for what, found in facts)
        listings.append(Listing("Known after, seconds: median (least to most)", ("fact", "agent", "status"), cells))
    how = "the lab's VM of 128 MiB on two emulated hosts: compare nothing with real machines but the ratio"
    return Result("lab-life", how, tuple(rows), tuple(listings))


class Listener:
    """The agent's watch in a thread of its own, until `take` says that it has heard it; the first snapshot is left."""

    def __init__(self, stage: LabStage, host: str, take: Callable[[WatchEvent], bool]) -> None:
        folder = stage.hosts.controller_tls
        place = next(one for one in stage.hosts.places if one.name == host)
        self._tls = (folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        self._host, self._port, self._take = host, place.api_port, take
        self._heard, self._ready, self._left = threading.Event(), threading.Event(), threading.Event()
        self._at, self._error = 0.0, ""

    def __enter__(self) -> Self:
        threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True).start()
        if not self._ready.wait(30):
            raise Failed(f"{self._host}: the agent's watch did not begin: {self._error}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()

    def wait(self, seconds: float) -> float:
        """When it was heard. Raises Failed."""
        if not self._heard.wait(seconds) or self._error:
            raise Failed(f"{self._host}: the agent's watch did not tell of it within {seconds:.0f} s {self._error}")
        return self._at

    async def _run(self) -> None:
        client = AgentClient(self._host, "127.0.0.1", self._port, ClientTls(*self._tls))
        try:
            async for event in client.watch():
                at = time.time()
                if self._left.is_set():
                    return
                if event.type == "snapshot":
                    self._ready.set()
                elif self._take(event):
                    self._at = at
                    return
        except Unreachable as error:
            self._error = str(error)
        finally:
            self._heard.set()
            await client.close()


def _runs(vm: Object) -> bool:
    return view.current(vm) and view.phase_of(vm) == "Running" and view.note(vm) is None


def _state(stage: LabStage, state: str) -> None:
    patch: Any = f'{{"spec":{{"state":"{state}"}}}}'
    stage.kube.run("patch", "xenvm", stage.guest.name, "-n", stage.kube.namespace, "--type", "merge", "-p", patch)


def _spread(values: Sequence[float]) -> str:
    return f"{number(statistics.median(values))} ({number(min(values))} to {number(max(values))})"
