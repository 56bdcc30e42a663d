"""Filesystem, image, and what a deletion leaves, on real LVM and DRBD."""

from __future__ import annotations

import pytest

from agent.protocol import HostState, ImageSource, InitialSync, VolumeRemoval, VolumeState, WriteContent
from controller.agents.client import Refused
from tests.lab.hosts import RESOURCE, VOLUME_UID, Hosts

OTHER_UID = "88888888-8888-4888-8888-888888888888"
OTHER = {"uid": OTHER_UID, "name": "vm-other", "resource": "vm_other", "logical_volume": "vm_other"}
PLACE = {"minor": 2, "port": 7790, "size": 16 << 20}


async def other_becomes(hosts: Hosts, name: str, what: str, disk: str, peer_disk: str) -> VolumeState:
    def so(state: HostState) -> bool:
        volume = state.volumes.get("vm_other")
        peer = volume.peer if volume is not None else None
        return volume is not None and peer is not None and (volume.disk, peer.disk) == (disk, peer_disk)

    return (await hosts.becomes(name, what, so)).volumes["vm_other"]


async def test_a_filesystem_is_made_once_and_a_retained_volume_keeps_it(synced: Hosts) -> None:
    content = WriteContent(resource=RESOURCE, uid=VOLUME_UID, filesystem="ext4")
    await synced.operate("mk1", "mkfs", content)
    await synced.ended("mk1", "mkfs")
    volume = await synced.volume("mk1")
    assert (volume.content, volume.content_detail) == ("written", "ext4")
    synced.on("mk1", "mount /dev/drbd1 /mnt && echo kept >/mnt/word && umount /mnt")
    with pytest.raises(Refused) as refused:
        await synced.operate("mk1", "again", content)
    assert refused.value.refusal.reason == "HasContent"

    await synced.put_volume("mk1", role="Secondary")
    for name in ("mk1", "mk2"):
        await synced.clients[name].delete_volume(RESOURCE, VolumeRemoval(term=1, uid=VOLUME_UID, policy="Retain"))
        assert synced.on(name, "cat /proc/drbd; ls /etc/drbd.d").count("vm_shaolin") == 0
        (left,) = (await synced.state(name)).logical_volumes.values()
        assert (left.retained, left.owner_uid) == (True, VOLUME_UID)
        # what was written through DRBD on one host is on both, at offset 0 of the LV
        look = f"mount -t ext4 -o ro,noload /dev/vg0/{left.name} /mnt && cat /mnt/word && umount /mnt"
        assert synced.on(name, look) == "kept\n"


async def test_an_image_is_written_and_replicated(clean: Hosts) -> None:
    """... by the first sync as well as by what is written after it; a deleted volume leaves nothing."""
    for name in ("mk1", "mk2"):
        await clean.put_volume(name, **OTHER, **PLACE)
    await other_becomes(clean, "mk1", "Connected", "Inconsistent", "Inconsistent")
    await clean.operate("mk1", "sync", InitialSync(resource="vm_other", uid=OTHER_UID))
    await clean.ended("mk1", "sync")
    clean.on("mk1", "dd if=/dev/urandom of=/var/tmp/image bs=1M count=6 status=none")
    digest = clean.on("mk1", "sha256sum /var/tmp/image").split()[0]
    image = ImageSource(path="/var/tmp/image", sha256=digest)
    await clean.put_volume("mk1", **OTHER, **PLACE, role="Primary")
    await clean.operate("mk1", "image", WriteContent(resource="vm_other", uid=OTHER_UID, image=image))
    await clean.ended("mk1", "image")
    await other_becomes(clean, "mk2", "UpToDate/UpToDate", "UpToDate", "UpToDate")
    read = "dd if=/dev/vg0/vm_other iflag=direct bs=1M count=6 status=none | sha256sum"
    assert {clean.on(name, read).split()[0] for name in ("mk1", "mk2")} == {digest}

    await clean.put_volume("mk1", **OTHER, **PLACE, role="Secondary")
    for name in ("mk2", "mk1"):
        await clean.clients[name].delete_volume("vm_other", VolumeRemoval(term=1, uid=OTHER_UID, policy="Delete"))
        assert clean.on(name, "lvs --noheadings; ls /etc/drbd.d; cat /proc/drbd").count("vm_other") == 0
