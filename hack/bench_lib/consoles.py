"""Two consoles, one on each host, open all the time: what an administrator, or a script, types there costs no login."""

from __future__ import annotations

import os
import select
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from lab_lib.lab import Lab

from bench_lib.stage import Failed

LIMIT = 600.0


@dataclass(frozen=True)
class Typed:
    """A command with this machine's time when it was typed and when its prompt was back."""

    host: str
    command: str
    begun: float
    ended: float
    exit: int
    output: str


class Console:
    """A shell on one host. `with Console(lab, "mk1") as console: console.ok("xl list")`"""

    def __init__(self, lab: Lab, host: str) -> None:
        self.host = host
        self._process = subprocess.Popen(
            [*lab.shell(host).argv(), "exec sh 2>&1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def run(self, command: str, *, limit: float = LIMIT) -> Typed:
        """Raises Failed when it does not end in time."""
        process, mark = self._process, f"-- {time.monotonic_ns()} "
        assert process.stdin is not None
        assert process.stdout is not None
        begun, said = time.time(), b""
        process.stdin.write(f"{{ {command}\n}} </dev/null\necho '{mark}'$?\n".encode())
        process.stdin.flush()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, begun + limit - time.time()))
            data = os.read(process.stdout.fileno(), 65536) if ready else b""
            if not data:
                why = "the connection ended" if ready else f"not within {limit:g} s"
                raise Failed(f"{self.host} did not end `{command}`: {why}; it said: {said.decode(errors='replace')}")
            said += data
            before, found, after = said.decode(errors="replace").partition(mark)
            if found and after.endswith("\n"):
                return Typed(self.host, command, begun, time.time(), int(after), before)

    def ok(self, command: str, *, limit: float = LIMIT) -> Typed:
        """Raises Failed when it ends with an error."""
        done = self.run(command, limit=limit)
        if done.exit:
            raise Failed(f"{self.host}: `{command}` ended with {done.exit}: {done.output.strip()}")
        return done


class OnBoth:
    """The same on both hosts at the same time."""

    def __init__(self, consoles: dict[str, Console]) -> None:
        self._consoles = consoles

    def ok(self, command: str) -> dict[str, str]:
        """By host what it printed. Raises Failed."""
        with ThreadPoolExecutor() as pool:
            return {done.host: done.output for done in pool.map(lambda one: one.ok(command), self._consoles.values())}

    def dom0_seconds(self) -> float:
        """Processor time of both Domain-0 so far, by `xl list`."""
        told = self.ok("xl list 0 | tail -n 1")
        try:
            return sum(float(line.split()[-1]) for line in told.values())
        except (ValueError, IndexError):
            raise Failed(f"xl list 0 is not readable: {told}") from None

    def clocks(self) -> dict[str, float]:
        """By host how many seconds its clock is ahead of this machine's, from the quickest of some askings."""
        found = {}
        for name, console in self._consoles.items():
            asked = [console.ok("date +%s.%N") for _ in range(7)]
            quickest = min(asked, key=lambda done: done.ended - done.begun)
            found[name] = float(quickest.output) - (quickest.begun + quickest.ended) / 2
        return found
