"""The manifests on a real API server, and what the controller's account may do there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import devcluster
import pytest
import yaml
from api_objects import PROJECT, kubectl
from click.testing import CliRunner

from controller.main import main as controller_main

ACCOUNT = "system:serviceaccount:xentandem-system:xentandem-controller"
BASE = str(PROJECT / "manifests" / "base")


@pytest.fixture(scope="module")
def installed(cluster: devcluster.Cluster) -> Iterator[devcluster.Cluster]:
    kubectl(cluster, "apply", "--server-side", "-k", BASE)
    yield cluster
    # not the CRDs, which other tests use
    for name in ("controller.yaml", "service.yaml", "fencing.yaml", "rbac.yaml", "namespace.yaml"):
        kubectl(cluster, "delete", "-f", f"{BASE}/{name}", "--wait=false")


def allowed(cluster: devcluster.Cluster, verb: str, resource: str, namespace: str) -> bool:
    group, _, subresource = resource.partition("/")
    plural, _, api_group = group.partition(".")
    attributes = {
        "verb": verb, "resource": plural, "group": api_group, "subresource": subresource, "namespace": namespace,
    }  # fmt: skip
    if plural == "leases":
        attributes["name"] = "" if verb == "create" else "xentandem-controller"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": attributes},
    }
    answer = json.loads(kubectl(cluster, "create", "-o", "json", "-f", "-", stdin=json.dumps(review)))
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(
    ("verb", "resource", "namespace"),
    [
        *((verb, f"{kind}.xentandem.io", "") for kind in ("xennodes", "drbdvolumes", "xenvms")
          for verb in ("get", "list", "watch", "patch")),
        *(("update", f"{kind}.xentandem.io/status", "") for kind in ("xennodes", "drbdvolumes", "xenvms")),
        *((verb, "events", "default") for verb in ("create", "patch")),
        *((verb, "leases.coordination.k8s.io", "xentandem-system") for verb in ("create", "get", "update")),
        ("get", "secrets", "xentandem-fencing"),
    ],
)  # fmt: skip
def test_the_controller_may(installed: devcluster.Cluster, verb: str, resource: str, namespace: str) -> None:
    assert allowed(installed, verb, resource, namespace)


@pytest.mark.parametrize(
    ("verb", "resource", "namespace"),
    [
        ("get", "secrets", "xentandem-system"),
        ("get", "secrets", "default"),
        ("list", "secrets", ""),
        *((verb, "secrets", "xentandem-fencing") for verb in ("list", "watch", "create", "update", "patch", "delete")),
        ("create", "xenvms.xentandem.io", "default"),
        ("update", "xenvms.xentandem.io", "default"),
        ("delete", "drbdvolumes.xentandem.io", "default"),
        ("create", "pods", "xentandem-system"),
        ("update", "leases.coordination.k8s.io", "default"),
        ("patch", "customresourcedefinitions.apiextensions.k8s.io", ""),
        ("update", "clusterroles.rbac.authorization.k8s.io", ""),
    ],
)
def test_the_controller_may_not(installed: devcluster.Cluster, verb: str, resource: str, namespace: str) -> None:
    assert not allowed(installed, verb, resource, namespace)


def test_the_namespace_accepts_the_controllers_pod(installed: devcluster.Cluster) -> None:
    """The namespace enforces the `restricted` profile: the API server itself says whether the pod fits."""
    deployment = _deployment(installed)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": "xentandem-system"},
        "spec": deployment["spec"]["template"]["spec"],
    }
    kubectl(installed, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_the_controller_knows_its_settings(installed: devcluster.Cluster) -> None:
    """Each setting of the ConfigMap is an option of the program, with a value that it takes."""
    options = {f"XENTANDEM_{option.name}".upper(): option for option in controller_main.params}
    container = _deployment(installed)["spec"]["template"]["spec"]["containers"][0]
    name = container["envFrom"][0]["configMapRef"]["name"]
    settings = json.loads(kubectl(installed, "get", "configmap", name, "-n", "xentandem-system", "-o", "json"))["data"]
    assert settings
    assert set(settings) <= set(options)
    for key, value in settings.items():
        options[key].type.convert(value, options[key], None)
    assert container["command"] == ["xentandem-controller"]
    mounted = container["volumeMounts"][0]["mountPath"]
    assert str(options["XENTANDEM_TLS_CERT"].default).startswith(f"{mounted}/")
    help_text = CliRunner().invoke(controller_main, ["--help"])
    assert help_text.exit_code == 0


@pytest.mark.parametrize("sample", sorted((PROJECT / "manifests" / "samples").glob("*.yaml")), ids=lambda one: one.name)
def test_samples_are_accepted(installed: devcluster.Cluster, namespace: str, sample: Any) -> None:
    for document in yaml.safe_load_all(sample.read_text()):
        arguments = ["create", "--dry-run=server", "-f", "-", "-n", namespace]
        kubectl(installed, *arguments, stdin=json.dumps(document))


def _deployment(cluster: devcluster.Cluster) -> dict[str, Any]:
    text = kubectl(cluster, "get", "deployment", "xentandem-controller", "-n", "xentandem-system", "-o", "json")
    made: dict[str, Any] = json.loads(text)
    return made
