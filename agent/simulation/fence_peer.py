"""The agent's fence-peer handler, as it installed it: run for real, as a process of this machine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.simulation.process import Process

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost

NAME = "xentandem-fence"
POLL_SECONDS = 0.01
NOT_FOUND = 127  # sh(1)
BARE = ("/bin/sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-')  # the kernel starts its helpers without standard streams


async def program(process: Process) -> int:
    """The agent's folder of state is a real one, with its socket; the handler finds that beside itself."""
    path = Path(process.argv[0])
    if not path.exists():  # noqa: ASYNC240  # a local file
        return NOT_FOUND
    argv = [*BARE, sys.executable, "-IS", str(path), *process.argv[1:]]
    child = subprocess.Popen(argv, env=process.environment)  # noqa: ASYNC220  # polled
    try:
        while child.poll() is None:  # noqa: ASYNC110  # of the machine, not of the loop: nothing tells
            await asyncio.sleep(POLL_SECONDS)
    finally:
        child.kill()
        child.wait()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def install(host: SimulatedHost) -> None:
    host.add_program(NAME, program)
