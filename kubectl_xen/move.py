"""`kubectl xen migrate`: edits spec.node, and with --watch shows the move until it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from kubectl_xen import view
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


@dataclass(frozen=True)
class Seen:
    """How far the move that was asked for has come; `outcome` is None while it is on its way."""

    text: str
    percent: float = 0.0
    outcome: Literal["Succeeded", "Failed", "Cancelled", "Deleted"] | None = None


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
    if new and not move.get("outcome"):
        details = [view.phase_of_move(move)]
        details += [f"round {move['round']}"] if move.get("round") is not None else []
        details += [str(move["rate"])] if move.get("rate") else []
        return Seen(", ".join(details), float(move.get("percent") or 0.0))
    if new and move["outcome"] != "Succeeded":
        return Seen(move.get("message") or str(view.note(vm) or ""), outcome=move["outcome"])
    if view.status_of(vm).get("observedGeneration", -1) < generation:
        return Seen("waiting for the controller")
    if view.placed_on(vm) == target and not view.migration(vm):
        return Seen(view.phase_of(vm), 100.0, "Succeeded")
    note = view.note(vm)
    if note and note.stalled:
        return Seen(str(note), outcome="Failed")
    return Seen(str(note) if note else "queued")


def watch(console: Console, cluster: Cluster, before: Object, after: Object, target: str) -> int:
    """Show the move until it ended; the exit code: 0 only when the VM is at the target."""
    name, source = view.name_of(after), view.placed_on(before)
    earlier = "" if before is after else (view.status_of(before).get("migration") or {}).get("id", "")
    begun = time.monotonic()
    last = Seen("the VM was deleted", outcome="Deleted")
    for last in _shown(console, f"{name}  {source} -> {target}", _seen(cluster, after, target, earlier)):
        if last.outcome:
            break
    else:
        last = Seen("the VM was deleted", outcome="Deleted")
    if last.outcome == "Succeeded":
        console.print(f"{name} is on {target} ({last.text}), {time.monotonic() - begun:.1f} s", highlight=False)
        return 0
    console.print(f"[red]{str(last.outcome).lower()}[/]: {last.text}", highlight=False)
    return 1


def _seen(cluster: Cluster, after: Object, target: str, earlier: str) -> Iterator[Seen]:
    for vm in cluster.follow_vm(view.name_of(after)):
        yield progress_of(vm, target, after["metadata"]["generation"], earlier)


def _shown(console: Console, title: str, seen: Iterator[Seen]) -> Iterator[Seen]:
    """A live bar on a terminal; elsewhere a line at each new tenth or text."""
    if not console.is_terminal:
        shown = ""
        for step in seen:
            line = f"{title}  {int(step.percent) // 10 * 10}%  {step.text}"
            if line != shown and not step.outcome:
                console.print(line, highlight=False)
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
