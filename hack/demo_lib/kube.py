"""The cluster that the demo runs on, and kubectl: every change is a command that a person could type."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bootstrap
import yaml

from demo_lib.screen import DemoFailed, Screen

SYSTEM = "xentandem-system"
ACCOUNT = "xentandem-controller"
SYSTEM_MANIFESTS = ("manifests/base/rbac.yaml", "manifests/base/namespace.yaml")


@dataclass
class Kube:
    """kubectl with a kubeconfig (and a context of it), and the namespace that the VMs go to."""

    screen: Screen
    kubectl: Path
    kubeconfig: str | None  # None: as kubectl finds it
    context: str | None
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None, show: str = "") -> str:
        """Standard output. `show`: the command as a person would type it. Raises DemoFailed."""
        if show:
            self.screen.command(self.typed(show))
        completed = subprocess.run(
            [str(self.kubectl), *self._where(), *arguments],
            input=stdin, capture_output=True, text=True, check=False, timeout=120, cwd=bootstrap.PROJECT,
        )  # fmt: skip
        if completed.returncode:
            raise DemoFailed(f"kubectl {' '.join(arguments)}: {completed.stderr.strip()}")
        return completed.stdout

    def typed(self, command: str) -> str:
        """`kubectl get ...` with what has to be written to reach this cluster and namespace."""
        context = f" --context {self.context}" if self.context else ""
        namespace = f" -n {self.namespace}" if self.namespace != "default" else ""
        return command.replace("kubectl", f"kubectl{context}{namespace}", 1)

    def there(self, *arguments: str) -> bool:
        """Does the object exist? An answer that cannot be had raises."""
        return bool(self.run("get", *arguments, "--ignore-not-found", "-o", "name").strip())

    def apply(self, documents: list[dict[str, Any]], namespace: str = "") -> str:
        extra = ("-n", namespace) if namespace else ()
        return self.run("apply", *extra, "-f", "-", stdin=yaml.safe_dump_all(documents))

    def _where(self) -> list[str]:
        made = ["--kubeconfig", self.kubeconfig] if self.kubeconfig else []
        return made + (["--context", self.context] if self.context else [])


def controller_kubeconfig(kube: Kube, path: Path) -> None:
    """A kubeconfig with the rights of the Deployment's service account: the demo runs with no more than that."""
    token = kube.run("create", "token", ACCOUNT, "-n", SYSTEM, "--duration=24h").strip()
    view = json.loads(kube.run("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    view["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
    for entry in view["contexts"]:
        entry["context"]["user"] = ACCOUNT
    path.touch(mode=0o600)
    path.write_text(json.dumps(view))


def server_of(kube: Kube) -> str:
    view = json.loads(kube.run("config", "view", "--minify", "-o", "json"))
    return str(view["clusters"][0]["cluster"]["server"])


def refuse_if_taken(kube: Kube, nodes: list[str]) -> None:
    """On a cluster of somebody: touch nothing that is there already. Raises DemoFailed."""
    namespaces = [name for name in (SYSTEM, kube.namespace) if kube.there("namespace", name)]
    if namespaces:
        raise DemoFailed(
            f"this cluster has the namespace {' and '.join(namespaces)} already: Xentandem is installed there, or an"
            " earlier demo was killed; take another cluster, or delete what is left of the demo"
        )
    if not kube.there("crd", "xenvms.xentandem.io"):
        return
    taken = [name for name in nodes if kube.there("xennode", name)]
    if taken:
        raise DemoFailed(f"this cluster has XenNodes of these names already: {', '.join(taken)}; take another cluster")


def install(kube: Kube) -> None:
    """The kinds, and the controller's account with its rights; its Deployment is a process of the demo instead."""
    kube.run("apply", "--server-side", "-k", "crds")
    kube.run("wait", "--for=condition=Established", "--timeout=60s", "-f", "crds")
    kube.run("apply", *_files(reversed(SYSTEM_MANIFESTS)))
    if kube.namespace != "default":
        kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": kube.namespace}}])


def _files(paths: Iterable[str]) -> list[str]:
    return [word for path in paths for word in ("-f", path)]


@dataclass
class Borrowed:
    """What the demo made on a cluster that is not its own, taken away at the end."""

    kube: Kube
    crds: bool
    nodes: list[str]

    def give_back(self) -> None:
        self.kube.screen.line(f'Removing what was made in context "{self.kube.context}" ...')
        for step in self._steps():
            try:
                step()
            except (DemoFailed, subprocess.TimeoutExpired) as error:
                self.kube.screen.line(f"could not clean up: {error}")

    def _steps(self) -> list[Callable[[], str]]:
        run, namespace = self.kube.run, self.kube.namespace
        gone = ("--ignore-not-found", "--timeout=90s")
        steps = [
            lambda: run("delete", "xvm", "--all", "-n", namespace, *gone),
            lambda: run("delete", "dvol", "--all", "-n", namespace, *gone),
            lambda: run("delete", "xnode", *self.nodes, *gone),
            lambda: run("delete", "namespace", namespace, *gone),
            lambda: run("delete", *_files(SYSTEM_MANIFESTS), *gone),
        ]
        if self.crds:
            steps.append(lambda: run("delete", "-k", "crds", *gone))
        return steps


def configured(kubectl: Path, context: str | None) -> tuple[str, str] | None:
    """(context, server) that kubectl would use now, or None when there is none."""
    argv = [str(kubectl), *(["--context", context] if context else []), "config", "view", "--minify", "-o", "json"]
    completed = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if completed.returncode:
        return None
    view = json.loads(completed.stdout)
    clusters = view.get("clusters") or []
    return (str(view.get("current-context")), str(clusters[0]["cluster"]["server"])) if clusters else None
