"""A volume's life on two simulated hosts, through the API: levels, roles, what is taken, deletion, reboots."""

from __future__ import annotations

import asyncio

import pytest
from agent_facts import OTHER, UID, desired
from fleet import Fleet, ready, refused

from agent.drivers import xl_config
from agent.host import Completed
from agent.protocol import DiskConfig, DomainConfig, DomainDesired
from agent.simulation.host import SimulatedHost
from agent.simulation.process import failed

SYNC = {"kind": "initial-sync", "resource": "vm_shaolin", "uid": UID}
FOREIGN = """resource byhand {
  on mk1 { address ipv4 10.0.0.81:%d; volume 0 { device minor %d; disk %s; meta-disk internal; } }
  on mk2 { address ipv4 10.0.0.82:%d; volume 0 { device minor %d; disk %s; meta-disk internal; } }
}
"""


async def start_domain(fleet: Fleet, name: str) -> None:
    """A domain made by hand with the volume as its disk."""
    wanted = DomainDesired(
        term=1,
        epoch=1,
        uid=OTHER,
        namespace="default",
        name="byhand",
        state="Running",
        config=DomainConfig(
            memory_mib=64,
            max_memory_mib=64,
            kernel="/boot/vmlinuz",
            disks=(DiskConfig(resource="vm_shaolin", minor=1, vdev="xvda"),),
        ),
    )
    host = fleet.simulation.hosts[name]
    for path in ("/boot/vmlinuz",):
        await host.write_text(path, "kernel")
    await host.write_text("/etc/xen/byhand.cfg", xl_config.render(wanted))
    completed = await host.run(["xl", "create", "-e", "/etc/xen/byhand.cfg"])
    assert completed.exit == 0, completed


async def configured(fleet: Fleet, name: str) -> list[str]:
    """Every resource's file, and whatever a crash left beside them."""
    names = await fleet.simulation.hosts[name].list_dir("/etc/drbd.d")
    return [one for one in names if one != "global_common.conf"]


# --- levels ---------------------------------------------------------------------------------------------------------


async def test_reserved_makes_nothing(fleet: Fleet) -> None:
    volume = await fleet.put_volume_ok("mk1", level="Reserved")
    assert (volume.uid, volume.minor, volume.port, volume.metadata) == (UID, 1, 7789, "none")
    assert volume.logical_volume is None
    assert not volume.configured
    assert fleet.hosts["mk1"].ran("lvcreate") == []
    assert await configured(fleet, "mk1") == []


async def test_provisioned_makes_volume_configuration_and_metadata(fleet: Fleet) -> None:
    volume = await fleet.put_volume_ok("mk1", level="Provisioned")
    assert volume.logical_volume is not None
    assert volume.logical_volume.owner_uid == UID
    assert volume.logical_volume.size == 64 << 20
    assert volume.metadata == "present"
    assert volume.generation is not None
    assert volume.generation.fresh
    assert not volume.configured
    assert await configured(fleet, "mk1") == ["vm_shaolin.res"]
    assert len(fleet.hosts["mk1"].ran("drbdadm", "create-md")) == 1


