"""Command lines of drbdsetup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.simulation import drbd_options


class UsageError(Exception):
    """A command line that drbdsetup can't read: usage on standard output, 20."""


@dataclass
class Arguments:
    """`words` without the options; options as `--name=value`, `--name value` is not taken."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Arguments:
        arguments = cls()
        for word in argv:
            if word.startswith("-") and word != "-":
                name, _, value = word.lstrip("-").partition("=")
                arguments.options[name] = value
            else:
                arguments.words.append(word)
        return arguments

    def only(self, command: str, *names: str) -> None:
        for name in self.options:
            if name not in names:
                raise UsageError(f"{command}: unrecognized option '--{name}'\n")

    def take(self, table: dict[str, drbd_options.Option]) -> dict[str, str]:
        """Options of a table, for attach, connect, net-options, ..."""
        taken = {}
        for name, value in self.options.items():
            if name in table:
                text = value or "yes"
                try:
                    table[name].text(text)
                except ValueError:
                    raise UsageError(f"Invalid argument for option {name}: {text}\n") from None
                taken[name] = text
        return taken


def minor_of(word: str) -> int:
    text = word.removeprefix("/dev/drbd").removeprefix("minor-")
    if not text.isdecimal():
        raise UsageError(f"Cannot determine minor device number of device '{word}'\n")
    return int(text)
