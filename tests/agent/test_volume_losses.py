"""Volumes over reboots and restarts, and when a disk, a volume, metadata or the journal is gone."""

from __future__ import annotations

from agent_facts import UID
from fleet import Fleet, ready, refused

from agent.protocol import HostState

SYNC = {"kind": "initial-sync", "resource": "vm_shaolin", "uid": UID}


async def test_after_a_reboot_it_is_up_as_secondary(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    await fleet.reboot("mk1")

    def up(state: HostState) -> bool:
        volume = state.volumes["vm_shaolin"]
        return volume.configured and volume.disk == "UpToDate" and volume.peer is not None

    await fleet.becomes("mk1", "up again", up)
    assert (await fleet.volume("mk1")).role == "Secondary"
    await fleet.synced()


async def test_a_volume_that_was_only_provisioned_stays_down_after_a_reboot(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1", level="Provisioned")
    await fleet.reboot("mk1")
    assert not (await fleet.volume("mk1")).configured
    assert fleet.hosts["mk1"].ran("drbdadm", "up") == []


async def test_an_agents_restart_changes_no_role(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    await fleet.restart("mk1")
    assert (await fleet.volume("mk1")).role == "Primary"
    assert (await fleet.put_volume_ok("mk1", role="Primary")).role == "Primary"


async def test_a_lost_volume_is_not_made_anew(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.kill("mk1")
    host = fleet.simulation.hosts["mk1"]
    assert (await host.run(["drbdadm", "down", "vm_shaolin"])).exit == 0
    assert (await host.run(["lvremove", "-y", "vg0/vm_shaolin"])).exit == 0
    await fleet.start("mk1")
    found = await refused(fleet.put_volume("mk1"))
    assert found["reason"] == "LogicalVolumeLost"
    assert len(fleet.hosts["mk1"].ran("lvcreate")) == 1


async def test_row_34_lost_metadata_is_not_made_anew(fleet: Fleet) -> None:
    await ready(fleet)
    host = fleet.simulation.hosts["mk1"]
    assert (await host.run(["drbdadm", "down", "vm_shaolin"])).exit == 0
    assert (await host.run(["drbdadm", "--", "--force", "wipe-md", "vm_shaolin"])).exit == 0
    found = await refused(fleet.put_volume("mk1"))
    assert found["reason"] == "MetadataLost"
    assert len(fleet.hosts["mk1"].ran("drbdadm", "create-md")) == 1


async def test_a_lost_journal_adopts_what_carries_the_uid_and_forces_nothing(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.kill("mk1")
    (fleet.directory / "state" / "mk1" / "journal.log").unlink()
    await fleet.start("mk1")
    volume = await fleet.put_volume_ok("mk1")
    assert (volume.disk, volume.metadata, volume.forced) == ("UpToDate", "present", True)
    assert len(fleet.hosts["mk1"].ran("drbdadm", "create-md")) == 1
    assert (await refused(fleet.operate("mk1", "sync-9", SYNC)))["reason"] == "AlreadyForced"


async def test_a_failed_disk_is_not_attached_again(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    assert (await fleet.simulation.hosts["mk1"].run(["drbdadm", "detach", "--force", "vm_shaolin"])).exit == 0
    found = await refused(fleet.put_volume("mk1", role="Primary"))
    assert found["reason"] == "DiskFailed"
    assert (await fleet.volume("mk1")).disk == "Diskless"
