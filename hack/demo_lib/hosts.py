"""The simulated hosts as one process, and what its control interface says: commands on hosts, the monitor's verdict."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bootstrap

from demo_lib.cast import Guest, HostPlace
from demo_lib.processes import Child, Processes
from demo_lib.screen import DemoFailed

GIGABIT = 110  # MB/s: the howto's network, and slow enough to be watched
GUEST_MIB, SPARE_MIB = 600, 2048
START_SECONDS = 30.0
Answer = dict[str, Any]


@dataclass
class Hosts:
    places: list[HostPlace]
    controller_tls: Path
    control: str
    child: Child

    @classmethod
    def start(cls, processes: Processes, folder: Path, names: list[str], guests: list[Guest]) -> Hosts:
        """Start them, each with its agent and certificate, and wait until all serve. Raises DemoFailed."""
        directory = folder / "simulation"
        directory.mkdir()
        # A host may have to hold its own guests and its neighbour's at once, while they move
        memory = SPARE_MIB + GUEST_MIB * 2 * (len(guests) // len(names) + 1)
        argv = [
            str(bootstrap.VENV / "bin" / "python"), "-m", "agent.simulation",
            "--hosts", ",".join(names), "--directory", str(directory),
            "--link-rate", str(GIGABIT), "--memory-mib", str(memory),
        ]  # fmt: skip
        child = processes.start("hosts", argv, dict(os.environ, NO_COLOR="1"))
        description = directory / "simulation.json"
        deadline = time.monotonic() + START_SECONDS + len(names)
        while not description.exists():
            processes.alive()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the simulated hosts did not start; their last words ({child.log}):\n{child.tail()}")
            time.sleep(0.05)
        told = json.loads(description.read_text())
        places = [
            HostPlace(name, host["apiPort"], host["relocationPort"], host["replicationAddress"])
            for name, host in told["hosts"].items()
        ]
        return cls(places, Path(told["controllerTls"]["directory"]), told["control"], child)

    def run(self, host: str, *argv: str) -> str:
        """What a command prints on a host. Raises DemoFailed when it fails."""
        done = self._ask("/run", {"host": host, "argv": list(argv)})
        if done["exit"]:
            raise DemoFailed(f"{host}: {' '.join(argv)}: exit code {done['exit']}: {done['stderr']}")
        return str(done["stdout"])

    def seen(self) -> Answer:
        """By host: on, xlList, procDrbd, ..."""
        return self._ask("/hosts")

    def truth(self) -> Answer:
        """What the monitor knows: violations, who runs where, the guests' records."""
        return self._ask("/truth")

    def replicas(self, resource: str) -> Answer:
        """identical, and if not, the difference; hosts that hold one."""
        return self._ask(f"/replicas/{resource}")

    def _ask(self, path: str, body: Answer | None = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control + path, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310  # our own process, on loopback
                made: Answer = json.load(answer)
                return made
        except (urllib.error.URLError, TimeoutError) as error:
            raise DemoFailed(f"the simulated hosts do not answer ({path}: {error}):\n{self.child.tail()}") from error
