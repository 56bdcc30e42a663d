"""Many small VMs, each with a volume of its own, spread over pairs of neighbouring hosts."""

from __future__ import annotations

from collections.abc import Iterator

from demo_lib.cast import Document

API_VERSION = "xentandem.io/v1alpha1"
KERNEL = "/boot/xenU/vmlinuz-2.6.16.49-xenU-r1"


def machines(first: int, last: int, hosts: list[str]) -> Iterator[Document]:
    """Volumes and VMs number `first` to `last`: 8 MiB on two hosts; 16 MiB of memory on the first of the two."""
    for number in range(first, last + 1):
        here, there = hosts[number % len(hosts)], hosts[(number + 1) % len(hosts)]
        name = f"vm-{number:05}"
        yield {
            "apiVersion": API_VERSION,
            "kind": "DrbdVolume",
            "metadata": {"name": name},
            "spec": {"size": "8Mi", "logicalVolume": {"group": "vg0"}, "nodes": [here, there]},
        }
        yield {
            "apiVersion": API_VERSION,
            "kind": "XenVM",
            "metadata": {"name": name},
            "spec": {
                "node": here,
                "type": "pv",
                "memory": "16Mi",
                "vcpus": 1,
                "kernel": KERNEL,
                "root": "/dev/xvda1 ro",
                "disks": [{"volume": name, "device": "xvda1"}],
                "networks": [{"bridge": "xenbr0"}],
            },
        }
