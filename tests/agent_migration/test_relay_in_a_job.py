"""The relay as it runs on a real dom0: below `xl migrate`, in a job of its own that is ended as a whole.

xl is a small program here, with xl's way of starting a transport (`sh -c COMMAND`) and its side of the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from agent.drivers.xen import Xen
from agent.migration.relay_files import RelayFiles
from agent.migration.stream import GO, READY, REPORT
from agent.pki import create_authority, issue_agent
from agent.real_host import RealHost
from tests.agent_migration.pair import until
from tests.agent_migration.relay_rig import LIMIT, OPERATION, WHOLE, Reader, Writer, accept, endpoint, receive

XL = f"""#!{sys.executable}
import subprocess, sys
from agent.migration.stream import BANNER, GO, READY, REPORT
assert sys.argv[1:-1] == ["migrate", "-s", "", "-p", "-e", "shaolin"], sys.argv
child = subprocess.Popen(["sh", "-c", sys.argv[-1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def hear(words):
    if child.stdout.read(len(words)) != words:
        print("migration receiver stream contained unexpected data", file=sys.stderr)
        sys.exit(1)
hear(BANNER)
with open(STREAM, "rb") as file:
    child.stdin.write(file.read())
child.stdin.flush()
hear(READY)
child.stdin.write(GO)
child.stdin.flush()
hear(REPORT)
sys.exit(child.stdout.read(1)[0])
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealHost:
    """A host whose first `xl` on the PATH is ours."""
    programs, stream = tmp_path / "bin", tmp_path / "stream"
    programs.mkdir()
    stream.write_bytes(WHOLE[: -len(GO)])
    (programs / "xl").write_text(XL.replace("STREAM", repr(str(stream))))
    (programs / "xl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return RealHost(tmp_path / "state")


class Side:
    """The source's half: certificates of both nodes, and the relay's files."""

    def __init__(self, folder: Path) -> None:
        authority = create_authority(folder / "ca")
        self.mk1, self.mk2 = (issue_agent(authority, name, folder / name) for name in ("mk1", "mk2"))
        self.files = RelayFiles(folder / "relay")

    def argv(self, port: int) -> list[str]:
        self.files.write(
            OPERATION,
            {
                "operation": OPERATION,
                "address": "127.0.0.1",
                "port": port,
                "target": "mk2",
                "certificate": str(self.mk1.certificate),
                "key": str(self.mk1.key),
                "authority": str(self.mk1.authority),
                "progress": str(self.files.progress_path(OPERATION)),
                "limit": LIMIT,
            },
        )
        return Xen.migrate_argv("shaolin", " ".join(self.files.command(OPERATION)))


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


async def test_a_whole_migration(host: RealHost, side: Side) -> None:
    taken: list[bytes] = []

    async def behave(reader: Reader, writer: Writer) -> None:
        taken.append(await receive(reader, writer))

    async with endpoint(side.mk2, behave) as port:
        job = await host.start_job("migrate-move-1", side.argv(port))
        assert await asyncio.wait_for(job.wait(), LIMIT) == 0
        await until(lambda: bool(taken), "the end of the stream")
    assert taken == [WHOLE]
    assert side.files.progress(OPERATION).report == 0
    assert [line async for line in job.stderr()] == []


async def test_an_agent_that_starts_again_finds_it(host: RealHost, side: Side, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        await gate.wait()
        taken = await reader.readexactly(len(WHOLE) - len(GO))
        writer.write(READY)
        assert taken + await reader.readexactly(len(GO)) == WHOLE
        writer.write(REPORT + b"\0")
        await reader.read()

    async with endpoint(side.mk2, behave) as port:
        await host.start_job("migrate-move-1", side.argv(port))
        again = await RealHost(tmp_path / "state").find_job("migrate-move-1")
        assert again is not None
        gate.set()
        assert await asyncio.wait_for(again.wait(), LIMIT) == 0
    assert side.files.progress(OPERATION).report == 0


async def test_ending_the_job_ends_the_relay_too(host: RealHost, side: Side) -> None:
    """The target feels it at once, and no permission can go out any more."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def behave(reader: Reader, writer: Writer) -> None:
        await accept(reader, writer)
        await reader.readexactly(1000)
        began.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        ended.set()

    async with endpoint(side.mk2, behave) as port:
        job = await host.start_job("migrate-move-1", side.argv(port))
        await asyncio.wait_for(began.wait(), LIMIT)
        await asyncio.wait_for(job.kill(), LIMIT)
        await asyncio.wait_for(ended.wait(), LIMIT)
    assert not side.files.progress(OPERATION).go


async def test_a_refusal_reaches_whoever_reads_xls_errors(host: RealHost, side: Side) -> None:
    async def behave(reader: Reader, writer: Writer) -> None:
        await reader.readline()
        writer.write(b'{"accepted": false, "reason": "NotExpected", "message": "mk2 expects no stream"}\n')
        await writer.drain()
        await reader.read()

    async with endpoint(side.mk2, behave) as port:
        job = await host.start_job("migrate-move-1", side.argv(port))
        assert await asyncio.wait_for(job.wait(), LIMIT) != 0
    await until(lambda: side.files.progress(OPERATION).refused is not None, "the refusal")
    said = [line async for line in job.stderr()]
    assert any("mk2 refused: mk2 expects no stream" in line for line in said)
