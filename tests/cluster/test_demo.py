"""hack/demo as a person runs it: it ends well, leaves nothing behind, and is a guest on somebody's cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import devcluster
import pytest
from api_objects import PROJECT, kubectl

DEMO = PROJECT / "hack" / "demo"
pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("demo")]


def environment(tmp_path: Path) -> dict[str, str]:
    """Without a KUBECONFIG of the person who runs the tests; temporary folders where this test can look."""
    kept = {name: value for name, value in os.environ.items() if name not in {"KUBECONFIG", "PYTHONPATH"}}
    return {**kept, "TMPDIR": str(tmp_path)}


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder, this test's own aside."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def test_the_demo_ends_well(tmp_path: Path) -> None:
    completed = subprocess.run(
        [str(DEMO)], env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    shown = completed.stdout
    assert completed.returncode == 0, shown + completed.stderr
    assert re.search(r"xennode.xentandem.io/mk1 +True .* 0 ", shown), "kubectl get shows the host that was left"
    assert re.search(r"xenvm.xentandem.io/shaolin +mk2 +Running", shown), "kubectl get shows the VM on the other host"
    assert re.search(r"1: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C", shown), "/proc/drbd is shown"
    assert re.search(r"^ +shaolin +\d+ +512 ", shown, re.MULTILINE), "xl list is shown"
    assert "shaolin wrote records 1 to" in shown
    assert "identical, byte for byte (vm_shaolin)" in shown
    assert not list(tmp_path.glob("xentandem-demo-*"))
    assert not processes_of(tmp_path)


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [str(DEMO)], env=environment(tmp_path), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "drbdvolume.xentandem.io/vm-shaolin created" in line:
            break
    assert processes_of(tmp_path), "API server, hosts and controller run"
    demo.send_signal(signal.SIGINT)
    rest = demo.stdout.read()
    assert demo.wait(60) == 130
    assert "everything was ended" in rest
    assert not processes_of(tmp_path)
    assert not list(tmp_path.glob("xentandem-demo-*"))


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [str(DEMO)], env=environment(tmp_path), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if "xennode.xentandem.io/mk1 created" in line:
            break
    demo.kill()
    demo.wait()
    demo.stdout.close()
    deadline = time.monotonic() + 60
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_on_somebodys_cluster_it_names_it_first_and_takes_everything_away(tmp_path: Path) -> None:
    with devcluster.start() as theirs:
        namespaces = kubectl(theirs, "get", "namespaces", "-o", "name")
        completed = subprocess.run(
            [str(DEMO), "--context", "devcluster"], env={**environment(tmp_path), "KUBECONFIG": str(theirs.kubeconfig)},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        shown = completed.stdout
        assert completed.returncode == 0, shown + completed.stderr
        server = re.search(r"server (https://127\.0\.0\.1:\d+)", shown)
        assert server
        assert server[1] in theirs.kubeconfig.read_text()
        assert shown.index('YOUR cluster: context "devcluster"') < shown.index(" created")
        assert kubectl(theirs, "get", "namespaces", "-o", "name") == namespaces
        assert not kubectl(theirs, "get", "crds", "-o", "name")
        assert "xentandem" not in kubectl(theirs, "get", "clusterroles,clusterrolebindings", "-o", "name")


def test_a_kubeconfig_in_use_is_not_used_silently(tmp_path: Path, cluster: devcluster.Cluster) -> None:
    demo = subprocess.Popen(
        [str(DEMO)], env={**environment(tmp_path), "KUBECONFIG": str(cluster.kubeconfig)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if "API server of its own" in line:
            break
    demo.send_signal(signal.SIGINT)
    demo.stdout.read()
    demo.wait(60)
    assert "KUBECONFIG is not used; to run on its cluster, write --context devcluster" in said


def test_it_refuses_a_cluster_that_has_xentandem(tmp_path: Path) -> None:
    with devcluster.start() as theirs:
        kubectl(theirs, "create", "namespace", "xentandem-system")
        completed = subprocess.run(
            [str(DEMO), "--context", "devcluster"], env={**environment(tmp_path), "KUBECONFIG": str(theirs.kubeconfig)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert completed.returncode == 1
        assert "has the namespace xentandem-system already" in completed.stdout
        assert not kubectl(theirs, "get", "crds", "-o", "name")
