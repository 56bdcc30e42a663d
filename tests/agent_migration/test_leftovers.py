"""Halves of migrations that a person made by hand, on simulated hosts: removed where that is proved, told elsewhere."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from agent import leftover_proof, leftovers
from agent.simulation.hypervisor import SUSPEND, Domain, StreamFault, Xen
from agent.simulation.process import Pipe, Process
from agent.vm_records import Removal, VmRecord
from agent.vm_store import VmStore
from tests.agent_migration.pair import Pair, refused, until
from tests.agent_migration.vm_facts import NAME, UID

INCOMING, AWAY = f"{NAME}--incoming", f"{NAME}--migratedaway"
LONG = 0.6  # seconds: longer than everything that a leftover is waited with, see `quick`


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(leftovers, "PROCESSES_SECONDS", 0.1)
    monkeypatch.setattr(leftover_proof, "STEADY_SECONDS", 0.3)
    monkeypatch.setattr(leftover_proof, "SETTLE_SECONDS", 0.2)


@pytest.fixture
async def known(running: Pair) -> Pair:
    """It runs on mk1, and mk2 knows that it has given it away."""
    await running.wish("mk2", state="Released")
    return running


def record(pair: Pair, node: str) -> VmRecord:
    found = VmStore(pair.at(node)).get(UID)
    assert found is not None
    return found


def find(pair: Pair, node: str, name: str) -> Domain | None:
    return Xen.of(pair.simulation.hosts[node]).find(name)


def by_hand(pair: Pair) -> Process:
    """`xl migrate -p -e shaolin mk2`, over ssh."""
    return pair.simulation.hosts["mk1"].processes.start(["xl", "migrate", "-p", "-e", NAME, "mk2"])


def receiver(pair: Pair, node: str = "mk2") -> Process | None:
    running = pair.simulation.hosts[node].processes.running.values()
    return next((one for one in running if one.argv[:2] == ["xl", "migrate-receive"]), None)


async def broken_off(pair: Pair) -> Domain:
    """A migration by hand whose receiver is killed in the precopy."""
    pair.simulation.slow_link(20e6)
    job = by_hand(pair)
    await until(lambda: any(one.memory_kib for one in Xen.of(pair.simulation.hosts["mk2"])), "memory arrives")
    process = receiver(pair)
    assert process is not None
    process.kill()
    await job.wait()
    pair.simulation.slow_link(400e6)
    left = find(pair, "mk2", INCOMING)
    assert left is not None
    assert (left.vcpus_online, left.flags) == (0, "--p---")
    return left


async def cut(pair: Pair, at: Literal["go"]) -> Domain:
    """... or whose permission to go is lost: whole at the target, suspended at the source. The receiver is ended."""
    Xen.of(pair.simulation.hosts["mk1"]).stream_fault = StreamFault(at)
    job = by_hand(pair)
    await job.wait()
    process = receiver(pair)
    if process is not None:
        process.kill()
    left = find(pair, "mk2", INCOMING)
    assert left is not None
    assert left.vcpus_online > 0
    return left


async def goes_on_at_the_source(pair: Pair) -> None:
    """As a person does it: its name back, and resumed."""
    host = pair.simulation.hosts["mk1"]
    await host.run(["xl", "rename", AWAY, NAME])
    domain = find(pair, "mk1", NAME)
    assert domain is not None
    await host.run(["xentandem-resume", str(domain.domid)])
    await pair.writes()


DISK = 'disk = ["format=raw,vdev=xvda,access=rw,script=block-xentandem,target=/dev/drbd1"]\n'


async def left_here(pair: Pair, node: str, name: str, *, disk: str = DISK) -> Domain:
    """A whole, suspended copy that does not hold its disk open: xl was killed in the middle of its end."""
    host = pair.simulation.hosts[node]
    text = f'name = "{name}"\nuuid = "{UID}"\ntype = "pv"\nmemory = 32\nvcpus = 1\nkernel = "/boot/vmlinuz"\n{disk}'
    await host.write_text("/tmp/left.cfg", text)
    assert (await host.run(["xl", "create", "-e", "-p", "/tmp/left.cfg"])).exit == 0
    domain = find(pair, node, name)
    assert domain is not None
    domain.guest = None
    domain.shut_down(SUSPEND)
    domain.unpause()
    assert domain.flags == "---ss-"
    return domain


async def gone(pair: Pair, node: str, domain: Domain) -> None:
    await until(lambda: domain.gone, f"{domain.domid} removed; kept: {pair.at(node).leftovers.why(UID)}")
    await until(lambda: record(pair, node).removing is None, "the journal knows that it is gone")
    assert pair.at(node).leftovers.why(UID) is None


async def stays(pair: Pair, node: str, domain: Domain, word: str) -> None:
    """It is told why, in the VM's state too, and nothing is done."""

    def told() -> bool:
        why, vm = pair.at(node).leftovers.why(UID), pair.vm(node)
        return (
            why is not None
            and word in why.message
            and vm is not None
            and vm.problem is not None
            and word in vm.problem.message
        )

    try:
        await until(told, word, 10)
    except AssertionError:
        raise AssertionError(f"not told {word!r}: {pair.at(node).leftovers.why(UID)}, {pair.vm(node)}") from None
    await asyncio.sleep(LONG)
    assert not domain.gone
    assert told()
    assert record(pair, node).removing is None


