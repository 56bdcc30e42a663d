"""The lab of this test run: two real Xen hosts in QEMU, booted once, put back by snapshots."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from lab_lib import settings, tools
from lab_lib.lab import Lab

from agent.protocol import HostState
from tests.lab.faults import HOLD, HOTPLUG, RECEIVES, Faults
from tests.lab.hosts import Hosts

WHY_NOT = tools.why_not()
collect_ignore_glob = ["test_*.py"] if WHY_NOT else []
SECONDS = 1800  # the first test boots the hosts, or even builds what they boot from
MOVING = ("copying", "arriving")  # kept in the middle of a move: their clocks must not jump


def pytest_report_header() -> str | None:
    return f"tests/lab left out: {WHY_NOT}; then run hack/test tests/lab" if WHY_NOT else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "lab":
            item.add_marker(pytest.mark.timeout(SECONDS))
            item.add_marker(pytest.mark.xdist_group("lab"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Of this run alone; or, with XENTANDEM_LAB, the one that `hack/lab up` left on in that folder."""
    if "XENTANDEM_LAB" in os.environ:
        yield Lab.load(settings.run_folder())
        return
    lab = Lab.make(settings.cache() / "test")
    try:
        lab.boot()
        lab.snapshot("clean")
        yield lab
    finally:
        lab.down()


@pytest.fixture
async def clean(lab: Lab) -> AsyncIterator[Hosts]:
    """Agents, vg0 and nothing else."""
    lab.restore("clean")
    hosts = Hosts(lab)
    yield hosts
    await hosts.close()


@pytest.fixture
async def synced(lab: Lab) -> AsyncIterator[Hosts]:
    """The volume is UpToDate on both and Primary on mk1; no VM."""
    hosts = await _at(lab, "synced")
    yield hosts
    await hosts.close()


@pytest.fixture
async def running(lab: Lab) -> AsyncIterator[Hosts]:
    """... and the VM runs on mk1 at epoch 1."""
    hosts = await _at(lab, "running")
    yield hosts
    await hosts.close()


@pytest.fixture
async def copying(lab: Lab) -> AsyncIterator[Hosts]:
    """... and moves to mk2: its memory is being copied."""
    hosts = await _at(lab, "copying")
    yield hosts
    await hosts.close()


@pytest.fixture
async def arriving(lab: Lab) -> AsyncIterator[Hosts]:
    """... its memory is on mk2, where Xen is about to attach the disk (trap "attach"); then comes "ready"."""
    hosts = await _at(lab, "arriving")
    yield hosts
    await hosts.close()


async def _at(lab: Lab, tag: str) -> Hosts:
    """Hosts as they are at that tag; the first time they are brought there, then kept."""
    if tag in lab.kept:
        lab.restore(tag, set_clock=tag not in MOVING)
        return Hosts(lab)
    if tag == "synced":
        lab.restore("clean")
        hosts = Hosts(lab)
        await hosts.make_volume()
    elif tag == "running":
        hosts = await _at(lab, "synced")
        await hosts.run_vm()
    else:
        hosts = await _at(lab, "running")
        await (_copying if tag == "copying" else _arriving)(hosts)
    lab.snapshot(tag)
    return hosts


async def _copying(hosts: Hosts) -> None:
    await hosts.move()

    def begun(state: HostState) -> bool:
        transfer = state.operations["move"].transfer
        return transfer is not None and transfer.pages_sent > 1000

    await hosts.becomes("mk2", "memory received", begun)


async def _arriving(hosts: Hosts) -> None:
    faults = Faults(hosts)
    faults.trap("mk2", HOTPLUG, "add", HOLD, name="attach")
    faults.trap("mk2", "xl", "migrate-receive", RECEIVES, name="receives")
    await hosts.move()
    await faults.sprung("mk2", "attach")
