"""One VM's life on one host: starts, stops, the guest's own ends, restarts of agent and host, and every refusal."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from agent.domains import RETRY_FIRST
from agent.drivers import xen
from agent.drivers.errors import DriverError
from agent.journal import JournalCorrupt
from agent.protocol import DomainRemoval
from agent.simulation.hypervisor import Xen
from agent.vm_store import VmStore
from tests.agent_migration.pair import RESOURCE, Pair, refused, until
from tests.agent_migration.vm_facts import NAME, UID, config


async def test_a_start_runs_with_its_disk_and_keeps_its_configuration(pair: Pair) -> None:
    answer = await pair.wish("mk1")
    assert (answer.epoch, answer.granted, answer.status) == (1, True, "starting")
    await pair.becomes("mk1", "running")
    await pair.runs_only_on("mk1")
    assert "bootloader" in await pair.at("mk1").host.read_text(f"/etc/xen/xentandem/{NAME}.cfg")


async def test_the_same_wish_again_changes_nothing(running: Pair) -> None:
    (before,) = await running.domains("mk1")
    for _ in range(3):
        assert (await running.wish("mk1")).status == "running"
    (after,) = await running.domains("mk1")
    assert after.domid == before.domid


async def test_a_disk_that_is_secondary_here_is_refused_with_its_state(pair: Pair) -> None:
    message = await refused("DiskNotPrimary", pair.wish("mk2"))
    assert "vm_shaolin (xvda) is Secondary/UpToDate here, Connected, Primary/UpToDate there on mk2" in message
    assert pair.vm("mk2") is None, "a refused wish promises nothing"
    assert await pair.domains("mk2") == ()


async def test_a_create_that_fails_is_not_repeated_by_the_traces_that_it_leaves(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failure shows a domain that comes and goes: that is no reason to try again at once."""
    xen, host = pair.at("mk1").xen, pair.at("mk1").host
    create, tried = xen.create, []

    async def fails(path: str, *, paused: bool = False) -> None:
        await create(path, paused=paused)
        (made,) = await pair.domains("mk1")
        await pair.at("mk1").observer.read_domains()
        await xen.destroy(made.domid)
        await pair.at("mk1").observer.read_domains()
        tried.append(host.now())
        raise DriverError("CreateFailed", "no kernel")

    monkeypatch.setattr(xen, "create", fails)
    await pair.wish("mk1")
    await until(lambda: len(tried) == 3, "three attempts")
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses[0] >= RETRY_FIRST
    assert pauses[1] >= 2 * RETRY_FIRST, "and each pause is longer than the one before"
    await pair.wish("mk1")
    await until(lambda: len(tried) == 4, "a wish is tried without the next pause")
    assert tried[3] - tried[2] < 4 * RETRY_FIRST


