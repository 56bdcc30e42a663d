"""xenstore of a simulated host, by its commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import NAME, SharedDisk, create, xl

from agent.drivers.xen_parse import parse_backends
from agent.simulation.cluster import Simulation
from agent.simulation.host import SimulatedHost
from agent.simulation.xenstore import XenStore


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path) as simulation:
        yield simulation
        simulation.truth.check()


@pytest.fixture
def mk1(simulation: Simulation) -> SimulatedHost:
    SharedDisk(simulation)
    return simulation.hosts["mk1"]


async def xs(host: SimulatedHost, command: str, *words: str) -> tuple[int, str, str]:
    completed = await host.run([f"xenstore-{command}", *words])
    return completed.exit, completed.stdout, completed.stderr


async def test_reading_and_writing(mk1: SimulatedHost) -> None:
    assert await xs(mk1, "write", "/a/b", "1", "/a/c", "-x") == (0, "", "")
    assert await xs(mk1, "read", "/a/b", "/a/c") == (0, "1\n-x\n", "")
    assert await xs(mk1, "read", "-p", "/a/b") == (0, "/a/b: 1\n", "")
    assert await xs(mk1, "read", "/a") == (0, "\n", "")
    assert await xs(mk1, "read", "/b") == (1, "", "xenstore-read: couldn't read path /b\n")
    assert await xs(mk1, "list", "/a") == (0, "b\nc\n", "")
    assert await xs(mk1, "ls", "/a") == (0, 'b = "1"\nc = "-x"\n', "")
    assert await xs(mk1, "ls", "-f", "/a") == (0, '/a/b = "1"\n/a/c = "-x"\n', "")
    assert (await xs(mk1, "exists", "/a/b"))[0] == 0
    assert (await xs(mk1, "exists", "/a/d"))[0] == 1
    assert (await xs(mk1, "write", "/a/b"))[0] == 1
    assert await xs(mk1, "rm", "-t", "/a/b") == (0, "", "")
    assert await xs(mk1, "rm", "-t", "/a/c") == (0, "", "")
    assert await xs(mk1, "rm", "/a") == (0, "", "")
    assert await xs(mk1, "rm", "/a/b") == (1, "", "xenstore-rm: could not remove path /a/b\n")
    assert (await xs(mk1, "ls", "/a"))[2] == "xenstore-ls: xs_directory (/a): No such file or directory\n"


async def test_the_agents_parser_reads_our_backends(mk1: SimulatedHost) -> None:
    await create(mk1)
    listed = (await xs(mk1, "ls", "-f", "/local/domain/0/backend/vbd"))[1]
    (backend,) = parse_backends(listed)
    assert (backend.domid, backend.devid, backend.vdev, backend.device) == (1, 51712, "xvda", "/dev/drbd1")


async def test_a_watch_tells_of_domains_that_come_and_go(mk1: SimulatedHost) -> None:
    async with asyncio.timeout(20), mk1.follow(["xenstore-watch", "@introduceDomain", "@releaseDomain"]) as lines:
        assert [await anext(lines), await anext(lines)] == ["@introduceDomain", "@releaseDomain"]
        await create(mk1)
        assert await anext(lines) == "@introduceDomain"
        await xl(mk1, "shutdown", "-w", NAME)
        assert await anext(lines) == "@releaseDomain"
        await xl(mk1, "destroy", NAME)
        assert await anext(lines) == "@releaseDomain"


def test_watches() -> None:
    store, seen = XenStore(), list[str]()
    stop = store.watch("/a/b", seen.append)
    store.write("/a/b/c/d", "1")
    store.write("/a/bc", "1")
    store.remove("/a")
    assert seen == ["/a/b/c/d", "/a/b"]
    stop()
    store.write("/a/b", "2")
    assert len(seen) == 2
    assert not store.remove("/none/at/all")
