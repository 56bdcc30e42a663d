"""Command lines of LVM: sizes, options, and how a command ends that can't do what it was told."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

BAD_ARGUMENTS = 3
FAILED = 5
UNITS = {"b": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class LvmError(Exception):
    """A command that ends with that status and text on standard error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Arguments(argparse.ArgumentParser):
    """A command line of LVM: a wrong one ends with status 3."""

    def __init__(self, name: str) -> None:
        super().__init__(prog=name, add_help=False, allow_abbrev=False)
        self.add_argument("-y", "--yes", action="store_true")
        self.add_argument("-q", "--quiet", action="count")

    def parsed(self, argv: list[str]) -> argparse.Namespace:
        """Raises LvmError. What is not known is said first, whatever else is wrong."""
        for word in argv:
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                text = f"{self.prog}: unrecognized option '{word}'\n  Error during parsing of command line.\n"
                raise LvmError(BAD_ARGUMENTS, text)
        return self.parse_args(argv)

    def error(self, message: str) -> NoReturn:
        raise LvmError(BAD_ARGUMENTS, f"  {self.prog}: {message}\n  Error during parsing of command line.\n")


def parse_size(text: str) -> int:
    """Bytes of an LVM size; without a unit it is MiB."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bBsSkKmMgGtT]?)(?:[iI]?[bB])?", text)
    if match is None:
        raise LvmError(
            BAD_ARGUMENTS, f"  Invalid argument for --size: {text}\n  Error during parsing of command line.\n"
        )
    return int(float(match[1]) * UNITS[match[2].lower() or "m"])
