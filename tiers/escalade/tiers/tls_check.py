"""Whether certificate, key and CA fit each other, and what the certificate says: a handshake with oneself.

The standard library's TLS verifies here what the peers' will, without a socket and without another package, and
tells what no peer is told: why it would be refused.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from escalade.tiers.errors import ConfigError, NotYetError

if TYPE_CHECKING:
    from pathlib import Path

    from escalade.tiers.tls_config import TlsConfig

NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: dates are judged here, where the clock is an argument."""

OTHERS = 0o007
"""Permissions of everybody else. A group may read a key: services share one."""


class Certificate(NamedTuple):
    """What a tier's own certificate says of it; dates in seconds since the epoch."""

    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]
    """IP addresses."""
    serial: int
    not_before: float
    not_after: float

    @property
    def hosts(self) -> tuple[str, ...]:
        """What callers may reach the tier by; a certificate without any cannot serve."""
        return self.dns_names + self.addresses


def check_tls(config: TlsConfig, now: float) -> Certificate:
    """Return what the tier's certificate says.

    Raises
    ------
    ConfigError
        The files do not fit, are out of date, or cannot be read: which one, and what to do.
    NotYetError
        Nothing is wrong but the date.
    """
    _check_permissions(config.key)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    _load_chain(own, config)
    judge = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    judge.verify_mode, judge.verify_flags = ssl.CERT_REQUIRED, ssl.VerifyFlags(NO_CHECK_TIME)
    _load_chain(judge, config)
    try:
        judge.load_verify_locations(cadata=_read(config.ca, "tls.ca").decode("ascii", errors="ignore"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{config.ca} holds no certificate in PEM; name the CA's", key="tls.ca") from None
    authorities = judge.get_ca_certs()
    if not authorities:
        raise ConfigError(f"{config.ca} holds no CA's certificate; name the CA's, not a device's", key="tls.ca")
    if all(_date(one, "notAfter") < now for one in authorities):
        until = authorities[0]["notAfter"]
        raise ConfigError(
            f"{config.ca} expired on {until}; make a new CA (docs/security.md){_clock(now)}", key="tls.ca"
        )
    facts = _handshake(own, judge, config)
    names = facts.get("subjectAltName", ())
    certificate = Certificate(
        tuple(value for kind, value in names if kind == "URI"),
        tuple(value for kind, value in names if kind == "DNS"),
        tuple(value for kind, value in names if kind == "IP Address"),
        int(facts["serialNumber"], 16),
        _date(facts, "notBefore"),
        _date(facts, "notAfter"),
    )
    if now > certificate.not_after:
        text = f"{config.certificate} expired on {facts['notAfter']}; renew it (`escalade pki renew`)"
        raise ConfigError(text + _clock(now), key="tls.certificate")
    if now < certificate.not_before:
        text = f"{config.certificate} is not valid before {facts['notBefore']}; set this machine's clock"
        raise NotYetError(text + _clock(now), key="tls.certificate")
    return certificate


def _check_permissions(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise ConfigError(f"cannot read {key}: {error.strerror}", key="tls.key") from error
    if mode & OTHERS:
        raise ConfigError(f"{key} is open to everybody (mode {mode & 0o777:o}); run `chmod 600 {key}`", key="tls.key")


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", key=key) from error


def _load_chain(context: ssl.SSLContext, config: TlsConfig) -> None:
    for file, key in ((config.certificate, "tls.certificate"), (config.key, "tls.key")):
        _read(file, key)
    try:
        context.load_cert_chain(config.certificate, config.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{config.key} is not the key of {config.certificate}; name the two that belong together"
            raise ConfigError(text, key="tls.key") from None
        _explain(config)
        text = f"{config.certificate} and {config.key} are not a certificate and an unencrypted key in PEM"
        raise ConfigError(text, key="tls") from None


def _explain(config: TlsConfig) -> None:
    """Raise ConfigError for the usual mistakes about certificate and key, by what the files look like."""
    certificate, key = _read(config.certificate, "tls.certificate"), _read(config.key, "tls.key")
    for file, content, name in ((config.certificate, certificate, "tls.certificate"), (config.key, key, "tls.key")):
        if not content.strip():
            raise ConfigError(f"{file} is empty; copy it again", key=name)
    if b"PRIVATE KEY-----" in certificate and b"-----BEGIN CERTIFICATE" in key:
        raise ConfigError(f"{config.certificate} is a key and {config.key} a certificate; exchange them", key="tls")
    if b"ENCRYPTED" in key:
        text = f"{config.key} is encrypted, and nobody is there to type its password; decrypt it (`openssl pkey`)"
        raise ConfigError(text, key="tls.key")
    for file, content, name, kind in (
        (config.certificate, certificate, "tls.certificate", "x509"),
        (config.key, key, "tls.key", "pkey"),
    ):
        if b"-----BEGIN" not in content:
            raise ConfigError(f"{file} is not in PEM; DER becomes it by `openssl {kind} -inform DER`", key=name)


def _handshake(own: ssl.SSLContext, judge: ssl.SSLContext, config: TlsConfig) -> dict[str, Any]:
    """Return what the judging side is shown; the bytes go from buffer to buffer."""
    to_judge, to_own = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = own.wrap_bio(to_own, to_judge)
    server = judge.wrap_bio(to_judge, to_own, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                text = f"{config.certificate} is not of a CA in {config.ca}: {error.verify_message}"
                raise ConfigError(f"{text}; issue it anew, or name its CA", key="tls.certificate") from None
            except ssl.SSLError as error:
                text = f"{config.certificate} cannot be used: {error.reason or error}"
                raise ConfigError(f"{text}; issue it anew", key="tls.certificate") from None
            waiting.remove(side)
    facts: dict[str, Any] = server.getpeercert() or {}
    return facts


def _date(facts: Any, name: str) -> float:
    return float(ssl.cert_time_to_seconds(facts[name]))


def _clock(now: float) -> str:
    return f". It is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC by this machine's clock"
