"""Two hosts at the level of their tools: commands, files, cables, plugs. Everything said is kept."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence
from typing import Protocol

from tests.conformance.answers import Answer, Plain
from tests.conformance.scenario import Seen

BOTH = ("mk1", "mk2")


class Place(Protocol):
    """mk1 and mk2, simulated or real: empty volume group vg0 of 2044 MiB, DRBD loaded, xenbr0, no agents."""

    async def run(self, host: str, commands: Sequence[Sequence[str]]) -> list[Answer]:
        """One after the other, whatever they answer."""
        ...

    async def write(self, host: str, path: str, text: str) -> None: ...

    async def remove(self, host: str, path: str) -> None: ...

    async def handler(self, host: str, path: str, status: int) -> None:
        """A program there that writes its environment's DRBD_ variables to PATH.env, sorted, and ends so."""
        ...

    async def hold(self, host: str, device: str) -> None:
        """Open it for writing and keep it open, as a guest does."""
        ...

    async def release(self, host: str, device: str) -> None: ...

    async def fill(self, host: str, device: str, block: int, blocks: int, letter: str) -> None:
        """Write whole blocks of 4096 bytes of one letter, past every cache."""
        ...

    async def follow(self, host: str, argv: Sequence[str]) -> None:
        """Start a command that tells of changes until `followed`."""
        ...

    async def followed(self, host: str) -> str:
        """All that it said until now."""
        ...

    async def guest(self, host: str, name: str, does: str) -> None:
        """The guest of that domain does by itself: poweroff, reboot or crash."""
        ...

    async def set_link(self, *, up: bool) -> None: ...

    async def power_off(self, host: str) -> None: ...

    async def power_on(self, host: str) -> None: ...

    async def sleep(self, seconds: float) -> None: ...

    def now(self) -> float: ...


class Tools:
    """What a scenario is given. `see` keeps answers to be compared, `do` only has to succeed."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seen: list[Seen] = []
        self._plain = Plain()

    async def see(self, host: str, *commands: str, only: str = "", differs: str = "", where: str = "") -> None:
        """Run commands and keep their answers; `only`: no other lines than those where this pattern is found.

        `where` says in which state, where the same command is asked again.
        """
        answers = await self.place.run(host, [shlex.split(command) for command in commands])
        for command, answer in zip(commands, answers, strict=True):
            self._keep(f"{host}$ {command}{f'  # {where}' if where else ''}", _chosen(answer, only), differs)

    async def see_both(self, *commands: str, only: str = "", differs: str = "", where: str = "") -> None:
        """At both hosts, at the same time."""
        argvs = [shlex.split(command) for command in commands]
        for host, answers in zip(
            BOTH, await asyncio.gather(*(self.place.run(host, argvs) for host in BOTH)), strict=True
        ):
            for command, answer in zip(commands, answers, strict=True):
                self._keep(f"{host}$ {command}{f'  # {where}' if where else ''}", _chosen(answer, only), differs)

    def note(self, label: str, text: str, *, differs: str = "") -> None:
        """Something else that is to be compared."""
        self.seen.append(Seen(label, self._plain(text).strip("\n"), differs))

    def _keep(self, label: str, answer: Answer, differs: str) -> None:
        self.note(label, str(answer), differs=differs)

    async def do(self, host: str, *commands: str) -> list[str]:
        """Standard outputs; the first failure ends the scenario."""
        answers = await self.place.run(host, [shlex.split(command) for command in commands])
        for command, answer in zip(commands, answers, strict=True):
            assert answer.exit == 0, f"{host}$ {command}\n{answer}"
        return [answer.stdout for answer in answers]

    async def do_both(self, *commands: str) -> None:
        await asyncio.gather(*(self.do(host, *commands) for host in BOTH))

    async def write(self, path: str, text: str, *hosts: str) -> None:
        """On the hosts named, or on both."""
        for host in hosts or BOTH:
            await self.place.write(host, path, text)

    async def until(self, host: str, command: str, pattern: str, seconds: float = 90.0) -> None:
        """Ask again and again until the pattern is found in the answer."""
        end = self.place.now() + seconds
        while True:
            (answer,) = await self.place.run(host, [shlex.split(command)])
            if re.search(pattern, str(answer), re.M):
                return
            assert self.place.now() < end, f"{host}$ {command} never said {pattern}:\n{answer}"
            await self.place.sleep(0.2)

    async def until_both(self, command: str, pattern: str, seconds: float = 90.0) -> None:
        await asyncio.gather(*(self.until(host, command, pattern, seconds) for host in BOTH))


def _chosen(answer: Answer, only: str) -> Answer:
    if not only:
        return answer

    def chosen(text: str) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if re.search(only, line))

    return Answer(answer.exit, chosen(answer.stdout), chosen(answer.stderr))
