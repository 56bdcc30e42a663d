"""Custom objects on the real API server, as the tests here make, change and remove them."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import devcluster
import yaml
from kubernetes import client

from controller.api.common import GROUP, VERSION
from controller.api.crd import KINDS, Kind

PROJECT = Path(__file__).resolve().parents[2]
SAMPLES = PROJECT / "manifests" / "samples"
BY_NAME = {kind.name: kind for kind in KINDS}

Manifest = dict[str, Any]


def samples() -> list[Manifest]:
    """The howto's objects."""
    documents: list[Manifest] = []
    for path in sorted(SAMPLES.glob("*.yaml")):
        documents += yaml.safe_load_all(path.read_text())
    return [one for one in documents if one["kind"] in BY_NAME]


def howto(kind: str, name: str = "") -> Manifest:
    """The howto's object of that kind, under another name if one is given."""
    made = copy.deepcopy(next(one for one in samples() if one["kind"] == kind))
    if name:
        made["metadata"]["name"] = name
    return made


def merged(value: Any, patch: Any) -> Any:
    """A JSON merge patch applied (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    made = dict(value) if isinstance(value, dict) else {}
    for key, one in patch.items():
        if one is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), one)
    return made


def kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str = "") -> str:
    """kubectl's output; a failure shows its words."""
    completed = subprocess.run(
        [str(devcluster.kubectl()), *arguments],
        env={**cluster.environment(), "KUBECACHEDIR": str(cluster.directory / "kubectl-cache")},
        input=stdin, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, f"kubectl {' '.join(arguments)}: {completed.stderr}"
    return completed.stdout


class Objects:
    """Custom objects in one namespace, with the strict field validation that kubectl asks for."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api = client.CustomObjectsApi(api)
        self._namespace = namespace
        self._hosts: list[str] = []

    def create(self, manifest: Manifest) -> Manifest:
        made: Manifest = self._call("create", manifest)(field_validation="Strict")
        if not self._kind(manifest).namespaced:
            self._hosts.append(manifest["metadata"]["name"])
        return made

    def try_create(self, manifest: Manifest) -> Manifest:
        """What creating it would give; nothing is kept."""
        made: Manifest = self._call("create", manifest)(field_validation="Strict", dry_run="All")
        return made

    def replace(self, manifest: Manifest) -> Manifest:
        made: Manifest = self._call("replace", manifest)(field_validation="Strict")
        return made

    def replace_status(self, manifest: Manifest) -> Manifest:
        made: Manifest = self._call("replace", manifest, "_status")(field_validation="Strict")
        return made

    def remove_hosts(self) -> None:
        """XenNodes are in no namespace: other tests would see them."""
        for name in self._hosts:
            self._api.delete_cluster_custom_object(GROUP, VERSION, BY_NAME["XenNode"].plural, name)

    def _kind(self, manifest: Manifest) -> Kind:
        return BY_NAME[manifest["kind"]]

    def _call(self, verb: str, manifest: Manifest, suffix: str = "") -> Any:
        kind = self._kind(manifest)
        scope = "namespaced" if kind.namespaced else "cluster"
        where = (GROUP, VERSION, *([self._namespace] if kind.namespaced else []), kind.plural)
        if verb == "create":
            manifest = copy.deepcopy(manifest)
            manifest["metadata"].pop("namespace", None)
        else:
            where = (*where, manifest["metadata"]["name"])
        method = getattr(self._api, f"{verb}_{scope}_custom_object{suffix}")
        return lambda **options: method(*where, manifest, **options)