async def test_row_39_a_copy_that_was_never_whole_goes_and_the_vm_can_move_there(known: Pair) -> None:
    left = await broken_off(known)
    await gone(known, "mk2", left)
    await known.runs_only_on("mk1")
    await known.move(epoch=1)
    await known.ended("mk2", "move", "Succeeded")
    await known.ended("mk1", "move", "Succeeded")
    await known.runs_only_on("mk2")


async def test_it_stays_where_the_journal_does_not_know_the_vm(running: Pair) -> None:
    left = await broken_off(running)
    await asyncio.sleep(2 * LONG)
    assert not left.gone
    assert running.vm("mk2") is None


async def test_it_goes_on_the_vms_own_host_and_its_start_and_restarts_are_what_they_were(known: Pair) -> None:
    """Half of a migration to the host that has the VM: nothing of the VM's own life changes."""
    before = record(known, "mk1")
    host = known.simulation.hosts["mk1"]
    text = f'name = "{INCOMING}"\nuuid = "{UID}"\ntype = "pv"\nmemory = 32\nvcpus = 1\nkernel = "/boot/vmlinuz"\n'
    await host.write_text("/tmp/left.cfg", text)
    await host.run(["xl", "create", "-e", "-p", "/tmp/left.cfg"])
    left = find(known, "mk1", INCOMING)
    assert left is not None
    left.vcpus_online = 0
    await gone(known, "mk1", left)
    assert record(known, "mk1") == before
    await known.becomes("mk1", "running")
    await known.runs_only_on("mk1")


async def test_a_live_receiver_keeps_its_copy_and_its_end_lets_it_go(known: Pair) -> None:
    known.simulation.slow_link(20e6)
    job = by_hand(known)
    await until(lambda: find(known, "mk2", INCOMING) is not None, INCOMING)
    left = find(known, "mk2", INCOMING)
    assert left is not None
    known.simulation.cut_link("mk1", "mk2")  # it stands still, and its memory does not grow
    await stays(known, "mk2", left, "migrate-receive")
    process = receiver(known)
    assert process is not None
    process.kill()
    known.simulation.restore_link("mk1", "mk2")
    await job.wait()
    await gone(known, "mk2", left)
    await known.runs_only_on("mk1")


async def test_processes_that_cannot_be_read_keep_it(known: Pair) -> None:
    known.simulation.hang("mk2", "/proc")
    left = await broken_off(known)
    await stays(known, "mk2", left, "could not be read")
    known.simulation.unhang("mk2", "/proc")
    await gone(known, "mk2", left)


