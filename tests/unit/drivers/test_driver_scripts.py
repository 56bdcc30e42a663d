"""The programs in agent/scripts, run for real with stand-ins for the tools of a dom0."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "agent" / "scripts"
NODE = "/local/domain/0/backend/vbd/7/769"
PROC = """version: 8.4.11 (api:1/proto:86-101)
srcversion: F73C670A7EC572DB9CF3E5B

 1: cs:Connected ro:{role}/Secondary ds:UpToDate/UpToDate C r-----
    ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
11: cs:Connected ro:{other}/Secondary ds:UpToDate/UpToDate C r-----
"""
NINE = """exists resource name:b role:{other} suspended:no
exists resource name:a role:{role} suspended:no
exists connection name:a peer-node-id:1 conn-name:mk2 connection:Connected role:Secondary
exists device name:b volume:0 minor:11 disk:UpToDate
exists device name:a volume:0 minor:1 disk:UpToDate client:no quorum:yes
exists -
"""


class Dom0:
    """A folder of programs that the script finds first, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.program("xenstore-read", f'[ "$1" = {NODE}/params ] && echo /dev/drbd1')
        self.program("xenstore-write", f'printf "%s\\n" "$@" >> {folder}/written')
        self.program("drbdsetup", "exit 20")

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def attach(self, proc: str, command: str = "add") -> tuple[int, dict[str, str]]:
        """The script against this /proc/drbd; (exit status, what it wrote to xenstore)."""
        (self.folder / "proc").write_text(proc)
        text = (SCRIPTS / "block-xentandem").read_text()
        assert "/proc/drbd" in text
        script = self.folder / "script"
        script.write_text(text.replace("/proc/drbd", str(self.folder / "proc")))
        environment = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "XENBUS_PATH": NODE}
        done = subprocess.run(["/bin/sh", str(script), command], env=environment, capture_output=True, check=False)
        written = self.folder / "written"
        words = written.read_text().split("\n")[:-1] if written.exists() else []
        assert all(key.startswith(f"{NODE}/") for key in words[::2])
        return done.returncode, {
            key.removeprefix(f"{NODE}/"): value for key, value in zip(words[::2], words[1::2], strict=True)
        }


ATTACHED = {"physical-device-path": "/dev/drbd1", "physical-device": "93:1", "hotplug-status": "connected"}
LEFT_ALONE = {"hotplug-status": "connected"}

ROLES = pytest.mark.parametrize(
    ("role", "other", "written"), [("Primary", "Secondary", ATTACHED), ("Secondary", "Primary", LEFT_ALONE)]
)


@pytest.fixture
def dom0(tmp_path: Path) -> Dom0:
    return Dom0(tmp_path)


@pytest.mark.parametrize(
    ("role", "other", "written"), [("Primary", "Secondary", ATTACHED), ("Secondary", "Primary", LEFT_ALONE)]
)
def test_a_disk_is_attached_only_where_it_is_primary(
    dom0: Dom0, role: str, other: str, written: dict[str, str]
) -> None:
    assert dom0.attach(PROC.format(role=role, other=other)) == (0, written)


@pytest.mark.parametrize(
    ("role", "other", "written"), [("Primary", "Secondary", ATTACHED), ("Secondary", "Primary", LEFT_ALONE)]
)
def test_drbd_nine_is_asked(dom0: Dom0, role: str, other: str, written: dict[str, str]) -> None:
    dom0.program("drbdsetup", f"cat <<'END'\n{NINE.format(role=role, other=other)}END")
    assert dom0.attach("version: 9.1.23 (api:2/proto:86-121)\n") == (0, written)


@pytest.mark.parametrize("proc", ["", "version: 8.4.11 (api:1/proto:86-101)\n"])
def test_a_role_that_can_not_be_told_is_not_primary(dom0: Dom0, proc: str) -> None:
    assert dom0.attach(proc) == (0, LEFT_ALONE)


def test_the_peers_role_is_not_this_hosts(dom0: Dom0) -> None:
    proc = PROC.format(role="Secondary", other="Secondary").replace("ro:Secondary/Secondary", "ro:Secondary/Primary")
    assert dom0.attach(proc) == (0, LEFT_ALONE)


def test_only_drbd_is_taken(dom0: Dom0) -> None:
    dom0.program("xenstore-read", "echo /dev/sda1")
    status, written = dom0.attach(PROC.format(role="Primary", other="Primary"))
    assert status == 1
    assert written == {"hotplug-error": "/dev/sda1 is not /dev/drbd<minor>", "hotplug-status": "error"}


def test_nothing_is_done_on_removal(dom0: Dom0) -> None:
    assert dom0.attach(PROC.format(role="Primary", other="Primary"), command="remove") == (0, {})


@pytest.mark.parametrize("argument", [[], ["0"], ["x"], ["-1"], ["1", "2"]])
def test_resume_takes_one_domid(argument: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "xentandem-resume"), *argument], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "usage" in done.stderr


def test_resume_without_xen_fails_in_words() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "xentandem-resume"), "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name", ["block-xentandem", "vif-xentandem", "xentandem-fence", "xentandem-resume", "xentandem-job"]
)
def test_programs_can_be_executed(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)


@pytest.mark.parametrize("said", [b"nonsense\n", b'{"exit": 5}\n', b'{"exit": 0}\n', b"[]\n", b""])
def test_the_fence_handler_takes_only_what_an_agent_may_answer(said: bytes, tmp_path: Path) -> None:
    """5 takes a silent peer for dead, 0 is what no handler leaves: both are 1."""
    folder = tmp_path / ("a-long-name-" * 12)  # longer than a socket's path may be
    folder.mkdir()
    handler = folder / "xentandem-fence"
    shutil.copy(SCRIPTS / "xentandem-fence", handler)
    with socket.socket(socket.AF_UNIX) as door:
        fd = os.open(folder, os.O_PATH)
        door.bind(f"/proc/self/fd/{fd}/fence.sock")
        os.close(fd)
        door.listen()
        asking = subprocess.Popen([sys.executable, "-IS", handler], env={"DRBD_RESOURCE": "r"}, stderr=subprocess.PIPE)
        connection, _ = door.accept()
        assert b'"resource": "r"' in connection.recv(4096)
        connection.sendall(said)
        door.close()  # the agent is gone
        connection.close()
    asking.communicate(timeout=30)
    assert asking.returncode == 1


def test_the_fence_handler_needs_no_standard_streams(tmp_path: Path) -> None:
    """The kernel starts its helpers without any: what the agent answered must be the exit status all the same."""
    handler = tmp_path / "xentandem-fence"
    shutil.copy(SCRIPTS / "xentandem-fence", handler)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "fence.sock"))
        door.listen()
        bare = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "-IS", str(handler)]
        asking = subprocess.Popen(bare, env={"DRBD_RESOURCE": "r", "PATH": os.defpath})
        connection, _ = door.accept()
        assert b'"resource": "r"' in connection.recv(4096)
        connection.sendall(b'{"exit": 4, "why": "verdict 1"}\n')
        assert asking.wait(timeout=30) == 4
        connection.close()
