"""Who gets in: the controller's certificate of this CA alone, by TLS 1.3 alone, while it is valid."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from rig import SECONDS, Rig

from agent import pki
from agent.core import TlsFiles
from agent.tls import client_context

REQUEST = b"GET /v1/state HTTP/1.1\r\nHost: mk1\r\nConnection: close\r\n\r\n"


def blind() -> ssl.SSLContext:
    """A client that believes any server, and shows no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def showing(files: TlsFiles) -> ssl.SSLContext:
    context = blind()
    context.load_cert_chain(files.certificate, files.key)
    return context


def nobody(rig: Rig, folder: Path) -> ssl.SSLContext:
    return blind()


def foreign(rig: Rig, folder: Path) -> ssl.SSLContext:
    return showing(pki.issue_controller(pki.create_authority(folder / "ca"), folder / "controller"))


def expired(rig: Rig, folder: Path) -> ssl.SSLContext:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pki, "BACKDATE", timedelta(days=30))
        return showing(pki.issue_controller(rig.authority, folder / "controller", days=-1))


def self_made(rig: Rig, folder: Path) -> ssl.SSLContext:
    """The CA's own name, another key."""
    return showing(pki.issue_controller(pki.create_authority(folder / "ca", name="Xentandem CA"), folder / "mine"))


def signed_by_a_leaf(rig: Rig, folder: Path) -> ssl.SSLContext:
    """An agent plays the CA: its certificate signed a controller's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    agent = pki.issue_agent(rig.authority, "mk2", folder / "mk2")
    key = serialization.load_pem_private_key(agent.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf = pki.Authority(x509.load_pem_x509_certificate(agent.certificate.read_bytes()), key)
    files = pki.issue_controller(leaf, folder / "controller")
    files.certificate.write_bytes(files.certificate.read_bytes() + agent.certificate.read_bytes())
    return showing(files)


def tls_1_2(rig: Rig, folder: Path) -> ssl.SSLContext:
    context = client_context(rig.controller)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("who", [nobody, foreign, expired, self_made, signed_by_a_leaf, tls_1_2])
def test_nobody_else_gets_through_the_handshake(
    rig: Rig, tmp_path: Path, who: Callable[[Rig, Path], ssl.SSLContext]
) -> None:
    context = who(rig, tmp_path)
    with rig.unchanged(), pytest.raises(OSError, match=r"alert|handshake|reset|EOF|closed"):
        talk(rig, context)


def talk(rig: Rig, context: ssl.SSLContext) -> None:
    """Raises OSError when there is no answer."""
    with rig.dial(context) as connection:
        connection.sendall(REQUEST)
        if not connection.recv(1):
            raise ConnectionResetError("closed without a word")


def test_http_without_tls_gets_nothing(rig: Rig) -> None:
    with rig.unchanged(), socket.create_connection(("127.0.0.1", rig.ports["mk1"][0]), timeout=SECONDS) as plain:
        plain.sendall(REQUEST)
        received = b""
        try:
            while data := plain.recv(4096):
                received += data
        except ConnectionError:
            pass
        assert b"HTTP" not in received


@pytest.mark.parametrize("node", ["mk1", "mk2", "mk9", "xentandem:controller", "controller"])
def test_an_agents_name_is_not_the_controllers(rig: Rig, tmp_path: Path, node: str) -> None:
    """Its own, its peer's, a host's that is not there, one that looks like the controller's."""
    files = pki.issue_agent(rig.authority, node, tmp_path / "as")
    with rig.unchanged():
        for method, path in (("GET", "/v1/state"), ("GET", "/v1/watch"), ("PUT", "/v1/host"), ("GET", "/nowhere")):
            status, answer = rig.ask(method, path, rig.host_wish() if method == "PUT" else None, files=files)
            assert (status, answer["reason"]) == (403, "NotTheController")


def test_who_is_refused_is_not_kept(rig: Rig) -> None:
    """The connection of an agent's certificate is closed after its answer."""
    with rig.unchanged(), rig.dial(client_context(rig.tls["mk2"])) as connection:
        connection.sendall(REQUEST.replace(b"Connection: close\r\n", b""))
        answer = b""
        while data := connection.recv(4096):
            answer += data
        assert answer.startswith(b"HTTP/1.1 403")
