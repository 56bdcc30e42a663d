"""The project's own package as it is installed on a dom0, and each host's configuration and certificates: two disks.

The package's disk (`/opt/xentandem`) is kept in the cache by content: a change of the project's code costs seconds. The
hosts mount both read-only.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import re
import shutil
import tempfile
from pathlib import Path

import bootstrap

from agent import pki
from agent.core import TlsFiles
from lab_lib import settings
from lab_lib.image import Image
from lab_lib.tools import LabFailed, run, step

PACKAGE_SIZE = 320 << 20
SEED_SIZE = 4 << 20
STREAM_LIMIT = 30  # seconds: half of the agent's own, as interrupted moves wait for it
PREFIX = "opt/xentandem"
SITE = f"{PREFIX}/lib/python3.11/site-packages"
CODE = ("agent", "controller", "kubectl_xen")


def package_disk(image: Image) -> Path:
    """`/opt/xentandem` as docs/start.md installs it: a venv of the dom0's Python with the project's wheel in it."""
    wheels = settings.cache() / f"wheels-{bootstrap.locked_digest()}"
    base = image.folder / f"venv-{bootstrap.locked_digest()}"
    disk = image.folder / f"agent-{_digest()}.img"
    with (settings.cache() / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wheels.exists():
            with step("  wheels of the locked dependencies"):
                _download(wheels)
        if not base.exists():
            with step("  environment with the agent's dependencies"):
                _environment(image, wheels, base)
        if not disk.exists():
            with step("  the project's package"):
                _install(image, base, disk)
                for old in image.folder.glob("agent-*.img"):
                    if old != disk and old.stat().st_atime < disk.stat().st_mtime - 86400:
                        old.unlink()
    return disk


def _digest() -> str:
    digest = hashlib.sha256(bootstrap.locked_digest().encode() + Path(__file__).read_bytes())
    files = [bootstrap.PROJECT / "pyproject.toml", bootstrap.PROJECT / "manifests/agent/xentandem-agent.service"]
    for folder in CODE:
        files += (path for path in (bootstrap.PROJECT / folder).rglob("*") if "__pycache__" not in path.parts)
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(bootstrap.PROJECT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _needed() -> set[str]:
    """Distributions that the project needs where it runs, extras left out."""
    found: set[str] = set()
    waiting = ["xentandem"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in importlib.metadata.requires(name) or ():
            if "extra ==" not in requirement and (match := re.match(r"[A-Za-z0-9._-]+", requirement)):
                wanted = re.sub(r"[-_.]+", "-", match[0]).lower()
                if wanted in _locked():
                    waiting.append(wanted)
    return found - {"xentandem"}


def _locked() -> dict[str, str]:
    """The lock file's entries by name, with their hashes."""
    blocks = re.finditer(r"^([a-z0-9-]+)==(?:[^\n]*\\\n)*[^\n]*$", bootstrap.LOCK.read_text(), re.MULTILINE)
    return {block[1]: block[0] for block in blocks}


def _download(wheels: Path) -> None:
    partial = wheels.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    locked = _locked()
    wanted = partial / "requirements.txt"
    wanted.write_text("\n".join(locked[name] for name in sorted(_needed())) + "\n")
    pip = bootstrap.pip_command()
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", "3.11"]
    run([*pip, "download", *options, "-r", wanted, "-d", partial])
    partial.rename(wheels)


def _environment(image: Image, wheels: Path, base: Path) -> None:
    """Made inside the image's tree, by its own Python, at the path where it will be."""
    tree = image.root / PREFIX
    shutil.rmtree(tree, ignore_errors=True)
    inside = image.root / "wheels"
    shutil.copytree(wheels, inside, dirs_exist_ok=True)
    try:
        _enter(image, "/usr/bin/python3", "-m", "venv", f"/{PREFIX}")
        options = ["--quiet", "--no-index", "--find-links", "/wheels", "--require-hashes", "--no-deps"]
        _enter(image, f"/{PREFIX}/bin/pip", "install", *options, "-r", "/wheels/requirements.txt")
        partial = base.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(tree, partial, symlinks=True)
        partial.rename(base)
    finally:
        shutil.rmtree(inside)
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()


def _install(image: Image, base: Path, disk: Path) -> None:
    tree, inside = image.root / PREFIX, image.root / "wheels"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(inside, ignore_errors=True)
    shutil.copytree(base, tree, symlinks=True)
    inside.mkdir()
    partial = disk.with_suffix(".partial")
    try:
        run([bootstrap.PYTHON, "-m", "hatchling", "build", "-t", "wheel", "-d", inside], cwd=bootstrap.PROJECT)
        (wheel,) = inside.glob("*.whl")
        options = ["--quiet", "--no-index", "--no-deps"]
        _enter(image, f"/{PREFIX}/bin/pip", "install", *options, f"/wheels/{wheel.name}")
        with partial.open("wb") as file:
            file.truncate(PACKAGE_SIZE)
        # Always the same size: a host that was frozen with another package's disk finds this one in its place
        run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-d", tree, "-F", partial])
        partial.rename(disk)
    finally:
        shutil.rmtree(inside)
        shutil.rmtree(tree)
        tree.mkdir()


def code() -> bytes:
    """The agent's modules as they are in this tree now, compiled, as a tar archive."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "agent"
        shutil.copytree(bootstrap.PROJECT / "agent", tree, ignore=shutil.ignore_patterns("__pycache__"))
        # Not compared with the sources' times: the hosts' clocks are their own
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", folder, "-p", f"/{SITE}"]
        run([bootstrap.PYTHON, "-m", "compileall", *options, tree])
        archive = Path(folder) / "agent.tar"
        run(["tar", "-cf", archive, "-C", tree, "."])
        return archive.read_bytes()


def _enter(image: Image, *argv: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    run(["chroot", image.root, *argv], env=environment)


def seed_disk(folder: Path, index: int, *, log: str = "info") -> Path:
    """`/etc/xentandem` of one host: agent.yaml and its certificate, of the lab's own CA in `folder`/pki."""
    name = settings.name(index)
    authority = folder / "pki"
    if not (authority / "ca.key").exists():
        pki.create_authority(authority)
    tree = folder / f"{name}.seed"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    loaded = pki.Authority.load(authority)
    pki.issue_agent(loaded, name, tree / "pki", addresses=[settings.address(index), "127.0.0.1"])
    text = (bootstrap.PROJECT / "manifests/agent/agent.yaml").read_text()
    for default, here in (("level: info", f"level: {log}"), ("stream_limit: 60", f"stream_limit: {STREAM_LIMIT}")):
        if default not in text:
            raise LabFailed(f"manifests/agent/agent.yaml has no {default!r} any more: correct {__file__}")
        text = text.replace(default, here)
    (tree / "agent.yaml").write_text(text)
    disk = folder / f"{name}.seed.img"
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(SEED_SIZE)
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", tree, "-F", disk])
    return disk


def controller_files(folder: Path) -> TlsFiles:
    """The controller's certificate of the lab in `folder`; made when it is not there."""
    files = folder / "pki" / "controller"
    if not (files / "tls.crt").exists():
        return pki.issue_controller(pki.Authority.load(folder / "pki"), files)
    return TlsFiles(certificate=files / "tls.crt", key=files / "tls.key", authority=files / "ca.crt")
