"""The relay's progress, looked at a hundred times a second: as new as the file, read only when it is another one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from agent.migration.relay_files import GLANCE_SECONDS, Passed, RelayFiles

STATE = {
    "stage": "precopy", "round": 0, "round_pages": 1, "pages": 1, "pages_total": 8, "bytes": 10, "banner": True,
    "ready": False, "go": False, "report": None, "problem": None, "refused": None, "ended": None,
}  # fmt: skip


def put(files: RelayFiles, **changes: object) -> os.stat_result:
    path = files.progress_path("move")
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(STATE | changes))
    new.replace(path)
    return path.stat()


def test_a_file_that_was_replaced_is_seen_at_once(tmp_path: Path) -> None:
    files = RelayFiles(tmp_path / "relay")
    assert files.glance("move", 1.0) == Passed()
    put(files)
    assert files.glance("move", 1.0).pages == 1
    put(files, ready=True)
    assert files.glance("move", 1.0).ready


def test_it_is_read_again_after_a_moment_all_the_same(tmp_path: Path) -> None:
    files = RelayFiles(tmp_path / "relay")
    before = put(files, round=1)
    assert files.glance("move", 1.0).round == 1
    path = files.progress_path("move")
    path.write_text(json.dumps(STATE | {"round": 2}))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert files.glance("move", 1.0 + GLANCE_SECONDS / 2).round == 1
    assert files.progress("move").round == 2
    assert files.glance("move", 1.0 + 2 * GLANCE_SECONDS).round == 2
    files.remove("move")
    assert files.glance("move", 1.0 + 2 * GLANCE_SECONDS) == Passed()
