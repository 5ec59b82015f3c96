"""Certificates of a small CA: what they say and how long, built with `cryptography`. No files, no clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from escalade.tiers.errors import SetupError
from escalade.tiers.identity import SCHEME, Identity, parse_identity

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    raise SetupError("certificates are made with cryptography; pip install 'escalade[security]'") from None

if TYPE_CHECKING:
    from collections.abc import Sequence

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Certificate = x509.Certificate

CA_DAYS, DEVICE_DAYS = 3650, 365
LONGEST_NAME = 64
"""Characters of a common name (X.520)."""
CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid from so long before they are made: a device's clock may be behind."""
_WITH_PORT = re.compile(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\]):\d+", re.ASCII)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


class Facts(NamedTuple):
    """What a certificate says, for people and for renewal; dates in UTC."""

    identity: Identity | None
    hosts: tuple[str, ...]
    serial: int
    issuer: str
    not_before: datetime
    not_after: datetime
    is_ca: bool

    @property
    def serial_hex(self) -> str:
        """The serial number as deny-lists have it."""
        return f"{self.serial:X}"


def new_key() -> Key:
    """Return a new private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: Key) -> bytes:
    """Return a private key as PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(data: bytes) -> Key:
    """Return a private key; ValueError when it is none of the kind."""
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ValueError("the key is encrypted") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return key


def to_pem(certificate: Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def from_pem(data: bytes) -> Certificate:
    """Return the first certificate; ValueError when there is none."""
    return x509.load_pem_x509_certificate(data)


def make_ca(name: str, key: Key, *, days: float, now: datetime) -> Certificate:
    """Return a CA's own certificate. It may sign devices' certificates, and no other CA's.

    SetupError when it cannot have that name.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise SetupError(f"{name!r} is no name of a CA; give it 1 to {LONGEST_NAME} printable characters")
    subject = _common_name(name)
    usage = _usage(signs_certificates=True)
    return (
        _dated(subject, subject, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_certificate(
    identity: Identity,
    public_key: PublicKey,
    *,
    ca: Certificate,
    ca_key: Key,
    hosts: Sequence[str],
    days: float,
    now: datetime,
) -> Certificate:
    """Return a certificate for an identity.

    Parameters
    ----------
    hosts:
        Names and IP addresses by which others reach it. Without any it is good for asking alone: a stolen
        certificate of a device serves nobody as a tier's.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity)), *map(_host, hosts)]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    until = min(now + timedelta(days=days), ca.not_valid_after_utc)
    return (
        _dated(_common_name(identity.name), ca.subject, public_key, (until - now) / timedelta(days=1), now)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def make_request(name: str, key: Key) -> bytes:
    """Return a certificate signing request as PEM: the public key, signed with the private one."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_common_name(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def requested_key(request: bytes) -> PublicKey:
    """Return the public key of a signing request. What else it asks for counts for nothing.

    ValueError: it is none, of another kind of key, or not signed with its key.
    """
    read = x509.load_pem_x509_csr(request)
    key = read.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the request's key is not on P-256")
    if not read.is_signature_valid:
        raise ValueError("the request is not signed with its key")
    return key


def facts_of(certificate: Certificate) -> Facts:
    """Return what a certificate says."""
    identity: Identity | None = None
    hosts: tuple[str, ...] = ()
    is_ca = False
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            uris = value.get_values_for_type(x509.UniformResourceIdentifier)
            identity = next((found for uri in uris if uri.startswith(SCHEME) and (found := parse_identity(uri))), None)
            addresses = map(str, value.get_values_for_type(x509.IPAddress))
            hosts = (*value.get_values_for_type(x509.DNSName), *addresses)
        elif isinstance(value, x509.BasicConstraints):
            is_ca = value.ca
    return Facts(
        identity,
        hosts,
        certificate.serial_number,
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        is_ca,
    )


def public_key_of(certificate: Certificate) -> PublicKey:
    """Return a certificate's key; ValueError when it is not on an elliptic curve."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")
    return key


def belongs(key: Key, certificate: Certificate) -> bool:
    """Whether a private key is a certificate's."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)


def issued_by(certificate: Certificate, ca: Certificate) -> bool:
    """Whether a CA signed a certificate."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def utc(now_s: float) -> datetime:
    """Return seconds since the epoch as a date."""
    return datetime.fromtimestamp(now_s, UTC)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_NAME])])


def check_hosts(hosts: Sequence[str]) -> None:
    """Raise SetupError for what is neither a host's name nor an IP address."""
    for host in hosts:
        _host(host)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    if _DNS_NAME.fullmatch(host):
        return x509.DNSName(host)
    with_port = _WITH_PORT.fullmatch(host)
    hint = f"; it has a port, write {with_port['host'].strip('[]')!r} alone" if with_port else ""
    raise SetupError(f"{host!r} is neither the name of one host nor an IP address{hint}")


def _dated(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, days: float, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
