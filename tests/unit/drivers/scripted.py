"""A host that answers commands from a table and keeps files in a dictionary: what a driver says is what is tested."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent.host import Completed, HostProcess, Job, PipedProcess

Answer = tuple[int, str, str] | Callable[[], tuple[int, str, str]]


class ScriptedHost:
    """`answers`: (exit, stdout, stderr), or a function of such, by the command line or its beginning (longest wins)."""

    def __init__(self, answers: dict[str, Answer] | None = None, files: dict[str, str] | None = None) -> None:
        self.answers = answers or {}
        self.files = files or {}
        self.commands: list[str] = []
        self.written: list[str] = []
        self.time = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    async def run(self, argv: Sequence[str], *, timeout: float = 30.0, stdin: bytes = b"") -> Completed:
        line = " ".join(argv)
        self.commands.append(line)
        known = [key for key in self.answers if line == key or line.startswith(f"{key} ")]
        if not known:
            raise FileNotFoundError(argv[0])
        answer = self.answers[max(known, key=len)]
        return Completed(tuple(argv), *(answer() if callable(answer) else answer))

    @asynccontextmanager
    async def follow(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        lines = (await self.run(argv)).stdout.splitlines()

        async def each() -> AsyncIterator[str]:
            for line in lines:
                yield line

        yield each()

    async def find_processes(self, programs: Collection[str]) -> tuple[HostProcess, ...]:
        raise NotImplementedError

    async def read_text(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    async def write_text(self, path: str, text: str, *, mode: int = 0o600) -> None:
        self.written.append(path)
        self.files[path] = text

    async def remove(self, path: str) -> None:
        self.files.pop(path, None)

    async def list_dir(self, path: str) -> list[str]:
        inside = [name.removeprefix(f"{path}/") for name in self.files if name.startswith(f"{path}/")]
        return sorted({name.split("/")[0] for name in inside})

    async def exists(self, path: str) -> bool:
        return any(name == path or name.startswith(f"{path}/") for name in self.files)

    async def fetch_image(self, url: str, path: str, limit: int, *, timeout: float) -> tuple[int, str]:
        raise OSError(28, "No space left on device")

    async def copy_image(self, source_path: str, device: str) -> tuple[int, str]:
        raise OSError(28, "No space left on device")

    @property
    def run_dir(self) -> Path | None:
        return None

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.on_sleep()

    async def start_job(self, scope: str, argv: Sequence[str]) -> Job:
        raise NotImplementedError

    async def find_job(self, scope: str) -> Job | None:
        raise NotImplementedError

    async def forget_job(self, scope: str) -> None:
        raise NotImplementedError

    async def pipe(self, argv: Sequence[str]) -> PipedProcess:
        raise NotImplementedError
