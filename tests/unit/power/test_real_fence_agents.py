"""ClusterLabs' own fence agents as Debian packages them, fence_ipmilan against a real IPMI implementation.

Only where they are installed: as root, hack/test --prepare
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.domain.power import Device, PowerResult
from controller.power.fence_agent import FenceAgents

LOGIN = {"username": "fencing", "password": "s3cret-of-mk1"}
NEEDED = ("fence_ipmilan", "fence_dummy", "ipmi_sim")
missing = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")

LAN = """
name "mk1"
set_working_mc 0x20
startlan 1
addr 127.0.0.1 {port}
priv_limit admin
allowed_auths_admin none md2 md5 straight
guid a123456789abcdefa123456789abcdef
endlan
chassis_control "{folder}/chassis 0x20"
user 2 true "fencing" "s3cret-of-mk1" admin 10 none md2 md5 straight
"""
MC = """
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""
CHASSIS = """#!/bin/sh
# ipmi_lan(5), chassis_control: MC get NAME, or MC set NAME VALUE
case "$2 $3" in
  "get power") echo "power:$(cat {folder}/power)" ;;
  "set power") echo "$4" > {folder}/power ;;
esac
"""


@pytest.fixture
def agents() -> FenceAgents:
    return FenceAgents(Path(shutil.which("fence_ipmilan") or "").parent)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[tuple[Path, Device]]:
    """A file that holds 1 while the host has power, and its management controller."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    power = tmp_path / "power"
    power.write_text("1\n")
    (tmp_path / "lan.conf").write_text(LAN.format(port=port, folder=tmp_path))
    (tmp_path / "mc.emu").write_text(MC)
    (tmp_path / "chassis").write_text(CHASSIS.format(folder=tmp_path))
    (tmp_path / "chassis").chmod(0o755)
    (tmp_path / "state").mkdir()
    argv = ["ipmi_sim", "-c", tmp_path / "lan.conf", "-f", tmp_path / "mc.emu", "-s", tmp_path / "state", "-n"]
    running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parameters = (("cipher", "3"), ("ip", "127.0.0.1"), ("ipport", str(port)), ("lanplus", "1"))
    try:
        yield power, Device("fence_ipmilan", parameters, "mk1-bmc", 30)
    finally:
        running.kill()
        running.wait()


async def until_on(agents: FenceAgents, device: Device) -> PowerResult:
    """Until the management controller is up."""
    deadline = time.monotonic() + 30
    while True:
        result = await agents.status(device, LOGIN)
        if result.state == "on" or time.monotonic() > deadline:
            return result
        await asyncio.sleep(0.2)


async def test_a_host_is_switched_off_by_ipmi(agents: FenceAgents, host: tuple[Path, Device]):
    power, device = host
    result = await until_on(agents, device)
    assert (result.state, result.said) == ("on", "status: Status: ON")
    result = await agents.off(device, LOGIN)
    assert result.state == "off", result.said
    assert result.said == "fence_ipmilan: off: Success: Powered OFF; status: Status: OFF (exit status 2)"
    assert power.read_text() == "0\n"
    assert (await agents.off(device, LOGIN)).said.startswith("fence_ipmilan: off: Success: Already OFF; status:")


async def test_a_wrong_password_is_refused_by_ipmi(agents: FenceAgents, host: tuple[Path, Device]):
    power, device = host
    await until_on(agents, device)
    result = await agents.off(device, {**LOGIN, "password": "another-password"})
    assert (result.state, result.reason) == ("failed", "AgentFailed")
    assert result.said.startswith("fence_ipmilan off ended with 1: ERROR: ")
    assert "another-password" not in result.said
    assert power.read_text() == "1\n"


async def test_fence_dummy_follows_the_standard_that_we_follow(agents: FenceAgents, tmp_path: Path):
    state = tmp_path / "state"
    state.write_text("on")
    device = Device("fence_dummy", (("status_file", str(state)),), None, 30)
    assert (await agents.status(device, {})).state == "on"
    assert (await agents.off(device, {})).state == "off"
    assert state.read_text() == "off"
