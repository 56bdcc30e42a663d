"""The client of an agent: whom it believes, what a refusal is, what an unknown outcome is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from agent import pki
from agent.core import TlsFiles
from agent.protocol import HostState, Refusal, VolumeRemoval, VolumeState, WatchEvent
from controller.agents import client as client_module
from controller.agents.client import AgentClient, ClientTls, Refused, Unreachable
from controller.domain.actions import DeleteVolume

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATE = HostState(
    node="mk1", boot_id="b1", revision=1, agent_version="1", agent_started_at="2031-02-01T10:00:00Z", term=1
)
REMOVAL = VolumeRemoval(term=1, uid="11111111", policy="Retain")


@dataclass
class Fixture:
    """A server with the agent's certificate whose one handler the test gives, and a client of it."""

    port: int
    client: AgentClient
    authority: pki.Authority
    directory: Path
    handler: Handler
    requests: list[tuple[str, str]] = field(default_factory=list)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.authority))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.certificate, files.key)
    return context


def client_of(files: TlsFiles, node: str, port: int) -> AgentClient:
    return AgentClient(node, "127.0.0.1", port, ClientTls(files.certificate, files.key, files.authority))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Fixture]:
    authority = pki.create_authority(tmp_path)
    files = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    ours = pki.issue_controller(authority, tmp_path / "controller")

    async def serve(request: web.Request) -> web.StreamResponse:
        made.requests.append((request.method, request.path))
        return await made.handler(request)

    async def nothing(request: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(files)).start()
    port = int(runner.addresses[0][1])
    made = Fixture(port, client_of(ours, "mk1", port), authority, tmp_path, nothing)
    yield made
    await made.client.close()
    await runner.cleanup()


def answering(status: int, body: str = "") -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body)

    return handler


async def test_the_state_is_read(agent: Fixture) -> None:
    agent.handler = answering(200, STATE.model_dump_json())
    assert await agent.client.state() == STATE


async def test_a_server_whose_certificate_names_another_node_is_not_believed(agent: Fixture) -> None:
    agent.handler = answering(200, STATE.model_dump_json())
    ours = pki.issue_controller(agent.authority, agent.directory / "again")
    async with client_of(ours, "mk2", agent.port) as other:
        with pytest.raises(Unreachable, match=r"mk2: its certificate is not believed: .*mk2") as caught:
            await other.state()
    assert "object at" not in str(caught.value)
    assert agent.requests == []


async def test_a_server_of_another_authority_is_not_believed(agent: Fixture) -> None:
    stranger = pki.create_authority(agent.directory / "stranger")
    files = pki.issue_controller(stranger, agent.directory / "stranger" / "controller")
    async with client_of(files, "mk1", agent.port) as other:
        with pytest.raises(Unreachable):
            await other.state()
    assert agent.requests == []


@pytest.mark.parametrize("status", [403, 409, 422])
async def test_a_refusal_is_raised_with_its_reason(agent: Fixture, status: int) -> None:
    no = Refusal(reason="InUse", message="domain shaolin has it as hda1")
    agent.handler = answering(status, no.model_dump_json())
    with pytest.raises(Refused) as refused:
        await agent.client.delete_volume("r", REMOVAL)
    assert refused.value.refusal == no


@pytest.mark.parametrize(
    ("status", "body"), [(500, "oops"), (502, ""), (409, "not a refusal"), (404, "no such route"), (200, "{")]
)
async def test_anything_unclear_is_an_unknown_outcome(agent: Fixture, status: int, body: str) -> None:
    agent.handler = answering(status, body)
    with pytest.raises(Unreachable):
        await agent.client.state()


async def test_a_change_is_never_repeated_and_a_read_is(agent: Fixture) -> None:
    agent.handler = answering(500)
    with pytest.raises(Unreachable):
        await agent.client.delete_volume("r", REMOVAL)
    assert len(agent.requests) == 1
    with pytest.raises(Unreachable):
        await agent.client.state()
    assert len(agent.requests) == 4


