"""xl of a simulated host: words, columns, exit codes and effects, held to the output of real hosts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from xen_helpers import (
    NAME,
    SAMPLES,
    UUID,
    SharedDisk,
    create,
    until_records,
    xl,
)

from agent.drivers.xen_parse import parse_list
from agent.simulation.cluster import Hardware, Simulation


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with Simulation(tmp_path, hardware=Hardware(memory_mib=1023)) as simulation:
        yield simulation
        simulation.truth.check()


@pytest.fixture
def disk(simulation: Simulation) -> SharedDisk:
    return SharedDisk(simulation)


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


async def test_a_created_domain_is_listed_as_on_a_real_host(simulation: Simulation, disk: SharedDisk) -> None:
    host = simulation.hosts["mk1"]
    created = await create(host)
    assert (created.exit, created.stderr) == (0, "Parsing config from /etc/xen/shaolin.cfg\n")
    await until_records(simulation)
    listed = (await xl(host, "list")).stdout.splitlines()
    real = [line for line in sample("err-xl-create-already-running-here.txt").splitlines() if line][-3:]
    assert listed[0] == real[0]
    number = re.compile(r"[rb-]{6} +[0-9.]+$")
    assert [len(line) for line in listed] == [len(line) for line in real]
    assert number.sub("", listed[2]) == number.sub("", real[2]).replace("   2   128", "   1   128")
    states = parse_list((await xl(host, "list", "-v")).stdout)
    assert [(state.name, state.uuid, state.state, state.memory_mib) for state in states] == [
        (NAME, UUID, "running", 128)
    ]
    assert states[0].cpu_seconds > 0
    assert simulation.truth.running(UUID) == ("mk1",)
