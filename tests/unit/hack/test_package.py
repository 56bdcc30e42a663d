"""What people install: the wheel that Containerfile builds, its programs, and the unit that starts the agent."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
UNIT = PROJECT / "manifests/agent/xentandem-agent.service"


def run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": os.defpath}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, built from what Containerfile copies; the dependencies are those of .venv."""
    folder = tmp_path_factory.mktemp("package")
    source, target = folder / "src", folder / "venv"
    source.mkdir()
    build, _, _ = (PROJECT / "Containerfile").read_text().partition("\nFROM ${BASE}\n")
    for words in re.findall(r"^COPY (.+)$", build, re.MULTILINE):
        for name in words.split()[:-1]:
            found = PROJECT / name
            if found.is_dir():
                shutil.copytree(found, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(found, source)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=source)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(target, with_pip=False)
    uv = Path(sys.executable).parent / "uv"
    run(
        uv, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-deps",
        "--python", target / "bin/python", wheel, cwd=folder,
    )  # fmt: skip
    packages = target / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return target


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["xentandem-agent", "--help"], "The Xentandem agent of a Xen dom0"),
        (["xentandem-agent", "run", "--help"], "/etc/xentandem/agent.yaml"),
        (["xentandem-agent", "simulate", "--help"], "--directory"),
        (["xentandem-controller", "--help"], "--tls-cert"),
        (["kubectl-xen", "--help"], "migrate"),
    ],
)
def test_the_programs_of_the_wheel_run(installed: Path, argv: list[str], said: str) -> None:
    assert said in run(installed / "bin" / argv[0], *argv[1:], cwd=installed)


def test_the_modules_are_the_wheels_own_and_its_scripts_can_be_run(installed: Path) -> None:
    where = run(installed / "bin/python", "-c", "import agent; print(agent.__file__)", cwd=installed)
    package = Path(where.strip()).parent
    assert package.is_relative_to(installed)
    scripts = [path for path in (package / "scripts").iterdir() if path.suffix == "" and path.is_file()]
    names = ("block-xentandem", "vif-xentandem", "xentandem-fence", "xentandem-job", "xentandem-resume")
    assert sorted(path.name for path in scripts) == list(names)
    assert all(os.access(path, os.X_OK) for path in scripts)
    assert not (package.parent / "tests").exists()


def test_the_unit_is_what_systemd_understands(installed: Path, tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert not re.search(r"^(ProtectClock|PrivateDevices|DevicePolicy|DeviceAllow)=", text, re.MULTILINE), (
        "it needs every device of the host: DRBD's, LVM's, Xen's"
    )
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not on this machine")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/xentandem/", f"{installed}/"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
