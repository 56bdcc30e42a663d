"""Filesystems and images on a device, and whether it holds anything: mkfs.ext4, mkfs.xfs, blkid(8), blockdev(8)."""

from __future__ import annotations

import errno
from typing import Literal

from agent.download import DownloadFailed
from agent.drivers.errors import DriverError, Unreadable, run, run_ok, said
from agent.host import Host
from agent.images import NotRaw, shown

FETCH_SECONDS = 6 * 3600.0


class Content:
    """Of one host's block devices. The device has to be Primary here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def has_signature(self, device: str) -> bool:
        """Whether a filesystem, partition table, RAID, ... is on it. Raises Unreadable on any doubt.

        blkid exits with 2 for "nothing found" and, without a word, for "could not open" (a Secondary's device, for
        one), so the device is opened first by a tool that does say so. A bad block on it is DRBD's to hide: a disk
        with an IO error is detached, and the peer's is read.
        """
        opened = await run(self._host, ["blockdev", "--getsize64", device])
        if opened.exit != 0 or not opened.stdout.strip().isdecimal():
            raise Unreadable(f"{device} can't be opened: {said(opened)}", opened)
        completed = await run(self._host, ["blkid", "-p", device])
        if completed.exit == 0 and completed.stdout.strip():
            return True
        if completed.exit == 8:  # several signatures that contradict each other
            return True
        if completed.exit == 2 and not (completed.stdout + completed.stderr).strip():
            return False
        raise Unreadable(f"blkid -p {device}: {said(completed)}", completed)

    async def mkfs(self, device: str, filesystem: Literal["ext4", "xfs"], *, over_own: bool = False) -> None:
        """Make a filesystem on a device that has none; forced only over the caller's own interrupted writing.

        Raises DriverError("HasSignature"), DriverError("MkfsFailed"), Unreadable.
        """
        if not over_own and await self.has_signature(device):
            raise DriverError("HasSignature", f"{device} already holds something: no filesystem is made on it")
        force = [{"ext4": "-F", "xfs": "-f"}[filesystem]] if over_own else []
        argv = [f"mkfs.{filesystem}", "-q", *force, device]
        await run_ok(self._host, argv, timeout=600, reason="MkfsFailed")

    async def fetch_image(self, url: str, path: str, sha256: str, limit: int) -> None:
        """The image as a file of the host, known to be the one that was named, and to fit into `limit` bytes.

        Raises DriverError("FetchFailed"), "ImageTooLarge", "ImageNotRaw", "DigestMismatch": no file is left then.
        """
        try:
            _, digest = await self._host.fetch_image(url, path, limit, timeout=FETCH_SECONDS)
        except DownloadFailed as error:
            raise DriverError(error.reason, str(error)) from error
        except NotRaw as error:
            raise DriverError("ImageNotRaw", f"{shown(url)} {error}") from error
        except OSError as error:
            raise DriverError(
                "FetchFailed", f"{shown(url)} could not be written to {path}: {error.strerror}"
            ) from error
        if digest != sha256.lower():
            await self._host.remove(path)
            raise DriverError("DigestMismatch", f"{shown(url)} has sha256 {digest}, expected {sha256}")

    async def write_image(self, source_path: str, device: str, sha256: str) -> int:
        """Copy a file of the host onto the device; returns the bytes written.

        Raises DriverError("DigestMismatch") when what was written is not the image that was named (the device then
        holds the wrong one), DriverError("ImageNotFound"), "ImageNotRaw", "ImageTooLarge", "CopyFailed".
        """
        try:
            size, digest = await self._host.copy_image(source_path, device)
        except NotRaw as error:
            raise DriverError("ImageNotRaw", f"{source_path} {error}") from error
        except OSError as error:
            if error.errno == errno.ENOENT and error.filename == source_path:
                raise DriverError("ImageNotFound", f"there is no file {source_path}; put the image there") from error
            if error.errno == errno.ENOSPC:
                raise DriverError("ImageTooLarge", f"{source_path} is larger than {device}") from error
            raise DriverError("CopyFailed", f"{source_path} could not be written to {device}: {error}") from error
        if digest != sha256.lower():
            raise DriverError("DigestMismatch", f"{source_path} has sha256 {digest}, expected {sha256}")
        return size
