"""The plugin against a real API server; the test takes the controller's part and writes the statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import devcluster
import pytest
import yaml
from api_objects import PROJECT, kubectl
from click.testing import CliRunner, Result
from plugin_place import NOW, Object, Place, ready

from kubectl_xen.main import main


@pytest.fixture
def place(cluster: devcluster.Cluster, namespace: str) -> Iterator[Place]:
    yield Place(cluster, namespace)
    kubectl(cluster, "delete", "xnode", "--all")


def test_status_shows_hosts_vms_and_what_is_not_ready(place: Place) -> None:
    place.report("xnode", "mk1", phase="Ready", xenVersion="4.17.5", memory={"total": "2Gi", "free": "1500Mi"})
    place.running_on("mk1")
    generation = 1
    message = "mk2 does not answer since 10:00:00"
    place.report(
        "dvol", "vm-shaolin", phase="Degraded", observedGeneration=generation, diskState="UpToDate/DUnknown",
        conditions=[ready(generation, "False", "PeerUnreachable", message)],
    )  # fmt: skip
    result = place.xen("status")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(line.split()[:4] == ["mk1", "Ready", "4.17.5", "-"] for line in lines)
    assert any(line.split() == ["shaolin", "Running", "mk1", "UpToDate/DUnknown"] for line in lines)
    assert f"DrbdVolume vm-shaolin: PeerUnreachable: {message}" in result.output
    assert "XenVM shaolin:" not in result.output, "the VM is ready and needs no note"


def test_status_of_one_vm(place: Place) -> None:
    moved = {"id": "m1", "source": "mk2", "target": "mk1", "outcome": "Failed", "message": "96 MiB free on mk1"}
    place.running_on("mk1", domain={"id": 7, "since": NOW}, lastMigration=moved)
    place.report("dvol", "vm-shaolin", diskState="UpToDate/UpToDate", connection="Connected", primary="mk1")
    result = place.xen("status", "shaolin")
    assert result.exit_code == 0, result.output
    assert "mk1, domain 7" in result.output
    assert "vm-shaolin, UpToDate/UpToDate, Connected, Primary on mk1" in result.output
    assert "a0:00:00:01:00:01" in result.output
    assert "mk2 -> mk1 Failed: 96 MiB free on mk1" in result.output


def test_status_of_a_vm_that_is_not_there_names_those_that_are(place: Place) -> None:
    result = place.xen("status", "shaolim")
    assert result.exit_code == 1
    assert 'no XenVM "shaolim"' in result.output
    assert "there are: shaolin" in result.output


def test_migrate_edits_the_spec_and_nothing_else(place: Place) -> None:
    place.running_on("mk1")
    before = place.vm()
    result = place.xen("migrate", "shaolin", "mk2")
    assert result.exit_code == 0, result.output
    after = place.vm()
    assert after["spec"] == {**before["spec"], "node": "mk2"}
    assert "--watch" in result.output


def test_migrate_to_where_it_is_changes_nothing(place: Place) -> None:
    place.running_on("mk1")
    before = place.vm()
    result = place.xen("migrate", "shaolin", "mk1")
    assert result.exit_code == 0
    assert "is on mk1 already" in result.output
    assert place.vm()["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("target", "words"),
    [("mk9", 'no XenNode "mk9"; write one of: mk1, mk2, mk3'), ("mk3", "no replica on mk3; write one of: mk1, mk2")],
)
def test_migrate_says_where_to(place: Place, target: str, words: str) -> None:
    third = yaml.safe_load((PROJECT / "manifests/samples/nodes.yaml").read_text().split("---")[0])
    third["metadata"]["name"] = "mk3"
    kubectl(place.cluster, "apply", "-f", "-", stdin=json.dumps(third))
    place.running_on("mk1")
    result = place.xen("migrate", "shaolin", target)
    assert result.exit_code == 1
    assert words in result.output
    assert place.vm()["spec"]["node"] == "mk1"


class Controller(threading.Thread):
    """Writes the given statuses, once spec.node asks for mk2."""

    def __init__(self, place: Place, steps: list[Object]) -> None:
        super().__init__()
        self.place, self.steps = place, steps

    def run(self) -> None:
        deadline = time.monotonic() + 60
        while self.place.vm()["spec"]["node"] != "mk2" and time.monotonic() < deadline:
            time.sleep(0.05)
        generation = self.place.vm()["metadata"]["generation"]
        for step in self.steps:
            self.place.report("xvm", "shaolin", observedGeneration=generation, **step)


MOVE = {"id": "move-2", "source": "mk1", "target": "mk2", "epoch": 2}


def watched(place: Place, *steps: Object, timeout: str = "60s") -> Result:
    place.running_on("mk1")
    controller = Controller(place, list(steps))
    controller.start()
    result = place.xen("migrate", "shaolin", "mk2", "--watch", "--timeout", timeout)
    controller.join()
    return result


def test_watch_until_it_arrived(place: Place) -> None:
    result = watched(
        place,
        {"phase": "Migrating", "migration": {**MOVE, "phase": "Preflight"}},
        {"migration": {**MOVE, "phase": "Transfer", "percent": 45.0, "round": 1}},
        {"phase": "Running", "placement": {"node": "mk2", "epoch": 2},
         "migration": {**MOVE, "phase": "Done", "percent": 100.0, "outcome": "Succeeded"}},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "shaolin is on mk2 (Running)" in result.output


def test_watch_of_a_move_that_failed_says_why(place: Place) -> None:
    message = "mk2: 96 MiB free, 512 MiB needed"
    result = watched(place, {"migration": {**MOVE, "phase": "Done", "outcome": "Failed", "message": message}})
    assert result.exit_code == 1
    assert f"failed: {message}" in result.output


def test_watch_of_a_move_that_is_blocked_ends_with_every_reason(place: Place) -> None:
    why = "Live migration to mk2 is blocked: (1) mk2 has no bridge xenbr0; (2) 96 MiB free, 512 MiB needed"
    blocked = {**ready(2, "False", "BridgeNotFound", why), "type": "Placed"}
    result = watched(place, {"conditions": [ready(2), blocked]})
    assert result.exit_code == 1
    assert why in result.output
    assert "kubectl xen migrate shaolin mk1" in result.output


def test_watch_of_a_move_that_takes_longer_says_where_it_is(place: Place) -> None:
    result = watched(place, {"migration": {**MOVE, "phase": "Transfer", "round": 1, "percent": 45.0}}, timeout="5s")
    assert result.exit_code == 1
    assert "Transfer, round 1" in result.output
    assert "not there after" in result.output
    assert place.vm()["spec"]["node"] == "mk2", "the move goes on"


@pytest.mark.parametrize("text", ["5", "0s", "1d", "-3s", "soon"])
def test_a_timeout_that_is_no_duration(place: Place, text: str) -> None:
    result = place.xen("migrate", "shaolin", "mk2", "--watch", "--timeout", text)
    assert result.exit_code == 2
    assert "such as 90s, 15m or 2h" in result.output
    assert place.vm()["spec"]["node"] == "mk1"


def lease(place: Place, renewed: datetime) -> Object:
    moment = renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "pod-1", "leaseDurationSeconds": 15, "renewTime": moment, "leaseTransitions": 1}
    meta = {"name": "xentandem-controller", "namespace": place.namespace}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def test_without_a_controller_status_and_watch_say_so(place: Place) -> None:
    kubectl(place.cluster, "delete", "leases", "--all", "--all-namespaces")  # other tests' controllers are gone
    assert "no controller has led yet" in place.xen("status").output
    gone = datetime.now(UTC) - timedelta(seconds=40)
    kubectl(place.cluster, "apply", "-f", "-", stdin=json.dumps(lease(place, gone)))
    place.running_on("mk1")
    since = f"no controller has led since {gone.astimezone():%H:%M:%S}: what follows is what it last wrote"
    assert since in place.xen("status").output
    assert since in place.xen("status", "shaolin").output
    result = place.xen("migrate", "shaolin", "mk2", "--watch", "--timeout", "1s")
    assert since in result.output
    assert "not there after" in result.output
    kubectl(place.cluster, "apply", "-f", "-", stdin=json.dumps(lease(place, datetime.now(UTC))))
    assert "no controller" not in place.xen("status").output


def test_watch_ends_when_the_vm_is_deleted(place: Place) -> None:
    place.running_on("mk1")
    deleting = threading.Timer(2.0, lambda: kubectl(place.cluster, "delete", "xvm", "shaolin", "-n", place.namespace))
    deleting.start()
    result = place.xen("migrate", "shaolin", "mk2", "--watch")
    deleting.join()
    assert result.exit_code == 1
    assert "deleted" in result.output


def maintenance(place: Place, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--kubeconfig", str(place.cluster.kubeconfig), "maintenance", *arguments])


def spec_of(place: Place, node: str) -> Object:
    made: Object = json.loads(kubectl(place.cluster, "get", "xnode", node, "-o", "json"))["spec"]
    return made


def test_maintenance_edits_the_spec_and_takes_it_back(place: Place) -> None:
    before = spec_of(place, "mk1")
    result = maintenance(place, "mk1")
    assert result.exit_code == 0, result.output
    assert spec_of(place, "mk1") == {**before, "maintenance": True}
    assert "is already true" in maintenance(place, "mk1").output
    assert maintenance(place, "mk1", "--off").exit_code == 0
    assert spec_of(place, "mk1") == {**before, "maintenance": False}
    assert 'no XenNode "mk9"; write one of: mk1, mk2' in maintenance(place, "mk9").output


def drained(status: str, reason: str, message: str) -> list[Object]:
    return [{**ready(2, status, reason, message), "type": "Drained"}]


def test_watch_of_a_maintenance_until_the_host_may_be_rebooted(place: Place) -> None:
    maintenance(place, "mk1")
    place.report("xnode", "mk1", observedGeneration=2, conditions=drained("False", "Moving", "2 VMs are left"))

    def cleared() -> None:
        place.report("xnode", "mk1", conditions=drained("True", "SafeToReboot", "no VM runs here"))

    later = threading.Timer(2.0, cleared)
    later.start()
    result = maintenance(place, "mk1", "--watch")
    later.join()
    assert result.exit_code == 0, result.output
    assert "Moving: 2 VMs are left" in result.output
    assert "SafeToReboot: no VM runs here" in result.output


def test_watch_of_a_maintenance_that_takes_longer_says_how_to_take_it_back(place: Place) -> None:
    maintenance(place, "mk1")
    place.report("xnode", "mk1", observedGeneration=2, conditions=drained("False", "Blocked", "XenVM x/y: no replica"))
    result = maintenance(place, "mk1", "--watch", "--timeout", "2s")
    assert result.exit_code == 1
    assert "Blocked: XenVM x/y: no replica" in result.output
    assert "kubectl xen maintenance mk1 --off" in result.output


def test_a_context_that_is_not_there(cluster: devcluster.Cluster) -> None:
    result = CliRunner().invoke(main, ["--kubeconfig", str(cluster.kubeconfig), "--context", "prod", "status"])
    assert result.exit_code == 1
    assert 'no context "prod"; write one of: devcluster' in result.output


def test_a_server_that_does_not_answer(cluster: devcluster.Cluster, tmp_path: Path) -> None:
    view = yaml.safe_load(cluster.kubeconfig.read_text())
    view["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    broken = tmp_path / "kubeconfig"
    broken.write_text(yaml.safe_dump(view))
    result = CliRunner().invoke(main, ["--kubeconfig", str(broken), "status"])
    assert result.exit_code == 1
    assert "https://127.0.0.1:9 does not answer" in result.output


def test_kubectl_finds_the_plugin(place: Place) -> None:
    environment = place.cluster.environment()
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    argv = [str(devcluster.kubectl()), "xen", "status", "-n", place.namespace]
    completed = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "shaolin" in completed.stdout
