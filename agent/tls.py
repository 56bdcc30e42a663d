"""TLS of the agent: version 1.3 only, both sides show a certificate of the installation's CA, and the SAN says who.

The controller's URI may use the API; an agent's URI may use the relocation endpoint. A certificate of the CA alone
opens nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from cryptography import x509

from agent.core import TlsFiles
from agent.protocol import AGENT_URI_PREFIX, CONTROLLER_URI

PRIORITIZE_CHACHA = 1 << 21
"""SSL_OP_PRIORITIZE_CHACHA of SSL_CTX_set_options(3): a client that puts ChaCha20 first has no AES instructions."""


class TlsError(Exception):
    """Certificate, key or CA cannot be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One reading of the three files: everything in it fits together."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    authority: bytes
    expires: datetime


class Credentials:
    """This agent's certificate, key and CA as they are in their files now: renewed ones are used without a restart.

    Files that cannot be used together (half of them is copied, the certificate is another host's) leave the ones before
    in force, and are logged once. Connections that are open stay as they were opened.
    """

    def __init__(self, files: TlsFiles, node: str) -> None:
        """Raises TlsError."""
        self._files, self._node = files, node
        self._seen = self._versions()
        self._loaded = self._load()

    def refresh(self) -> None:
        """Look whether the files changed. Cheap: three times stat(2), through symbolic links."""
        versions = self._versions()
        if versions == self._seen:
            return
        self._seen = versions
        log = structlog.get_logger().bind(node=self._node, certificate=str(self._files.certificate))
        try:
            loaded = self._load()
        except TlsError as error:
            log.error("renewed certificate cannot be used, the one before stays", problem=str(error))
            return
        if self._versions() == versions:  # else it was read in the middle of a change, and is read again
            self._loaded = loaded
            log.info("renewed certificate in use", expires=loaded.expires.isoformat())

    @property
    def server(self) -> ssl.SSLContext:
        self.refresh()
        return self._loaded.server

    @property
    def client(self) -> ssl.SSLContext:
        self.refresh()
        return self._loaded.client

    @property
    def authority(self) -> bytes:
        """The CA's certificate in use."""
        return self._loaded.authority

    @property
    def expires(self) -> datetime:
        return self._loaded.expires

    def listener(self) -> ssl.SSLContext:
        """For a listener that keeps its context for ever: each handshake is done with what is in the files then."""
        context = server_context(self._files)

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, old: ssl.SSLContext) -> None:
            connection.context = self.server

        context.sni_callback = choose
        return context

    def _versions(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(_version(path) for path in (self._files.certificate, self._files.key, self._files.authority))

    def _load(self) -> _Loaded:
        server, client = server_context(self._files), client_context(self._files)
        expires = _check_certificate(self._files.certificate, self._node)
        return _Loaded(server, client, self._files.authority.read_bytes(), expires)


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_certificate(path: Path, node: str) -> datetime:
    """When it expires, if it is this node's. Raises TlsError."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise TlsError(f"{path} cannot be used: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if AGENT_URI_PREFIX + node not in uris:
        raise TlsError(
            f"{path} is for {', '.join(uris) or 'nobody'}, this host is {node};"
            f" make one with `xentandem-agent pki issue-agent {node}`"
        )
    return certificate.not_valid_after_utc


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For both listeners: a client without a certificate of our CA does not get through the handshake."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= PRIORITIZE_CHACHA
    context.num_tickets = 0  # a resumed session would spare its client the look at its certificate
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For connections to an agent. The server is checked by its SAN URI (`peer_node`), not by the address dialled."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if files.key.exists() and files.key.stat().st_mode & 0o077:
            raise TlsError(f"{files.key} can be read by others; chmod 600 it")
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(cafile=files.authority)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"{files.certificate}, {files.key} and {files.authority} cannot be used together: {error}."
            " `xentandem-agent pki issue-agent` makes all three"
        ) from error
    return context


def uris(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The SAN URIs of a peer's certificate as ssl.SSLSocket.getpeercert gives it."""
    names = (certificate or {}).get("subjectAltName", ())
    return tuple(value for kind, value in names if kind == "URI")


def is_controller(certificate: Mapping[str, Any] | None) -> bool:
    return CONTROLLER_URI in uris(certificate)


def peer_node(certificate: Mapping[str, Any] | None) -> str | None:
    """The node whose agent shows this certificate; None when it is no agent's, or says two."""
    nodes = [uri.removeprefix(AGENT_URI_PREFIX) for uri in uris(certificate) if uri.startswith(AGENT_URI_PREFIX)]
    return nodes[0] if len(nodes) == 1 else None
