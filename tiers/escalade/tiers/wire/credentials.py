"""TLS credentials of ports and channels, which follow their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.tiers.tls_files import Credentials, TlsFiles

GRACE_MS = 30_000
"""A call that is under way when its connection is too old may take so long; then an open stream ends too."""


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that demand a certificate of every caller, and show what the files say at that moment."""
    given = files.version

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        files.refresh()
        if files.version == given:
            return None  # gRPC goes on with what it has
        given = files.version
        return _configuration(files.credentials)

    first, follow = _configuration(files.credentials), cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)
    return grpc.dynamic_ssl_server_credentials(first, follow, require_client_authentication=True)


def channel_credentials(credentials: Credentials, peer: bytes | None = None) -> grpc.ChannelCredentials:
    """Return what a channel shows and believes; `peer`: one certificate alone, as PEM, instead of the CAs'."""
    return grpc.ssl_channel_credentials(peer or credentials.ca, credentials.key, credentials.certificate)


def connection_age_options(max_age_s: float) -> list[tuple[str, int]]:
    """Return the server options that make callers connect anew."""
    return [
        ("grpc.max_connection_age_ms", int(max_age_s * 1e3)),
        ("grpc.max_connection_age_grace_ms", GRACE_MS),
    ]


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    pair = (credentials.key, credentials.certificate)
    return grpc.ssl_server_certificate_configuration([pair], credentials.ca)
