"""QEMU's control socket (QMP)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from lab_lib.tools import LabFailed


class Qmp:
    """One connection. Use as a context manager."""

    def __init__(self, path: Path, *, limit: float = 120.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(limit)
        try:
            self._socket.connect(str(path))
            self._lines = self._socket.makefile("rw")
            self._lines.readline()
            self.do("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def do(self, command: str, **arguments: Any) -> Any:
        """The answer. Raises LabFailed, OSError."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while line := self._lines.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabFailed(f"QEMU refuses {command}: {answer['error']['desc']}")
        raise LabFailed(f"QEMU ended at {command}")

    def monitor(self, line: str) -> str:
        """A command of the human monitor; raises LabFailed with what it says, as it says nothing when all is well."""
        said = str(self.do("human-monitor-command", **{"command-line": line})).strip()
        if said:
            raise LabFailed(f"QEMU says to {line}: {said}")
        return said
