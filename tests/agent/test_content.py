"""Content is written once, onto a volume that never had any, and only what was named."""

from __future__ import annotations

import hashlib
from typing import Any

from agent_facts import OTHER, UID
from fleet import Fleet, ready, until

from agent.protocol import OperationState

EXT4 = {"kind": "write-content", "resource": "vm_shaolin", "uid": UID, "filesystem": "ext4"}


def image(path: str, digest: str) -> dict[str, Any]:
    return {
        "kind": "write-content",
        "resource": "vm_shaolin",
        "uid": UID,
        "image": {"path": path, "sha256": digest},
    }


async def primary(fleet: Fleet) -> None:
    await ready(fleet)
    await fleet.put_volume_ok("mk1", role="Primary")


async def ended(fleet: Fleet, name: str, operation: str, body: dict[str, Any]) -> OperationState:
    status, answer = await fleet.operate(name, operation, body)
    assert status == 200, answer

    async def over() -> bool:
        return (await fleet.state(name)).operations[operation].outcome is not None

    await until(over, f"the end of {operation}")
    return (await fleet.state(name)).operations[operation]


async def refused(fleet: Fleet, name: str, operation: str, body: dict[str, Any]) -> str:
    status, answer = await fleet.operate(name, operation, body)
    assert status == 409, answer
    return str(answer["reason"])


async def test_a_filesystem_is_made_once_and_is_on_both_sides(fleet: Fleet) -> None:
    await primary(fleet)
    await fleet.operate_ok("mk1", "content-1", EXT4)
    volume = await fleet.volume("mk1")
    assert (volume.content, volume.content_detail) == ("written", "ext4")
    assert volume.logical_volume is not None
    assert "xentandem.content=ext4" in volume.logical_volume.tags
    assert await refused(fleet, "mk1", "content-2", EXT4) == "HasContent"
    await fleet.put_volume_ok("mk1")
    await fleet.put_volume_ok("mk2", role="Primary")
    assert await refused(fleet, "mk2", "content-3", EXT4) == "HasContent"  # blkid finds it there too
    made = [one for host in fleet.hosts.values() for one in host.ran("mkfs.ext4")]
    assert len(made) == 1
    assert fleet.simulation.truth.replicas_identical("vm_shaolin")


async def test_content_needs_a_primary_here_and_the_right_uid(fleet: Fleet) -> None:
    await ready(fleet)
    assert await refused(fleet, "mk1", "content-1", EXT4) == "NotPrimary"
    await fleet.put_volume_ok("mk1", role="Primary")
    assert await refused(fleet, "mk2", "content-2", EXT4) == "NotPrimary"
    assert await refused(fleet, "mk1", "content-3", EXT4 | {"uid": OTHER}) == "UidMismatch"
    assert fleet.hosts["mk1"].ran("mkfs.ext4") == []


async def test_what_somebody_else_wrote_is_never_written_over(fleet: Fleet) -> None:
    await primary(fleet)
    assert (await fleet.simulation.hosts["mk1"].run(["mkfs.xfs", "-q", "/dev/drbd1"])).exit == 0
    assert await refused(fleet, "mk1", "content-1", EXT4) == "HasContent"
    assert (await fleet.volume("mk1")).content == "none"


async def test_an_image_is_written_and_its_digest_checked(fleet: Fleet) -> None:
    await primary(fleet)
    data = "an image without any signature\n" * 1000
    await fleet.simulation.hosts["mk1"].write_text("/srv/image.raw", data)
    digest = hashlib.sha256(data.encode()).hexdigest()
    await fleet.operate_ok("mk1", "content-1", image("/srv/image.raw", digest))
    volume = await fleet.volume("mk1")
    assert (volume.content, volume.content_detail) == ("written", f"image sha256:{digest}")
    device = fleet.simulation.hosts["mk1"].open_device("/dev/drbd1")
    assert await device.read(0, len(data)) == data.encode()
    device.close()
    assert await refused(fleet, "mk1", "content-2", EXT4) == "HasContent"


async def test_a_wrong_digest_fails_and_may_be_put_right(fleet: Fleet) -> None:
    await primary(fleet)
    await fleet.simulation.hosts["mk1"].write_text("/srv/image.raw", "not what was named")
    state = await ended(fleet, "mk1", "content-1", image("/srv/image.raw", "0" * 64))
    assert state.outcome == "Failed"
    assert state.refusal is not None
    assert state.refusal.reason == "DigestMismatch"
    assert (await fleet.volume("mk1")).content == "writing"
    digest = hashlib.sha256(b"not what was named").hexdigest()
    await fleet.operate_ok("mk1", "content-2", image("/srv/image.raw", digest))


async def test_an_image_comes_by_https_only_and_from_one_place(fleet: Fleet) -> None:
    await primary(fleet)
    for source in (
        {"url": "http://example.net/image"},
        {"url": "https://example.net/image", "path": "/srv/image"},
        {},
    ):
        body = {k: v for k, v in EXT4.items() if k != "filesystem"} | {"image": source | {"sha256": "0" * 64}}
        assert await refused(fleet, "mk1", "content-1", body) == "BadContent"
    both = EXT4 | {"image": {"path": "/srv/image", "sha256": "0" * 64}}
    assert await refused(fleet, "mk1", "content-1", both) == "BadContent"


async def test_the_same_id_with_another_wish_is_refused(fleet: Fleet) -> None:
    await primary(fleet)
    await fleet.operate_ok("mk1", "content-1", EXT4)
    assert await refused(fleet, "mk1", "content-1", EXT4 | {"filesystem": "xfs"}) == "OperationIdTaken"


async def test_a_volume_is_not_deleted_while_content_is_written(fleet: Fleet) -> None:
    await primary(fleet)
    fleet.simulation.hang("mk1", "mkfs.ext4")
    assert (await fleet.operate("mk1", "content-1", EXT4))[0] == 200
    assert await refused(fleet, "mk1", "content-2", EXT4 | {"filesystem": "xfs"}) == "OperationRunning"
    fleet.simulation.unhang("mk1", "mkfs.ext4")

    async def over() -> bool:
        return (await fleet.state("mk1")).operations["content-1"].outcome == "Succeeded"

    await until(over, "the end of content-1")
