"""The kinds on a real API server: what it refuses and with which words, what it takes, and what kubectl shows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import devcluster
import pytest
import yaml
from api_objects import BY_NAME, Manifest, Objects, howto, kubectl, merged, samples
from kubernetes import client

from controller.api.common import Status
from controller.api.crd import KINDS, Kind, Schema, object_schema
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeStatus
from controller.api.xennode import XenNode
from controller.api.xenvm import XenVM
from controller.api.xenvm_status import Migration, XenVMStatus

HERE = Path(__file__).parent
WRONG: list[dict[str, Any]] = yaml.safe_load((HERE / "wrong_manifests.yaml").read_text())
GOOD: list[dict[str, Any]] = yaml.safe_load((HERE / "good_manifests.yaml").read_text())
STATUSES: list[dict[str, Any]] = list(yaml.safe_load_all((HERE / "statuses.yaml").read_text()))
NOT_CHECKED = "some validation rules were not checked because the object was invalid"


def _refusals(error: client.ApiException) -> list[str]:
    status = json.loads(error.body or "")
    causes = (status.get("details") or {}).get("causes", [])
    told = [f"{cause['field']}: {cause['message']}" for cause in causes if NOT_CHECKED not in cause["message"]]
    return sorted(told) or [status["message"]]


def test_there_are_at_least_sixty_wrong_manifests() -> None:
    assert len({row["what"] + row["kind"] for row in WRONG}) == len(WRONG) >= 60


@pytest.mark.parametrize("row", WRONG, ids=[f"{row['kind']}: {row['what']}" for row in WRONG])
def test_a_wrong_manifest_is_refused_with_words(row: dict[str, Any], objects: Objects) -> None:
    manifest = howto(row["kind"], row.get("name", "new"))
    manifest["spec"] = merged(manifest["spec"], row["spec"])
    if row["spec"] is None:
        del manifest["spec"]
    apply = objects.try_create
    if "change" in row:
        manifest = objects.create(manifest)
        manifest["spec"] = merged(manifest["spec"], row["change"])
        apply = objects.replace

    with pytest.raises(client.ApiException) as caught:
        apply(manifest)

    assert _refusals(caught.value) == row["refused"]


def test_every_rule_refuses_one_of_the_wrong_manifests() -> None:
    told = "\n".join(text for row in WRONG for text in row["refused"])
    untold = [
        rule["message"]
        for kind in KINDS
        for rule in _rules(object_schema(kind))
        if rule["message"] not in told and "messageExpression" not in rule
    ]
    assert untold == []


def _rules(schema: Schema) -> list[dict[str, str]]:
    found = list(schema.get("x-kubernetes-validations", ()))
    for one in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        found += _rules(one)
    return found


@pytest.mark.parametrize("row", GOOD, ids=[f"{row['kind']}: {row['what']}" for row in GOOD])
def test_a_good_manifest_is_taken(row: dict[str, Any], objects: Objects) -> None:
    manifest = howto(row["kind"], row.get("name", "new"))
    manifest["spec"] = row["whole"] if "whole" in row else merged(manifest["spec"], row["spec"])
    if "change" not in row:
        made = objects.try_create(manifest)
    else:
        manifest = objects.create(manifest)
        manifest["spec"] = merged(manifest["spec"], row["change"])
        made = objects.replace(manifest)
    BY_NAME[row["kind"]].model.from_object(made)


@pytest.mark.parametrize("manifest", samples(), ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_the_samples_come_back_as_they_were_written(manifest: Manifest, objects: Objects) -> None:
    written = copy.deepcopy(manifest["spec"])

    made = objects.try_create(manifest)

    assert merged(made["spec"], written) == made["spec"]  # the API server only added defaults
    parsed = BY_NAME[manifest["kind"]].model.from_object(made)
    again = parsed.model_dump(mode="json", exclude_none=True)["spec"]
    assert merged(again, made["spec"]) == again
    assert made["status"] == {"observedGeneration": -1}  # kstatus: not looked at yet, instead of finished


def test_the_samples_hold_thehowto(objects: Objects) -> None:
    made = {one["metadata"]["name"]: objects.try_create(one) for one in samples()}
    nodes = [XenNode.from_object(made[name]) for name in ("mk1", "mk2")]
    volume, vm = DrbdVolume.from_object(made["vm-shaolin"]), XenVM.from_object(made["shaolin"])
    assert [node.spec.replication.address for node in nodes] == ["10.0.0.81", "10.0.0.82"]
    assert [node.spec.relocation.port for node in nodes] == [8002, 8002]
    assert (volume.resource, volume.spec.logical_volume.group, volume.logical_volume_name) == (
        "vm_shaolin", "vg0", "vm_shaolin",
    )  # fmt: skip
    assert (volume.spec.size_bytes, volume.spec.device.minor, volume.spec.device.port) == (512 << 20, 1, 7789)
    assert (volume.spec.protocol, volume.spec.sync.rate, volume.spec.sync.verify_alg) == ("C", "500M", "sha1")
    assert (vm.spec.memory_mib, vm.spec.max_memory_mib, vm.spec.root) == (512, 4096, "/dev/hda1 ro")
    assert [(disk.volume, disk.device, disk.mode) for disk in vm.spec.disks] == [("vm-shaolin", "hda1", "w")]
    assert [(card.bridge, card.mac) for card in vm.spec.networks] == [("xenbr0", "a0:00:00:01:00:01")]


def test_the_spec_is_not_changed_through_the_status(objects: Objects) -> None:
    made = objects.create(howto("XenVM"))
    made["spec"]["node"] = "mk2"
    made["status"] = XenVMStatus(observed_generation=1, phase="Running").to_status_dict()

    after = objects.replace_status(made)

    assert (after["spec"]["node"], after["metadata"]["generation"]) == ("mk1", 1)
    assert after["status"] == {"observedGeneration": 1, "phase": "Running"}


@pytest.mark.parametrize("number", range(len(STATUSES)))
def test_a_status_comes_back_as_it_was_written(number: int, objects: Objects) -> None:
    """Whatever the server added or changed would be written again and again."""
    wanted = STATUSES[number]
    made = objects.create(howto(wanted["kind"]))
    parsed = BY_NAME[wanted["kind"]].model.from_object({**made, "status": wanted["status"]})
    status: Status = getattr(parsed, "status")  # noqa: B009
    made["status"] = status.to_status_dict()

    after = objects.replace_status(made)

    assert after["status"] == made["status"] == wanted["status"]
    assert getattr(BY_NAME[wanted["kind"]].model.from_object(after), "status") == status  # noqa: B009


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_statuses_above_have_every_field(kind: Kind) -> None:
    paths = {path for one in STATUSES if one["kind"] == kind.name for path in _paths(one["status"])}
    assert paths == _schema_paths(object_schema(kind)["properties"]["status"])


def _paths(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path} | {one for key, inner in value.items() for one in _paths(inner, f"{path}.{key}")}
    if isinstance(value, list):
        return {path} | {one for inner in value for one in _paths(inner, f"{path}[]")}
    return {path}


def _schema_paths(schema: Schema, path: str = "") -> set[str]:
    inner = {f"{path}.{name}": one for name, one in schema.get("properties", {}).items()}
    if "items" in schema:
        inner[f"{path}[]"] = schema["items"]
    return {path} | {one for name, part in inner.items() for one in _schema_paths(part, name)}


def test_the_columns_show_what_the_tools_would(objects: Objects, cluster: devcluster.Cluster, namespace: str) -> None:
    volume = objects.create(howto("DrbdVolume"))
    volume["status"] = DrbdVolumeStatus(
        observed_generation=1, disk_state="UpToDate/UpToDate", connection="Connected", primary="mk1"
    ).to_status_dict()
    objects.replace_status(volume)
    vm = objects.create(howto("XenVM"))
    move = Migration(id="m1", source="mk1", target="mk2", epoch=2, phase="Transfer", percent=45.2)
    vm["status"] = XenVMStatus.model_validate(
        {"observedGeneration": 1, "phase": "Migrating", "placement": {"node": "mk1", "epoch": 1}, "migration": move}
    ).to_status_dict()
    objects.replace_status(vm)

    shown = [line.split("  ") for line in kubectl(cluster, "get", "xen", "-n", namespace).splitlines()]

    cells = [[cell.strip() for cell in line if cell.strip()] for line in shown if any(line)]
    assert ["NAME", "DISK", "CONNECTION", "PRIMARY", "SURVIVOR", "SIZE", "SYNC", "AGE"] in cells
    assert ["NAME", "NODE", "STATE", "MEMORY", "MIGRATION", "DISPLACED", "AGE"] in cells
    assert ["drbdvolume.xentandem.io/vm-shaolin", "UpToDate/UpToDate", "Connected", "mk1", "512Mi"] in [
        line[:-1] for line in cells
    ]
    assert ["xenvm.xentandem.io/shaolin", "mk1", "Migrating", "512Mi", "mk1 -> mk2 45%"] in [
        line[:-1] for line in cells
    ]
    assert kubectl(cluster, "get", "xvm", "-n", namespace, "--field-selector", "spec.node=mk1", "-o", "name") == (
        "xenvm.xentandem.io/shaolin\n"
    )


def _objects_in(schema: Schema, path: str) -> list[str]:
    found = [path] if "properties" in schema else []
    for name, one in schema.get("properties", {}).items():
        found += _objects_in(one.get("items", one), f"{path}.{name}")
    return found


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_kubectl_explains_every_field(kind: Kind, cluster: devcluster.Cluster) -> None:
    schema = object_schema(kind)
    parts = [kind.short]
    for part in ("spec", "status"):
        parts += _objects_in(schema["properties"][part], f"{kind.short}.{part}")
    for path in parts:
        told = kubectl(cluster, "explain", path)
        assert "<no description>" not in told, told
        assert "DESCRIPTION:\n    <empty>" not in told, told
