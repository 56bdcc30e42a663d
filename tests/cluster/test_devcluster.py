"""The API server of the tests itself: it leaves nothing behind, continues a state, and says why it does not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import devcluster
import pytest
from api_objects import PROJECT, kubectl

STARTER = (
    "import devcluster, signal; c = devcluster.start(); print(c.process.pid, c.directory, flush=True); signal.pause()"
)


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Not there, or a zombie that nobody has waited for: ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_server_ends_when_its_parent_is_killed() -> None:
    environment = dict(os.environ, PYTHONPATH=str(PROJECT / "hack"))
    parent = subprocess.Popen([sys.executable, "-c", STARTER], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number, folder = parent.stdout.readline().split()
    server = int(number)
    assert runs(server)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not runs(server), f"the API server {server} outlived its parent")
    assert not Path(folder).exists()


def test_a_second_start_continues_the_state(tmp_path: Path) -> None:
    with devcluster.start(tmp_path / "state") as first:
        kubectl(first, "create", "configmap", "kept", "--from-literal=is=there")
    assert first.process.poll() is not None
    with devcluster.start(tmp_path / "state") as second:
        assert kubectl(second, "get", "configmap", "kept", "-o", "jsonpath={.data.is}") == "there"


def test_owned_objects_are_collected_and_namespaces_end(cluster: devcluster.Cluster, namespace: str) -> None:
    """What pods and GitOps tools rely on: the garbage-collection and namespace controllers work."""
    kubectl(cluster, "create", "configmap", "owner", "-n", namespace)
    uid = kubectl(cluster, "get", "configmap", "owner", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    owned = f"""
apiVersion: v1
kind: ConfigMap
metadata:
  name: owned
  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}]
"""
    kubectl(cluster, "apply", "-n", namespace, "-f", "-", stdin=owned)
    kubectl(cluster, "delete", "configmap", "owner", "-n", namespace)
    kubectl(cluster, "wait", "--for=delete", "configmap/owned", "-n", namespace, "--timeout=60s")
    kubectl(cluster, "delete", "namespace", namespace, "--timeout=60s")


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(devcluster.NotStarted, match="no-such-flag"):
        devcluster.start(tmp_path, extra=["--no-such-flag=1"])
