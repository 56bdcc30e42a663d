"""Commands on a host, by ssh over one kept connection: to connect anew takes a second under emulation."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab_lib.image import ssh_key
from lab_lib.tools import LabFailed

QUIET = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60")


@dataclass(frozen=True)
class Done:
    """A command that ended on a host. ssh's own failure is exit 255."""

    exit: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Shell:
    """Of one host."""

    name: str
    port: int
    folder: Path

    def argv(self, *options: str) -> list[str]:
        words = ["ssh", "-p", str(self.port), "-i", str(ssh_key()), "-S", str(self._socket), *options]
        return [*words, *(word for option in QUIET for word in ("-o", option)), "root@127.0.0.1"]

    @property
    def _socket(self) -> Path:
        return self.folder / f"{self.name}.ssh"

    def connect(self, limit: float = 60.0) -> None:
        """Open the connection that the others use; tries until the host listens. Raises LabFailed."""
        end = time.monotonic() + limit
        while True:
            argv = [*self.argv("-o", "ControlMaster=auto", "-o", "ControlPersist=yes"), "true"]
            # Not captured by pipes: the process that keeps the connection would hold them open
            said = self.folder / f"{self.name}.ssh.log"
            with said.open("w") as log:
                done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise LabFailed(f"{self.name} lets nobody in: {said.read_text().strip()}")
            time.sleep(0.2)

    def close(self) -> None:
        subprocess.run(self.argv("-O", "exit"), capture_output=True, check=False)
        self._socket.unlink(missing_ok=True)

    def run(self, command: str, *, limit: float = 120.0, stdin: str = "") -> Done:
        """A line for the host's shell. Raises LabFailed when it does not end in time."""
        try:
            done = subprocess.run(
                [*self.argv(), command], input=stdin, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            raise LabFailed(f"{self.name} did not end `{command}` within {limit:g} s") from None
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, command: str, *, limit: float = 120.0) -> str:
        """Its standard output. Raises LabFailed when it fails."""
        done = self.run(command, limit=limit)
        if done.exit:
            raise LabFailed(f"{self.name}: `{command}` ended with {done.exit}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def send(self, data: bytes, command: str) -> None:
        """To the command's standard input. Raises LabFailed."""
        done = subprocess.run([*self.argv(), command], input=data, capture_output=True, check=False)
        if done.returncode:
            raise LabFailed(f"{self.name}: `{command}` ended with {done.returncode}: {done.stderr.decode().strip()}")

    def interactive(self, words: Sequence[str]) -> int:
        """On this terminal; the exit status."""
        return subprocess.call([*self.argv(*([] if words else ["-t"])), *words])
