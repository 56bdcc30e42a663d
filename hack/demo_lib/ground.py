"""What the story happens on: hosts, guests, and who judges at the end whether it was true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from demo_lib import proof
from demo_lib.cast import SAMPLE, Guest, HostPlace
from demo_lib.hosts import Hosts
from demo_lib.screen import Screen
from demo_lib.story import Story


class Ground(Protocol):
    """Hosts that are on, each with its agent. Everything raises DemoFailed."""

    @property
    def places(self) -> list[HostPlace]: ...
    @property
    def controller_tls(self) -> Path: ...
    @property
    def guests(self) -> list[Guest]: ...
    @property
    def sample(self) -> str: ...

    def before(self, story: Story) -> None:
        """The guests run: what will be needed to judge their move."""

    def show(self) -> None:
        """What the hosts' own tools print."""

    def judge(self, story: Story) -> None:
        """Every promise, with its numbers."""

    def tips(self) -> list[str]:
        """Commands to type while everything is left running."""


@dataclass
class Simulated:
    """The simulated hosts, all in one process, with a monitor that sees them at once."""

    hosts: Hosts
    screen: Screen
    guests: list[Guest]
    sample: str = SAMPLE

    @property
    def places(self) -> list[HostPlace]:
        return self.hosts.places

    @property
    def controller_tls(self) -> Path:
        return self.hosts.controller_tls

    def before(self, story: Story) -> None:
        self._evidence = proof.before(self.hosts, story)

    def show(self) -> None:
        proof.show_hosts(self.screen, self.hosts, self.guests)

    def judge(self, story: Story) -> None:
        proof.judge(self.screen, self.hosts, story, self._evidence)

    def tips(self) -> list[str]:
        return [
            f"export HOSTS={self.hosts.control}",
            "hack/hosts on mk2 cat /proc/drbd",
            "hack/hosts fault guest host=mk2 domain=shaolin does=crash   # hack/hosts --help: more accidents",
        ]
