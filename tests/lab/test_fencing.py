"""Real hosts that lose each other under a real controller and API server: the guest's disk stands still for seconds,
goes on by the recorded verdict, and heals (docs/fencing.md, rows 1 and 7)."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import devcluster
import pytest
import yaml
from lab_lib import agents, settings
from lab_lib.lab import Lab

from controller.agents.client import ClientTls
from controller.operator import Controller, Options
from tests.lab.hosts import NAME, RESOURCE, Hosts

PROJECT = Path(__file__).resolve().parents[2]
VOLUME = "vm-shaolin"
LIMIT = 420.0
Manifest = dict[str, Any]


def kubectl(cluster: devcluster.Cluster, *arguments: str, stdin: str = "") -> str:
    """Its output; a failure shows its words."""
    done = subprocess.run(
        [str(devcluster.kubectl()), *arguments],
        env={**cluster.environment(), "KUBECACHEDIR": str(cluster.directory / "kubectl-cache")},
        input=stdin, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


@pytest.fixture
def cluster() -> Iterator[devcluster.Cluster]:
    """With nothing in it, as the hosts are clean: volumes of another test would be ones that were lost."""
    with devcluster.start() as running:
        kubectl(running, "apply", "--server-side", "-f", str(PROJECT / "crds"))
        kubectl(running, "wait", "--for=condition=Established", "--timeout=60s", "-f", str(PROJECT / "crds"))
        yield running


class Ruled:
    """Clean hosts under a controller."""

    def __init__(self, hosts: Hosts, cluster: devcluster.Cluster) -> None:
        self.hosts, self.cluster = hosts, cluster
        files = agents.controller_files(hosts.lab.folder)
        tls = ClientTls(files.certificate, files.key, files.authority)
        self.controller = Controller(
            Options(tls=tls, kubeconfig=str(cluster.kubeconfig), namespace="default", leader_elect=False)
        )
        self.run = asyncio.create_task(self.controller.run())

    def apply(self, *manifests: Manifest) -> None:
        kubectl(self.cluster, "apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl(self.cluster, "get", kind, name, "-o", "json"))
        return found

    async def until(self, kind: str, name: str, what: str, condition: Callable[[dict[str, Any]], bool]) -> float:
        """Seconds that it took."""
        begun, found = time.monotonic(), {}
        while time.monotonic() - begun < LIMIT:
            if self.run.done():
                self.run.result()
            found = await asyncio.to_thread(self.get, kind, name)
            if condition(found.get("status", {})):
                return time.monotonic() - begun
            await asyncio.sleep(1)
        raise AssertionError(f"never came: {what}\n{json.dumps(found, indent=1)}\n{await self.hosts.story()}")

    async def close(self) -> None:
        self.controller.stop()
        await asyncio.wait({self.run}, timeout=30)
        self.controller.kill()
        await asyncio.gather(self.run, return_exceptions=True)
        await self.hosts.close()


def manifests(lab: Lab) -> list[Manifest]:
    nodes: list[Manifest] = [
        {
            "apiVersion": "xentandem.io/v1alpha1",
            "kind": "XenNode",
            "metadata": {"name": one.name},
            "spec": {
                "agent": {"address": "127.0.0.1", "port": one.api_port},
                "replication": {"address": settings.address(one.index)},
                "relocation": {"address": settings.address(one.index), "port": 8002},
                "volumeGroups": ["vg0"],
            },
        }
        for one in lab.machines[:2]
    ]
    guest = (PROJECT / "hack/lab_lib/shaolin.yaml").read_text()
    return [*nodes, *yaml.safe_load_all(guest)]


@pytest.fixture
async def ruled(lab: Lab, cluster: devcluster.Cluster) -> AsyncIterator[Ruled]:
    lab.restore("clean")
    made = Ruled(Hosts(lab), cluster)
    try:
        made.apply(*manifests(lab))
        await made.until("xvm", NAME, "running", lambda status: status.get("phase") == "Running")
        made.hosts.uid = made.get("xvm", NAME)["metadata"]["uid"]
        await made.until("dvol", VOLUME, "under fencing", lambda status: bool(status.get("fenced")))
        await made.hosts.writes("mk1")
        yield made
    finally:
        lab.set_link("mk1", "mk2", up=True)
        await made.close()


def stands(number: int, survivor: str) -> Callable[[dict[str, Any]], bool]:
    def check(status: dict[str, Any]) -> bool:
        verdict = status.get("verdict", {})
        return (verdict.get("number"), verdict.get("survivor", "")) == (number, survivor)

    return check


def whole(status: dict[str, Any]) -> bool:
    return status.get("diskState") == "UpToDate/UpToDate" and stands(2, "")(status)


async def test_row_07_the_cable_is_pulled_for_good_then_put_back(ruled: Ruled) -> None:
    hosts, lab = ruled.hosts, ruled.hosts.lab
    begun = time.monotonic()
    lab.set_link("mk1", "mk2", up=False)
    await ruled.until("dvol", VOLUME, "frozen or answered", lambda status: "verdict" in status or "frozen" in status)
    await ruled.until("dvol", VOLUME, "a verdict for mk1", stands(1, "mk1"))
    await hosts.writes("mk1")
    print(f"cable pulled: the guest writes again, as seen after {time.monotonic() - begun:.1f} s")
    print(hosts.on("mk1", "cat /proc/drbd; dmesg | grep -i drbd | tail -n 25"))
    print(hosts.on("mk1", "journalctl -u xentandem-agent -o cat | grep -i -e fence -e frozen -e verdict"))
    assert "exit code 4 (0x400)" in hosts.on("mk1", "dmesg | grep fence-peer")
    await hosts.becomes("mk2", "Outdated", lambda state: state.volumes[RESOURCE].disk == "Outdated")
    refused = hosts.on("mk2", "drbdadm primary vm_shaolin", fails=True)
    assert "State change failed" in refused, refused
    lab.set_link("mk1", "mk2", up=True)
    took = await ruled.until("dvol", VOLUME, "both whole, the verdict ended", whole)
    print(f"cable put back: whole and ended after {took:.1f} s")
    print(ruled.get("dvol", VOLUME)["status"]["verdict"])
    await hosts.runs_only_on("mk1")
    hosts.nothing_lost("mk1")


async def test_row_01_the_other_host_loses_power_and_comes_back(ruled: Ruled) -> None:
    hosts, lab = ruled.hosts, ruled.hosts.lab
    lab.kill("mk2")
    await ruled.until("dvol", VOLUME, "a verdict for mk1", stands(1, "mk1"))
    await hosts.writes("mk1")
    lab.start("mk2")
    await ruled.until("dvol", VOLUME, "both whole, the verdict ended", whole)
    await hosts.runs_only_on("mk1")
    hosts.nothing_lost("mk1")
