"""What the models read from the API server and write to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.utils.quantity import parse_quantity
from pydantic import ValidationError

from controller.api.common import Condition, ObjectMeta, bytes_quantity, condition, mib_quantity, quantity_bytes
from controller.api.drbdvolume import DrbdVolume, DrbdVolumeSpec, DrbdVolumeStatus, SyncStatus
from controller.api.xennode import XenNode, XenNodeStatus
from controller.api.xenvm import XenVM, XenVMSpec
from controller.api.xenvm_status import Migration, XenVMStatus

READY = Condition(
    type="Ready", status="True", observed_generation=1, last_transition_time="2031-02-01T10:00:00Z", reason="Running"
)


def volume(name: str = "vm-shaolin", **spec: Any) -> DrbdVolume:
    return DrbdVolume.from_object(
        {"metadata": {"name": name}, "spec": {"size": "512Mi", "logicalVolume": {"group": "vg0"}, **spec}}
    )


def vm(**spec: Any) -> XenVM:
    return XenVM.from_object({"metadata": {"name": "shaolin"}, "spec": {"memory": "512Mi", **spec}})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512Mi", 536870912), ("512M", 512000000), ("4Gi", 4294967296), ("536870912", 536870912), ("0.5Gi", 536870912),
        ("1Ki", 1024), ("1k", 1000), ("1e3", 1000), ("1E", 10**18), ("2Ei", 2**61), ("500m", 1), (".5Ki", 512),
        ("-1", -1),
    ],
)  # fmt: skip
def test_quantities_are_bytes(text: str, size: int) -> None:
    assert quantity_bytes(text) == size


@given(
    st.integers(0, 10**6),
    st.integers(0, 999),
    st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E2"]),
)
def test_quantities_are_what_kubernetes_own_client_makes_of_them(whole: int, part: int, suffix: str) -> None:
    text = f"{whole}.{part:03d}{suffix}"
    exact = parse_quantity(text)
    assert exact <= quantity_bytes(text) < exact + 1


@pytest.mark.parametrize("text", ["", "lots", "512 Mi", "512MB", "Mi", "0x10", "1,5Gi", "512Mi\n", "\uff11\uff12Mi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity; write it like 512Mi or 4Gi"):
        quantity_bytes(text)


@given(st.integers(0, 2**60))
def test_a_size_written_as_a_quantity_is_exact(size: int) -> None:
    assert quantity_bytes(bytes_quantity(size)) == size


def test_a_size_is_written_in_its_largest_exact_unit() -> None:
    sizes = [0, 1023, 1024, 67067904, 512 << 20, 4 << 30, 1 << 40]
    assert [bytes_quantity(size) for size in sizes] == ["0", "1023", "1Ki", "65496Ki", "512Mi", "4Gi", "1Ti"]
    assert mib_quantity(512) == "512Mi"


def test_names_that_were_left_out() -> None:
    assert (volume().resource, volume().logical_volume_name) == ("vm_shaolin", "vm_shaolin")
    named = volume(resource="r0")
    assert (named.resource, named.logical_volume_name) == ("r0", "r0")
    placed = volume(resource="r0", logicalVolume={"group": "vg0", "name": "lv0"})
    assert (placed.resource, placed.logical_volume_name) == ("r0", "lv0")


def test_defaults_are_those_of_the_howto() -> None:
    spec = volume().spec
    assert (spec.protocol, spec.sync.rate, spec.sync.verify_alg, spec.meta_disk.type) == (
        "C",
        "500M",
        "sha1",
        "Internal",
    )
    assert (spec.nodes, spec.device.minor, spec.content, spec.deletion_policy) == (None, None, None, "Retain")
    machine = vm().spec
    assert (machine.state, machine.type, machine.vcpus, machine.shutdown_grace_seconds) == ("Running", "pv", 1, 60)
    assert (machine.on_poweroff, machine.on_reboot, machine.on_crash) == ("destroy", "restart", "restart")
    assert (machine.memory_mib, machine.max_memory_mib, vm(maxMemory="4Gi").spec.max_memory_mib) == (512, 512, 4096)


def test_a_number_is_a_quantity_too() -> None:
    assert DrbdVolumeSpec.model_validate({"size": 536870912, "logicalVolume": {"group": "vg0"}}).size_bytes == 512 << 20


def test_mac_addresses_are_lower_case() -> None:
    spec = XenVMSpec.model_validate(
        {"memory": "512Mi", "networks": [{"bridge": "xenbr0", "mac": "A0:00:00:01:00:0A"}, {"bridge": "xenbr0"}]}
    )
    assert [card.mac for card in spec.networks] == ["a0:00:00:01:00:0a", None]


def test_where_moves_arrive() -> None:
    spec = {"agent": {"address": "10.0.0.81"}, "replication": {"address": "10.1.0.81"}, "volumeGroups": ["vg0"]}
    assert XenNode.from_object({"metadata": {"name": "mk1"}, "spec": spec}).relocation_address == "10.0.0.81"
    spec["relocation"] = {"address": "10.2.0.81"}
    assert XenNode.from_object({"metadata": {"name": "mk1"}, "spec": spec}).relocation_address == "10.2.0.81"


def test_metadata_and_what_is_not_known() -> None:
    raw = {
        "apiVersion": "xentandem.io/v1alpha1",
        "kind": "XenVM",
        "metadata": {
            "name": "shaolin", "namespace": "default", "uid": "6f1b9a42", "resourceVersion": "12", "generation": 3,
            "deletionTimestamp": "2031-02-01T10:00:00Z", "finalizers": ["xentandem.io/vm"],
            "managedFields": [{"f": {}}],
        },
        "spec": {"memory": "512Mi", "ofALaterVersion": True},
        "status": {"observedGeneration": 2, "alsoLater": {"a": 1}},
    }  # fmt: skip
    read = XenVM.from_object(raw)
    assert read.metadata == ObjectMeta(
        name="shaolin", namespace="default", uid="6f1b9a42", resource_version="12", generation=3,
        deletion_timestamp="2031-02-01T10:00:00Z", finalizers=("xentandem.io/vm",),
    )  # fmt: skip
    assert read.deleting
    assert not vm().deleting
    assert read.status.observed_generation == 2


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="XenVM"):
        XenVM.from_object({"kind": "XenNode", "metadata": {"name": "mk1"}, "spec": {"memory": "512Mi"}})


def test_models_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        vm().spec.node = "mk2"  # type: ignore[misc]


def test_a_status_that_nobody_wrote() -> None:
    assert vm().status == XenVMStatus()
    assert XenVMStatus().to_status_dict() == {"observedGeneration": -1}


def test_only_what_is_set_is_written() -> None:
    status = DrbdVolumeStatus(observed_generation=1, conditions=(READY,), phase="Ready", nodes=("mk1", "mk2"), size=0)
    assert status.to_status_dict() == {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready", "status": "True", "observedGeneration": 1, "reason": "Running",
                "lastTransitionTime": "2031-02-01T10:00:00Z",
            }
        ],
        "phase": "Ready",
        "nodes": ["mk1", "mk2"],
        "size": 0,
    }  # fmt: skip
    assert XenNodeStatus(boot_id="b", domains=0).to_status_dict() == {
        "observedGeneration": -1, "bootID": "b", "domains": 0,
    }  # fmt: skip
    assert DrbdVolumeStatus.model_validate(status.to_status_dict()) == status


@pytest.mark.parametrize(
    ("phase", "percent", "outcome", "summary"),
    [
        ("Preflight", None, None, "mk1 -> mk2 Preflight"), ("Transfer", None, None, "mk1 -> mk2 Transfer"),
        ("Transfer", 45.2, None, "mk1 -> mk2 45%"), ("HandOver", 100.0, None, "mk1 -> mk2 HandOver"),
        ("Cancelling", 45.2, None, "mk1 -> mk2 Cancelling"), ("Done", 100.0, "Succeeded", None),
        ("Transfer", 45.2, "Failed", None),
    ],
)  # fmt: skip
def test_the_text_of_the_migration_column(phase: Any, percent: float | None, outcome: Any, summary: str | None) -> None:
    move = Migration(id="m", source="mk1", target="mk2", epoch=2, phase=phase, percent=percent, outcome=outcome)
    assert XenVMStatus(migration=move).to_status_dict()["migration"].get("summary") == summary


def test_the_text_of_the_sync_column() -> None:
    sync = SyncStatus(percent=4.0, rate="40 MiB/s", time_left="0:00:03")
    assert DrbdVolumeStatus(sync=sync).to_status_dict()["sync"]["summary"] == "4% 40 MiB/s 0:00:03"
    assert DrbdVolumeStatus(sync=SyncStatus()).to_status_dict()["sync"] == {"summary": "0%"}


def test_too_many_words_are_cut_instead_of_refused() -> None:
    long = Condition(
        type="Ready", status="False", last_transition_time="2031-02-01T10:00:00Z", reason="Failed", message="x" * 5000
    )
    assert (len(long.message), long.message[-2:]) == (4096, "x…")
    names = tuple(f"vm-{number}" for number in range(100))
    assert DrbdVolumeStatus(used_by=names).used_by == names[:64]


def test_finding_a_condition() -> None:
    assert condition((READY,), "Ready") is READY
    assert condition((READY,), "Stalled") is None
