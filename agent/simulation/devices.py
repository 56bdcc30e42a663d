"""Block devices of a simulated host: who has one open, and what reads and writes do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.simulation.host import SimulatedHost


def os_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class BlockDevice(Protocol):
    """What a driver of the simulated kernel (LVM, DRBD) offers for one device."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def opened(self, mode: str) -> None:
        """Called before an open succeeds; raises OSError to refuse it."""
        ...

    def closed(self, mode: str) -> None: ...

    async def read(self, offset: int, length: int) -> bytes: ...

    async def write(self, offset: int, data: bytes) -> None:
        """Returns when the write is acknowledged: stable as far as the device promises."""
        ...


class Device:
    """An open block device. Dies with the host: every use afterwards raises OSError."""

    def __init__(self, block: BlockDevice, path: str, mode: str, release: Callable[[Device], None]) -> None:
        self._block: BlockDevice | None = block
        self._release = release
        self.path = path
        self.mode = mode

    @property
    def size(self) -> int:
        return self._use().size

    async def read(self, offset: int, length: int) -> bytes:
        """Raises OSError (EIO when neither disk nor peer can answer)."""
        return await self._use().read(offset, length)

    async def write(self, offset: int, data: bytes) -> None:
        """Returns when acknowledged. Raises OSError: EBADF when open for reading only, ENOSPC beyond the end, EIO."""
        if self.mode != "w":
            raise os_error(errno.EBADF, self.path)
        block = self._use()
        if offset + len(data) > block.size:
            raise os_error(errno.ENOSPC, self.path)
        await block.write(offset, data)
        self._use()  # a host that lost power meanwhile acknowledges nothing

    def close(self) -> None:
        if self._block is not None:
            block, self._block = self._block, None
            self._release(self)
            block.closed(self.mode)

    def lost(self) -> None:
        """The host went off: no close reaches the driver."""
        self._block = None

    def _use(self) -> BlockDevice:
        if self._block is None:
            raise os_error(errno.EBADF, self.path)
        return self._block


class Devices:
    """/dev of one host."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._find: list[Callable[[str], BlockDevice | None]] = []
        self._open: set[Device] = set()

    def add_driver(self, find: Callable[[str], BlockDevice | None]) -> None:
        """`find(path)` gives the device of that name, if it is this driver's and exists now."""
        self._find.append(find)

    def get(self, path: str) -> BlockDevice | None:
        for find in self._find:
            if (block := find(path)) is not None:
                return block
        return None

    def exists(self, path: str) -> bool:
        return self.get(path) is not None

    def open(self, path: str, mode: str) -> Device:
        block = self.get(path)
        if block is None:
            raise os_error(errno.ENOENT, path)
        block.opened(mode)
        device = Device(block, path, mode, self._open.discard)
        self._open.add(device)
        return device

    def power_off(self) -> None:
        for device in tuple(self._open):
            device.lost()
        self._open.clear()
