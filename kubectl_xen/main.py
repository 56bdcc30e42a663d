"""Command line of `kubectl xen` (kubectl finds the program `kubectl-xen` on PATH)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from kubectl_xen.cluster import Cluster


@dataclass
class Options:
    kubeconfig: str | None
    context: str | None
    namespace: str | None

    def connect(self) -> Cluster:
        from kubectl_xen.cluster import Cluster  # late: the client takes longer to load than --help should

        return Cluster(self.kubeconfig, self.context, self.namespace)


def _console() -> Console:
    from rich.console import Console

    console = Console(soft_wrap=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # piped: one line a row, however long
    return console


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", metavar="FILE", help="The kubeconfig to use (default: as kubectl).")
@click.option("--context", metavar="NAME", help="The kubeconfig's context to use (default: the current one).")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of VMs and volumes (default: the context's).")
@click.version_option(package_name="xentandem", prog_name="kubectl-xen")
@click.pass_context
def main(invocation: click.Context, /, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
    """Xen VMs on DRBD volumes: see how they stand, move them live, clear a host."""
    invocation.obj = Options(kubeconfig, context, namespace)


@main.command()
@click.argument("vm", required=False)
@click.option("-n", "--namespace", metavar="NAME", help="Namespace (default: the context's).")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="VMs and volumes of every namespace.")
@click.pass_obj
def status(options: Options, vm: str | None, namespace: str | None, everywhere: bool) -> None:
    """All hosts and VMs; or one VM with its disks, moves and latest events."""
    from kubectl_xen import leader
    from kubectl_xen import status as show

    if vm and everywhere:
        raise click.UsageError("write a VM's name or --all-namespaces, not both")
    options.namespace = namespace or options.namespace
    cluster, console = options.connect(), _console()
    silence = leader.silence_in(cluster)
    if vm:
        found = cluster.vm(vm)
        show.warning(console, silence)
        show.one(console, found, cluster.volumes(), cluster.events(found))
        return
    where = "in any namespace" if everywhere else f'in namespace "{cluster.namespace}"'
    volumes, vms = cluster.volumes(everywhere), cluster.vms(everywhere)
    show.warning(console, silence)
    show.overview(console, cluster.nodes(), volumes, vms, everywhere=everywhere, where=where)


def _duration(_: click.Context, __: click.Parameter, text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})(s|m|h)", text)
    if found is None or int(found[1]) == 0:
        raise click.BadParameter(f'"{text}" is no duration; write a whole number with its unit, such as 90s, 15m or 2h')
    return int(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]


@main.command()
@click.argument("vm")
@click.argument("node")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace (default: the context's).")
@click.option("-w", "--watch", "follow", is_flag=True, help="Show the progress until the move ended.")
@click.option(
    "--timeout",
    metavar="DURATION",
    default="15m",
    show_default=True,
    callback=_duration,
    help="With --watch: how long to wait, such as 90s, 15m, 2h. The move itself goes on.",
)
@click.pass_context
def migrate(
    invocation: click.Context, /, vm: str, node: str, namespace: str | None, follow: bool, timeout: float
) -> None:
    """Move VM to NODE while it runs, by editing its spec.node.

    Moving it back to where it is cancels the move, until the hand-over begins. With --watch the exit code is 0 only
    when VM is on NODE; it ends, and says why, when the move failed, was cancelled, or something stands in its way.
    """
    from kubectl_xen import move, view

    options: Options = invocation.obj
    options.namespace = namespace or options.namespace
    cluster, console = options.connect(), _console()
    before, after = move.request(cluster, vm, node)
    source = view.placed_on(before)
    if before is after and source == node and not view.migration(before):
        console.print(f"{vm} is on {node} already", highlight=False)
        return
    said = "already asks for" if before is after else "now asks for"
    console.print(f"spec.node of {vm} {said} {node}", highlight=False)
    tool = view.owned_by_git(before)
    if tool and before is not after:
        console.print(f"{tool} writes this VM's spec: change it in Git too, or it will be moved back", highlight=False)
    if not follow:
        console.print(f"see it move: kubectl xen migrate {vm} {node} --watch", highlight=False)
        return
    try:
        invocation.exit(move.watch(console, cluster, before, after, node, timeout))
    except KeyboardInterrupt:
        back = f"; to cancel it: kubectl xen migrate {vm} {source}" if source not in {"-", node} else ""
        console.print(f"\nthe move goes on{back}", highlight=False)
        invocation.exit(130)


@main.command()
@click.argument("node")
@click.option("--off", is_flag=True, help="End the maintenance: what was moved away comes back.")
@click.option("-w", "--watch", "follow", is_flag=True, help="Show how the host is cleared, until it may be rebooted.")
@click.option(
    "--timeout",
    metavar="DURATION",
    default="15m",
    show_default=True,
    callback=_duration,
    help="With --watch: how long to wait, such as 90s, 15m, 2h. The maintenance itself goes on.",
)
@click.pass_context
def maintenance(invocation: click.Context, /, node: str, off: bool, follow: bool, timeout: float) -> None:
    """Move every VM away from NODE while they run, by editing its spec.maintenance.

    With --watch the exit code is 0 only when NODE may be rebooted; it ends, and says why, when something stays in the
    way.
    """
    from kubectl_xen import maintenance as clearing
    from kubectl_xen import view

    if off and follow:
        raise click.UsageError("write --off or --watch, not both")
    options: Options = invocation.obj
    cluster, console = options.connect(), _console()
    before, after = clearing.request(cluster, node, not off)
    said = "is already" if before is after else "is now"
    console.print(f"spec.maintenance of {node} {said} {'false' if off else 'true'}", highlight=False)
    tool = view.owned_by_git(before)
    if tool and before is not after:
        console.print(f"{tool} writes this host's spec: change it in Git too, or it will be set back", highlight=False)
    if follow:
        try:
            invocation.exit(clearing.watch(console, cluster, node, timeout))
        except KeyboardInterrupt:
            console.print(f"\nit goes on; to take it back: kubectl xen maintenance {node} --off", highlight=False)
            invocation.exit(130)
    elif not off:
        console.print(f"see it cleared: kubectl xen maintenance {node} --watch", highlight=False)


@main.command()
@click.argument("volume")
@click.option("-n", "--namespace", metavar="NAME", help="Namespace (default: the context's).")
@click.option("--survivor", metavar="NODE", help="The host whose data stays.")
@click.pass_obj
def resolve(options: Options, volume: str, namespace: str | None, survivor: str | None) -> None:
    """Show the split brain of VOLUME; with --survivor choose whose data stays, by editing its spec.splitBrain.

    The other side's data is replaced by it; a snapshot is taken of it before.
    """
    from kubectl_xen import resolve as choice
    from kubectl_xen import view

    options.namespace = namespace or options.namespace
    cluster, console = options.connect(), _console()
    found = choice.volume(cluster, volume)
    if survivor is None:
        choice.show(console, found)
        return
    said = choice.choose(cluster, found, survivor)
    console.print(f"split brain {said} of {volume}: the data of {survivor} stays", highlight=False)
    tool = view.owned_by_git(found)
    if tool:
        console.print(f"{tool} writes this volume's spec: it may take the choice out again, which does no harm once the"
                      " status has it", highlight=False)  # fmt: skip


if __name__ == "__main__":
    main()
