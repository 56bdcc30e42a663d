"""Connections are taken until the end, also after accept(2) failed for a while."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from agent import accepting
from agent.accepting import Accepting


class Full(socket.socket):
    """A listening socket of a process that has too many files open, `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.bind(("127.0.0.1", 0))
        self.listen()
        self.times = times

    def accept(self) -> tuple[socket.socket, Any]:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture(autouse=True)
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "REST_SECONDS", 0.02)


async def test_it_goes_on_after_an_error_and_ends_with_close() -> None:
    listener, told = Full(times=2), list[OSError]()
    came: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
    taking = Accepting(listener, lambda connection, _: came.set_result(connection), told.append)
    address = listener.getsockname()
    with socket.create_connection(address):
        async with asyncio.timeout(10):
            (await came).close()
    assert [error.errno for error in told] == [errno.EMFILE] * 2
    taking.close()
    taking.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_one_that_is_closed_while_it_rests_stays_closed() -> None:
    listener, told, wrong = Full(times=1000), asyncio.Queue[OSError](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, about: wrong.append(about))
    taking = Accepting(listener, lambda *_: None, told.put_nowait)
    with socket.create_connection(listener.getsockname()):
        async with asyncio.timeout(10):
            await told.get()
        taking.close()
        await asyncio.sleep(0.1)
    assert told.empty()
    assert wrong == []
