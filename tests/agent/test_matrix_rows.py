"""Rows of the failure matrix (docs/failure-modes.md) that are an agent's own business."""

from __future__ import annotations

from agent_facts import UID
from fleet import Fleet, ready, refused, until

from agent.protocol import HostState

RESOURCE = "vm_shaolin"
CONFIGURATION = "/etc/drbd.d/vm_shaolin.res"


async def by_hand(fleet: Fleet, host: str, line: str, *, exit: int = 0) -> None:
    done = await fleet.hosts[host].run(line.split())
    assert done.exit == exit, done


def disk(state: HostState) -> str:
    return state.volumes[RESOURCE].disk


def connection(state: HostState) -> str:
    peer = state.volumes[RESOURCE].peer
    return peer.connection if peer else ""


async def test_row_02_a_half_synced_host_that_lost_power_is_never_promoted_and_goes_on(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    fleet.simulation.cut_link("mk1", "mk2")
    device = fleet.simulation.hosts["mk1"].open_device("/dev/drbd1", "w")
    for block in range(0, 16000, 8):  # much to copy
        await device.write(block * 4096, b"x" * 4096)
    fleet.simulation.slow_link(1_000_000)
    fleet.simulation.restore_link("mk1", "mk2")
    await fleet.becomes("mk2", "Inconsistent", lambda state: disk(state) == "Inconsistent")
    await fleet.reboot("mk2")
    await fleet.becomes("mk2", "seen", lambda state: disk(state) == "Inconsistent")
    assert (await refused(fleet.put_volume("mk2", role="Primary")))["reason"] in ("NotUpToDate", "PeerPrimary")
    fleet.simulation.slow_link(1_000_000_000)
    device.close()
    await fleet.synced()
    assert fleet.simulation.truth.replicas_identical(RESOURCE)


async def test_row_11_a_disk_that_fails_without_the_vm_is_told_and_not_attached_again(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")
    await by_hand(fleet, "mk2", "drbdadm detach --force vm_shaolin")
    await fleet.becomes("mk2", "Diskless", lambda state: disk(state) == "Diskless")
    assert (await refused(fleet.put_volume("mk2")))["reason"] == "DiskFailed"
    device = fleet.simulation.hosts["mk1"].open_device("/dev/drbd1", "w")
    await device.write(0, b"y" * 4096)  # acknowledged: the guest's side goes on
    device.close()
    assert (await fleet.volume("mk1")).disk == "UpToDate"


async def test_row_30_a_configuration_edited_by_hand_is_not_overwritten_blindly(fleet: Fleet) -> None:
    await ready(fleet)
    host = fleet.simulation.hosts["mk1"]
    ours = await host.read_text(CONFIGURATION)
    await host.write_text(CONFIGURATION, ours.replace("resync-rate 500M", "resync-rate 7M"))
    await fleet.put_volume_ok("mk1", resync_rate="50M")
    assert "resync-rate 50M" in await host.read_text(CONFIGURATION)
    await host.write_text(CONFIGURATION, ours.replace(UID, "somebody-else"))
    found = await refused(fleet.put_volume("mk1", resync_rate="60M"))
    assert found["reason"] in ("ForeignConfiguration", "ResourceTaken")
    await host.write_text(CONFIGURATION, "resource vm_shaolin {")  # the whole host's drbdadm fails by it
    found = await refused(fleet.put_volume("mk1", resync_rate="70M"))
    assert found["reason"]
    await fleet.synced()  # nothing of it reached the kernel


async def test_row_32_a_larger_replica_is_used_as_far_as_the_other_goes(fleet: Fleet) -> None:
    await ready(fleet)
    before = (await fleet.volume("mk2")).size
    await by_hand(fleet, "mk2", "lvextend -L 96m vg0/vm_shaolin")
    await fleet.put_volume_ok("mk2")
    assert (await fleet.volume("mk2")).size == before
    await fleet.synced()


async def test_row_33_a_smaller_replica_is_refused_and_nothing_is_made_anew(fleet: Fleet) -> None:
    await by_hand(fleet, "mk2", f"lvcreate -y -n vm_shaolin -L 32m --addtag xentandem.uid={UID} vg0")
    await fleet.put_volume_ok("mk1")
    status, found = await fleet.put_volume("mk2")
    assert status != 200, found
    assert "vm_shaolin" in found["message"]
    assert fleet.hosts["mk2"].ran("drbdadm", "create-md") == []


async def test_row_37_a_secret_that_somebody_put_on_one_side_parts_them_and_is_taken_out_again(fleet: Fleet) -> None:
    await ready(fleet)
    host = fleet.simulation.hosts["mk1"]
    ours = await host.read_text(CONFIGURATION)
    secret = 'net {\n    cram-hmac-alg sha1;\n    shared-secret "theirs";'
    await host.write_text(CONFIGURATION, ours.replace("net {", secret, 1))
    await by_hand(fleet, "mk1", "drbdadm disconnect vm_shaolin")
    await host.run(["drbdadm", "connect", RESOURCE])
    await until(lambda: _apart(fleet), "sides that refuse each other")
    for name in ("mk1", "mk2"):
        await fleet.put_volume_ok(name, resync_rate="50M")
    await fleet.put_volume_ok("mk1", resync_rate="50M")
    await fleet.synced()
    assert "theirs" not in await host.read_text(CONFIGURATION)


async def _apart(fleet: Fleet) -> bool:
    return "StandAlone" in (connection(await fleet.state("mk1")), connection(await fleet.state("mk2")))
