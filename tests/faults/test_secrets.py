"""What must stay secret is in no log at debug level, no command line, no event, no status and no metric."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import devcluster
import pytest
from accounts import SYSTEM
from api_objects import howto, kubectl
from harness import Scene, is_ready, runs_on
from ports import free_port

from agent import download
from agent.images import shown
from controller.api.common import condition
from controller.runtime.api_server import KINDS

PASSWORD, SIGNATURE, ARGUMENT = "xtn-password-4711", "xtn-signature-4712", "xtn-argument-4713"


def secrets(folder: Path, account: Path) -> dict[str, str]:
    """Each with where it comes from: keys line by line, the account's token in parts, what the manifests carry."""
    found = {PASSWORD: "the image's URL", SIGNATURE: "the image's URL", ARGUMENT: "the guest's command line"}
    for path in folder.rglob("*.key"):
        for line in path.read_text().splitlines():
            if len(line) > 30 and "PRIVATE KEY" not in line:
                found[line] = str(path)
    token = json.loads(account.read_text())["users"][0]["user"]["token"]
    for part in token.split(".")[1:]:  # its first part says only how it is signed
        found[part] = "the account's token"
    return found


class Process:
    """The controller as it is deployed, at its most talkative."""

    def __init__(self, scene: Scene, account: Path) -> None:
        self.port, self.log = free_port(), scene.directory / "controller.log"
        files = scene.options().tls._files
        argv = [
            sys.executable, "-c", "from controller.main import main; main()", "--kubeconfig", str(account),
            "--namespace", SYSTEM, "--tls-cert", str(files[0]), "--tls-key", str(files[1]), "--tls-ca", str(files[2]),
            "--metrics-address", f"127.0.0.1:{self.port}", "--log-level", "debug", "--log-format", "json",
        ]  # fmt: skip
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(argv, stdout=output, stderr=output)

    async def metrics(self) -> str:
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.text()

    async def kill(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)


def listen(scene: Scene) -> list[str]:
    """Every command line of all hosts from now on."""
    heard: list[str] = []
    for host in scene.simulation.hosts.values():

        def noted(argv: Any, *, start: Any = host.processes.start, **options: Any) -> Any:
            heard.append(" ".join(argv))
            return start(argv, **options)

        host.processes.start = noted  # type: ignore[method-assign]
    return heard


async def story(scene: Scene, account: Path) -> Process:
    """A VM is made, moved and crashes; a volume's image does not come; agent and controller are killed in between."""
    for name in scene.names:
        await scene.start_agent(name)
        await scene.apply(scene.node_manifest(name))
    process = Process(scene, account)
    volume, vm, other = howto("DrbdVolume"), howto("XenVM"), howto("DrbdVolume", "other")
    volume["spec"]["size"] = "32Mi"
    vm["spec"]["extra"] = f"console=hvc0 token={ARGUMENT}"
    url = f"https://carl:{PASSWORD}@127.0.0.1:1/guest.img?X-Signature={SIGNATURE}"
    other["spec"] = {
        "size": "32Mi", "logicalVolume": {"group": "vg0"}, "nodes": list(scene.names),
        "content": {"image": {"url": url, "sha256": "0" * 64}},
    }  # fmt: skip
    await scene.apply(volume, vm, other)
    await scene.until("XenVM", "shaolin", runs_on("mk1"))
    await scene.until("DrbdVolume", "other", lambda one: "https://127.0.0.1:1/guest.img" in str(one.status))
    await scene.kill_agent("mk1")
    await scene.start_agent("mk1")
    await scene.move("shaolin", "mk2")
    await scene.until("XenVM", "shaolin", lambda one: runs_on("mk2")(one) and is_ready(one))
    await scene.patch("XenVM", "shaolin", {"spec": {"kernel": "/boot/none", "state": "Stopped"}})
    await scene.until("XenVM", "shaolin", lambda one: one.status.phase == "Stopped" and is_ready(one))
    await scene.patch("XenVM", "shaolin", {"spec": {"state": "Running"}})
    await scene.until("XenVM", "shaolin", lambda one: "/boot/none" in str(condition(one.status.conditions, "Ready")))
    return process


async def objects(scene: Scene) -> list[dict[str, Any]]:
    return [raw for kind in KINDS for raw in (await scene.api.request("GET", KINDS[kind].path()))["items"]]


async def test_secrets_stay_secret(
    cluster: devcluster.Cluster,
    tmp_path: Path,
    namespace: str,
    account: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    async with Scene(cluster, tmp_path, namespace) as scene:
        commands = listen(scene)
        process = await story(scene, account)
        try:
            metrics = await process.metrics()
        finally:
            await process.kill()
        told = {
            "the controller's log": process.log.read_text(),
            "the agents' logs": "".join(capfd.readouterr()),
            "command lines on the hosts": "\n".join(commands),
            "metrics": metrics,
            "events": kubectl(cluster, "get", "events", "-A", "-o", "json"),
            "statuses": json.dumps([raw.get("status") for raw in await objects(scene)]),
        }
    for where, text in told.items():
        assert len(text) > 300, f"{where} say nothing: this test would prove nothing"
        for secret, origin in secrets(tmp_path, account).items():
            assert secret not in text, f"{where} tell of {origin}"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://images.example.org/a.img", "https://images.example.org/a.img"),
        ("https://carl:secret@images.example.org:8443/a.img", "https://images.example.org:8443/a.img"),
        ("https://a@b:secret@images.example.org/a.img", "https://images.example.org/a.img"),
        ("https://images.example.org/a.img?sig=secret#secret", "https://images.example.org/a.img?..."),
        ("https://[secret/a.img", "(no address)"),
    ],
)
def test_how_an_address_is_shown(url: str, said: str) -> None:
    assert shown(url) == said
