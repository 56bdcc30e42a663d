"""`xentandem-controller` as a process: starts, serves health and metrics, ends in good order, is killed, replaced."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import devcluster
import pytest
from api_objects import kubectl
from harness import Scene
from ports import free_port


class Process:
    """A controller process with its log, and its health port."""

    def __init__(self, scene: Scene, *options: str) -> None:
        files = scene.options().tls._files
        self.port, self.log = free_port(), scene.directory / f"controller-{time.monotonic_ns()}.log"
        argv = [
            sys.executable, "-c", "from controller.main import main; main()",
            "--kubeconfig", str(scene.cluster.kubeconfig), "--namespace", scene.namespace,
            "--tls-cert", str(files[0]), "--tls-key", str(files[1]), "--tls-ca", str(files[2]),
            "--metrics-address", f"127.0.0.1:{self.port}", *options,
        ]  # fmt: skip
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(argv, stderr=output, stdout=output)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text; (0, "") while nobody listens."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as found:
                return found.status, await found.text()
        except aiohttp.ClientError:
            return 0, ""

    async def until(self, path: str, *texts: str, status: int = 200, seconds: float = 60.0) -> str:
        deadline = time.monotonic() + seconds
        while True:
            code, found = await self.get(path)
            if code == status and all(text in found for text in texts):
                return found
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, f"{path}: {code} {found[-500:]}\n{self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.1)

    async def ended(self, seconds: float = 60.0) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), seconds)

    def said(self) -> list[str]:
        """Its events so far; the last line may be half written."""
        lines = self.log.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line)["event"] for line in lines]


@pytest.fixture
async def scene(cluster: devcluster.Cluster, tmp_path: Path, namespace: str) -> AsyncIterator[Scene]:
    async with Scene(cluster, tmp_path, namespace) as made:
        await asyncio.gather(*(made.start_agent(name) for name in made.names))
        for name in made.names:
            await made.apply(made.node_manifest(name))
        yield made


async def test_it_starts_serves_and_ends_in_good_order(scene: Scene) -> None:
    one = Process(scene, "--identity", "one")
    try:
        await scene.until_ready("XenNode", "mk1")
        await one.until("/readyz")
        await one.until("/healthz")
        await one.until(
            "/metrics", "xentandem_leader 1.0", 'xentandem_objects{kind="XenNode",phase="Ready"}', "process_cpu_seconds"
        )
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
    finally:
        one.process.kill()
        one.process.wait()
    assert one.said()[-1] == "ended"
    spec = (await scene.api.request(
        "GET", f"/apis/coordination.k8s.io/v1/namespaces/{scene.namespace}/leases/xentandem-controller"
    ))["spec"]  # fmt: skip
    assert spec.get("holderIdentity", "") == "", "the lease is free for the next one"


async def test_a_killed_one_is_replaced_by_the_one_that_waited(scene: Scene) -> None:
    first, second = Process(scene, "--identity", "first"), None
    try:
        await first.until("/metrics", "xentandem_leader 1.0")
        second = Process(scene, "--identity", "second", "--no-leader-elect")
        await second.until("/metrics", "xentandem_leader 1.0", "xentandem_leader_term 2.0")
        assert await first.ended() == 1, "who has lost its lease ends"
        assert "no longer the leader: ending" in first.said()
        second.process.kill()
        third = Process(scene)
        try:
            await third.until("/metrics", "xentandem_leader 1.0", "xentandem_leader_term 3.0")
            third.process.send_signal(signal.SIGINT)
            assert await third.ended() == 0
        finally:
            third.process.kill()
            third.process.wait()
    finally:
        for one in (first, second):
            if one is not None:
                one.process.kill()
                one.process.wait()


async def test_a_cluster_that_is_not_there_is_waited_for_and_waiting_can_be_ended(
    scene: Scene, tmp_path: Path, cluster: devcluster.Cluster
) -> None:
    text = kubectl(cluster, "config", "view", "--raw")
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("\n".join(
        f"    server: https://127.0.0.1:{free_port()}" if line.strip().startswith("server:") else line
        for line in text.splitlines()
    ))  # fmt: skip
    one = Process(scene, "--kubeconfig", str(nowhere))
    try:
        await one.until("/readyz", status=503)
        await scene.until_true(lambda: "waiting for the API server" in one.said(), "it says that it waits")
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
    finally:
        one.process.kill()
        one.process.wait()
