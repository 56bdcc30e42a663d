"""A pytest plugin of hack/test: shows how the checks before the tests ended, just above pytest's closing line."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = os.environ.get("XENTANDEM_CHECKS", "").splitlines()
    if lines:
        terminalreporter.write_line("")
    for line in lines:
        terminalreporter.write_line(line, red=line.startswith("FAILED"))
