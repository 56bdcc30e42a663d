"""docs/failure-modes.md: every row is told, and has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import failure_modes

PROJECT = Path(__file__).resolve().parents[3]


def test_every_row_has_a_test_and_no_test_names_another() -> None:
    found = failure_modes.rows(PROJECT)
    assert sorted(found) == list(failure_modes.ROWS)
    assert [row for row, tests in found.items() if not tests] == []


def test_every_row_is_told_once() -> None:
    text = (PROJECT / failure_modes.PAGE).read_text().partition("## The tests")[0]
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(failure_modes.ROWS)


def test_a_name_may_hold_several_rows(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "agent"
    folder.mkdir(parents=True)
    names = ("test_row_07_a", "test_rows_10_and_12_b", "test_rows_5_6_c", "test_rows_are_no_rows", "test_7_d")
    (folder / "test_x.py").write_text("".join(f"async def {name}() -> None: ...\n" for name in names))
    found = {row: len(tests) for row, tests in failure_modes.rows(tmp_path).items() if tests}
    assert found == {5: 1, 6: 1, 7: 1, 10: 1, 12: 1}