async def test_row_39_a_whole_copy_is_kept_until_the_guest_was_seen_to_go_on(known: Pair) -> None:
    """While the source is suspended nobody can tell which copy will be the last; once the guest writes, it is clear."""
    left = await cut(known, "go")
    assert known.running() == ()
    await stays(known, "mk2", left, "may be the only copy")
    await goes_on_at_the_source(known)
    await gone(known, "mk2", left)
    await known.runs_only_on("mk1")


async def test_the_suspended_source_is_never_touched_where_the_vm_was_not_given_away(known: Pair) -> None:
    await cut(known, "go")
    away = find(known, "mk1", AWAY)
    assert away is not None
    await stays(known, "mk1", away, "the VM is this host's")
    await goes_on_at_the_source(known)
    await until(lambda: find(known, "mk2", INCOMING) is None, "the other half is gone")
    await known.runs_only_on("mk1")


async def test_row_39_a_whole_copy_whose_source_is_lost_is_kept(known: Pair) -> None:
    """The memory that it holds is the only one now."""
    left = await cut(known, "go")
    await known.kill("mk1")
    known.simulation.power_off("mk1")
    await stays(known, "mk2", left, "may be the only copy")


async def test_row_39_a_suspended_source_goes_after_the_vm_writes_on_the_other_host(known: Pair) -> None:
    await known.move(epoch=1)
    await known.ended("mk1", "move", "Succeeded")
    left = await left_here(known, "mk1", AWAY)
    await gone(known, "mk1", left)
    await known.runs_only_on("mk2")


async def test_it_stays_while_the_guest_there_does_not_write(known: Pair) -> None:
    await known.move(epoch=1)
    await known.ended("mk1", "move", "Succeeded")
    await known.wish("mk2", epoch=2, state="Paused")
    await known.becomes("mk2", "paused")
    left = await left_here(known, "mk1", AWAY)
    await stays(known, "mk1", left, "may be the only copy")
    await known.wish("mk2", epoch=2)
    await gone(known, "mk1", left)


async def test_one_that_does_not_tell_its_disks_stays(known: Pair) -> None:
    await known.move(epoch=1)
    await known.ended("mk1", "move", "Succeeded")
    left = await left_here(known, "mk1", AWAY, disk="")
    await stays(known, "mk1", left, "may be the only copy")
    await known.simulation.hosts["mk1"].run(["xl", "destroy", str(left.domid)])


async def test_a_boot_in_between_is_no_release_for_what_is_there_now(known: Pair) -> None:
    await known.reboot("mk2")
    await known.synced()
    left = await left_here(known, "mk2", AWAY)
    await stays(known, "mk2", left, "before this host's boot")


async def test_a_copy_that_arrived_under_its_own_name_is_nobodys_leftover(known: Pair) -> None:
    Xen.of(known.simulation.hosts["mk1"]).stream_fault = StreamFault("report")
    await by_hand(known).wait()
    arrived = find(known, "mk2", NAME)
    assert arrived is not None
    assert arrived.flags == "--p---"
    await asyncio.sleep(LONG)
    assert not arrived.gone
    assert known.at("mk2").leftovers.why(UID) is None
    await known.simulation.hosts["mk2"].run(["xl", "destroy", NAME])
    await goes_on_at_the_source(known)


async def test_one_that_lost_its_name_goes_as_one_with_it(known: Pair) -> None:
    left = await broken_off(known)
    Xen.of(known.simulation.hosts["mk2"]).forget_paths(left)
    assert left.name is None
    await gone(known, "mk2", left)


async def test_the_agent_is_killed_at_the_removal_and_finishes_it(known: Pair) -> None:
    known.hosts["mk2"].die_at_command("xl destroy", "before")
    left = await broken_off(known)
    await known.hosts["mk2"].dead.wait()
    known.agents.pop("mk2")
    await known.start("mk2")
    assert not left.gone
    assert record(known, "mk2").removing == Removal(domid=left.domid, boot_id=known.at("mk2").boot_id)
    await gone(known, "mk2", left)


