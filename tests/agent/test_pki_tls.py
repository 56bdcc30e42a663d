"""Certificates and the TLS of real sockets on loopback: who gets through, who does not, and what is said."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent import pki
from agent.core import TlsFiles
from agent.main import main
from agent.tls import TlsError, client_context, is_controller, peer_node, server_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    return pki.create_authority(tmp_path_factory.mktemp("ca"))


def certificate(files: TlsFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes())


def test_the_authority(tmp_path: Path) -> None:
    made = pki.create_authority(tmp_path)
    loaded = pki.Authority.load(tmp_path)
    assert loaded.certificate == made.certificate
    constraints = made.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = made.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert isinstance(made.key.curve, ec.SECP256R1)


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    pki.create_authority(tmp_path)
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(pki.PkiError, match="is there already"):
        pki.create_authority(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == before


def test_a_missing_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(pki.PkiError, match="xentandem-agent pki init"):
        pki.Authority.load(tmp_path)


def test_an_agents_certificate(authority: pki.Authority, tmp_path: Path) -> None:
    files = pki.issue_agent(authority, "mk1", tmp_path / "mk1", addresses=("10.0.0.81", "mk1.example.net"))
    issued = certificate(files)
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["xentandem:agent:mk1"]
    assert names.get_values_for_type(x509.DNSName) == ["mk1", "mk1.example.net"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.81"]
    usages = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    own = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issuer = issued.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == own.digest
    assert issued.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != own.digest
    issued.verify_directly_issued_by(authority.certificate)
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    assert issued.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=4)


def test_the_controllers_certificate_is_no_server(authority: pki.Authority, tmp_path: Path) -> None:
    issued = certificate(pki.issue_controller(authority, tmp_path / "controller"))
    usages = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_renewal_replaces_key_and_certificate(authority: pki.Authority, tmp_path: Path) -> None:
    first = certificate(pki.issue_agent(authority, "mk1", tmp_path)).serial_number
    files = pki.issue_agent(authority, "mk1", tmp_path)
    assert certificate(files).serial_number != first
    server_context(files)  # the pair belongs together


def test_a_key_that_others_can_read_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    files = pki.issue_agent(authority, "mk1", tmp_path)
    files.key.chmod(0o640)
    with pytest.raises(TlsError, match="chmod 600"):
        server_context(files)


def test_files_that_do_not_fit_together_are_named(authority: pki.Authority, tmp_path: Path) -> None:
    one = pki.issue_agent(authority, "mk1", tmp_path / "1")
    two = pki.issue_agent(authority, "mk2", tmp_path / "2")
    with pytest.raises(TlsError, match="cannot be used together"):
        server_context(TlsFiles(one.certificate, two.key, one.authority))


@pytest.mark.parametrize(
    ("names", "controller", "node"),
    [
        ((("URI", "xentandem:controller"),), True, None),
        ((("URI", "xentandem:agent:mk1"), ("DNS", "mk1")), False, "mk1"),
        ((("DNS", "xentandem:controller"),), False, None),
        ((("URI", "xentandem:controller2"),), False, None),
        ((("URI", "xentandem:agent:mk1"), ("URI", "xentandem:agent:mk2")), False, None),
        ((), False, None),
    ],
)
def test_who_a_certificate_names(names: tuple[tuple[str, str], ...], controller: bool, node: str | None) -> None:
    shown = {"subjectAltName": names}
    assert is_controller(shown) is controller
    assert peer_node(shown) == node
    assert is_controller(None) is False
    assert peer_node(None) is None


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, dict[str, object]]:
    """(TLS version, the client's certificate as the server saw it); raises what the client ran into."""
    seen: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(writer.get_extra_info("peercert"))
        writer.write(b"hello\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            # With TLS 1.3 the client learns of a refused certificate when it reads.
            if await reader.readline() != b"hello\n":
                raise ConnectionResetError("refused")
            return writer.get_extra_info("ssl_object").version(), await seen
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_both_sides_of_one_authority_speak_tls_1_3(authority: pki.Authority, tmp_path: Path) -> None:
    agent = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    controller = pki.issue_controller(authority, tmp_path / "controller")
    version, seen = await handshake(server_context(agent), client_context(controller))
    assert version == "TLSv1.3"
    assert is_controller(seen)


async def test_a_client_without_certificate_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    agent = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    bare = ssl.create_default_context(cafile=str(agent.authority))
    bare.check_hostname = False
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(agent), bare)


async def test_a_client_of_another_authority_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    agent = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    stranger = pki.issue_controller(pki.create_authority(tmp_path / "other"), tmp_path / "stranger")
    trusting = client_context(TlsFiles(stranger.certificate, stranger.key, agent.authority))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(agent), trusting)


async def test_a_server_of_another_authority_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    stranger = pki.issue_agent(pki.create_authority(tmp_path / "other"), "mk1", tmp_path / "mk1")
    controller = pki.issue_controller(authority, tmp_path / "controller")
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server_context(stranger), client_context(controller))


async def test_tls_1_2_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    agent = pki.issue_agent(authority, "mk1", tmp_path / "mk1")
    old = client_context(pki.issue_controller(authority, tmp_path / "controller"))
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await handshake(server_context(agent), old)


async def test_a_client_certificate_is_no_server(authority: pki.Authority, tmp_path: Path) -> None:
    controller = pki.issue_controller(authority, tmp_path / "controller")
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server_context(controller), client_context(controller))


def test_the_command_line_makes_what_the_agent_reads(tmp_path: Path) -> None:
    runner = CliRunner()
    ca = str(tmp_path / "pki")
    assert runner.invoke(main, ["pki", "init", "--ca", ca]).exit_code == 0
    made = runner.invoke(main, ["pki", "issue-agent", "mk1", "--ca", ca, "--address", "10.0.0.81"])
    assert made.exit_code == 0, made.output
    folder = tmp_path / "pki" / "mk1"
    server_context(TlsFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))
    assert runner.invoke(main, ["pki", "issue-controller", "--ca", ca]).exit_code == 0
    again = runner.invoke(main, ["pki", "init", "--ca", ca])
    assert again.exit_code == 1
    assert "is there already" in again.output
    nowhere = runner.invoke(main, ["pki", "issue-agent", "mk1", "--ca", str(tmp_path / "nowhere")])
    assert nowhere.exit_code == 1
    assert "xentandem-agent pki init" in nowhere.output


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api: {prot: 1}", "api.prot"),
        ("api: {port: 99999}", "api.port"),
        ("node: [", "is not YAML"),
        ("- 1", "valid dictionary"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["run", "--config", str(path)])
    assert result.exit_code == 1
    assert said in result.output
