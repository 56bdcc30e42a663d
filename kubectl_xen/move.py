"""`kubectl xen migrate`: edits spec.node, and with --watch shows the move until it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from kubectl_xen import leader, view
from kubectl_xen.cluster import Cluster, Problem
from kubectl_xen.view import Object


def request(cluster: Cluster, name: str, target: str) -> tuple[Object, Object]:
    """Set spec.node, after checks that say what to write instead. Returns the VM before and after. Raises Problem."""
    vm = cluster.vm(name)
    nodes = {view.name_of(node): node for node in cluster.nodes()}
    if target not in nodes:
        raise Problem(f'no XenNode "{target}"; write one of: {", ".join(sorted(nodes)) or "(there are none)"}')
    volumes = {view.name_of(volume): volume for volume in cluster.volumes()}
    for disk in view.disk_names(vm):
        places = view.members(volumes[disk]) if disk in volumes else []
        if places and target not in places:
            raise Problem(f'volume "{disk}" has no replica on {target}; write one of: {", ".join(sorted(places))}')
    if vm["spec"].get("node") == target:
        return vm, vm
    return vm, cluster.set_node(vm, target)


PROGRESSING = frozenset({"Migrating", "Stopping", "Releasing"})
"""Reasons of Placed=False with which a move is on its way; any other one stands in its way."""
BLOCKED_SECONDS = 5.0
"""What stands in the way for so long is the end of the watch; less may be a state between two others."""

Outcome = Literal["Succeeded", "Failed", "Cancelled", "Blocked", "Stalled", "Deleted"]


@dataclass(frozen=True)
class Seen:
    """How far the move that was asked for has come; `outcome` is None while it is on its way."""

    text: str
    percent: float = 0.0
    outcome: Outcome | None = None


def progress_of(vm: Object, target: str, generation: int, earlier: str) -> Seen:
    """Read the status for the edit of `generation`; `earlier` is the id of the move before it.

    A move may be queued behind another one, refused by the preflight (the VM stays and the condition says why), or be
    none at all: a stopped VM only changes its place.
    """
    if vm["spec"].get("node") != target or vm["metadata"].get("deletionTimestamp"):
        asks = "is being deleted" if vm["metadata"].get("deletionTimestamp") else f"asks for {vm['spec'].get('node')}"
        return Seen(f"the spec changed meanwhile: it {asks}", outcome="Cancelled")
    move = view.status_of(vm).get("migration") or {}
    new = move.get("id", "") != earlier and move.get("target") == target
    note = view.note(vm) if view.current(vm) else None
    if new and not move.get("outcome"):
        if note and note.stalled:
            return Seen(str(note), outcome="Stalled")
        return Seen(_details(vm, move), float(move.get("percent") or 0.0))
    if new and move["outcome"] != "Succeeded":
        return Seen(move.get("message") or str(view.note(vm) or ""), outcome=move["outcome"])
    if view.status_of(vm).get("observedGeneration", -1) < generation:
        return Seen("waiting for the controller")
    if view.placed_on(vm) == target and not view.migration(vm):
        return Seen(view.phase_of(vm), 100.0, "Succeeded")
    if note and note.stalled:
        return Seen(str(note), outcome="Stalled")
    placed = view.condition(vm, "Placed") or {}
    starting = view.phase_of(vm) in ("Starting", "Pending") and placed.get("reason") == "NotRunning"
    if placed.get("status") == "False" and placed["reason"] not in PROGRESSING and not starting:
        return Seen(f"{placed['reason']}: {placed.get('message', '')}", outcome="Blocked")
    return Seen(str(note) if note else "queued")


def _details(vm: Object, move: Object) -> str:
    details = [view.phase_of_move(move)]
    details += [f"round {move['round']}"] if move.get("round") is not None else []
    details += [str(move["rate"])] if move.get("rate") else []
    ready = view.condition(vm, "Ready")
    # An agent that does not answer, or what its part waits for: it may pass, and is what is waited for.
    held = ready if ready and ready["status"] == "Unknown" else view.condition(vm, "Reconciling")
    if held and held["reason"] not in (move.get("phase"), (view.status_of(vm).get("operation") or {}).get("step")):
        details += [held.get("message", "")]
    return ", ".join(details)


def watch(console: Console, cluster: Cluster, before: Object, after: Object, target: str, timeout: float) -> int:
    """Show the move until it ended, or nothing of it goes on; the exit code: 0 only when the VM is at the target."""
    name, source = view.name_of(after), view.placed_on(before)
    earlier = "" if before is after else (view.status_of(before).get("migration") or {}).get("id", "")
    begun = time.monotonic()
    blocked: float | None = None
    last, late = Seen("waiting for the controller"), False
    for last in _shown(console, f"{name}  {source} -> {target}", _seen(console, cluster, after, target, earlier)):
        now = time.monotonic()
        blocked = (blocked or now) if last.outcome in ("Blocked", "Stalled") else None
        late = now - begun >= timeout
        if late or (last.outcome and blocked is None) or (blocked is not None and now - blocked >= BLOCKED_SECONDS):
            break
    else:
        last = Seen("the VM was deleted", outcome="Deleted")
    spent = time.monotonic() - begun
    if last.outcome == "Succeeded":
        console.print(f"{name} is on {target} ({last.text}), {spent:.1f} s", highlight=False)
        return 0
    said = str(last.outcome).lower() if last.outcome else f"not there after {spent:.0f} s"
    console.print(f"[red]{said}[/]: {escape(last.text)}", highlight=False)
    if last.outcome in (None, "Blocked", "Stalled") and source not in ("-", target):
        console.print(
            f"spec.node still asks for {target}; to stay on {source}: kubectl xen migrate {name} {source}",
            highlight=False,
        )
    return 1


def _seen(console: Console, cluster: Cluster, after: Object, target: str, earlier: str) -> Iterator[Seen]:
    warned = False
    for vm in cluster.follow_vm(view.name_of(after)):
        seen = progress_of(vm, target, after["metadata"]["generation"], earlier)
        if not warned and seen.outcome is None:
            silence = leader.silence_in(cluster)
            warned = silence is not None
            if silence:
                console.print(f"[yellow]{silence}[/]", highlight=False)
        yield seen


def _shown(console: Console, title: str, seen: Iterator[Seen]) -> Iterator[Seen]:
    """A live bar on a terminal; elsewhere a line at each new tenth or text."""
    if not console.is_terminal:
        shown = ""
        for step in seen:
            line = f"{title}  {int(step.percent) // 10 * 10}%  {step.text}"
            if line != shown and not step.outcome:
                console.print(escape(line), highlight=False)
                shown = line
            yield step
        return
    bar = BarColumn(30)
    with Progress(
        TextColumn("{task.description}"), bar, TaskProgressColumn(), TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(), console=console, transient=False,
    ) as progress:  # fmt: skip
        task = progress.add_task(title, total=100.0, text="")
        for step in seen:
            progress.update(task, completed=step.percent, text=step.text)
            yield step