async def test_a_request_has_a_limit_and_its_outcome_is_unknown_then(
    agent: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    agent.handler = hang
    monkeypatch.setattr(client_module, "VOLUME_SECONDS", 0.05)
    with pytest.raises(Unreachable):
        await agent.client.delete_volume("r", REMOVAL)


async def test_nobody_there_is_an_unknown_outcome(agent: Fixture) -> None:
    ours = pki.issue_controller(agent.authority, agent.directory / "again")
    async with client_of(ours, "mk1", 1) as nobody:
        with pytest.raises(Unreachable) as caught:
            await nobody.delete_volume("r", REMOVAL)
    assert str(caught.value) == "mk1: no connection to 127.0.0.1:1: Connection refused"


async def test_the_request_of_a_decision_goes_to_its_route(agent: Fixture) -> None:
    agent.handler = answering(204)
    await agent.client.send(DeleteVolume("mk1", "vm_shaolin", REMOVAL))
    assert agent.requests == [("DELETE", "/v1/volumes/vm_shaolin")]


async def test_lines_of_any_length_and_in_any_pieces_are_whole_events(agent: Fixture) -> None:
    volumes = {
        f"r{n}": VolumeState(resource=f"r{n}", uid="11111111", namespace="default", name="x" * 100) for n in range(3000)
    }
    big = WatchEvent(
        type="snapshot", boot_id="b1", revision=1, state=STATE.model_copy(update={"volumes": volumes})
    ).model_dump_json(exclude_unset=True)
    beat = WatchEvent(type="heartbeat", boot_id="b1", revision=1).model_dump_json(exclude_unset=True)
    text = f"{big}\n{beat}\n{beat}\n".encode()
    assert len(big) > 500_000

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for at in range(0, len(text), 65_537):
            await response.write(text[at : at + 65_537])
        return response

    agent.handler = stream
    events: list[WatchEvent] = []

    async def read() -> None:
        async for event in agent.client.watch():
            events.append(event)

    with pytest.raises(Unreachable, match="ended the watch"):
        await read()
    assert [event.type for event in events] == ["snapshot", "heartbeat", "heartbeat"]
    assert events[0].state is not None
    assert events[0].state.volumes == volumes


async def test_a_silent_watch_ends(agent: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    agent.handler = silent
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 0.1)
    with pytest.raises(Unreachable):
        async for _ in agent.client.watch():
            pass


async def test_a_renewed_certificate_is_used_for_new_connections(
    agent: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pki.issue_controller(agent.authority, agent.directory / "renewed")
    tls = ClientTls(files.certificate, files.key, files.authority)
    agent.handler = answering(200, STATE.model_dump_json())
    seen: list[int] = []

    async def look(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peercert")["serialNumber"])
        return await answering(200, STATE.model_dump_json())(request)

    agent.handler = look
    monkeypatch.setattr(client_module, "RELOAD_SECONDS", 0.0)
    for _ in range(2):
        async with AgentClient("mk1", "127.0.0.1", agent.port, tls) as one:
            await one.state()
        files.key.unlink()
        files.certificate.unlink()
        pki.issue_controller(agent.authority, agent.directory / "renewed")
    assert seen[0] != seen[1]


async def test_half_of_a_renewal_leaves_the_certificate_before(agent: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    files = pki.issue_controller(agent.authority, agent.directory / "renewed")
    tls = ClientTls(files.certificate, files.key, files.authority)
    monkeypatch.setattr(client_module, "RELOAD_SECONDS", 0.0)
    first, expires = tls.context(), tls.expires
    other = pki.issue_controller(agent.authority, agent.directory / "other", days=1)
    with capture_logs() as logs:
        other.key.replace(files.key)
        assert [tls.context() for _ in range(3)] == [first] * 3
        files.authority.unlink()
        assert tls.context() is first
        other.authority.replace(files.authority)
        other.certificate.replace(files.certificate)
        assert tls.context() is not first
    assert [one["log_level"] for one in logs] == ["error", "error", "info"], "each state of the files once"
    assert expires is not None
    assert tls.expires is not None
    assert tls.expires < expires


async def test_without_any_usable_certificate_there_is_an_error(agent: Fixture) -> None:
    files = pki.issue_controller(agent.authority, agent.directory / "renewed")
    tls = ClientTls(files.certificate, files.key, files.authority)
    key = files.key.read_bytes()
    files.key.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            tls.context()
    files.key.write_bytes(key)
    assert tls.context() is tls.context(), "as soon as it is there"
