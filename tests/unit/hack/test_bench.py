"""hack/bench: what its numbers are made of, and how they are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_lib import report
from bench_lib.audit import USER, Audit, tally, without_leases
from bench_lib.objects import machines
from bench_lib.process import Metrics
from bench_lib.report import Result, Row
from bench_lib.small import percentile

from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM


def test_a_goal_is_met_or_missed_by_so_much() -> None:
    assert Row("writes", 12, "writes", 12.0).verdict == "met"
    assert Row("writes", 15, "writes", 12.0).verdict == "missed by 3 writes (1.2 times the goal)"
    assert Row("writes", 2, "", 0.0).verdict == "missed by 2"
    assert Row("CPU", 2.0, "%", 2.0, below=True).missed
    assert not Row("CPU", 1.99, "%", 2.0, below=True).missed
    assert Row("anything", 5, "s").verdict == ""


def test_percentiles_lie_between_the_measured_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 50) == 50.5
    assert 95.0 < percentile(values, 95) < 96.0
    assert percentile([7.0], 95) == 7.0


def test_only_the_marked_parts_of_the_document_are_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A\n<!-- bench: one -->\nold\n<!-- end: one -->\nB\n<!-- bench: two -->\n<!-- end: two -->\nC\n")
    made = report.markdown(Result("one", "how", (Row("a|b", 1.5, "s", 1.0),)), "hack/bench one")
    report.write({"one": made}, page)
    text = page.read_text()
    assert "old" not in text
    assert "| a/b | 1.50 s | ≤ 1 s | missed by 0.50 s (1.5 times the goal) |" in text
    assert text.endswith("<!-- end: one -->\nB\n<!-- bench: two -->\n<!-- end: two -->\nC\n")
    with pytest.raises(ValueError, match="0 parts marked"):
        report.write({"three": ""}, page)


def test_the_page_has_a_place_for_everything() -> None:
    text = report.DOCUMENT.read_text()
    for name in ("machine", "writes", "latency", "hundred", "settled", "start"):
        assert text.count(f"<!-- bench: {name} -->\n") == text.count(f"<!-- end: {name} -->") == 1


def test_the_audit_log_says_what_was_written_after_the_mark(tmp_path: Path) -> None:
    audit = Audit(tmp_path, bodies=True)
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in audit.flags())
    policy = json.loads(Path(flags["audit-policy-file"]).read_text())
    assert {rule["users"][0] for rule in policy["rules"] if "users" in rule} == {USER}
    log = Path(flags["audit-log-path"])
    assert audit.since(audit.mark()) == []
    log.write_text(json.dumps(_entry("update", "leases", "", {})) + "\n")
    mark = audit.mark()
    status = {
        "phase": "Syncing",
        "diskState": "UpToDate/Inconsistent",
        "primary": "mk1",
        "sync": {"percent": 45},
        "operation": {"step": "Synchronise"},
        "conditions": [{"type": "Ready", "status": "False", "reason": "Synchronise"}],
    }
    entries = [
        _entry("update", "leases", "", {}),
        _entry("update", "drbdvolumes", "status", {"status": status}),
        _entry("patch", "xenvms", "", {"metadata": {"finalizers": ["x"]}}),
        _entry("create", "events", "", {"reason": "Running", "involvedObject": {"kind": "XenVM"}}),
    ]
    with log.open("a") as more:
        more.write("".join(json.dumps(entry) + "\n" for entry in entries) + '{"half a li')
    assert len(audit.since(mark)) == 4
    found = without_leases(audit.since(mark))
    assert [write.says for write in found] == [
        "Syncing, Synchronise, sync 45%, UpToDate/Inconsistent mk1 Primary, Ready=False (Synchronise)",
        "finalizer",
        "XenVM Running",
    ]
    assert tally(found)["update", "drbdvolumes/status"] == 1


def test_metrics_are_summed_by_labels() -> None:
    metrics = Metrics(
        "# TYPE xentandem_api_writes counter\n"
        'xentandem_api_writes_total{verb="put",resource="leases"} 7\n'
        'xentandem_api_writes_total{verb="put",resource="xenvms/status"} 3\n'
        "# TYPE xentandem_queue_depth gauge\nxentandem_queue_depth 0\n"
        "# TYPE xentandem_queue_active gauge\nxentandem_queue_active 1\n"
    )
    assert metrics.value("xentandem_api_writes_total") == 10
    assert metrics.value("xentandem_api_writes_total", resource="leases") == 7
    assert not metrics.quiet


def test_the_many_vms_are_valid_and_spread_over_the_hosts() -> None:
    hosts = ["mk1", "mk2", "mk3"]
    documents = list(machines(1, 6, hosts))
    volumes = [DrbdVolume.model_validate(one) for one in documents if one["kind"] == "DrbdVolume"]
    vms = [XenVM.model_validate(one) for one in documents if one["kind"] == "XenVM"]
    assert len({one.metadata.name for one in volumes}) == len(vms) == 6
    for volume, vm in zip(volumes, vms, strict=True):
        assert volume.spec.nodes is not None
        assert vm.spec.node in volume.spec.nodes
        assert vm.spec.disks[0].volume == volume.metadata.name
    assert {vm.spec.node for vm in vms} == set(hosts)


def _entry(verb: str, resource: str, subresource: str, body: object) -> dict[str, object]:
    return {
        "verb": verb,
        "requestURI": f"/apis/{resource}",
        "objectRef": {"resource": resource, "subresource": subresource, "name": "one"},
        "responseStatus": {"code": 200},
        "requestObject": body,
        "stageTimestamp": "2031-02-01T10:00:00.000000Z",
    }
