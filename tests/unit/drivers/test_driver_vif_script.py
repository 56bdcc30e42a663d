"""agent/scripts/vif-xentandem, run for real with stand-ins for the tools of a dom0."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "agent" / "scripts"
VIF = "/local/domain/0/backend/vif/7/0"
STORE = """frontend = "/local/domain/7/device/vif/0"
frontend-id = "7"
bridge = "xenbr0"
handle = "0"
type = "vif"
"""


class Network:
    """A dom0 with a bridge, whose tools write down what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "scripts").mkdir()
        (folder / "net" / "xenbr0" / "bridge").mkdir(parents=True)
        (folder / "net" / "xenbr0" / "mtu").write_text("9000\n")
        self.program("bin/xenstore-ls", f"cat {folder}/store")
        self.store = STORE
        for name in ("ip", "xenstore-write"):
            self.program(f"bin/{name}", f'echo {name} "$@" >> {folder}/told')
        self.program("scripts/vif-bridge", f'echo vif-bridge "$@" >> {folder}/told')

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def call(self, *words: str) -> tuple[int, list[str]]:
        (self.folder / "store").write_text(self.store)
        text = (SCRIPTS / "vif-xentandem").read_text()
        for place, name in (
            ("/etc/xen/scripts", "scripts"),
            ("/etc/xen/xl.conf", "xl.conf"),
            ("/sys/class/net", "net"),
        ):
            assert place in text
            text = text.replace(place, str(self.folder / name))
        script = self.folder / "script"
        script.write_text(text)
        environment = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "XENBUS_PATH": VIF, "vif": "vif7.0"}
        done = subprocess.run(["/bin/sh", str(script), *words], env=environment, capture_output=True, check=False)
        told = self.folder / "told"
        return done.returncode, told.read_text().splitlines() if told.exists() else []


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(tmp_path)


def test_an_interface_is_put_on_its_bridge(network: Network) -> None:
    assert network.call("online", "type_if=vif") == (
        0,
        [
            "ip link set dev vif7.0 address fe:ff:ff:ff:ff:ff mtu 9000 master xenbr0 up",
            f"xenstore-write /local/domain/7/device/vif/0/mtu 9000 {VIF}/hotplug-status connected",
        ],
    )


def test_its_own_mtu_counts(network: Network) -> None:
    network.store += 'mtu = "1400"\n'
    _, told = network.call("online", "type_if=vif")
    assert "mtu 1400" in told[0]


def test_an_interface_that_goes_is_taken_down(network: Network) -> None:
    assert network.call("offline", "type_if=vif") == (0, ["ip link set dev vif7.0 down nomaster"])
    network.program("bin/ip", "exit 1")
    assert network.call("offline", "type_if=vif")[0] == 0


def test_an_interface_that_cannot_be_put_there_fails_in_words(network: Network) -> None:
    network.program("bin/ip", "exit 2")
    assert network.call("online", "type_if=vif") == (
        1,
        [f"xenstore-write {VIF}/hotplug-error vif7.0 cannot be put on xenbr0 {VIF}/hotplug-status error"],
    )


@pytest.mark.parametrize(
    "store",
    [
        STORE.replace("xenbr0", "ovs0"),
        STORE.replace('bridge = "xenbr0"\n', ""),
        STORE + 'vifname = "web"\n',
        STORE + 'ip = "10.0.0.9"\n',
        "",
    ],
)
def test_what_is_unusual_is_left_to_xens_own_script(network: Network, store: str) -> None:
    network.store = store
    assert network.call("online", "type_if=vif") == (0, ["vif-bridge online type_if=vif"])


def test_interfaces_of_qemu_and_hooks_are_left_to_xens_own_script(network: Network) -> None:
    assert network.call("add", "type_if=tap") == (0, ["vif-bridge add type_if=tap"])
    network.program("scripts/vif-post.d/firewall.hook", "true")
    assert network.call("online", "type_if=vif")[1][1:] == ["vif-bridge online type_if=vif"]


@pytest.mark.parametrize(
    "line", ['vif.default.script="vif-openvswitch"', "vif.default.script = '{scripts}/vif-openvswitch'"]
)
def test_the_script_of_xl_conf_counts(network: Network, line: str) -> None:
    network.program("scripts/vif-openvswitch", f'echo openvswitch "$@" >> {network.folder}/told')
    line = line.format(scripts=network.folder / "scripts")
    (network.folder / "xl.conf").write_text(f'autoballoon="off"\n#vif.default.script="vif-route"\n{line}\n')
    assert network.call("online", "type_if=vif") == (0, ["openvswitch online type_if=vif"])
