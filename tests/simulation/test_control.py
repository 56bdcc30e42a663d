"""The simulation as a process of its own, and its control interface."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.simulation.agents import Agents
from agent.simulation.cluster import Simulation
from agent.simulation.control import Control

LIMIT = 30.0


class Remote:
    """One control interface, as another process sees it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self.url = session, url

    async def get(self, path: str) -> Any:
        async with self._session.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await response.json() if "json" in response.content_type else await response.text()

    async def post(self, path: str, /, **body: Any) -> tuple[int, str]:
        async with self._session.post(self.url + path, json=body) as response:
            return response.status, await response.text()

    async def fault(self, name: str, /, **arguments: Any) -> None:
        assert await self.post("/faults", fault=name, **arguments) == (200, "{}")


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Agents]:
    async with Simulation(tmp_path / "hosts") as simulation:
        made = Agents(simulation, tmp_path)
        await asyncio.gather(*(made.start(name) for name in simulation.hosts))
        yield made
        await made.close()
        simulation.truth.check()


async def console(url: str, *words: str) -> tuple[int | None, str, str]:
    """hack/hosts with these words."""
    script = Path(__file__).parents[2] / "hack" / "hosts"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *words, env={"HOSTS": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def remote(agents: Agents) -> AsyncIterator[Remote]:
    control = Control(agents)
    port = await control.start(0)
    async with aiohttp.ClientSession() as session:
        yield Remote(session, f"http://127.0.0.1:{port}")
    await control.stop()


async def test_hosts_and_truth(remote: Remote, agents: Agents) -> None:
    hosts = await remote.get("/hosts")
    assert set(hosts) == {"mk1", "mk2"}
    assert hosts["mk1"]["on"] is True
    assert hosts["mk1"]["agent"] is True
    assert hosts["mk1"]["apiPort"] == agents.places["mk1"].api_port
    assert "Domain-0" in hosts["mk1"]["xlList"]
    assert hosts["mk2"]["procDrbd"].startswith("version: 8.4.11")
    truth = await remote.get("/truth")
    assert truth["ok"] is True
    assert truth["violations"] == []
    agents.simulation.truth.violation("made up")
    assert (await remote.get("/truth"))["violations"] == ["made up"]
    assert "VIOLATION made up" in await remote.get("/truth/story")
    agents.simulation.truth.violations.clear()
    assert await remote.get("/replicas/vm_x") == {
        "identical": False,
        "difference": "vm_x has 0 replica(s): none",
        "hosts": [],
    }


async def test_commands(remote: Remote) -> None:
    status, text = await remote.post("/run", host="mk1", argv=["lvcreate", "-L", "8M", "-n", "a", "vg0"])
    assert status == 200
    assert json.loads(text) == {"exit": 0, "stdout": '  Logical volume "a" created.\n', "stderr": ""}
    assert (await remote.post("/run", host="mk9", argv=["true"]))[0] == 400
    assert (await remote.post("/run", host="mk1"))[0] == 400
    assert (await remote.post("/run", host="mk1", argv=["frobnicate"]))[0] == 409


async def test_faults_of_hosts_and_agents(remote: Remote, agents: Agents) -> None:
    ports = agents.places["mk2"].api_port
    await remote.fault("power_off", host="mk2")
    shown = (await remote.get("/hosts"))["mk2"]
    assert (shown["on"], shown["agent"]) == (False, False)
    await remote.fault("power_on", host="mk2")
    shown = (await remote.get("/hosts"))["mk2"]
    assert (shown["on"], shown["agent"], shown["apiPort"]) == (True, True, ports)
    await remote.fault("kill_agent", host="mk1")
    assert (await remote.get("/hosts"))["mk1"]["agent"] is False
    await remote.fault("start_agent", host="mk1")
    await remote.fault("stop_agent", host="mk1")
    await remote.fault("start_agent", host="mk1")
    assert (await remote.get("/hosts"))["mk1"]["agent"] is True


async def test_faults_of_links_disks_and_programs(remote: Remote, agents: Agents) -> None:
    simulation = agents.simulation
    await remote.fault("cut_link", a="mk1", b="mk2")
    assert not simulation.link_up("mk1", "mk2")
    await remote.fault("restore_link", a="mk1", b="mk2")
    assert simulation.link_up("mk1", "mk2")
    await remote.fault("slow_link", rate=1000)
    assert simulation.link_rate("mk1", "mk2") == 1000
    await remote.fault("fail_disk", host="mk1")
    await remote.fault("repair_disk", host="mk1")
    await remote.fault("hang", host="mk1", program="lvs")
    hanging = asyncio.ensure_future(simulation.hosts["mk1"].run(["lvs"]))
    await remote.fault("unhang", host="mk1", program="lvs")
    assert (await hanging).exit == 0
    await remote.fault("cut_stream", host="mk1", at="go")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"fault": "frobnicate"}, 400, "fault must be one of power_off"),
        ({}, 400, "fault must be one of"),
        ({"fault": "power_off"}, 400, "missing a required argument: 'host'"),
        ({"fault": "power_off", "host": "mk9"}, 400, "there is no 'mk9'"),
        ({"fault": "fail_disk", "host": "mk1", "path": "/dev/vg0/x"}, 400, "there is no '/dev/vg0/x'"),
        ({"fault": "cut_stream", "host": "mk1", "at": "noon"}, 400, "there is no noon"),
        ({"fault": "guest", "host": "mk1", "domain": "nobody", "does": "crash"}, 400, "there is no 'nobody'"),
    ],
)
async def test_a_wrong_fault_is_explained(remote: Remote, body: dict[str, str], status: int, words: str) -> None:
    answered, text = await remote.post("/faults", **body)
    assert (answered, words in text) == (status, True), text


