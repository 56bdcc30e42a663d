"""The API over real TLS: who may ask, what is wrong with a request, what is refused, what the watch tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from agent_facts import desired
from fleet import Fleet

from agent import pki
from agent.daemon import Agent
from agent.journal import JournalError
from agent.protocol import HostDesired, WatchEvent
from agent.tls import TlsError


async def test_state_and_health(fleet: Fleet) -> None:
    state = await fleet.state("mk1")
    assert state.node == "mk1"
    assert state.boot_id == fleet.simulation.hosts["mk1"].boot_id
    assert state.facts.volume_groups is not None
    assert [group.name for group in state.facts.volume_groups] == ["vg0"]
    assert state.facts.drbd_version is not None
    assert state.problems == ()
    assert await fleet.request("mk1", "GET", "/healthz") == (200, {"status": "ok", "node": "mk1", "term": 0})


async def test_an_agents_certificate_opens_nothing(fleet: Fleet) -> None:
    files = pki.issue_agent(fleet.authority, "mk2", fleet.directory / "as-mk2")
    async with fleet.session(files) as session:
        for path in ("/v1/state", "/healthz", "/nowhere"):
            async with session.get(f"https://127.0.0.1:{fleet.agents['mk1'].api_port}{path}") as response:
                assert response.status == 403
                assert (await response.json())["reason"] == "NotTheController"


async def test_the_relocation_port_is_not_the_api(fleet: Fleet) -> None:
    async with fleet.session() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://127.0.0.1:{fleet.agents['mk1'].relocation_port}/v1/state")


WRONG: list[tuple[Any, list[str]]] = [
    ("not json", ["VolumeDesired: body: Input should be an object"]),
    ({}, ["term: is missing; write it", "members: is missing; write it"]),
    (desired().model_dump(mode="json") | {"minor": "1"}, ["minor: Input should be a valid integer, not '1'"]),
    (desired().model_dump(mode="json") | {"minor": 1048576}, ["minor: Input should be less than or equal to 1048575"]),
    (desired().model_dump(mode="json") | {"colour": "red"}, ["colour: unknown field; remove it"]),
    (desired().model_dump(mode="json") | {"resource": "--force"}, ["resource: String should match pattern"]),
    (desired().model_dump(mode="json") | {"group": "../etc"}, ["group: String should match pattern"]),
    (desired().model_dump(mode="json") | {"members": []}, ["members: Tuple should have at least 2 items"]),
    (desired().model_dump(mode="json") | {"protocol": "D"}, ["protocol: Input should be 'A', 'B' or 'C', not 'D'"]),
    (desired(resource="other").model_dump(mode="json"), ["the path says vm_shaolin, the body says other"]),
]


@pytest.mark.parametrize(("body", "words"), WRONG, ids=[one[1][0][:40] for one in WRONG])
async def test_a_wrong_request_says_what_and_where(fleet: Fleet, body: Any, words: list[str]) -> None:
    status, answer = await fleet.request("mk1", "PUT", "/v1/volumes/vm_shaolin", body)
    assert status == 422
    assert answer["reason"] == "InvalidRequest"
    for one in words:
        assert one in answer["message"]
    assert (await fleet.state("mk1")).volumes == {}


async def test_a_name_in_the_path_is_checked(fleet: Fleet) -> None:
    body = {"term": 1, "uid": desired().uid, "policy": "Delete"}
    status, answer = await fleet.request("mk1", "DELETE", "/v1/volumes/-rf", body)
    assert (status, answer["reason"]) == (422, "InvalidRequest")


async def test_a_body_that_is_too_long_is_refused(fleet: Fleet) -> None:
    status, answer = await fleet.request("mk1", "PUT", "/v1/host", {"junk": "x" * (2 << 20)})
    assert (status, answer["reason"]) == (413, "RequestEntityTooLarge")


async def test_unknown_paths_and_methods_answer_as_refusals(fleet: Fleet) -> None:
    assert (await fleet.request("mk1", "GET", "/nowhere"))[0] == 404
    assert (await fleet.request("mk1", "POST", "/v1/state", {}))[0] == 405


def host(term: int, **changes: Any) -> HostDesired:
    return HostDesired(**({"term": term, "volume_groups": ("vg0",), "replication_address": "10.0.0.81"} | changes))


async def test_terms_are_promised_on_disk_and_lower_ones_refused(fleet: Fleet) -> None:
    status, answer = await fleet.request("mk1", "PUT", "/v1/host", host(7))
    assert status == 200
    assert (answer["term"], answer["desired"]["term"], answer["volumes"]) == (7, 7, {})
    await fleet.restart("mk1")
    for method, path, body in (
        ("PUT", "/v1/host", host(6)),
        ("PUT", "/v1/volumes/vm_shaolin", desired(term=6)),
        ("DELETE", "/v1/volumes/vm_shaolin", {"term": 6, "uid": desired().uid, "policy": "Delete"}),
        (
            "POST",
            "/v1/operations",
            {"id": "x", "term": 6, "body": {"kind": "initial-sync", "resource": "vm_shaolin", "uid": desired().uid}},
        ),
        ("DELETE", "/v1/operations/x", {"term": 6, "uid": desired().uid}),
    ):
        status, answer = await fleet.request("mk1", method, path, body)
        assert (status, answer["reason"]) == (409, "TermTooOld"), path
    state = await fleet.state("mk1")
    assert state.term == 7
    assert state.desired is not None
    assert state.desired.term == 7
    assert state.volumes == {}
    assert fleet.hosts["mk1"].ran("lvcreate") == []


async def test_relocation_follows_the_hosts_settings(fleet: Fleet) -> None:
    assert fleet.agents["mk1"].relocation_port != 0
    await fleet.request("mk1", "PUT", "/v1/host", host(1, relocation_enabled=False))
    assert fleet.agents["mk1"].relocation_port == 0


async def next_with(events: AsyncIterator[WatchEvent], section: str) -> WatchEvent:
    async with asyncio.timeout(20):
        async for event in events:
            if event.type == "changed" and section in event.model_fields_set:
                return event
    raise AssertionError("the stream ended")


async def test_the_watch_sends_a_snapshot_then_changes(fleet: Fleet) -> None:
    async with fleet.watch("mk1") as events:
        first = await anext(events)
        assert first.type == "snapshot"
        assert first.state is not None
        assert first.state.volumes == {}
        await fleet.put_volume_ok("mk1", level="Reserved")
        changed = await next_with(events, "volumes")
        assert set(changed.volumes) == {"vm_shaolin"}
        assert changed.revision > first.revision
        assert changed.boot_id == first.boot_id
        status, _ = await fleet.remove_volume("mk1")
        assert status == 204
        while (changed := await next_with(events, "volumes")).volumes["vm_shaolin"] is not None:
            pass
        assert changed.volumes == {"vm_shaolin": None}


async def test_the_watch_and_the_state_agree(fleet: Fleet) -> None:
    """Applying every change to the snapshot gives what GET /v1/state says."""
    async with fleet.watch("mk1") as events:
        first = await anext(events)
        assert first.state is not None
        volumes = dict(first.state.volumes)
        logical_volumes = dict(first.state.logical_volumes)
        await fleet.put_volume_ok("mk1", level="Provisioned")
        state = await fleet.state("mk1")
        async with asyncio.timeout(20):
            async for event in events:
                volumes |= {name: one for name, one in event.volumes.items() if one is not None}
                logical_volumes |= {name: one for name, one in event.logical_volumes.items() if one is not None}
                if event.revision >= state.revision:
                    break
        assert volumes == state.volumes
        assert logical_volumes == state.logical_volumes
        assert set(logical_volumes) == {"vg0/vm_shaolin"}


async def test_the_watch_beats_when_nothing_happens(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.watch.HEARTBEAT_SECONDS", 0.05)
    async with fleet.watch("mk1") as events, asyncio.timeout(20):
        assert (await anext(events)).type == "snapshot"
        async for event in events:
            if event.type == "heartbeat":
                assert event.boot_id == fleet.simulation.hosts["mk1"].boot_id
                return


async def drained(events: Any) -> None:
    """Read to the end of a stream, which has to come, with or without a goodbye."""
    async with asyncio.timeout(20):
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async for _ in events:
                pass


async def test_a_graceful_stop_ends_streams_and_frees_the_journal(fleet: Fleet) -> None:
    async with fleet.watch("mk1") as events:
        await anext(events)
        await fleet.agents["mk1"].stop()
        await drained(events)
    await fleet.start("mk1")


async def test_a_kill_drops_connections_at_once(fleet: Fleet) -> None:
    async with fleet.watch("mk1") as events:
        await anext(events)
        await fleet.kill("mk1")
        await drained(events)
    await fleet.start("mk1")


async def test_nothing_is_done_that_the_journal_cannot_hold(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.put_volume_ok("mk1", level="Reserved")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    status, answer = await fleet.put_volume("mk1", level="Up")
    assert (status, answer["reason"]) == (503, "JournalFailed")
    assert "No space left" in answer["message"]
    assert fleet.hosts["mk1"].changes == []
    monkeypatch.undo()
    assert (await fleet.put_volume("mk1", level="Up"))[0] == 503  # only a restart reads what is on the disk
    await fleet.restart("mk1")
    await fleet.put_volume_ok("mk1", level="Up")


async def test_two_agents_cannot_share_a_state_folder(fleet: Fleet) -> None:
    with pytest.raises(JournalError, match="in use by another"):
        await fleet.start("mk1")
    assert (await fleet.state("mk1")).node == "mk1"


async def test_a_certificate_of_another_node_refuses_the_start(fleet: Fleet) -> None:
    files = pki.issue_agent(fleet.authority, "mk9", fleet.directory / "mk9")
    agent = Agent(fleet.hosts["mk1"], fleet.directory / "state" / "x", "mk1", api=("127.0.0.1", 0), tls=files)
    with pytest.raises(TlsError, match="is for xentandem:agent:mk9, this host is mk1"):
        await agent.start()