async def test_the_agent_is_killed_behind_the_removal_and_knows_that_it_is_done(known: Pair) -> None:
    known.hosts["mk2"].die_at_command("xl destroy", "after")
    left = await broken_off(known)
    await known.hosts["mk2"].dead.wait()
    known.agents.pop("mk2")
    await known.start("mk2")
    assert left.gone
    await until(lambda: record(known, "mk2").removing is None, "the journal knows that it is gone")


async def test_one_that_xen_cannot_remove_is_told(known: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int | str] = []
    stuck = True
    xen = known.at("mk2").xen
    destroy = xen.destroy

    async def in_vain(domain: int | str) -> None:
        tried.append(domain)
        if not stuck:
            await destroy(domain)

    monkeypatch.setattr(xen, "destroy", in_vain)
    left = await broken_off(known)
    await until(lambda: len(tried) > 1, "tried again")
    why = known.at("mk2").leftovers.why(UID)
    assert why is not None
    assert (why.reason, f"domain {left.domid} is still there" in why.message) == ("DestroyFailed", True)
    assert record(known, "mk2").removing is not None
    stuck = False
    await gone(known, "mk2", left)


async def test_our_own_migrations_are_left_to_themselves(known: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftover_proof, "STEADY_SECONDS", 0.0)
    known.simulation.slow_link(60e6)
    await known.move(epoch=1)
    await known.ended("mk2", "move", "Succeeded")
    await known.runs_only_on("mk2")


# --- receivers ----------------------------------------------------------------------------------------------------


def told_receiver(pair: Pair, node: str = "mk2") -> str:
    problems = pair.at(node).observer.state.problems
    return next((one.message for one in problems if one.reason == "ForeignReceiver"), "")


async def test_row_41_somebody_elses_receiver_is_told_forbids_a_move_and_is_not_ended(known: Pair) -> None:
    host = known.simulation.hosts["mk2"]
    process = host.processes.start(["xl", "migrate-receive", "-p", "-e"], stdin=Pipe())
    await until(lambda: bool(told_receiver(known)), "ForeignReceiver")
    assert f"process {process.pid} (xl migrate-receive -p -e)" in told_receiver(known)
    message = await refused("ForeignReceiver", known.receive(epoch=2))
    assert f"kill {process.pid}" in message
    await asyncio.sleep(LONG)
    assert process.status is None
    process.kill()
    await until(lambda: not told_receiver(known), "it is over")
    await known.move(epoch=1)
    await known.ended("mk2", "move", "Succeeded")


async def test_our_own_receiver_is_not_told(known: Pair) -> None:
    known.simulation.slow_link(60e6)
    await known.move(epoch=1)
    await known.phase("mk2", "Receiving")
    await until(lambda: receiver(known) is not None, "the receiver")
    await known.at("mk2").leftovers._tell_receivers()
    assert told_receiver(known) == ""
    await known.ended("mk2", "move", "Succeeded")


async def test_row_41_no_move_begins_while_the_vm_is_moved_by_hand(known: Pair) -> None:
    known.simulation.slow_link(20e6)
    job = by_hand(known)
    await until(lambda: find(known, "mk2", INCOMING) is not None, INCOMING)
    await refused("ForeignMigration", known.send())
    message = await refused("LeftoverDomain", known.receive(epoch=2))
    assert "migrate-receive" in message
    job.kill_session()
    await until(lambda: find(known, "mk2", INCOMING) is None, "the receiver undoes it")
    await known.runs_only_on("mk1")


async def test_no_move_begins_while_the_processes_cannot_be_read(known: Pair) -> None:
    known.simulation.hang("mk2", "/proc")
    await refused("Unreadable", known.receive(epoch=2))
    known.simulation.unhang("mk2", "/proc")
    known.simulation.hang("mk1", "/proc")
    await refused("Unreadable", known.send())
    known.simulation.unhang("mk1", "/proc")
