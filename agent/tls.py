"""TLS of the agent: version 1.3 only, both sides show a certificate of the installation's CA, and the SAN says who.

The controller's URI may use the API; an agent's URI may use the relocation endpoint. A certificate of the CA alone
opens nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from agent.core import TlsFiles
from agent.protocol import AGENT_URI_PREFIX, CONTROLLER_URI


class TlsError(Exception):
    """Certificate, key or CA cannot be used; the message names the file and what to do."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For both listeners: a client without a certificate of our CA does not get through the handshake."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
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
    if files.key.exists() and files.key.stat().st_mode & 0o077:
        raise TlsError(f"{files.key} can be read by others; chmod 600 it")
    try:
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
