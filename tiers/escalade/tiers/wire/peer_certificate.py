"""The certificate at the other end of a link: gRPC shows a caller none, so a handshake of our own fetches it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

from escalade.tiers.config_types import host_port
from escalade.tiers.errors import NotSentError

if TYPE_CHECKING:
    from escalade.tiers.tls_files import TlsFiles

HANDSHAKE_S = 2.0
"""So long it may take."""


async def certificate_at(address: str, files: TlsFiles) -> bytes:
    """Return whose certificate a peer proves to have, as PEM: of a CA that is believed, for that address, in date.

    Raises
    ------
    NotSentError
        There is no such peer: `timeout` or `unavailable`.
    """
    host, port = host_port(address)
    try:
        context = _context(files)
        async with asyncio.timeout(HANDSHAKE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except TimeoutError:
        text = f"no handshake with {address} within {HANDSHAKE_S:g} s, to look for its certificate on the deny-list"
        raise NotSentError("timeout", text) from None
    except (OSError, ValueError) as error:
        text = f"no handshake with {address}, to look for its certificate on the deny-list: {error}"
        raise NotSentError("unavailable", text) from error
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(HANDSHAKE_S):
            await writer.wait_closed()
    return ssl.DER_cert_to_PEM_cert(shown).encode()


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=files.credentials.ca.decode("ascii", errors="ignore"))
    context.load_cert_chain(files.config.certificate, files.config.key, password=lambda: "")
    context.set_alpn_protocols(["h2"])
    return context
