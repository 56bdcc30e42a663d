"""Renewed certificates: in use for the next handshake, without a restart, and never half of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from fleet import Fleet, until
from structlog.testing import capture_logs

from agent import pki, server
from agent.core import TlsFiles
from agent.daemon import Agent
from agent.protocol import HostState, WatchEvent
from agent.simulation.cluster import Simulation
from agent.tls import Credentials, TlsError, client_context


def serial(files: TlsFiles) -> int:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


async def shown(port: int, files: TlsFiles, *, name: str | None = None) -> int:
    """Serial number of the certificate that the API shows to whoever has these files; it must also answer."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client_context(files), server_hostname=name or "127.0.0.1"
    )
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: mk1\r\n\r\n")
        answer = await reader.readline()
        if not answer:
            raise ConnectionResetError("closed without an answer")
        assert b"200" in answer
        return x509.load_der_x509_certificate(certificate).serial_number
    finally:
        writer.transport.abort()


async def to_the_end(events: AsyncIterator[WatchEvent]) -> None:
    while True:
        await anext(events)


def renew(fleet: Fleet, name: str = "mk1") -> TlsFiles:
    return pki.issue_agent(fleet.authority, name, fleet.directory / "pki" / name)


async def test_the_next_handshake_shows_the_renewed_one(fleet: Fleet) -> None:
    port = fleet.agents["mk1"].api_port
    async with fleet.watch("mk1") as events:
        first = await anext(events)
        for name in ("mk1", None):  # with and without the name in the handshake (SNI)
            files = renew(fleet)
            assert await shown(port, fleet.controller, name=name) == serial(files)
        await fleet.put_volume_ok("mk1")
        following = await anext(events)
        assert following.revision > first.revision, "what was open stays open"


async def test_when_it_expires_is_told_at_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CERTIFICATES_SECONDS", 0.05)
    await fleet.restart("mk1")
    for days in (1, 300):
        files = pki.issue_agent(fleet.authority, "mk1", fleet.directory / "pki" / "mk1", days=days)
        expires = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc

        def told(state: HostState, expires: datetime = expires) -> bool:
            said = state.facts.certificate_expires_at
            return said is not None and datetime.fromisoformat(said) == expires

        await fleet.becomes("mk1", f"expires {expires}", told)


async def test_half_of_a_renewal_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    port, before = fleet.agents["mk1"].api_port, await shown(fleet.agents["mk1"].api_port, fleet.controller)
    mine = fleet.directory / "pki" / "mk1"
    new = pki.issue_agent(fleet.authority, "mk1", tmp_path / "new")
    with capture_logs() as logs:
        shutil.copy2(new.key, mine / "tls.key")
        for _ in range(3):
            assert await shown(port, fleet.controller) == before
        (mine / "tls.crt").write_bytes(new.certificate.read_bytes()[:200])
        for _ in range(3):
            assert await shown(port, fleet.controller) == before
        (mine / "tls.crt").unlink()
        assert await shown(port, fleet.controller) == before
        shutil.copy2(new.certificate, mine / "tls.crt")
        assert await shown(port, fleet.controller) == serial(new)
    told = [one["log_level"] for one in logs if "certificate" in one["event"]]
    assert told == ["error", "error", "error", "info"], "each state of the files once"


async def test_another_hosts_certificate_is_not_taken(fleet: Fleet) -> None:
    port, before = fleet.agents["mk1"].api_port, await shown(fleet.agents["mk1"].api_port, fleet.controller)
    pki.issue_agent(fleet.authority, "mk2", fleet.directory / "pki" / "mk1")
    with capture_logs() as logs:
        assert await shown(port, fleet.controller) == before
    assert "is for xentandem:agent:mk2, this host is mk1" in next(one["problem"] for one in logs if "problem" in one)


async def test_a_key_that_others_can_read_is_not_taken(fleet: Fleet) -> None:
    before = await shown(fleet.agents["mk1"].api_port, fleet.controller)
    files = renew(fleet)
    files.key.chmod(0o644)
    assert await shown(fleet.agents["mk1"].api_port, fleet.controller) == before
    files.key.chmod(0o600)
    os.utime(files.key)
    assert await shown(fleet.agents["mk1"].api_port, fleet.controller) == serial(files)


async def test_files_that_are_swapped_by_a_link(tmp_path: Path) -> None:
    """A Secret as the kubelet mounts it: names that lead through ..data, which is replaced as a whole."""
    authority = pki.create_authority(tmp_path / "ca")
    controller = pki.issue_controller(authority, tmp_path / "controller")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    first = pki.issue_agent(authority, "mk1", mounted / "..1")
    (mounted / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (mounted / name).symlink_to(f"..data/{name}")
    files = TlsFiles(mounted / "tls.crt", mounted / "tls.key", mounted / "ca.crt")
    async with Simulation(tmp_path / "simulation", ["mk1"]) as simulation:
        agent = Agent(
            simulation.hosts["mk1"], tmp_path / "state", "mk1",
            api=("127.0.0.1", 0), relocation=("127.0.0.1", 0), tls=files,
        )  # fmt: skip
        await agent.start()
        try:
            assert await shown(agent.api_port, controller) == serial(first)
            second = pki.issue_agent(authority, "mk1", mounted / "..2")
            (mounted / "..new").symlink_to("..2")
            (mounted / "..new").rename(mounted / "..data")
            assert await shown(agent.api_port, controller) == serial(second)
        finally:
            await agent.kill()


async def test_with_a_new_authority_the_old_one_opens_nothing(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CERTIFICATES_SECONDS", 0.05)
    await fleet.restart("mk1")
    port, old = fleet.agents["mk1"].api_port, fleet.controller
    other = pki.create_authority(tmp_path / "new-ca")
    new = pki.issue_controller(other, tmp_path / "new-controller")
    both = TlsFiles(old.certificate, old.key, new.authority)  # believes the agent, shows the old CA's certificate
    async with fleet.watch("mk1") as events:
        await anext(events)
        files = pki.issue_agent(other, "mk1", fleet.directory / "pki" / "mk1")
        with pytest.raises((aiohttp.ClientError, StopAsyncIteration)):
            await asyncio.wait_for(to_the_end(events), 10)
    assert await shown(port, new) == serial(files)
    for name in ("mk1", None):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown(port, both, name=name)

    async def refused() -> bool:
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown(port, old)
        return True

    await until(refused, "the old CA's refusal")


def test_what_was_read_in_the_middle_of_a_change_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = pki.create_authority(tmp_path / "ca")
    files = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    credentials = Credentials(files, "mk1")
    first = credentials.server
    load = credentials._load

    def meanwhile() -> object:
        loaded = load()
        pki.issue_agent(authority, "mk1", tmp_path / "mk1")
        monkeypatch.setattr(credentials, "_load", load)
        return loaded

    monkeypatch.setattr(credentials, "_load", meanwhile)
    pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    assert credentials.server is first
    assert credentials.server is not first


def test_without_usable_files_nothing_begins(tmp_path: Path) -> None:
    files = pki.issue_agent(pki.create_authority(tmp_path / "ca"), "mk2", tmp_path / "mk2")
    with pytest.raises(TlsError, match="is for xentandem:agent:mk2, this host is mk1"):
        Credentials(files, "mk1")
    files.certificate.unlink()
    with pytest.raises(TlsError, match="cannot be used"):
        Credentials(files, "mk2")
