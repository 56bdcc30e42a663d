"""The demo's child processes: each with a log, all ended with the demo, also when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import bootstrap

from demo_lib.screen import DemoFailed

CHILD = Path(__file__).parent / "child.py"
END_SECONDS = 15.0


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Processes:
    """Started in order, ended in the opposite one."""

    folder: Path
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, argv: list[str], environment: dict[str, str]) -> Child:
        log = self.folder / f"{name}.log"
        ended_with_us = [sys.executable, "-ES", str(CHILD), str(os.getpid())]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*ended_with_us, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=environment, cwd=bootstrap.PROJECT, start_new_session=True,
            )  # fmt: skip
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def alive(self) -> None:
        """Raises DemoFailed with the last words of a process that ended."""
        for child in self.children:
            code = child.process.poll()
            if code is not None:
                raise DemoFailed(
                    f"the {child.name} ended with exit code {code}; its last words ({child.log}):\n{child.tail()}"
                )

    def stop(self) -> None:
        for child in reversed(self.children):
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for child in reversed(self.children):
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.children.clear()
