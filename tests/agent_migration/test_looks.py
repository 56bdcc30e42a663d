"""A move looks at its hosts three times within moments: what was read holds for the checks, unless something is new."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent import looks
from agent.core import Refused
from agent.drivers.errors import DriverError
from agent.protocol import MigrateSend, OperationRequest, PreflightRequest
from tests.agent_migration.pair import RESOURCE, Pair, until


class Counted:
    """Counts the readings of one host's facts, of which a look needs one."""

    def __init__(self, pair: Pair, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = pair.at(name).xen
        self.times = 0
        self.fails = False
        self._read: Callable[[], Awaitable[Any]] = driver.host_facts
        monkeypatch.setattr(driver, "host_facts", self._host_facts)

    async def _host_facts(self) -> Any:
        self.times += 1
        if self.fails:
            raise DriverError("Unreadable", "xl info: no answer")
        return await self._read()


@pytest.fixture
async def counted(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr("agent.observer.FACTS_SECONDS", 3600.0)
    await pair.run()
    await until(lambda: pair.vm("mk1") is not None, "the VM")
    return Counted(pair, "mk1", monkeypatch)


async def preflight(pair: Pair) -> tuple[str, ...]:
    report = await pair.at("mk1").domains.preflight(PreflightRequest(side="source", domain=pair.domain()))
    return tuple(one.reason for one in report.refusals)


async def check(pair: Pair) -> None:
    body = MigrateSend(domain=pair.domain(), target="mk2", target_address="127.0.0.1", target_port=pair.ports["mk2"])
    handler = pair.at("mk1").operations._handlers["migrate-send"]
    await handler.check(OperationRequest(id="move", term=1, body=body))


async def test_the_check_takes_what_the_preflight_read(pair: Pair, counted: Counted) -> None:
    assert await preflight(pair) == ()
    await check(pair)
    await check(pair)
    assert counted.times == 1
    await preflight(pair)
    assert counted.times == 2, "a preflight always looks anew"


async def test_it_holds_for_moments_only(pair: Pair, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    await preflight(pair)
    monkeypatch.setattr(looks, "HOLDS_SECONDS", 0.0)
    await check(pair)
    assert counted.times == 2


async def test_a_domain_that_came_is_news(pair: Pair, counted: Counted) -> None:
    await preflight(pair)
    before, host = len(pair.at("mk1").observer.state.domains), pair.hosts["mk1"]
    await host.write_text("/tmp/other.cfg", 'name = "other"\ntype = "pv"\nmemory = 64\nbootloader = "pygrub"\n')
    assert (await host.run(["xl", "create", "-e", "-p", "/tmp/other.cfg"])).exit == 0
    await until(lambda: len(pair.at("mk1").observer.state.domains) > before, "a second domain is seen")
    await check(pair)
    assert counted.times == 2


async def test_a_disk_that_changed_is_news(pair: Pair, counted: Counted) -> None:
    assert await preflight(pair) == ()
    await pair.hosts["mk2"].run(["drbdadm", "down", RESOURCE])
    seen = pair.at("mk1").observer.seen
    await until(lambda: (one := seen(RESOURCE)) is None or one.peer is None or one.peer.role == "Unknown", "it is seen")
    with pytest.raises(Refused, match=RESOURCE):
        await check(pair)


async def test_what_could_not_be_read_holds_for_nobody(pair: Pair, counted: Counted) -> None:
    counted.fails = True
    assert await preflight(pair) != ()
    counted.fails = False
    await check(pair)
    assert counted.times == 2
