"""`sh -c COMMAND` as xl runs it for a migration's transport: a real process, or a simulated one.

The command is split into words as the shell's `exec` would for plain words; there is no shell. Its first word decides:
a program of the simulated host runs there; `ssh HOST ...` runs on the simulated host of that name or address; anything
else is a real process of this machine (the agent's relay), whose standard streams are carried over.
"""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import shlex

from agent.simulation.process import Pipe, Process

CHUNK = 1 << 16


async def shell(process: Process) -> int:
    """The program `sh`. Exit 127 when there is no such command, 2 for a use that the simulation has not."""
    if len(process.argv) != 3 or process.argv[1] != "-c":
        process.stderr.put("sh: only `sh -c COMMAND` is there\n")
        return 2
    words = shlex.split(process.argv[2])
    if words[:1] == ["exec"]:
        words = words[1:]
    if not words:
        return 0
    try:
        return await _run(process, words)
    finally:
        process.stdin.close_read()
        process.host.simulation.changed.notify()  # who waits for this transport looks again


async def _run(process: Process, words: list[str]) -> int:
    if posixpath.basename(words[0]) == "ssh":
        return await _ssh(process, words[1:])
    if posixpath.basename(words[0]) in process.host.programs:
        return await process.spawn(words, stdin=process.stdin, stdout=process.stdout).wait()
    return await _real(process, words)


async def _ssh(process: Process, words: list[str]) -> int:
    simulation = process.host.simulation
    name = next((word for word in words if not word.startswith("-")), "")
    command = words[words.index(name) + 1 :] if name else []
    host = simulation.hosts.get(name) or simulation.host_by_address(name)
    if host is None:
        process.stderr.put(f"ssh: Could not resolve hostname {name}: Name or service not known\n")
        return 255
    if not simulation.link_up(process.host.name, host.name):
        process.stderr.put(f"ssh: connect to host {name} port 22: No route to host\n")
        return 255
    remote = host.processes.start(command, stdin=process.stdin, stdout=process.stdout, stderr=process.stderr)
    try:
        return await remote.wait()
    finally:
        remote.stdin.close_write()


async def _real(process: Process, words: list[str]) -> int:
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError:
        process.stderr.put(f"sh: 1: {words[0]}: not found\n")
        return 127
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    feeding = asyncio.ensure_future(_feed(process.stdin, child.stdin))
    saying = asyncio.ensure_future(_say(process, child.stderr))
    try:
        while data := await child.stdout.read(CHUNK):
            await process.stdout.write(data)
        process.stdout.close_write()
        status = await child.wait()
        await saying
    finally:
        feeding.cancel()
        saying.cancel()
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
    return status


async def _feed(source: Pipe, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    source.close_read()
    target.close()


async def _say(process: Process, source: asyncio.StreamReader) -> None:
    while data := await source.read(CHUNK):
        process.stderr.put(data.decode(errors="replace"))
