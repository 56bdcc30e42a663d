"""Two Primaries that somebody allowed: told, closed when nobody can be using it, and left alone while both are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent import windows
from agent.drivers.errors import DriverError
from agent.host import HostProcess
from agent.protocol import Member, VolumeDesired
from agent.records import VolumeRecord
from agent.simulation.process import Pipe
from agent.windows import STEADY_SECONDS, Facts, against_closing
from tests.agent_migration.pair import RESOURCE, VOLUME_UID, Pair, until
from tests.agent_migration.vm_facts import NAME, drbd

MEMBERS = (Member(node="mk1", address="10.0.0.81"), Member(node="mk2", address="10.0.0.82"))
DESIRED = VolumeDesired(
    term=1, uid=VOLUME_UID, namespace="default", name="vm-shaolin", resource="vm_shaolin", minor=1, port=7789,
    group="vg0", logical_volume="vm_shaolin", size=16 << 20, members=MEMBERS, level="Up",
)  # fmt: skip
RECORD = VolumeRecord(desired=DESIRED, options=DESIRED.options, addresses=("mk1=10.0.0.81", "mk2=10.0.0.82"))
RECEIVER = HostProcess(199, ("xl", "migrate-receive"), "pipe:[1]", False)


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "node": "mk1",
        "resource": "vm_shaolin",
        "record": RECORD,
        "disk": drbd()["vm_shaolin"],
        "steady": STEADY_SECONDS,
        "busy": None,
        "processes": (),
    }
    return Facts(**(values | changes))


def disk(*, peer: dict[str, Any] | None = None, **changes: Any) -> Any:
    return drbd(peer=peer, **changes)["vm_shaolin"]


def test_with_one_primary_or_none_it_is_closed() -> None:
    assert against_closing(facts()) is None
    assert against_closing(facts(disk=disk(role="Secondary"))) is None
    assert against_closing(facts(disk=disk(role="Secondary", peer={"role": "Primary"}))) is None


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("drbdadm secondary vm_shaolin", {"disk": disk(peer={"role": "Primary"})}),
        ("see each other", {"disk": None}),
        ("see each other", {"disk": disk(peer={"connection": "Connecting", "role": "Unknown"})}),
        ("see each other", {"disk": disk(role="Unknown")}),
        ("as they should be", {"disk": disk(peer={"replication": "SyncSource"})}),
        ("as they should be", {"disk": disk(disk="Diskless")}),
        ("as they should be", {"disk": disk(suspended="fencing")}),
        ("not to be used", {"record": VolumeRecord(desired=DESIRED.model_copy(update={"level": "Provisioned"}))}),
        ("change of its settings", {"record": RECORD.model_copy(update={"options": "another"})}),
        ("operation move", {"busy": "move"}),
        ("could not be read", {"processes": None}),
        ("process 199", {"processes": (RECEIVER,)}),
        ("if it is still open", {"steady": 0.4}),
    ],
)
def test_it_is_left_open_and_told_why(word: str, change: dict[str, Any]) -> None:
    why = against_closing(facts(**change))
    assert why is not None
    assert why.reason == "TwoPrimariesAllowed"
    assert word in why.message


# --- on simulated hosts -------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(windows, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(windows, "OPEN_SECONDS", 0.1)
    monkeypatch.setattr(windows, "STEADY_SECONDS", 0.5)


async def allow(pair: Pair, *nodes: str) -> None:
    """As a script around `xl migrate` does it."""
    for node in nodes:
        argv = ["drbdadm", "net-options", "--allow-two-primaries=yes", RESOURCE]
        assert (await pair.simulation.hosts[node].run(argv)).exit == 0


async def allowed(pair: Pair, node: str) -> bool:
    return RESOURCE in await pair.at(node).drbd.two_primaries()


def told(pair: Pair, node: str) -> str:
    problem = pair.at(node).observer.state.volumes[RESOURCE].problem
    return problem.message if problem is not None and problem.reason == "TwoPrimariesAllowed" else ""


async def closed(pair: Pair) -> None:
    for node in ("mk1", "mk2"):

        async def shut(node: str = node) -> bool:
            return not await allowed(pair, node)

        await until(shut, f"closed on {node}: {told(pair, node)}")
        await until(lambda node=node: told(pair, node) == "", "no longer told")  # type: ignore[misc]


async def test_row_40_it_is_told_and_closed_and_the_guest_notices_nothing(running: Pair) -> None:
    await allow(running, "mk1", "mk2")
    await until(lambda: bool(told(running, "mk1")), "told on mk1")
    await closed(running)
    await running.runs_only_on("mk1")
    await running.move()
    await running.ended("mk2", "move", "Succeeded")


async def test_a_migration_by_hand_keeps_it_open(running: Pair) -> None:
    host = running.simulation.hosts["mk1"]
    process = host.processes.start(["xl", "migrate-receive", "-p", "-e"], stdin=Pipe())
    other = running.simulation.hosts["mk2"].processes.start(["xl", "migrate-receive", "-p", "-e"], stdin=Pipe())
    await allow(running, "mk1", "mk2")
    await until(lambda: f"process {process.pid}" in told(running, "mk1"), "told on mk1")
    await asyncio.sleep(1.0)
    assert await allowed(running, "mk1")
    process.kill()
    other.kill()
    await closed(running)


async def test_row_40_with_two_primaries_nothing_is_done(running: Pair) -> None:
    truth = running.simulation.truth
    truth.allow_two_primaries = True
    await allow(running, "mk1", "mk2")
    host = running.simulation.hosts["mk2"]
    assert (await host.run(["drbdadm", "primary", RESOURCE])).exit == 0
    for node in ("mk1", "mk2"):
        await until(lambda node=node: "both hosts are" in told(running, node), f"told on {node}")  # type: ignore[misc]
    await asyncio.sleep(1.0)
    assert await allowed(running, "mk1")
    assert running.running() == ("mk1",)
    assert (await host.run(["drbdadm", "secondary", RESOURCE])).exit == 0
    await closed(running)
    truth.two_primaries_seconds.clear()  # this test made them
    await running.runs_only_on("mk1")


async def test_it_waits_until_both_sides_are_seen(running: Pair) -> None:
    running.simulation.cut_link("mk1", "mk2")
    await until(lambda: running._peer("mk1") not in (None, ("Connected", "UpToDate")), "the link is lost")
    await allow(running, "mk1")
    await until(lambda: "see each other" in told(running, "mk1"), "told on mk1")
    await asyncio.sleep(1.0)
    assert await allowed(running, "mk1")
    argv = ["drbdadm", "adjust", RESOURCE]
    assert (await running.simulation.hosts["mk1"].run(argv)).exit == 0
    running.simulation.restore_link("mk1", "mk2")
    await running.synced()
    await closed(running)


async def test_what_drbd_does_not_tell_changes_nothing(running: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await allow(running, "mk1", "mk2")
    await until(lambda: bool(told(running, "mk1")), "told on mk1")

    async def silent() -> frozenset[str]:
        raise DriverError("Unreadable", "cut off")

    drbd = running.at("mk1").drbd
    answer = drbd.two_primaries
    monkeypatch.setattr(drbd, "two_primaries", silent)
    before = told(running, "mk1")
    await asyncio.sleep(0.3)
    assert told(running, "mk1") == before, f"{NAME}: unreadable is not closed"
    monkeypatch.setattr(drbd, "two_primaries", answer)
    await closed(running)