async def test_a_disk_that_blkback_cannot_open_never_runs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is demoted between the look at it and xl create: xl exits 0 and leaves a dead disk."""
    xen = pair.at("mk1").xen
    create = xen.create

    async def demoted_first(path: str, *, paused: bool = False) -> None:
        await pair.at("mk1").drbd.secondary(RESOURCE, 1)
        await create(path, paused=paused)

    monkeypatch.setattr(xen, "create", demoted_first)
    await pair.wish("mk1")

    def told() -> bool:
        vm = pair.vm("mk1")
        return vm is not None and vm.problem is not None and vm.problem.reason == "DiskNotAttached"

    await until(told, "DiskNotAttached")
    assert await pair.domains("mk1") == ()
    assert pair.running() == ()
    monkeypatch.undo()
    await pair.at("mk1").volumes.put(RESOURCE, pair.volume("Primary"))
    await pair.becomes("mk1", "running")
    await pair.runs_only_on("mk1")


async def test_stop_shuts_down_cleanly_and_starts_again_with_the_next_run(running: Pair) -> None:
    await running.wish("mk1", state="Stopped")
    vm = await running.becomes("mk1", "absent")
    assert vm.granted
    assert await running.domains("mk1") == ()
    assert "powered off" not in (vm.problem.message if vm.problem else "")
    await running.run(run=2)
    await running.runs_only_on("mk1")


async def test_a_guest_that_does_not_listen_is_destroyed_after_its_time(
    running: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(name: int | str) -> None:
        raise DriverError("ShutdownFailed", "the guest does not listen")

    monkeypatch.setattr(running.at("mk1").xen, "shutdown", deaf)
    await running.wish("mk1", state="Stopped", shutdown_grace_seconds=0.3)
    await running.becomes("mk1", "stopping")
    await running.becomes("mk1", "absent")
    assert await running.domains("mk1") == ()


async def test_row_35_a_clock_that_is_set_neither_shortens_nor_lengthens_its_time(
    running: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(*_: object) -> None:
        raise DriverError("ShutdownFailed", "the guest does not listen")

    monkeypatch.setattr(xen.Xen, "shutdown", deaf)
    host = running.simulation.hosts["mk1"]
    await running.wish("mk1", state="Stopped", shutdown_grace_seconds=60.0)
    await running.becomes("mk1", "stopping")
    host.clock_is_ahead = 3600.0
    await running.kill("mk1")
    await running.start("mk1")
    await running.becomes("mk1", "stopping")
    await asyncio.sleep(1.0)
    assert len(await running.domains("mk1")) == 1, "it has its minute"
    host.clock_is_ahead = -3600.0
    await running.wish("mk1", state="Stopped", shutdown_grace_seconds=0.5)
    await running.becomes("mk1", "absent")


async def test_pause_and_go_on(running: Pair) -> None:
    await running.wish("mk1", state="Paused")
    await running.becomes("mk1", "paused")
    assert running.running() == ()
    await running.wish("mk1", state="Stopped")
    await running.becomes("mk1", "absent")
    await running.wish("mk1", state="Paused", run=2)
    await running.becomes("mk1", "paused")
    assert running.running() == (), "a VM that shall be paused never runs on its way there"
    await running.run(run=2)


async def test_row_27_the_guests_poweroff_ends_the_run_and_a_higher_run_starts_it(running: Pair) -> None:
    running.guest("mk1").poweroff()
    vm = await running.becomes("mk1", "halted")
    assert vm.halted_reason == "poweroff"
    assert await running.domains("mk1") == ()
    assert (await running.wish("mk1")).status == "halted"
    await running.run(run=2)


async def test_the_guests_reboot_is_followed_at_once(running: Pair) -> None:
    (before,) = await running.domains("mk1")
    running.guest("mk1").reboot()
    await until(lambda: (vm := running.vm("mk1")) is not None and vm.restart.count == 1, "a restart counted")
    vm = await running.becomes("mk1", "running")
    assert vm.restart.last_reason == "reboot"
    (after,) = await running.domains("mk1")
    assert after.domid != before.domid
    await running.runs_only_on("mk1")


async def test_row_27_a_crash_is_followed_with_a_growing_pause(running: Pair) -> None:
    pauses = []
    for count in (1, 2):
        running.guest("mk1").crash()
        await until(
            lambda count=count: (vm := running.vm("mk1")) is not None and vm.restart.count == count,
            f"restart {count}",
        )
        record = VmStore(running.at("mk1")).get(UID)
        assert record is not None
        assert record.restart_at is not None
        assert record.stopping_since is not None
        pauses.append(round(record.restart_at - record.stopping_since))
        await running.becomes("mk1", "running")
    assert pauses == [1, 2]
    await running.runs_only_on("mk1")


async def test_crashed_and_destroyed_or_kept_for_a_look(running: Pair) -> None:
    await running.wish("mk1", on_crash="destroy")
    running.guest("mk1").crash()
    vm = await running.becomes("mk1", "crashed")
    assert vm.halted_reason == "crash"
    assert await running.domains("mk1") == ()
    await running.run(run=2, on_crash="preserve")
    running.guest("mk1").crash()
    await running.becomes("mk1", "preserved")
    (kept,) = await running.domains("mk1")
    assert kept.state == "crashed"
    await running.run(run=3)
    await running.runs_only_on("mk1")


async def test_epochs(running: Pair) -> None:
    await running.wish("mk1", epoch=5)
    message = await refused("EpochTooOld", running.wish("mk1", epoch=4))
    assert "promised epoch 5" in message
    message = await refused("DomainPresent", running.wish("mk1", epoch=6, state="Released"))
    assert NAME in message
    await running.wish("mk1", epoch=5, state="Stopped")
    await running.becomes("mk1", "absent")
    released = await running.wish("mk1", epoch=6, state="Released")
    assert (released.epoch, released.granted) == (6, False)
    await refused("EpochReleased", running.wish("mk1", epoch=6))
    await refused("EpochTooOld", running.wish("mk1", epoch=5))
    await running.run(epoch=7, run=2)


async def test_promises_survive_the_agents_death(running: Pair) -> None:
    await running.wish("mk1", epoch=5)
    await running.kill("mk1")
    await running.start("mk1")
    await refused("EpochTooOld", running.wish("mk1", epoch=4))
    await running.becomes("mk1", "running")
    await running.runs_only_on("mk1")


async def test_an_agent_that_comes_back_starts_nothing_that_did_not_run(pair: Pair) -> None:
    """Killed right after its promise: the journal has the wish, no domain was made."""
    await pair.wish("mk1")  # answers before anything is done for it
    await pair.kill("mk1")
    assert not Xen.of(pair.simulation.hosts["mk1"]).domains
    await pair.start("mk1")
    vm = await pair.becomes("mk1", "absent")
    assert (vm.desired, vm.granted) == ("Running", True)
    assert await pair.domains("mk1") == ()
    await pair.run()


async def test_after_a_reboot_of_the_host_the_controller_asks_first(running: Pair) -> None:
    await running.reboot("mk1")
    vm = await running.becomes("mk1", "absent")
    assert vm.granted
    await running.synced()
    await running.at("mk1").volumes.put(RESOURCE, running.volume("Primary"))
    assert running.vm("mk1") is not None
    assert await running.domains("mk1") == ()
    await running.run()
    await running.runs_only_on("mk1")


async def test_a_crash_while_the_agent_is_away_is_handled_when_it_is_back(running: Pair) -> None:
    await running.kill("mk1")
    running.guest("mk1").crash()
    await running.start("mk1")
    await until(lambda: (vm := running.vm("mk1")) is not None and vm.restart.count == 1, "the restart")
    await running.becomes("mk1", "running")
    await running.runs_only_on("mk1")


async def test_a_domain_that_somebody_destroyed_comes_back(running: Pair) -> None:
    (domain,) = await running.domains("mk1")
    await running.at("mk1").host.run(["xl", "destroy", str(domain.domid)])
    await until(lambda: (vm := running.vm("mk1")) is not None and vm.restart.count == 1, "the restart")
    await running.becomes("mk1", "running")
    await running.runs_only_on("mk1")


async def test_a_name_in_use_is_refused_with_the_domain_that_has_it(running: Pair) -> None:
    other = running.domain(uid="22222222-2222-4222-8222-222222222222")
    message = await refused("NameTaken", running.at("mk1").domains.put(NAME, other))
    assert UID in message
    (domain,) = await running.domains("mk1")
    store = VmStore(running.at("mk1"))
    store.delete(UID)
    message = await refused("NameInUse", running.at("mk1").domains.put(NAME, other))
    assert f"domain {domain.domid}" in message


async def test_forgetting_a_vm(running: Pair) -> None:
    removal = DomainRemoval(term=1, uid=UID, epoch=1)
    message = await refused("DomainPresent", running.at("mk1").domains.remove(NAME, removal))
    assert NAME in message
    await running.wish("mk1", state="Stopped", epoch=2)
    await running.becomes("mk1", "absent")
    await refused("EpochTooOld", running.at("mk1").domains.remove(NAME, removal))
    await running.at("mk1").domains.remove(NAME, removal.model_copy(update={"epoch": 2}))
    assert running.vm("mk1") is None
    assert not await running.at("mk1").host.exists(f"/etc/xen/xentandem/{NAME}.cfg")
    await running.at("mk1").domains.remove(NAME, removal)  # again: nothing to do


@pytest.mark.parametrize("known", [True, False])
async def test_what_comes_for_a_forgotten_vm_is_too_late(pair: Pair, known: bool) -> None:
    """Also where nothing was known of it, and after the agent's restart: a deleted VM has no second life."""
    if known:
        await pair.wish("mk1", state="Stopped")
    removal = DomainRemoval(term=1, uid=UID, epoch=1)
    await pair.at("mk1").domains.remove(NAME, removal)
    await refused("Gone", pair.wish("mk1", epoch=2))
    await pair.agents["mk1"].kill()
    await pair.start("mk1")
    assert UID in pair.at("mk1").observer.state.gone
    await refused("Gone", pair.wish("mk1", epoch=2))
    assert pair.running() == ()


