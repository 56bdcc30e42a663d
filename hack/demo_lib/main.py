"""hack/demo: from two manifests to a running, replicated VM, and its live migration; on simulated or real hosts."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import bootstrap
import devcluster
from lab_lib import tools
from lab_lib.tools import LabFailed

from demo_lib import kube as kubes
from demo_lib.cast import guests
from demo_lib.ground import Ground, Simulated
from demo_lib.hosts import Hosts
from demo_lib.kube import Borrowed, Kube
from demo_lib.lab import LabHosts
from demo_lib.processes import Processes
from demo_lib.screen import DemoFailed, Screen
from demo_lib.setting import controller
from demo_lib.story import Story
from kubectl_xen.cluster import Cluster, Problem

MAX_HOSTS, MAX_VMS = 20, 200
LAB_PATIENCE = 900.0


def main(arguments: list[str]) -> int:
    """0 only if everything that the demo is to show was shown and proved."""
    options = _options(arguments)
    screen = Screen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="xentandem-demo-"))
    keep_logs = False
    try:
        with ExitStack() as cleanup:
            _play(options, screen, folder, cleanup)
        return 0
    except (DemoFailed, LabFailed, Problem, devcluster.BuildFailed, devcluster.NotStarted) as error:
        screen.console.print("\n[bold red]The demo failed.[/]")
        screen.line(str(error))
        keep_logs = any(folder.glob("*.log"))
        if keep_logs:
            screen.line(f"Logs are in {folder}")
        return 1
    except KeyboardInterrupt:
        screen.line("\nInterrupted; everything was ended.")
        return 130
    finally:
        if not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hack/demo", description=__doc__)
    parser.add_argument("--lab", action="store_true", help="two real Xen hosts in QEMU (docs/lab.md); needs root")
    parser.add_argument("--hosts", type=int, metavar="N", help="how many simulated hosts (default 2)")
    parser.add_argument("--vms", type=int, metavar="M", help="how many VMs (default 1: the howto's shaolin)")
    parser.add_argument("--keep", action="store_true", help="leave everything running, until Ctrl-C")
    parser.add_argument("--context", metavar="NAME", help="run on your own cluster: a context of your kubeconfig")
    options = parser.parse_args(arguments)
    if options.lab and (options.hosts is not None or options.vms is not None):
        parser.error("--lab shows one VM on two hosts: leave out --hosts and --vms")
    options.hosts = 2 if options.hosts is None else options.hosts
    options.vms = 1 if options.vms is None else options.vms
    if not 2 <= options.hosts <= MAX_HOSTS:
        parser.error(f"--hosts {options.hosts}: write a number from 2 to {MAX_HOSTS}")
    if not 1 <= options.vms <= MAX_VMS:
        parser.error(f"--vms {options.vms}: write a number from 1 to {MAX_VMS}")
    return options


def _play(options: argparse.Namespace, screen: Screen, folder: Path, cleanup: ExitStack) -> None:
    begun = time.monotonic()
    names = [f"mk{number}" for number in range(1, options.hosts + 1)]
    moving = "a VM that moves" if options.vms == 1 else f"{options.vms} VMs that move"
    real = " real Xen" if options.lab else ""
    screen.heading(f"Xentandem: {len(names)}{real} hosts, identical disks, and {moving} between them")
    if options.lab:
        tools.prepare()
    kube = _cluster(options, screen, folder, cleanup, names)
    processes = Processes(folder)
    cleanup.callback(_quietly, processes)
    ground = _lab(screen, cleanup) if options.lab else _simulated(options, screen, processes, folder, names)
    with screen.step("Resource definitions, and the controller with the rights of its service account"):
        borrowed = Borrowed(kube, crds=not kube.there("crd", "xenvms.xentandem.io"), nodes=names)
        if options.context is not None:
            cleanup.callback(borrowed.give_back)
        kubes.install(kube)
        kubeconfig = folder / "controller.kubeconfig"
        kubes.controller_kubeconfig(kube, kubeconfig)
        controller(processes, kubeconfig, ground.controller_tls)
    cluster = Cluster(kube.kubeconfig, kube.context, kube.namespace)
    patience = LAB_PATIENCE if options.lab else 120.0 + 5.0 * options.vms
    story = Story(
        screen, kube, cluster, ground.places, ground.guests, processes.alive, patience, ground.sample, options.lab
    )
    story.nodes()
    story.create()
    ground.before(story)
    story.move()
    story.settled()
    story.show_objects()
    ground.show()
    ground.judge(story)
    screen.line(f"\nAll of it is true. ({time.monotonic() - begun:.0f} s)")
    if options.keep:
        _keep(screen, kube, processes, ground)


def _simulated(
    options: argparse.Namespace, screen: Screen, processes: Processes, folder: Path, names: list[str]
) -> Ground:
    cast = guests(options.vms, names)
    with screen.step(f"Simulated hosts {', '.join(names)}, each with its agent and certificate"):
        return Simulated(Hosts.start(processes, folder, names, guests=cast), screen, cast)


def _lab(screen: Screen, cleanup: ExitStack) -> Ground:
    screen.line("Real Xen hosts mk1, mk2 in software emulation, each with its agent and certificate:")
    return LabHosts.boot(screen, cleanup)


def _keep(screen: Screen, kube: Kube, processes: Processes, ground: Ground) -> None:
    screen.heading("Everything goes on until Ctrl-C. In another terminal:")
    if kube.kubeconfig:
        screen.command(f"export KUBECONFIG={kube.kubeconfig}")
    screen.command(kube.typed("kubectl get xnode,dvol,xvm"))
    screen.command(kube.typed("""kubectl patch xvm shaolin --type merge -p '{"spec":{"node":"mk1"}}'"""))
    screen.command(f"export PATH=$PATH:{bootstrap.VENV / 'bin'}   # for kubectl xen")
    where = f" --context {kube.context} -n {kube.namespace}" if kube.context else ""
    screen.command(f"kubectl xen{where} status")
    screen.line("What the hosts say, and accidents:")
    for tip in ground.tips():
        screen.command(tip)
    screen.line(f"Logs: {processes.folder}")
    while True:
        processes.alive()
        time.sleep(0.5)


def _cluster(options: argparse.Namespace, screen: Screen, folder: Path, cleanup: ExitStack, names: list[str]) -> Kube:
    """A fresh API server, or the cluster that was named; nothing is applied before its name was shown."""
    kubectl = devcluster.kubectl(screen.line)
    context = options.context
    if context is None and os.environ.get("KUBECONFIG"):
        context = options.context = _offered(screen, kubectl)
    if context is not None:
        found = kubes.configured(kubectl, context)
        if found is None:
            raise DemoFailed(f'your kubeconfig has no context "{context}"; kubectl config get-contexts lists them')
        screen.line(f'This runs on YOUR cluster: context "{context}", server {found[1]}.')
        screen.line(
            f"It makes XenNodes {', '.join(names)}, namespaces xentandem-demo and {kubes.SYSTEM}; and removes them."
        )
        kube = Kube(screen, kubectl, None, context, "xentandem-demo")
        kubes.refuse_if_taken(kube, names)
        return kube
    with screen.step("A Kubernetes API server of its own (kube-apiserver and etcd in one process)"):
        cluster = cleanup.enter_context(devcluster.start(folder / "cluster", say=screen.line))
    return Kube(screen, kubectl, str(cluster.kubeconfig), None, "default")


def _offered(screen: Screen, kubectl: Path) -> str | None:
    """KUBECONFIG is set: the demo goes there only if somebody says so."""
    found = kubes.configured(kubectl, None)
    if found is None:
        return None
    if not (sys.stdin.isatty() and screen.console.is_terminal):
        screen.line(f"KUBECONFIG is not used; to run on its cluster, write --context {found[0]}")
        return None
    answer = input(f'KUBECONFIG points to context "{found[0]}" ({found[1]}). Run the demo on that cluster? [y/N] ')
    return found[0] if answer.strip().lower() in {"y", "yes"} else None


def _quietly(processes: Processes) -> None:
    """A second Ctrl-C must not leave processes behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        processes.stop()
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
