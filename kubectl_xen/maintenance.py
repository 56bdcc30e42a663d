"""`kubectl xen maintenance`: edits spec.maintenance of a host, and with --watch shows how it is cleared."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape

from kubectl_xen import view
from kubectl_xen.cluster import Cluster, Problem
from kubectl_xen.view import Object

LOOK_SECONDS = 1.0
BLOCKED_SECONDS = 20.0
"""What stands in the way for so long, unchanged, is the end of the watch."""


def request(cluster: Cluster, name: str, on: bool) -> tuple[Object, Object]:
    """Set spec.maintenance. Returns the host before and after. Raises Problem."""
    nodes = {view.name_of(node): node for node in cluster.nodes()}
    if name not in nodes:
        raise Problem(f'no XenNode "{name}"; write one of: {", ".join(sorted(nodes)) or "(there are none)"}')
    before = nodes[name]
    if bool(before["spec"].get("maintenance")) == on:
        return before, before
    return before, cluster.set_maintenance(name, on)


def watch(console: Console, cluster: Cluster, name: str, timeout: float) -> int:
    """Until the host may be rebooted, or what is in the way stays there; the exit code: 0 only when it may."""
    begun = since = time.monotonic()
    shown = ""
    while True:
        found = next((node for node in cluster.nodes() if view.name_of(node) == name), None)
        if found is None:
            raise Problem(f'XenNode "{name}" was deleted')
        if not found["spec"].get("maintenance"):
            console.print(f"{name} is no longer in maintenance: somebody set it back", highlight=False)
            return 1
        drained = view.condition(found, "Drained") if view.current(found) else None
        reason = drained["reason"] if drained else ""
        said = f"{reason}: {drained.get('message', '')}" if drained else "waiting for the controller"
        now = time.monotonic()
        if said != shown:
            console.print(escape(f"{name}  {said}"), highlight=False)
            shown, since = said, now
        if reason == "SafeToReboot":
            return 0
        stuck = reason == "Blocked" and now - since >= BLOCKED_SECONDS
        if stuck or now - begun >= timeout:
            back = f"; to take it back: kubectl xen maintenance {name} --off"
            console.print(f"[red]not cleared[/] after {now - begun:.0f} s{back}", highlight=False)
            return 1
        time.sleep(LOOK_SECONDS)
