"""Commands of this machine that the lab is made with, the packages they are in, and telling how long they take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "depmod": "kmod",
    "gcc": "gcc",
    "ssh": "openssh-client",
}
"""Program: the Debian package that has it. gcc also needs libc6-dev."""
RETRY = ("-o", "Acquire::Retries=5")


class LabFailed(Exception):
    """The message says what went wrong and what to do."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Tells what is being done and how long it took."""
    begun = time.monotonic()
    print(f"{what} ... ", end="", file=sys.stderr, flush=True)
    over = threading.Event()
    if sys.stderr.isatty():
        threading.Thread(target=_tick, args=(what, begun, over), daemon=True).start()
    try:
        yield
    except BaseException:
        over.set()
        say("failed")
        raise
    over.set()
    say(f"{time.monotonic() - begun:.1f} s")


def _tick(what: str, begun: float, over: threading.Event) -> None:
    """Seconds as they pass: a first boot takes minutes, and somebody watches."""
    while not over.wait(1.0):
        line = f"\r{what} ... {time.monotonic() - begun:.0f} s "
        print(line + "\b" * len(line.rpartition("... ")[2]), end="", file=sys.stderr, flush=True)


def why_not() -> str:
    """Why the lab cannot run on this machine, and what to do; empty when it can."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        return "the lab runs on Linux on x86_64 only"
    if os.geteuid() != 0:
        return "the lab needs root (it unpacks Debian packages and enters them)"
    if missing := sorted({PACKAGES[name] for name in PACKAGES if shutil.which(name) is None}):
        return f"the lab needs: apt-get install {' '.join(missing)}"
    return ""


def prepare() -> None:
    """Install what is missing, where that can be done. Raises LabFailed."""
    missing = sorted({PACKAGES[name] for name in PACKAGES if shutil.which(name) is None})
    if "gcc" in missing:
        missing.append("libc6-dev")
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        install(missing)
    if reason := why_not():
        raise LabFailed(reason)


def install(packages: list[str]) -> None:
    """Debian packages, as root. Raises LabFailed."""
    with step(f"Installing {', '.join(packages)}"):
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        run(["apt-get", "update", "-qq", *RETRY], env=environment)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *RETRY, *packages], env=environment)


def run(
    argv: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: str = ""
) -> str:
    """Standard output. Raises LabFailed with the command's last words."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise LabFailed(f"{' '.join(words)} ended with {done.returncode}:\n{tail}")
    return done.stdout
