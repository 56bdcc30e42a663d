"""Makes `.venv` from the lock file, with Python 3.11 and pip and nothing else. Only the standard library.

The environment is stamped with the hash of what it was made from: a second call costs milliseconds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = PROJECT / "requirements.lock"
STAMP = VENV / "xentandem-stamp"
MINIMUM = (3, 11)


class NotReady(Exception):
    """The environment could not be made; the message says what to do."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def enter(script: str) -> None:
    """Make the environment if it is not there, then go on in it: replaces this process unless it already runs there."""
    script = os.path.abspath(script)
    try:
        if sys.version_info < MINIMUM:
            newer = _base_python()
            os.execv(newer, [newer, script, *sys.argv[1:]])  # noqa: S606
        if Path(sys.prefix).resolve() == VENV.resolve() and _is_current():
            return
        make()
    except NotReady as error:
        say(f"{Path(script).name}: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["VIRTUAL_ENV"] = str(VENV)
    os.environ.pop("PYTHONHOME", None)
    os.execv(PYTHON, [str(PYTHON), script, *sys.argv[1:]])  # noqa: S606


def make() -> None:
    """Make or renew `.venv`. Raises NotReady."""
    if _is_current():
        return
    with (PROJECT / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current():
            _make()


def dependencies_digest() -> str:
    """Of everything in pyproject.toml that decides what the lock holds."""
    project = _pyproject()
    parts = [project["build-system"], project["project"]["dependencies"], project["project"]["optional-dependencies"]]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def locked_digest() -> str:
    """What hack/lock wrote into the lock file's header; empty when there is none."""
    found = re.search(r"^# dependencies: ([0-9a-f]{16})$", LOCK.read_text(), re.MULTILINE)
    return found[1] if found else ""


def _pyproject() -> dict[str, Any]:
    import tomllib  # late: an older Python must get as far as looking for a newer one

    return tomllib.loads((PROJECT / "pyproject.toml").read_text())


def _digest() -> str:
    scripts = _pyproject()["project"]["scripts"]
    return hashlib.sha256(f"{LOCK.read_text()}{scripts}{PROJECT}".encode()).hexdigest()


def _is_current() -> bool:
    try:
        return STAMP.read_text() == _digest() and PYTHON.exists()
    except OSError:
        return False


def _make() -> None:
    python = _base_python()
    begun = time.monotonic()
    say(f"Making {VENV.name} from {LOCK.name} (once; a minute or two) ...")
    if VENV.exists() and not PYTHON.exists():
        shutil.rmtree(VENV)  # left half made, or moved from a machine with another Python
    if not VENV.exists():
        # Without pip inside: Debian's Python has venv but no ensurepip; the pip outside installs into it.
        _run([python, "-m", "venv", "--without-pip", str(VENV)], "could not make a virtual environment")
    install = [*_pip(python), "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    _run([*install, "--require-hashes", "--no-deps", "-r", str(LOCK)], "could not install the locked packages")
    _run([*install, "--no-deps", "--no-build-isolation", "-e", str(PROJECT)], "could not install the project itself")
    STAMP.write_text(_digest())
    say(f"Made {VENV.name} in {time.monotonic() - begun:.0f} s")


def _base_python() -> str:
    """A Python 3.11 or newer that is not the environment's own."""
    own = Path(sys.prefix).resolve() == VENV.resolve()
    if sys.version_info >= MINIMUM and not own:
        return sys.executable
    elsewhere = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != VENV / "bin")
    probe = f"import sys; sys.exit(sys.version_info < {MINIMUM})"
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
        found = shutil.which(name, path=elsewhere)
        if found and subprocess.run([found, "-c", probe], capture_output=True, check=False).returncode == 0:
            return found
    raise NotReady(f"needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer; install it, then run this again")


def pip_command() -> list[str]:
    """pip of the base Python, with `.venv` as the environment that it works on. Raises NotReady."""
    return _pip(_base_python())


def _pip(python: str) -> list[str]:
    """pip of the base Python, told to install into the environment."""
    probe = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    found = re.match(r"pip (\d+)\.(\d+)", probe.stdout)
    if found and (int(found[1]), int(found[2])) >= (22, 3):
        return [python, "-m", "pip", "--python", str(PYTHON)]
    probe = subprocess.run([str(PYTHON), "-m", "ensurepip"], capture_output=True, text=True, check=False)
    if probe.returncode:
        raise NotReady(f"needs pip 22.3 or newer for {python}; install it (python3-pip in Debian), then run this again")
    return [str(PYTHON), "-m", "pip"]


def _run(argv: list[str], what: str) -> None:
    # A person's settings for pip count, but not those that would put packages elsewhere
    environment = dict(os.environ, PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0", PYTHONNOUSERSITE="1")
    completed = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, check=False
    )
    if completed.returncode:
        tail = "\n".join(completed.stdout.splitlines()[-15:])
        raise NotReady(f"{what} (exit code {completed.returncode} of: {' '.join(argv)})\n{tail}")