async def test_a_page_in_a_browser_can_do_nothing(remote: Remote) -> None:
    async with remote._session.post(remote.url + "/faults", data='{"fault": "power_off", "host": "mk1"}') as response:
        assert response.status == 415


async def test_as_a_process(tmp_path: Path) -> None:
    """Starts, says where everything is, answers, lets the controller's certificate in, ends when it is told to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.simulation", "--directory", str(tmp_path), "--hosts", "mk1,mk2,mk3",
        "--memory-mib", "4096", "--log-level", "error", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith("ready: ")):
            line = await asyncio.wait_for(process.stdout.readline(), LIMIT)
            assert line, lines
            lines.append(line.decode().strip())
        said = json.loads((tmp_path / "simulation.json").read_text())
        assert [node["metadata"]["name"] for node in said["nodes"]] == ["mk1", "mk2", "mk3"]
        assert len({host["apiPort"] for host in said["hosts"].values()}) == 3
        tls = said["controllerTls"]
        context = ssl.create_default_context(cafile=tls["authority"])
        context.load_cert_chain(tls["certificate"], tls["key"])
        async with aiohttp.ClientSession() as session:
            assert set(await Remote(session, said["control"]).get("/hosts")) == {"mk1", "mk2", "mk3"}
            url = f"https://127.0.0.1:{said['hosts']['mk3']['apiPort']}/v1/state"
            async with session.get(url, ssl=context) as response:
                state = await response.json()
        assert state["node"] == "mk3"
    finally:
        process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), LIMIT) == 0


async def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.simulation", "--directory", str(tmp_path), "--control", str(port),
        "--log-level", "error", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await asyncio.wait_for(process.communicate(), LIMIT)
    taken.close()
    assert process.returncode == 1
    assert b"The simulation cannot start:" in stderr


@pytest.mark.parametrize("left", ["hosts", "state"])
async def test_a_directory_of_another_run_is_refused(tmp_path: Path, left: str) -> None:
    """Its disks are files, but what LVM and DRBD knew of them ended with that run."""
    (tmp_path / left / "mk1").mkdir(parents=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.simulation", "--directory", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), LIMIT)
    assert process.returncode == 1
    assert f"{tmp_path} belongs to another run" in stderr.decode()
    assert "remove this one" in stderr.decode()
    assert os.listdir(tmp_path) == [left], "nothing was touched"


async def test_hack_hosts_is_the_console_of_the_hosts(agents: Agents, remote: Remote) -> None:
    code, out, _ = await console(remote.url, "on", "mk1", "uname", "-n")
    assert (code, out) == (0, "mk1\n")
    code, out, _ = await console(remote.url, "on", "mk1", "lvs", "vg9")
    assert code == 5, "the command's own exit code"
    assert 'Volume group "vg9" not found' in out
    assert (await console(remote.url, "fault", "power_off", "host=mk2"))[0] == 0
    assert not agents.simulation.hosts["mk2"].on
    code, out, _ = await console(remote.url, "truth")
    assert json.loads(out)["violations"] == []


async def test_hack_hosts_says_what_to_write(remote: Remote) -> None:
    code, _, said = await console(remote.url, "fault", "flood", "host=mk1")
    assert code == 1
    assert "fault must be one of power_off" in said
    assert "set HOSTS to the address" in (await console("", "truth"))[2]
    assert "does not answer" in (await console("http://127.0.0.1:1", "truth"))[2]
    assert "not understood" in (await console(remote.url, "on", "mk1"))[2]
