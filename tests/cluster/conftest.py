"""A real API server with Xentandem's CRDs, started once for all tests here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import devcluster
import pytest
from api_objects import PROJECT, Objects, kubectl
from kubernetes import client, config

from controller.api.common import GROUP, VERSION
from controller.api.crd import KINDS

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[devcluster.Cluster]:
    """The control plane, with the three kinds established. `cluster.kubeconfig` is an administrator's."""
    with devcluster.start() as running:
        kubectl(running, "apply", "--server-side", "-f", str(PROJECT / "crds"))
        kubectl(running, "wait", "--for=condition=Established", "--timeout=60s", "-f", str(PROJECT / "crds"))
        _wait_for_discovery(running)
        yield running


def _wait_for_discovery(cluster: devcluster.Cluster) -> None:
    """Until kubectl knows the kinds and their category: it keeps what it asked before they were there."""
    deadline = time.monotonic() + 60
    while True:
        known = kubectl(cluster, "api-resources", f"--api-group={GROUP}", "--categories=xen", "-o", "name").split()
        if len(known) == len(KINDS):
            return
        assert time.monotonic() < deadline, f"the API server offers only {known}"


@pytest.fixture(scope="session")
def api(cluster: devcluster.Cluster) -> client.ApiClient:
    """The `kubernetes` client of that API server."""
    made = config.new_client_from_config(str(cluster.kubeconfig))
    assert isinstance(made, client.ApiClient)
    return made


@pytest.fixture
def namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace of the test's own, empty of custom objects at the end: names on hosts are the whole cluster's."""
    name = f"test-{next(_NUMBERS)}"
    client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    _empty(client.CustomObjectsApi(api), name)


def _empty(api: client.CustomObjectsApi, namespace: str) -> None:
    """Without a controller nobody takes finalizers away: they are taken away here."""
    for kind in KINDS:
        if not kind.namespaced:
            continue
        where = (GROUP, VERSION, namespace, kind.plural)
        api.delete_collection_namespaced_custom_object(*where)
        left: Any = api.list_namespaced_custom_object(*where)
        for one in left["items"]:
            unprotected: dict[str, Any] = {"metadata": {"finalizers": []}}
            api.patch_namespaced_custom_object(
                *where, one["metadata"]["name"], unprotected, _content_type="application/merge-patch+json"
            )


@pytest.fixture
def objects(api: client.ApiClient, namespace: str) -> Iterator[Objects]:
    """Custom objects in that namespace; XenNodes are removed at the end."""
    made = Objects(api, namespace)
    yield made
    made.remove_hosts()
