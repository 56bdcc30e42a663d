"""xenstored of one host, and the client commands `xenstore-read`, `-write`, `-ls`, `-list`, `-exists`, `-rm`, `-watch`.

Words and exit codes as xenstore-read(1) and its siblings have them (xenstore_client.c).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

Watcher = Callable[[str], None]


class Node:
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.value = ""
        self.children: dict[str, Node] = {}


class XenStore:
    """A tree of texts. A write makes the nodes above it; watchers are told of every changed path at once."""

    def __init__(self) -> None:
        self._root = Node()
        self._watchers: dict[str, list[Watcher]] = {}  # by the path that is watched

    def read(self, path: str) -> str | None:
        node = self._find(path)
        return None if node is None else node.value

    def names(self, path: str) -> list[str] | None:
        """Names below a node, sorted as oxenstored does it; None when the node is not there."""
        node = self._find(path)
        return None if node is None else sorted(node.children)

    def write(self, path: str, value: str) -> None:
        node = self._root
        for part in _parts(path):
            node = node.children.setdefault(part, Node())
        node.value = value
        self._tell(path)

    def write_all(self, path: str, values: dict[str, str]) -> None:
        for key, value in values.items():
            self.write(f"{path}/{key}", value)

    def remove(self, path: str) -> bool:
        *above, last = _parts(path)
        node = self._root
        for part in above:
            if part not in node.children:
                return False
            node = node.children[part]
        if node.children.pop(last, None) is None:
            return False
        self._tell(path)
        below = path.rstrip("/") + "/"
        for watched in [watched for watched in self._watchers if watched.startswith(below)]:
            for watcher in tuple(self._watchers.get(watched, ())):
                watcher(watched)  # who watches a node below hears of its end too
        return True

    def prune(self, path: str) -> None:
        """Remove the node, and those above it that are left without children and value."""
        self.remove(path)
        while (path := path.rpartition("/")[0]) and self.names(path) == [] and self.read(path) == "":
            self.remove(path)

    def tree(self, path: str, depth: int = 0) -> Iterator[tuple[int, str, str, str]]:
        """(depth, path, name, value) of everything below `path`, parents first."""
        node = self._find(path)
        for name, child in sorted(({} if node is None else node.children).items()):
            full = f"{path.rstrip('/')}/{name}"
            yield depth, full, name, child.value
            yield from self.tree(full, depth + 1)

    def announce(self, event: str) -> None:
        """@introduceDomain, @releaseDomain: domains came or went (or shut down)."""
        self._tell(event)

    def watch(self, path: str, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with the path of every change at or below `path`; the answer ends the watch."""
        path = path.rstrip("/") or "/"
        self._watchers.setdefault(path, []).append(watcher)

        def stop() -> None:
            self._watchers[path].remove(watcher)
            if not self._watchers[path]:
                del self._watchers[path]

        return stop

    def _find(self, path: str) -> Node | None:
        node = self._root
        for part in _parts(path):
            found = node.children.get(part)
            if found is None:
                return None
            node = found
        return node

    def _tell(self, path: str) -> None:
        watched = path
        while watched:
            for watcher in tuple(self._watchers.get(watched, ())):
                watcher(path)
            watched = watched.rpartition("/")[0]
        for watcher in tuple(self._watchers.get("/", ())):
            watcher(path)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def client(store: XenStore, argv: Sequence[str]) -> tuple[int, str, str]:
    """(exit, stdout, stderr) of every xenstore command but the watch."""
    program, *words = argv
    mode = program.rsplit("/", 1)[-1].removeprefix("xenstore-")
    options = {word for word in words if word.startswith("-")}
    paths = [word for word in words if not word.startswith("-")] if mode != "write" else _write_words(words)
    if not paths and mode != "ls":
        return 1, "", f"{program}: Usage: {program} [-h] [-p] [-s] key [...]\n"
    if mode == "read":
        return _read(store, program, paths, prefix="-p" in options)
    if mode == "write":
        return _write(store, program, paths)
    if mode == "exists":
        return int(any(store.read(path) is None for path in paths)), "", ""
    if mode == "rm":
        return _remove(store, program, paths, tidy="-t" in options)
    if mode == "list":
        return _list(store, program, paths)
    if mode == "ls":
        return _ls(store, program, paths or ["/"], flat="-f" in options)
    return 1, "", f"{program}: unknown mode {mode}\n\n"


def _write_words(words: Sequence[str]) -> list[str]:
    """Options end at the first path: a value may begin with a dash."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        rest.pop(0)
    return rest


def _read(store: XenStore, program: str, paths: Sequence[str], *, prefix: bool) -> tuple[int, str, str]:
    lines = []
    for path in paths:
        if (value := store.read(path)) is None:
            return 1, "", f"{program}: couldn't read path {path}\n"
        lines.append(f"{path}: {value}\n" if prefix else f"{value}\n")
    return 0, "".join(lines), ""


def _write(store: XenStore, program: str, words: Sequence[str]) -> tuple[int, str, str]:
    if len(words) % 2:
        return 1, "", f"{program}: Usage: {program} [-h] [-s] [-R] key value [...]\n"
    for path, value in zip(words[::2], words[1::2], strict=True):
        store.write(path, value)
    return 0, "", ""


def _remove(store: XenStore, program: str, paths: Sequence[str], *, tidy: bool) -> tuple[int, str, str]:
    for path in paths:
        if store.read(path) is None:
            if store.read(path.rstrip("/").rpartition("/")[0] or "/") is not None:
                continue  # gone already is as good, where its parent is there (xenstored_core.c, do_rm())
            return 1, "", f"{program}: could not remove path {path}\n"
        (store.prune if tidy else store.remove)(path)
    return 0, "", ""


def _list(store: XenStore, program: str, paths: Sequence[str]) -> tuple[int, str, str]:
    lines = []
    for path in paths:
        if (names := store.names(path)) is None:
            return 1, "", f"{program}: could not list path {path}\n"
        lines += [f"{name}\n" for name in names]
    return 0, "".join(lines), ""


def _ls(store: XenStore, program: str, paths: Sequence[str], *, flat: bool) -> tuple[int, str, str]:
    lines = []
    for path in paths:
        if store.names(path) is None:
            return 1, "", f"{program}: xs_directory ({path}): No such file or directory\n"
        for depth, full, name, value in store.tree(path):
            lines.append(f'{full if flat else " " * depth + name} = "{value}"\n')
    return 0, "".join(lines), ""


async def watch_lines(store: XenStore, paths: Sequence[str]) -> AsyncIterator[str]:
    """What `xenstore-watch` prints: each watched path once at the start, then the path of every change."""
    changes: asyncio.Queue[str] = asyncio.Queue()
    stops = [store.watch(path, changes.put_nowait) for path in paths]
    try:
        for path in paths:
            yield path
        while True:
            yield await changes.get()
    finally:
        for stop in stops:
            stop()
