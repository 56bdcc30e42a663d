"""Results: a table on the terminal, Markdown, and the marked parts of docs/benchmarks.md."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bootstrap
import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DOCUMENT = bootstrap.PROJECT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One number: `value` in `unit`. `goal` is the most (`least`: the least) wanted; None: shown for what it is."""

    measure: str
    value: float
    unit: str
    goal: float | None = None
    below: bool = False  # the goal itself is too much ("< 2"), not just more than it ("<= 2")
    least: bool = False

    @property
    def missed(self) -> bool:
        if self.least:
            return self.goal is not None and self.value < self.goal
        return self.goal is not None and (self.value >= self.goal if self.below else self.value > self.goal)

    @property
    def goal_text(self) -> str:
        if self.goal is None:
            return ""
        sign = "≥ " if self.least else "" if self.goal == 0 else "< " if self.below else "≤ "
        return f"{sign}{number(self.goal)} {self.unit}".strip()

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        if not self.missed:
            return "met"
        over = f"missed by {number(abs(self.value - self.goal))} {self.unit}".strip()
        return f"{over} ({self.value / self.goal:.1f} times the goal)" if self.goal else over


@dataclass(frozen=True)
class Listing:
    """A table of what the numbers are made of."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Result:
    """What one scenario gave. `how`: sizes and circumstances, in a sentence."""

    scenario: str
    how: str
    rows: tuple[Row, ...]
    listings: tuple[Listing, ...] = field(default=())


def number(value: float) -> str:
    """At most three significant digits behind the point, whole numbers as such."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> str:
    """What everything ran on together, which is all that a reader must know of the machine."""
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB of memory; API server, hosts and controller on the same machine"


def show(console: Console, results: Iterable[Result]) -> None:
    for result in results:
        table = Table(title=f"{result.scenario}: {result.how}", title_justify="left", title_style="bold")
        for column in ("measure", "measured", "goal", ""):
            table.add_column(column, justify="right" if column == "measured" else "left")
        for row in result.rows:
            style = "red" if row.missed else "green" if row.goal is not None else ""
            table.add_row(row.measure, f"{number(row.value)} {row.unit}", row.goal_text, row.verdict, style=style)
        console.print(table)
        for listing in result.listings:
            inner = Table(*listing.columns, title=listing.title, title_justify="left")
            for cells in listing.rows:
                inner.add_row(*map(escape, cells))
            console.print(inner)


def markdown(result: Result, command: str) -> str:
    """The part of the document that stands between the scenario's marks."""
    lines = [f"`{command}`: {result.how}.", ""]
    cells = [
        (row.measure, f"{number(row.value)} {row.unit}".strip(), row.goal_text, row.verdict) for row in result.rows
    ]
    lines += _table(("measure", "measured", "goal", ""), cells)
    for listing in result.listings:
        lines += ["", f"{listing.title}:", "", *_table(listing.columns, listing.rows)]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    made = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return made + [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]


def write(parts: dict[str, str], path: Path = DOCUMENT) -> None:
    """Replace the marked parts, `machine` among them; what a person wrote around them stays.

    Raises ValueError when the document has no such mark.
    """
    text = path.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- bench: {name} -->\n", f"<!-- end: {name} -->"
        new = (begin + part + end).replace("\\", "\\\\")  # taken as it is, not as a template
        text, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", new, text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{path} has {found} parts marked {begin.strip()}; it needs one")
    path.write_text(text)
