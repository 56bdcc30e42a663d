"""A dom0's file tree: /etc and /var kept in memory like a disk's, /proc and /sys answered by functions."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable


class VirtualFiles:
    """Paths to texts. What is written stays over a reboot; what is provided (a function) is gone with the power."""

    def __init__(self) -> None:
        self._stored: dict[str, str] = {}
        self.revision = 0  # grows with every change of what is stored
        self._provided: dict[str, Callable[[], str]] = {}
        self._folders: dict[str, dict[str, int]] = {}  # folder -> name -> number of paths that need it

    def read(self, path: str) -> str:
        if (function := self._provided.get(path)) is not None:
            return function()
        if (text := self._stored.get(path)) is not None:
            return text
        if path in self._folders:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def write(self, path: str, text: str) -> None:
        if path in self._provided:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if path not in self._stored:
            self._enter(path, 1)
        self._stored[path] = text
        self.revision += 1

    def remove(self, path: str) -> None:
        if self._stored.pop(path, None) is not None:
            self._enter(path, -1)
            self.revision += 1

    def provide(self, path: str, text: Callable[[], str]) -> None:
        """A file of /proc or /sys: `text` is called at every read; it may raise an OSError as the kernel would."""
        if path not in self._provided and path not in self._stored:
            self._enter(path, 1)
        self._provided[path] = text

    def withdraw(self, path: str) -> None:
        if self._provided.pop(path, None) is not None and path not in self._stored:
            self._enter(path, -1)

    def power_off(self) -> None:
        for path in tuple(self._provided):
            self.withdraw(path)

    def exists(self, path: str) -> bool:
        path = path.rstrip("/") or "/"
        return path in self._provided or path in self._stored or path in self._folders

    def names(self, folder: str) -> list[str]:
        return sorted(self._folders.get(folder.rstrip("/") or "/", ()))

    def _enter(self, path: str, count: int) -> None:
        while path != "/":
            folder, name = posixpath.split(path)
            names = self._folders.setdefault(folder, {})
            names[name] = names.get(name, 0) + count
            if names[name] == 0:
                del names[name]
            if not names:
                del self._folders[folder]
            path = folder
