"""Who the controller is to the API server, and where that writes down what was asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import devcluster
from api_objects import PROJECT, kubectl

AUDIT = "audit.log"
SYSTEM, ACCOUNT = "xentandem-system", "xentandem-controller"
BASE = PROJECT / "manifests" / "base"


def login_of(cluster: devcluster.Cluster, account: str, path: Path) -> Path:
    """A kubeconfig with a service account's token, of the controller's namespace."""
    view = json.loads(kubectl(cluster, "config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    token = kubectl(cluster, "create", "token", account, "-n", SYSTEM, "--duration=1h").strip()
    view["users"] = [{"name": account, "user": {"token": token}}]
    for context in view["contexts"]:
        context["context"]["user"] = account
    path.touch(mode=0o600)
    path.write_text(json.dumps(view))
    return path
