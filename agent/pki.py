"""The private CA of one installation and the certificates it gives: agents and the controller trust nobody else.

EC P-256 keys, PEM files, keys with mode 0600. An agent's certificate names it by SAN (`URI:xentandem:agent:<node>`,
`DNS:<node>`), the controller's too (`URI:xentandem:controller`); the common name says nothing to anybody.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.core import TlsFiles
from agent.protocol import AGENT_URI_PREFIX, CONTROLLER_URI

AUTHORITY_DAYS = 3650
LEAF_DAYS = 825
BACKDATE = timedelta(minutes=5)  # clocks of the hosts may differ a little


class PkiError(Exception):
    """A file that is missing, unreadable or would be overwritten; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA: certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """From `directory/ca.crt` and `ca.key`. Raises PkiError."""
        try:
            certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
        except FileNotFoundError as error:
            raise PkiError(f"{error.filename} is missing: make the CA with `xentandem-agent pki init`") from error
        except (OSError, ValueError, TypeError) as error:
            raise PkiError(f"the CA in {directory} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise PkiError(f"{directory / 'ca.key'} is not an EC key")
        return cls(certificate, key)


def create_authority(directory: Path, *, name: str = "Xentandem CA", days: int = AUTHORITY_DAYS) -> Authority:
    """A new CA in `directory` (`ca.crt`, `ca.key`). Raises PkiError when there is one already."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_new(directory / "ca.key", _key_pem(key), 0o600)
    _write_new(directory / "ca.crt", _certificate_pem(certificate), 0o644)
    return Authority(certificate, key)


def issue_agent(
    authority: Authority, node: str, directory: Path, *, addresses: Sequence[str] = (), days: int = LEAF_DAYS
) -> TlsFiles:
    """A certificate for the agent of `node` (uname -n), server and client; `addresses` are extra IP or DNS names."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(AGENT_URI_PREFIX + node), x509.DNSName(node)]
    names += [_general_name(address) for address in addresses if address != node]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, directory, f"agent {node}", names, usages, days)


def issue_controller(authority: Authority, directory: Path, *, days: int = LEAF_DAYS) -> TlsFiles:
    """A certificate for the controller: client only."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(CONTROLLER_URI)]
    return _issue(authority, directory, "controller", names, [ExtendedKeyUsageOID.CLIENT_AUTH], days)


def _issue(
    authority: Authority,
    directory: Path,
    common_name: str,
    names: Sequence[x509.GeneralName],
    usages: Sequence[x509.ObjectIdentifier],
    days: int,
) -> TlsFiles:
    """`tls.crt`, `tls.key` and a copy of the CA's certificate (`ca.crt`) in `directory`: a kubernetes.io/tls secret's
    names. A certificate that is there is replaced (renewal); key and certificate are new each time."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    issuer_identifier = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + timedelta(days=days), authority.certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_identifier), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    files = TlsFiles(certificate=directory / "tls.crt", key=directory / "tls.key", authority=directory / "ca.crt")
    _replace(files.key, _key_pem(key), 0o600)
    _replace(files.certificate, _certificate_pem(certificate), 0o644)
    _replace(files.authority, _certificate_pem(authority.certificate), 0o644)
    return files


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise PkiError(
            f"{path} is there already; a new CA would lock every agent out. Remove it to begin anew"
        ) from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _replace(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    _write_new(temporary, data, mode)
    temporary.rename(path)
