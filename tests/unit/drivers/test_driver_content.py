"""Content: with the real blkid and mkfs on files, where the machine has them, and with scripted answers."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest
from scripted import Answer, ScriptedHost

from agent.drivers.content import Content
from agent.drivers.errors import DriverError, Unreadable
from agent.real_host import RealHost

DEVICE = "/dev/drbd1"
OPENS: dict[str, Answer] = {"blockdev --getsize64 /dev/drbd1": (0, "536838144\n", "")}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ((0, '/dev/drbd1: UUID="x" TYPE="ext4" USAGE="filesystem"\n', ""), True),
        ((8, "", "blkid: /dev/drbd1: ambivalent result (probably more filesystems on the device)\n"), True),
        ((2, "", ""), False),
    ],
)
async def test_signatures(answer: tuple[int, str, str], found: bool) -> None:
    assert await Content(ScriptedHost({"blkid -p /dev/drbd1": answer, **OPENS})).has_signature(DEVICE) is found


@pytest.mark.parametrize(
    "answer",
    [
        (2, "", "blkid: error: /dev/drbd1: Wrong medium type\n"),
        (0, "", ""),
        (1, "", ""),
        (4, "", "usage"),
        (-9, "", ""),
    ],
)
async def test_a_device_that_could_not_be_looked_at_is_never_taken_for_empty(answer: tuple[int, str, str]) -> None:
    host = ScriptedHost({"blkid": answer, **OPENS, "mkfs.ext4": (0, "", "")})
    with pytest.raises(Unreadable):
        await Content(host).has_signature(DEVICE)
    with pytest.raises(Unreadable):
        await Content(host).mkfs(DEVICE, "ext4")
    assert not any(command.startswith("mkfs") for command in host.commands)


async def test_a_device_that_can_not_be_opened_is_never_taken_for_empty() -> None:
    """A Secondary's device: blkid exits with 2 and says nothing, as for an empty one."""
    refusal: Answer = (1, "", "blockdev: cannot open /dev/drbd1: Wrong medium type\n")
    with pytest.raises(Unreadable, match="Wrong medium type"):
        await Content(ScriptedHost({"blockdev": refusal, "blkid": (2, "", "")})).has_signature(DEVICE)


async def test_no_filesystem_is_made_on_something() -> None:
    host = ScriptedHost({"blkid": (0, 'TYPE="xfs"', ""), **OPENS, "mkfs.ext4": (0, "", "")})
    with pytest.raises(DriverError) as caught:
        await Content(host).mkfs(DEVICE, "ext4")
    assert caught.value.reason == "HasSignature"
    assert host.commands == ["blockdev --getsize64 /dev/drbd1", "blkid -p /dev/drbd1"]


async def test_mkfs_is_never_forced() -> None:
    host = ScriptedHost({"blkid": (2, "", ""), **OPENS, "mkfs.ext4": (0, "", ""), "mkfs.xfs": (1, "", "cannot open")})
    await Content(host).mkfs(DEVICE, "ext4")
    with pytest.raises(DriverError, match="cannot open"):
        await Content(host).mkfs(DEVICE, "xfs")
    assert [command for command in host.commands if command.startswith("mkfs")] == [
        "mkfs.ext4 -q /dev/drbd1",
        "mkfs.xfs -q /dev/drbd1",
    ]


@pytest.mark.parametrize(("filesystem", "force"), [("ext4", "-F"), ("xfs", "-f")])
async def test_only_what_this_operation_left_half_made_is_overwritten(
    filesystem: Literal["ext4", "xfs"], force: str
) -> None:
    host = ScriptedHost({f"mkfs.{filesystem}": (0, "", "")})
    await Content(host).mkfs(DEVICE, filesystem, over_own=True)
    assert host.commands == [f"mkfs.{filesystem} -q {force} /dev/drbd1"]


async def test_an_image_that_does_not_fit_is_said_so() -> None:
    with pytest.raises(DriverError, match="/srv/image is larger than /dev/drbd1") as caught:
        await Content(ScriptedHost()).write_image("/srv/image", DEVICE, "0" * 64)
    assert caught.value.reason == "ImageTooLarge"


@pytest.mark.parametrize(("missing", "reason"), [("/srv/image", "ImageNotFound"), (DEVICE, "CopyFailed")])
async def test_an_image_that_is_not_there_is_told_from_a_device_that_is_not(
    missing: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ScriptedHost()

    async def fails(source_path: str, device: str) -> tuple[int, str]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", missing)

    monkeypatch.setattr(host, "copy_image", fails)
    with pytest.raises(DriverError) as caught:
        await Content(host).write_image("/srv/image", DEVICE, "0" * 64)
    assert caught.value.reason == reason
    assert missing in caught.value.message


async def test_the_digest_is_of_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    host = ScriptedHost()

    async def copied(source_path: str, device: str) -> tuple[int, str]:
        return 3, "ab" * 32

    monkeypatch.setattr(host, "copy_image", copied)
    assert await Content(host).write_image("/srv/image", DEVICE, "AB" * 32) == 3
    with pytest.raises(DriverError) as caught:
        await Content(host).write_image("/srv/image", DEVICE, "0" * 64)
    assert caught.value.reason == "DigestMismatch"


def test_the_real_blkid_answers_as_the_driver_expects(tmp_path: Path) -> None:
    """The ambiguity that `has_signature` resolves is blkid's own: 2 for "nothing" and for "can't look"."""
    blkid = shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert blkid is not None, "util-linux is part of every Linux system"
    empty, swapped = tmp_path / "empty", tmp_path / "swapped"
    empty.write_bytes(bytes(1 << 20))
    swap = bytearray(1 << 20)
    swap[4086:4096] = b"SWAPSPACE2"
    swap[1024:1028] = (1).to_bytes(4, "little")
    swap[1028:1032] = (255).to_bytes(4, "little")
    swapped.write_bytes(swap)

    def look(path: Path) -> tuple[int, bool]:
        done = subprocess.run([blkid, "-p", path], capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
        return done.returncode, bool((done.stdout + done.stderr).strip())

    assert look(empty) == (2, False)
    assert look(tmp_path / "missing")[0] == 2
    assert look(swapped) == (0, True)


async def test_a_missing_device_on_the_real_host(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="can't be opened"):
        await Content(RealHost(tmp_path / "state")).has_signature(str(tmp_path / "missing"))
