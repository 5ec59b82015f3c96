"""What gRPC does not say of a peer's certificate: its serial number."""

from __future__ import annotations

import ssl


def serial_of_pem(pem: bytes) -> int:
    """Return a certificate's serial number; the certificate was verified in the handshake.

    ``Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version OPTIONAL, serialNumber INTEGER, ...`` (RFC 5280, 4.1)
    """
    der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii").partition("-----END")[0] + "-----END CERTIFICATE-----")
    at, _ = _content(der, 0)
    at, _ = _content(der, at)
    if der[at] == 0xA0:  # the version
        start, size = _content(der, at)
        at = start + size
    start, size = _content(der, at)
    return int.from_bytes(der[start : start + size], "big")


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the element at `at` begins, and its size (X.690, 8.1.3)."""
    size = der[at + 1]
    if size < 0x80:
        return at + 2, size
    more = size & 0x7F
    return at + 2 + more, int.from_bytes(der[at + 2 : at + 2 + more], "big")