async def test_a_hung_xl_holds_up_its_answer_alone(running: Pair) -> None:
    """Nothing that cannot be read counts as absent: no domain is made beside the one that is there."""
    running.simulation.hang("mk1", "xl")
    await running.at("mk1").volumes.put(RESOURCE, running.volume("Primary"))
    running.simulation.unhang("mk1", "xl")
    await running.runs_only_on("mk1")


async def test_row_36_a_zombie_is_named_and_nothing_is_started_beside_it(running: Pair) -> None:
    Xen.of(running.simulation.hosts["mk1"]).zombies = True
    await running.wish("mk1", state="Stopped")

    def told() -> bool:
        vm = running.vm("mk1")
        return vm is not None and vm.problem is not None and vm.problem.reason == "ZombieDomain"

    await until(told, "ZombieDomain")
    message = await refused("ZombieDomain", running.wish("mk1", run=2))
    assert "reboot" in message


async def test_a_restart_needs_its_disk_as_a_start_does(running: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk became Secondary after the guest crashed: no `xl create` is even tried until it is Primary again."""
    context, created = running.at("mk1"), []
    create = context.xen.create

    async def counted(path: str, *, paused: bool = False) -> None:
        created.append(path)
        await create(path, paused=paused)

    monkeypatch.setattr(context.xen, "create", counted)
    running.guest("mk1").crash()
    await until(lambda: not Xen.of(running.simulation.hosts["mk1"]).domains, "the crashed domain is gone")
    await context.volumes.put(RESOURCE, running.volume("Secondary"))

    def told() -> bool:
        vm = running.vm("mk1")
        return vm is not None and vm.problem is not None and vm.problem.reason == "DiskNotPrimary"

    await until(told, "DiskNotPrimary")
    assert created == []
    await context.volumes.put(RESOURCE, running.volume("Primary"))
    await running.becomes("mk1", "running")
    await running.runs_only_on("mk1")


async def test_an_older_journal_that_is_put_back_starts_no_vm_a_second_time(pair: Pair) -> None:
    """Not even one without disks, which DRBD does not guard."""
    bare = config(disks=(), kernel=None, bootloader="pygrub")
    await pair.wish("mk1", config=bare)
    await pair.becomes("mk1", "running")
    log = pair.directory / "state" / "mk1" / "journal.log"
    older = log.read_bytes()
    await pair.wish("mk1", config=bare, state="Stopped", shutdown_grace_seconds=0.2)
    await pair.becomes("mk1", "absent")
    await pair.wish("mk1", config=bare, state="Released", epoch=2)
    await pair.wish("mk2", config=bare, epoch=2)
    await pair.becomes("mk2", "running")
    await pair.kill("mk1")
    newest = log.read_bytes()
    log.write_bytes(older)
    with pytest.raises(JournalCorrupt, match="not the newest"):
        await pair.start("mk1")
    assert pair.running() == ("mk2",)
    log.write_bytes(newest)
    await pair.start("mk1")
    assert (await pair.becomes("mk1", "absent")).epoch == 2
    await pair.kill("mk1")
    log.write_bytes(older)
    await pair.reboot("mk1")  # which starts nothing, whatever the journal says
    await pair.becomes("mk1", "absent")
    assert pair.running() == ("mk2",)