async def test_levels_never_go_down_and_repeated_requests_do_nothing(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1", level="Up")
    before = [one.argv for one in fleet.hosts["mk1"].done if one.argv[0] in ("lvcreate", "lvchange", "drbdadm")]
    volume = await fleet.put_volume_ok("mk1", level="Reserved")
    assert volume.configured
    await fleet.put_volume_ok("mk1", level="Up")
    after = [one.argv for one in fleet.hosts["mk1"].done if one.argv[0] in ("lvcreate", "lvchange", "drbdadm")]
    changing = [argv for argv in after[len(before) :] if argv[1] not in ("get-gi", "dump-md", "--version")]
    assert changing == []


async def test_both_up_are_connected_and_new(fleet: Fleet) -> None:
    await ready(fleet, synced=False)
    volume = await fleet.volume("mk1")
    assert (volume.role, volume.disk, volume.suspended) == ("Secondary", "Inconsistent", "no")
    assert volume.peer is not None
    assert volume.peer.disk == "Inconsistent"
    assert volume.size == 65496 << 10
    assert volume.options == "C 500M sha1 10.0.0.81 10.0.0.82"


async def test_changed_options_reach_the_kernel(fleet: Fleet) -> None:
    await ready(fleet)
    for name in fleet.hosts:
        volume = await fleet.put_volume_ok(name, resync_rate="50M")
        assert volume.options == "C 50M sha1 10.0.0.81 10.0.0.82"
        assert len(fleet.hosts[name].ran("drbdadm", "adjust")) == 1
        assert "resync-rate 50M" in await fleet.simulation.hosts[name].read_text("/etc/drbd.d/vm_shaolin.res")


async def test_external_metadata_has_its_own_volume(fleet: Fleet) -> None:
    volume = await fleet.put_volume_ok("mk1", level="Up", metadata_group="vg0")
    state = await fleet.state("mk1")
    assert state.logical_volumes["vg0/vm_shaolin_meta"].owner_uid == UID
    assert volume.size == 64 << 20
    status, _ = await fleet.remove_volume("mk1", "Delete")
    assert status == 204
    assert (await fleet.state("mk1")).logical_volumes == {}


# --- first sync and roles -------------------------------------------------------------------------------------------


async def test_the_first_sync_is_forced_once(fleet: Fleet) -> None:
    await ready(fleet, synced=False)
    await fleet.operate_ok("mk1", "sync-1", SYNC)
    volume = await fleet.volume("mk1")
    assert volume.forced
    assert volume.logical_volume is not None
    assert "xentandem.forced" in volume.logical_volume.tags
    await fleet.synced()
    status, answer = await fleet.operate("mk1", "sync-1", SYNC)  # joined
    assert (status, answer["outcome"]) == (200, "Succeeded")
    assert [step["name"] for step in answer["steps"]] == ["Starting", "Forcing", "Done"]
    assert (await refused(fleet.operate("mk1", "sync-2", SYNC)))["reason"] == "AlreadyForced"
    assert (await refused(fleet.operate("mk2", "sync-3", SYNC)))["reason"] == "NotBrandNew"
    forced = [one for host in fleet.hosts.values() for one in host.ran("drbdadm", "primary", "--force")]
    assert len(forced) == 1
    assert fleet.simulation.truth.replicas_identical("vm_shaolin")


async def test_force_waits_for_the_peer(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1")
    found = await refused(fleet.operate("mk1", "sync-1", SYNC))
    assert found["reason"] == "NotBrandNew"
    assert not (await fleet.volume("mk1")).forced


async def test_force_of_another_uid_is_refused(fleet: Fleet) -> None:
    await ready(fleet, synced=False)
    found = await refused(fleet.operate("mk1", "sync-1", SYNC | {"uid": OTHER}))
    assert found["reason"] == "UidMismatch"


async def test_roles_follow_the_request(fleet: Fleet) -> None:
    await ready(fleet)
    assert (await fleet.put_volume_ok("mk1", role="Primary")).role == "Primary"
    found = await refused(fleet.put_volume("mk2", role="Primary"))
    assert found["reason"] == "PeerIsPrimary"
    assert (await fleet.put_volume_ok("mk1")).role == "Secondary"
    assert (await fleet.put_volume_ok("mk2", role="Primary")).role == "Primary"


async def test_an_inconsistent_disk_is_not_promoted(fleet: Fleet) -> None:
    await ready(fleet, synced=False)
    found = await refused(fleet.put_volume("mk1", role="Primary"))
    assert found["reason"] == "NotUpToDate"
    volume = await fleet.volume("mk1")
    assert volume.problem is not None
    assert volume.problem.model_dump() == found
    assert (await fleet.put_volume_ok("mk1")).problem is None


async def test_a_disk_in_use_is_not_demoted_and_not_deleted(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    await start_domain(fleet, "mk1")
    for answer in (fleet.put_volume("mk1"), fleet.remove_volume("mk1", "Delete")):
        found = await refused(answer)
        assert found["reason"] == "InUse"
        assert "byhand" in found["message"]
    await fleet.becomes("mk1", "used by", lambda state: state.volumes["vm_shaolin"].used_by == ("byhand",))
    assert (await fleet.volume("mk1")).role == "Primary"


# --- what is taken --------------------------------------------------------------------------------------------------


async def test_a_second_volume_cannot_take_minor_port_or_volume(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1", level="Reserved")
    other = {"uid": OTHER, "name": "other", "resource": "other", "minor": 2, "port": 7790, "logical_volume": "other"}
    for taken, reason in (
        ({"minor": 1}, "MinorTaken"),
        ({"port": 7789}, "PortTaken"),
        ({"logical_volume": "vm_shaolin"}, "LogicalVolumeTaken"),
    ):
        found = await refused(fleet.put_volume("mk1", **(other | taken)))
        assert found["reason"] == reason
        assert "default/vm-shaolin" in found["message"]
    assert (await refused(fleet.put_volume("mk1", uid=OTHER)))["reason"] == "ResourceTaken"
    await fleet.put_volume_ok("mk1", **other)


async def test_what_was_made_by_hand_is_respected(fleet: Fleet) -> None:
    host = fleet.simulation.hosts["mk1"]
    await host.run(["lvcreate", "-y", "-n", "vm_shaolin", "-L", "64m", "vg0"])
    found = await refused(fleet.put_volume("mk1"))
    assert found["reason"] == "LogicalVolumeTaken"
    assert "vg0/vm_shaolin" in found["message"]
    await host.run(["lvremove", "-y", "vg0/vm_shaolin"])
    for port, minor, reason in ((7789, 9, "PortTaken"), (7999, 1, "MinorTaken")):
        values = (port, minor, "/dev/vg0/byhand")
        await host.write_text("/etc/drbd.d/byhand.res", FOREIGN % (*values, *values))
        found = await refused(fleet.put_volume("mk1"))
        assert found["reason"] == reason
        assert "byhand" in found["message"]
    assert "byhand" in (await fleet.state("mk1")).volumes
    await host.remove("/etc/drbd.d/byhand.res")
    await fleet.put_volume_ok("mk1")


async def test_row_31_no_room_and_no_group_are_told_with_numbers(fleet: Fleet) -> None:
    found = await refused(fleet.put_volume("mk1", size=1 << 40))
    assert found["reason"] == "NoSpace"
    assert "1048576 MiB" in found["message"]
    found = await refused(
        fleet.put_volume("mk1", group="vg7", resource="b", uid=OTHER, minor=2, port=7790, logical_volume="b")
    )
    assert found["reason"] == "NoVolumeGroup"
    assert "vg0" in found["message"]


async def test_only_the_groups_that_the_host_offers_are_used(fleet: Fleet) -> None:
    host = {"term": 1, "volume_groups": ["vgother"], "replication_address": "10.0.0.81"}
    assert (await fleet.request("mk1", "PUT", "/v1/host", host))[0] == 200
    found = await refused(fleet.put_volume("mk1"))
    assert found["reason"] == "GroupNotAllowed"
    assert fleet.hosts["mk1"].ran("lvcreate") == []


# --- what cannot be read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "reason"), [("lvs", "LvmUnreadable"), ("drbdsetup", "DrbdUnreadable"), ("xl", "DomainsUnreadable")]
)
async def test_unreadable_is_not_absent(fleet: Fleet, program: str, reason: str) -> None:
    """A tool that fails leaves the last values and says so; nothing is done on what nobody knows."""
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    before = await fleet.state("mk1")
    host = fleet.simulation.hosts["mk1"]
    real = host.programs[program]

    async def broken(_: SimulatedHost, argv: list[str], __: bytes) -> Completed:
        return failed(argv, 5, "Cannot allocate memory")

    host.add_command(program, broken)
    found = await refused(fleet.put_volume("mk1", role="Secondary"))
    assert found["reason"] == "Unreadable"
    await fleet.becomes("mk1", reason, lambda state: reason in {problem.reason for problem in state.problems})
    state = await fleet.state("mk1")
    assert set(state.volumes) == set(before.volumes)
    assert state.volumes["vm_shaolin"].role == "Primary"
    assert state.volumes["vm_shaolin"].problem is not None
    assert state.logical_volumes == before.logical_volumes
    host.programs[program] = real
    assert (await fleet.put_volume_ok("mk1")).role == "Secondary"
    await fleet.becomes("mk1", "readable", lambda state: state.problems == ())


async def test_a_hung_tool_does_not_hold_up_the_rest(fleet: Fleet) -> None:
    fleet.simulation.hang("mk1", "drbdadm")
    hung = asyncio.ensure_future(fleet.put_volume("mk1"))
    await fleet.becomes("mk1", "the LV", lambda state: "vg0/vm_shaolin" in state.logical_volumes)
    await fleet.put_volume_ok(
        "mk1", level="Reserved", uid=OTHER, resource="other", minor=2, port=7790, logical_volume="other"
    )
    assert not hung.done()
    fleet.simulation.unhang("mk1", "drbdadm")
    assert (await hung)[0] == 200


# --- deletion -------------------------------------------------------------------------------------------------------


async def test_delete_removes_everything(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    for name in fleet.hosts:
        assert await fleet.remove_volume(name, "Delete") == (204, None)
        state = await fleet.state(name)
        assert state.volumes == {}
        assert state.logical_volumes == {}
        assert await configured(fleet, name) == []
        assert await fleet.remove_volume(name, "Delete") == (204, None)  # again: done already
        assert (await refused(fleet.put_volume(name)))["reason"] == "Gone"  # late: nothing is made anew
        await fleet.put_volume_ok(name, uid=OTHER)  # and the names are free


async def test_a_greater_volume_in_the_place_of_a_deleted_one_is_new(fleet: Fleet) -> None:
    """The deleted one's metadata still lies where drbdmeta noted it, and would be taken for the new one's."""
    await ready(fleet)
    assert await fleet.remove_volume("mk1", "Delete") == (204, None)
    volume = await fleet.put_volume_ok("mk1", uid=OTHER, size=128 << 20, level="Provisioned")
    assert volume.generation is not None
    assert volume.generation.fresh


async def test_a_volume_that_was_deleted_before_it_came_is_not_made(fleet: Fleet) -> None:
    """What was asked first arrives last; also at an agent that was killed in between."""
    assert await fleet.remove_volume("mk1", "Retain") == (204, None)
    assert (await refused(fleet.put_volume("mk1")))["reason"] == "Gone"
    await fleet.kill("mk1")
    await fleet.start("mk1")
    assert (await refused(fleet.put_volume("mk1")))["reason"] == "Gone"
    assert (await fleet.state("mk1")).logical_volumes == {}


async def test_retain_keeps_the_data_under_another_name(fleet: Fleet) -> None:
    await ready(fleet)
    assert await fleet.remove_volume("mk1", "Retain") == (204, None)
    state = await fleet.state("mk1")
    assert state.volumes == {}
    assert list(state.logical_volumes) == ["vg0/retained-vm_shaolin-11111111"]
    kept = state.logical_volumes["vg0/retained-vm_shaolin-11111111"]
    assert kept.retained
    assert kept.owner_uid == UID
    assert kept.size == 64 << 20
    assert await fleet.remove_volume("mk1", "Retain") == (204, None)


async def test_deletion_needs_the_right_uid(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1")
    found = await refused(fleet.remove_volume("mk1", "Delete", wanted=desired(uid=OTHER)))
    assert found["reason"] == "UidMismatch"
    assert "vg0/vm_shaolin" in (await fleet.state("mk1")).logical_volumes


async def test_a_deletion_only_goes_on(fleet: Fleet) -> None:
    await ready(fleet)
    host = fleet.simulation.hosts["mk1"]

    async def broken(_: SimulatedHost, argv: list[str], __: bytes) -> Completed:
        return failed(argv, 5, "in use")

    real = host.programs["lvremove"]
    host.add_command("lvremove", broken)
    assert (await refused(fleet.remove_volume("mk1", "Delete")))["reason"] == "RemoveFailed"
    assert (await refused(fleet.put_volume("mk1")))["reason"] == "BeingDeleted"
    assert (await refused(fleet.remove_volume("mk1", "Retain")))["reason"] == "BeingDeleted"
    host.programs["lvremove"] = real
    await fleet.restart("mk1")  # goes on by itself
    await fleet.becomes("mk1", "gone", lambda state: not state.volumes and not state.logical_volumes)


async def test_a_reservation_is_given_up_and_nothing_else(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1", level="Reserved")
    assert await fleet.remove_volume("mk1", "Unreserve") == (204, None)
    assert (await fleet.state("mk1")).volumes == {}
    assert await fleet.remove_volume("mk1", "Unreserve") == (204, None)  # again: done already
    await fleet.put_volume_ok("mk1", level="Provisioned")
    found = await refused(fleet.remove_volume("mk1", "Unreserve"))
    assert found["reason"] == "NotOnlyReserved"
    assert "vg0/vm_shaolin" in found["message"]
    assert "vm_shaolin" in (await fleet.state("mk1")).volumes
    assert await fleet.remove_volume("mk1", "Retain") == (204, None)


async def test_a_reservation_is_kept_while_it_cannot_be_seen_that_nothing_was_made(fleet: Fleet) -> None:
    await fleet.put_volume_ok("mk1", level="Reserved")
    host = fleet.simulation.hosts["mk1"]
    real = host.programs["lvs"]

    async def broken(_: SimulatedHost, argv: list[str], __: bytes) -> Completed:
        return failed(argv, 5, "Cannot allocate memory")

    host.add_command("lvs", broken)
    assert (await fleet.remove_volume("mk1", "Unreserve"))[0] != 204
    assert "vm_shaolin" in (await fleet.state("mk1")).volumes
    host.programs["lvs"] = real
    assert await fleet.remove_volume("mk1", "Unreserve") == (204, None)
