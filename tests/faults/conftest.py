"""An API server of these tests' own, that writes down every request: shared by all of them in one process."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import devcluster
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cluster"))  # the harness: one installation for one test

from accounts import ACCOUNT, AUDIT, BASE, login_of
from api_objects import PROJECT, kubectl

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devcluster.Cluster]:
    folder = tmp_path_factory.mktemp("api-server")
    policy = folder / "audit-policy.json"
    rules = [{"level": "Metadata"}]
    policy.write_text(
        json.dumps(
            {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        )
    )
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={folder / AUDIT}", "--audit-log-mode=blocking")
    with devcluster.start(folder, extra=flags) as running:
        kubectl(running, "apply", "--server-side", "-f", str(PROJECT / "crds"))
        kubectl(running, "wait", "--for=condition=Established", "--timeout=60s", "-f", str(PROJECT / "crds"))
        yield running


@pytest.fixture
def namespace(cluster: devcluster.Cluster) -> str:
    """A namespace of the test's own."""
    name = f"faults-{next(_NUMBERS)}"
    kubectl(cluster, "create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def account(cluster: devcluster.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The controller's kubeconfig, with the rights of the manifests and no more."""
    kubectl(cluster, "apply", "-f", str(BASE / "namespace.yaml"))
    kubectl(cluster, "apply", "-f", str(BASE / "rbac.yaml"))
    return login_of(cluster, ACCOUNT, tmp_path_factory.mktemp("account") / "kubeconfig")
