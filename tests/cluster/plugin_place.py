"""A namespace for tests of the kubectl plugin, and the statuses that a controller would write there."""

from __future__ import annotations

import json
from typing import Any

import devcluster
from api_objects import PROJECT, kubectl
from click.testing import CliRunner, Result

from kubectl_xen.main import main

Object = dict[str, Any]
NOW = "2031-02-01T10:00:00Z"


def ready(generation: int, status: str = "True", reason: str = "Running", message: str = "") -> Object:
    return {
        "type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW,
        "observedGeneration": generation,
    }  # fmt: skip


class Place:
    """A namespace with the howto's hosts, volume and VM, and the plugin to look at them."""

    def __init__(self, cluster: devcluster.Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        samples = PROJECT / "manifests" / "samples"
        kubectl(cluster, "apply", "-f", str(samples / "nodes.yaml"))
        kubectl(cluster, "apply", "-n", namespace, "-f", str(samples / "shaolin.yaml"))

    def xen(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            main, ["--kubeconfig", str(self.cluster.kubeconfig), *arguments, "-n", self.namespace]
        )

    def vm(self) -> Object:
        made: Object = json.loads(kubectl(self.cluster, "get", "xvm", "shaolin", "-n", self.namespace, "-o", "json"))
        return made

    def report(self, kind: str, name: str, **status: Any) -> None:
        """Write the status as the controller would (merged into what is there)."""
        where = () if kind == "xnode" else ("-n", self.namespace)
        patch = json.dumps({"status": status})
        kubectl(self.cluster, "patch", kind, name, *where, "--subresource=status", "--type=merge", "-p", patch)

    def running_on(self, node: str, **more: Any) -> None:
        generation = self.vm()["metadata"]["generation"]
        self.report(
            "xvm", "shaolin", phase="Running", observedGeneration=generation, placement={"node": node, "epoch": 1},
            conditions=[ready(generation)], **more,
        )  # fmt: skip
