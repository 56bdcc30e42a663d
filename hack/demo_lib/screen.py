"""Output: plain lines that say what happens, progress bars on a terminal, a line each tenth elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column, Table

BARS = 8


class DemoFailed(Exception):
    """The demo did not reach what it is to show; the message says what was seen and where the logs are."""


@dataclass(frozen=True)
class Row:
    """One thing on its way: `done` ends it."""

    name: str
    percent: float
    text: str
    done: bool


Look = Callable[[], list[Row]]


class Screen:
    def __init__(self) -> None:
        self.console = Console(highlight=False, emoji=False)
        if not self.console.is_terminal:
            self.console.width = 160

    def line(self, text: str = "") -> None:
        self.console.print(escape(text))

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def command(self, text: str) -> None:
        self.console.print(f"[cyan]$ {escape(text)}[/]", soft_wrap=True)  # the terminal wraps it: to be copied whole

    def proved(self, text: str) -> None:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row("  [green]true[/]", escape(text))
        self.console.print(grid)

    def block(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self.console.print(f"  {escape(line)}", overflow="ignore", no_wrap=True, crop=False)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A line that gets its time when it is done."""
        begun = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(escape(text)):
                yield
        else:
            yield
        self.console.print(f"{escape(text)} [dim]({time.monotonic() - begun:.1f} s)[/]")

    def follow(self, look: Look, *, seconds: float, what: str, alive: Callable[[], None]) -> None:
        """Show rows until all are done. Raises DemoFailed after `seconds`; `alive` raises when a process ended."""
        show = self._bars if self.console.is_terminal else self._lines
        show(_looks(look, seconds, what, alive))

    def quietly(self, look: Look, *, seconds: float, what: str, alive: Callable[[], None]) -> None:
        """As `follow`, without showing."""
        for _ in _looks(look, seconds, what, alive):
            pass

    def _bars(self, looks: Iterable[list[Row]]) -> None:
        # On a narrow terminal the text is wrapped; name, bar and percentage stay
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(max(6, min(32, self.console.width // 4)), table_column=Column(no_wrap=True)),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=False)),
        )
        with Progress(*columns, console=self.console) as progress:
            tasks: dict[str, TaskID] = {}
            for rows in looks:
                shown = rows if len(rows) <= BARS else [_together(rows)]
                for row in shown:
                    if row.name not in tasks:
                        tasks[row.name] = progress.add_task(escape(row.name), total=100.0, text="")
                    progress.update(tasks[row.name], completed=row.percent, text=escape(row.text))

    def _lines(self, looks: Iterable[list[Row]]) -> None:
        told: dict[str, tuple[int, str]] = {}
        for rows in looks:
            for row in rows if len(rows) <= BARS else [_together(rows)]:
                tenth = int(row.percent // 10) * 10
                word = row.text.split(",")[0].split(" ")[0]
                if told.get(row.name) != (tenth, word):
                    told[row.name] = (tenth, word)
                    self.line(f"  {row.name}  {row.percent:.0f}%  {row.text}")


def _looks(look: Look, seconds: float, what: str, alive: Callable[[], None]) -> Iterator[list[Row]]:
    deadline = time.monotonic() + seconds
    while True:
        alive()
        rows = look()
        yield rows
        if rows and all(row.done for row in rows):
            return
        if time.monotonic() > deadline:
            waiting = "; ".join(f"{row.name}: {row.text}" for row in rows if not row.done)
            raise DemoFailed(f"{what}: not done after {seconds:.0f} s ({waiting or 'nothing to be seen'})")
        time.sleep(0.1)


def _together(rows: list[Row]) -> Row:
    done = sum(row.done for row in rows)
    percent = sum(row.percent for row in rows) / len(rows)
    return Row(f"{len(rows)} together", percent, f"{done} done", done == len(rows))
