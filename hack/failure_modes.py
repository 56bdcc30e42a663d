"""Which tests show each row of docs/failure-modes.md: those that name it, such as `test_row_07_...`.

The list at the end of that page is made from the tests' names; a row without a test is an error of the test suite.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path("docs/failure-modes.md")
MARK = "<!-- made by hack/generate from the tests' names -->"
ROWS = range(1, 42)
_TEST = re.compile(r"^(?:async )?def (test_rows?_(\d{1,2}(?:_(?:and_)?\d{1,2})*)_\w*)", re.MULTILINE)


def rows(project: Path) -> dict[int, list[str]]:
    """Row: its tests, as "folder/file::name", in order. Every row is a key."""
    found: dict[int, list[str]] = {row: [] for row in ROWS}
    for path in sorted((project / "tests").rglob("test_*.py")):
        for match in _TEST.finditer(path.read_text()):
            for row in re.findall(r"\d+", match[2]):
                found.setdefault(int(row), []).append(f"{path.relative_to(project / 'tests')}::{match[1]}")
    return found


def page(project: Path) -> str:
    """The page with its list as the tests are now."""
    text = (project / PAGE).read_text()
    before, mark, _ = text.partition(MARK)
    lines = ["", "| row | tests |", "|---|---|"]
    for row, tests in rows(project).items():
        lines.append(f"| {row} | {'<br>'.join(f'`{test}`' for test in tests)} |")
    return f"{before}{mark}\n" + "\n".join(lines) + "\n"
