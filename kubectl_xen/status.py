"""`kubectl xen status`: tables of hosts and VMs, or one VM with everything about it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kubectl_xen import view
from kubectl_xen.view import Object

EVENTS_SHOWN = 8
_COLOURS = {
    "Running": "green", "Ready": "green", "Migrating": "cyan", "Starting": "cyan", "Stopping": "cyan",
    "Maintenance": "cyan", "Stalled": "red", "Crashed": "red",
    "Degraded": "yellow", "Unknown": "yellow", "NotReady": "red",
}  # fmt: skip


def coloured(word: str) -> str:
    colour = _COLOURS.get(word)
    return f"[{colour}]{escape(word)}[/]" if colour else escape(word)


def columns(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in {"NAME", "NODE", "STATE"})
    return table


def overview(
    console: Console, nodes: list[Object], volumes: list[Object], vms: list[Object], *, everywhere: bool, where: str
) -> None:
    hosts = columns("HOST", "STATE", "XEN", "DRBD", "FREE MEMORY", "VMS")
    for node in sorted(nodes, key=view.name_of):
        status = view.status_of(node)
        free = (status.get("memory") or {}).get("free")
        words = [status.get("xenVersion"), status.get("drbdVersion"), free, status.get("domains")]
        hosts.add_row(view.name_of(node), coloured(view.phase_of(node)), *(_word(word) for word in words))
    console.print(hosts if nodes else "No hosts. Write a XenNode for each dom0: kubectl explain xennode.spec")
    console.print()
    if vms:
        table = columns(*(("NAMESPACE",) if everywhere else ()), "NAME", "STATE", "NODE", "STORAGE", "MIGRATION")
        for vm in sorted(vms, key=lambda vm: (vm["metadata"].get("namespace", ""), view.name_of(vm))):
            move = view.migration(vm)
            table.add_row(
                *((vm["metadata"]["namespace"],) if everywhere else ()),
                view.name_of(vm), coloured(view.phase_of(vm)), view.placed_on(vm), view.storage(vm, volumes),
                view.move_text(move) if move else view.displaced(vm),
            )  # fmt: skip
        console.print(table)
    else:
        console.print(f"No VMs {where}. Write a XenVM: kubectl explain xenvm.spec")
    notes(console, [*nodes, *volumes, *vms])


def warning(console: Console, text: str | None) -> None:
    if text:
        console.print(f"[yellow]{escape(text)}[/]", highlight=False)


def notes(console: Console, things: Iterable[Object]) -> None:
    """What is not Ready, and why."""
    found = [(thing, note) for thing in things if (note := view.note(thing))]
    if found:
        console.print()
    for thing, note in sorted(found, key=lambda pair: not pair[1].stalled):
        mark = "[red]stalled[/]" if note.stalled else "[yellow]waiting[/]"
        console.print(f"{mark}  {thing['kind']} {escape(view.name_of(thing))}: {escape(str(note))}")


def one(console: Console, vm: Object, volumes: list[Object], events: list[Object]) -> None:
    status, spec = view.status_of(vm), vm["spec"]
    domain, placement = status.get("domain") or {}, status.get("placement") or {}
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    since = view.age(domain.get("since")) if view.phase_of(vm) in ("Running", "Paused") else ""
    table.add_row(view.name_of(vm), coloured(view.phase_of(vm)) + (f" for {since}" if since else ""))
    table.add_row("node", view.placed_on(vm) + (f", domain {domain['id']}" if domain.get("id") else ""))
    wanted = spec.get("node")
    if wanted and wanted != placement.get("node"):
        table.add_row("wanted node", wanted)
    away = view.condition(vm, "Placed")
    if view.displaced(vm) and away:
        table.add_row("displaced", escape(f"{view.displaced(vm)}: {away.get('message', '')}"))
    if spec.get("state", "Running") not in ("Running", view.phase_of(vm)):
        table.add_row("wanted state", spec["state"])
    maximum = f", at most {spec['maxMemory']}" if spec.get("maxMemory") else ""
    table.add_row("memory", f"{spec['memory']}{maximum}; {spec.get('vcpus', 1)} vCPU, {spec.get('type', 'pv')}")
    for disk in spec.get("disks") or ():
        table.add_row(f"disk {disk['device']}", _disk(disk, vm, volumes))
    for number, network in enumerate(spec.get("networks") or ()):
        given = status.get("networks") or ()
        mac = given[number]["mac"] if number < len(given) else network.get("mac", "")
        table.add_row(f"network {number}", f"{network['bridge']}  {mac}")
    for label, text in _moves(vm):
        table.add_row(label, escape(text))
    restart = view.condition(vm, "RestartNeeded")
    if restart and restart["status"] == "True":
        table.add_row("restart", escape(restart.get("message", "")))
    if status.get("operation"):
        operation = status["operation"]
        table.add_row("operation", escape(f"{operation['plan']}, {operation['step']}: {operation.get('message', '')}"))
    console.print(table)
    wanted_disks = set(view.disk_names(vm))
    own = [v for v in volumes if view.name_of(v) in wanted_disks]
    notes(console, [vm, *own])
    if events:
        console.print()
    for event in events[-EVENTS_SHOWN:]:
        since = view.age(event.get("lastTimestamp") or event.get("eventTime"))
        colour = "yellow" if event.get("type") == "Warning" else "dim"
        console.print(f"[{colour}]{since:>5} ago[/]  {escape(event['reason'])}: {escape(event.get('message', ''))}")


def _disk(disk: Object, vm: Object, volumes: list[Object]) -> str:
    namespace = vm["metadata"].get("namespace")
    for volume in volumes:
        if view.name_of(volume) == disk["volume"] and volume["metadata"].get("namespace") == namespace:
            status = view.status_of(volume)
            parts = [disk["volume"], status.get("diskState") or "unknown", status.get("connection") or "unknown"]
            sync = (status.get("sync") or {}).get("summary")
            primary = status.get("primary")
            parts += [f"Primary on {primary}"] if primary else []
            parts += [f"syncing {sync}"] if sync else []
            return escape(", ".join(parts))
    return f"[red]{escape(disk['volume'])}: there is no such DrbdVolume[/]"


def _moves(vm: Object) -> list[tuple[str, str]]:
    lines = []
    move, last = view.migration(vm), view.status_of(vm).get("lastMigration")
    if move:
        details = [view.move_text(move)]
        if move.get("round") is not None:
            details.append(f"round {move['round']}")
        details += [str(move[key]) for key in ("rate", "message") if move.get(key)]
        lines.append(("migration", ", ".join(details)))
    if last:
        ended = f", {view.age(last['finishedAt'])} ago" if last.get("finishedAt") else ""
        message = f": {last['message']}" if last.get("message") else ""
        lines.append(("last move", f"{last['source']} -> {last['target']} {last['outcome']}{ended}{message}"))
    return lines


def _word(value: object) -> str:
    return "-" if value is None else str(value)
