"""Who takes part: the hosts as XenNodes, and the VMs with their volumes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import bootstrap
import yaml

SAMPLE = "manifests/samples/shaolin.yaml"
Document = dict[str, Any]


@dataclass(frozen=True)
class HostPlace:
    """Where a host is reached: its agent on loopback, its DRBD on the hosts' own network."""

    name: str
    api_port: int
    relocation_port: int
    replication_address: str
    relocation_address: str = "127.0.0.1"

    def document(self) -> Document:
        return {
            "apiVersion": "xentandem.io/v1alpha1",
            "kind": "XenNode",
            "metadata": {"name": self.name},
            "spec": {
                "agent": {"address": "127.0.0.1", "port": self.api_port},
                "replication": {"address": self.replication_address},
                "relocation": {"enabled": True, "address": self.relocation_address, "port": self.relocation_port},
                "volumeGroups": ["vg0"],
            },
        }


@dataclass(frozen=True)
class Guest:
    """A VM with its one volume: it starts on `first` and is moved to `second`."""

    name: str
    volume: str
    resource: str
    first: str
    second: str
    documents: tuple[Document, ...]


def guests(count: int, hosts: list[str]) -> list[Guest]:
    """The howto's shaolin as it is in the sample, and copies of it spread over pairs of neighbouring hosts."""
    sample = list(yaml.safe_load_all((bootstrap.PROJECT / SAMPLE).read_text()))
    made = [guest_of(sample)]
    for number in range(2, count + 1):
        first = hosts[(number - 1) % len(hosts)]
        second = hosts[number % len(hosts)]
        made.append(guest_of(_copy(sample, number, first, second)))
    return made


def guest_of(documents: list[Document]) -> Guest:
    """Of one DrbdVolume on two hosts and one XenVM on it."""
    volume = next(one for one in documents if one["kind"] == "DrbdVolume")
    vm = next(one for one in documents if one["kind"] == "XenVM")
    first = vm["spec"]["node"]
    second = next(node for node in volume["spec"]["nodes"] if node != first)
    resource = volume["spec"]["resource"]
    return Guest(vm["metadata"]["name"], volume["metadata"]["name"], resource, first, second, tuple(documents))


def _copy(sample: list[Document], number: int, first: str, second: str) -> list[Document]:
    """Minor, port and MAC are left to be allocated."""
    documents = copy.deepcopy(sample)
    for one in documents:
        one["metadata"]["name"] = f"{one['metadata']['name']}-{number}"
        spec = one["spec"]
        if one["kind"] == "DrbdVolume":
            spec["resource"] = spec["logicalVolume"]["name"] = f"{spec['resource']}_{number}"
            spec["nodes"] = [first, second]
            del spec["device"]
        else:
            spec["node"] = first
            for disk in spec["disks"]:
                disk["volume"] = f"{disk['volume']}-{number}"
            for network in spec["networks"]:
                del network["mac"]
    return documents
