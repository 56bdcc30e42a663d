"""From empty hosts to a VM that runs, moves there and back, stops and is gone: each step by the agents alone."""

from __future__ import annotations

import pytest

from agent.protocol import DomainRemoval, HostState, VolumeRemoval
from tests.lab.hosts import NAME, RESOURCE, SIZE, UID, VOLUME_UID, Hosts


def whole(state: HostState) -> bool:
    """Every probe was read once, and whoever moves a VM here is let in."""
    return state.facts.volume_groups is not None and state.facts.relocation_listening and state.problems == ()


def attached(state: HostState) -> bool:
    (domain,) = state.domains.values()
    return domain.disks is not None and [disk.attached for disk in domain.disks] == [True]


@pytest.mark.brief
async def test_the_agents_see_their_hosts(clean: Hosts) -> None:
    for name in ("mk1", "mk2"):
        state = await clean.becomes(name, "facts", whole)
        facts = state.facts
        assert facts.xen_version is not None
        assert facts.xen_version.startswith("4.17.5")
        assert facts.virt_caps is not None
        assert {"pv", "hvm", "hap", "shadow"} <= set(facts.virt_caps)
        assert facts.cpu_vendor == "AuthenticAMD"
        assert facts.memory_free_mib is not None
        assert facts.memory_free_mib > 256
        assert (facts.drbd_version, facts.drbd_disable_sendpage) == ("8.4.11", True)
        assert facts.bridges == ("xenbr0",)
        assert facts.volume_groups is not None
        assert [group.name for group in facts.volume_groups] == ["vg0"]
        assert (state.volumes, state.vms, state.domains) == ({}, {}, {})


async def test_a_volume(clean: Hosts) -> None:
    await clean.make_volume()
    for name, role, peer in (("mk1", "Primary", "Secondary"), ("mk2", "Secondary", "Primary")):
        await clean.becomes(
            name,
            f"{role}/{peer}",
            lambda state, wanted=(role, peer): (  # type: ignore[misc]
                (volume := state.volumes[RESOURCE]).peer is not None and (volume.role, volume.peer.role) == wanted
            ),
        )
        volume = await clean.volume(name)
        assert volume.logical_volume is not None
        assert volume.logical_volume.size == SIZE
        assert volume.logical_volume.owner_uid == VOLUME_UID
        assert volume.metadata == "present"
        assert volume.problem is None
        assert (
            volume.size == SIZE - 8192 - 4096 or volume.size == int(clean.on(name, "cat /sys/block/drbd1/size")) * 512
        )
    assert (
        clean.on("mk1", "cmp /dev/vg0/vm_shaolin /dev/zero | head -c0; drbdadm role vm_shaolin")
        == "Primary/Secondary\n"
    )


@pytest.mark.brief
async def test_a_vm_runs_and_stops(synced: Hosts) -> None:
    await synced.run_vm()
    assert synced.answers_ping("mk1")
    assert synced.answers_ping("mk2")
    vm = await synced.vm_becomes("mk1", "running")
    assert vm.domid is not None
    await synced.becomes("mk1", "disk attached", attached)  # looked at now and then: the VM may run before
    await synced.put_domain("mk1", state="Stopped")
    await synced.vm_becomes("mk1", "absent")
    assert synced.domains("mk1") == []
    assert "powers off" in synced.console("mk1")
    synced.nothing_lost("mk1")
    assert synced.record_on_disk("mk1") == max(tick.number for tick in synced.ticks("mk1"))
    await synced.clients["mk1"].delete_domain(NAME, DomainRemoval(term=1, uid=UID, epoch=1))
    await synced.put_volume("mk1", role="Secondary")
    for name in ("mk2", "mk1"):
        await synced.clients[name].delete_volume(RESOURCE, VolumeRemoval(term=1, uid=VOLUME_UID, policy="Delete"))
        assert synced.on(name, "lvs --noheadings; ls /etc/drbd.d; grep -c ' 1:' /proc/drbd || true").split() == [
            "global_common.conf",
            "0",
        ]
