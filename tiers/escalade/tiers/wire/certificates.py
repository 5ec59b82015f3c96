"""What gRPC does not say of a peer's certificate: its serial number, and until when it is valid."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

GENERALIZED_TIME = 0x18


def serial_and_end(pem: bytes) -> tuple[int, float]:
    """Return a certificate's serial number and its end, seconds since the epoch; it was verified in the handshake.

    ValueError when it cannot be read.

    ``tbs SEQUENCE { [0] version OPTIONAL, serialNumber, signature, issuer, validity SEQUENCE { notBefore, notAfter }``
    (RFC 5280, 4.1)
    """
    der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii").partition("-----END")[0] + "-----END CERTIFICATE-----")
    try:
        return _serial_and_end(der)
    except IndexError:
        raise ValueError("the certificate is cut short") from None


def _serial_and_end(der: bytes) -> tuple[int, float]:
    at, _ = _content(der, 0)
    at, _ = _content(der, at)
    if der[at] == 0xA0:  # the version
        at = _behind(der, at)
    start, size = _content(der, at)
    serial = int.from_bytes(der[start : start + size], "big")
    at = _behind(der, _behind(der, _behind(der, at)))  # the validity: behind serial, signature and issuer
    return serial, _time(der, _behind(der, _content(der, at)[0]))


def _time(der: bytes, at: int) -> float:
    """Return a UTCTime or a GeneralizedTime (RFC 5280, 4.1.2.5)."""
    start, size = _content(der, at)
    text = der[start : start + size].decode("ascii")
    if der[at] != GENERALIZED_TIME:
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _behind(der: bytes, at: int) -> int:
    start, size = _content(der, at)
    return start + size


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at `at` begins, and its size (X.690, 8.1.3)."""
    size = der[at + 1]
    if size < 0x80:
        return at + 2, size
    more = size & 0x7F
    return at + 2 + more, int.from_bytes(der[at + 2 : at + 2 + more], "big")
