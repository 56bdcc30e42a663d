"""The demo's VMs: the sample as it is, and copies that collide in nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from demo_lib.cast import SAMPLE, Guest, guests

from controller.api.drbdvolume import DrbdVolume
from controller.api.xenvm import XenVM

PROJECT = Path(__file__).resolve().parents[3]


def parts(guest: Guest) -> tuple[DrbdVolume, XenVM]:
    by_kind: dict[str, Any] = {one["kind"]: one for one in guest.documents}
    return DrbdVolume.from_object(by_kind["DrbdVolume"]), XenVM.from_object(by_kind["XenVM"])


def test_one_vm_is_the_sample_itself() -> None:
    (guest,) = guests(1, ["mk1", "mk2"])
    assert list(guest.documents) == list(yaml.safe_load_all((PROJECT / SAMPLE).read_text()))
    assert (guest.name, guest.first, guest.second) == ("shaolin", "mk1", "mk2")


@pytest.mark.parametrize("hosts", [["mk1", "mk2"], ["mk1", "mk2", "mk3", "mk4", "mk5"]])
def test_many_vms_share_nothing(hosts: list[str]) -> None:
    made = guests(7, hosts)
    volumes, vms = zip(*(parts(guest) for guest in made), strict=True)
    for names in (
        [vm.name for vm in vms],
        [volume.name for volume in volumes],
        [volume.resource for volume in volumes],
        [volume.logical_volume_name for volume in volumes],
    ):
        assert len(set(names)) == 7
    assert [volume.spec.device.minor for volume in volumes].count(None) == 6
    assert [vm.spec.networks[0].mac for vm in vms].count(None) == 6


def test_each_starts_and_goes_where_its_volume_has_a_replica() -> None:
    for guest in guests(9, ["mk1", "mk2", "mk3"]):
        volume, vm = parts(guest)
        assert vm.spec.node == guest.first
        assert volume.spec.nodes is not None
        assert set(volume.spec.nodes) == {guest.first, guest.second}
        assert guest.first != guest.second
        assert [disk.volume for disk in vm.spec.disks] == [volume.name]
