"""The door of a TLS port: every call is let in by the table of roles, or refused before it is parsed.

It is a server interceptor, and so stands before every service on the port, whoever registered it: the data path,
the tier's own services, health, reflection.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from escalade.tiers.errors import EscaladeError, ForbiddenError, InputError, UnknownCallerError
from escalade.tiers.identity import SPEAKER, Identity, Speaker, identity_of
from escalade.tiers.roles import scope_of
from escalade.tiers.tls_files import LOOK_S
from escalade.tiers.wire.certificates import serial_and_end
from escalade.tiers.wire.status import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from escalade.tiers.refusals import Cause, Refusals
    from escalade.tiers.tls_files import TlsFiles

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger(__name__)

PEERS_KEPT = 4096


@dataclass(slots=True)
class _Peer:
    """What is known of a certificate.

    Attributes
    ----------
    not_after:
        When it ends, seconds since the epoch.
    names:
        Its URIs and its DNS names.
    mapping:
        Which `TlsFiles.identities` the identity is by.
    speakers:
        By method, those that it was let into.
    """

    serial: int
    not_after: float
    identity: Identity | None
    says: str
    names: tuple[Sequence[str], Sequence[str]] = ((), ())
    mapping: dict[str, Identity] | None = None
    speakers: dict[str, Speaker] = field(default_factory=dict)


class Guard(grpc.aio.ServerInterceptor):
    """Lets calls in.

    A certificate is read at its first call and recognised by its bytes at all others, so that a call costs a few
    microseconds. A stream is looked after as long as it is open: when its caller's certificate is revoked or ends,
    or says who it is no more, `watch` ends it.

    Parameters
    ----------
    clock:
        Seconds since the epoch.
    """

    def __init__(self, files: TlsFiles, refusals: Refusals, clock: Callable[[], float] = time.time) -> None:
        self._files, self._refusals, self._clock = files, refusals, clock
        self._peers: dict[bytes, _Peer] = {}
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._streams: dict[asyncio.Task[Any], _Peer] = {}

    def check(self, method: str, context: Context) -> tuple[_Peer, Speaker]:
        """Return who calls.

        Raises
        ------
        UnknownCallerError, ForbiddenError
            The call is counted and logged as refused.
        """
        facts: Any = context.auth_context()
        pem = facts.get("x509_pem_cert")
        if pem is None:
            raise self._refuse(method, _Peer(0, inf, None, ""), "unknown")
        peer = self._peers.get(pem[0])
        if peer is None or peer.mapping is not self._files.identities:
            peer = self._learn(facts, pem[0])
        if cause := self._ended(peer):
            raise self._refuse(method, peer, cause)
        speaker = peer.speakers.get(method)
        if speaker is None:
            speaker = self._speaker(method, peer)
        return peer, speaker

    async def watch(self) -> None:
        """End the streams of callers whose certificates are revoked, end or lose their name, for ever.

        It looks after the files meanwhile. No surprise ends it: without it nobody would be revoked.
        """
        while True:
            try:
                self._files.refresh()
                for task, peer in self._streams.items():
                    if self._ended(peer):
                        task.cancel()
            except Exception as error:
                log.error("callers cannot be looked after", exc_info=error)
            await asyncio.sleep(LOOK_S)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler | None:
        """Return the method's handler with this guard before it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method: str = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._guarded(method, handler))
        return known[1]

    def _ended(self, peer: _Peer) -> Cause | None:
        """Return why a certificate that was good in its handshake is good no more."""
        if peer.serial in self._files.denied:
            return "revoked"
        if self._clock() > peer.not_after:
            return "expired"
        mapping = self._files.identities
        if peer.mapping is not mapping and identity_of(*peer.names, mapping) != peer.identity:
            return "unknown"
        return None

    def _learn(self, facts: Any, pem: bytes) -> _Peer:
        uris, dns_names = (
            [value.decode(errors="replace") for value in facts.get(name, ())] for name in ("peer_uri", "peer_dns")
        )
        says = ", ".join([*uris, *dns_names]) or b" ".join(facts.get("x509_common_name", ())).decode(errors="replace")
        if len(self._peers) >= PEERS_KEPT:
            del self._peers[next(iter(self._peers))]
        mapping = self._files.identities
        try:
            identity = identity_of(uris, dns_names, mapping)
            peer = _Peer(*serial_and_end(pem), identity, says, (uris, dns_names), mapping)
        except ValueError:  # a CA that writes it in a way of its own
            peer = _Peer(0, inf, None, says, mapping=mapping)
        self._peers[pem] = peer
        return peer

    def _speaker(self, method: str, peer: _Peer) -> Speaker:
        if peer.identity is None:
            raise self._refuse(method, peer, "unknown")
        scope = scope_of(method, peer.identity.role)
        if scope is None:
            raise self._refuse(method, peer, "role")
        speaker = Speaker(peer.identity, scope, lambda: self._count(method, peer, "device"))
        peer.speakers[method] = speaker
        return speaker

    def _refuse(self, method: str, peer: _Peer, cause: Cause) -> EscaladeError:
        self._count(method, peer, cause)
        if cause == "unknown":
            return UnknownCallerError("your certificate does not say who you are: it names no identity known here")
        if cause in ("revoked", "expired"):
            text = "is revoked" if cause == "revoked" else "has expired"
            return ForbiddenError(f"the certificate {peer.serial:x} {text}")
        return ForbiddenError(f"{peer.identity} may not call {method}")

    def _count(self, method: str, peer: _Peer, cause: Cause) -> None:
        identity = peer.identity
        who = str(identity) if identity else f"{peer.says!r:.200}"
        self._refusals.refused(method, identity.role if identity else "", who, cause)

    # Handlers of the four kinds, with the guard before them.

    def _guarded(self, method: str, handler: Handler) -> Handler:
        inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        parse = handler.request_deserializer
        check = self.check

        async def unary(data: Any, context: Context) -> Any:
            try:
                _, speaker = check(method, context)
                request = _parsed(parse, data)
            except EscaladeError as error:
                await context.abort(*status_of(error))
            SPEAKER.set(speaker)
            return await inner(request, context)

        async def streaming(data: Any, context: Context) -> Any:
            try:
                peer, speaker = check(method, context)
                request = data if handler.request_streaming else _parsed(parse, data)
            except EscaladeError as error:
                await context.abort(*status_of(error))
            SPEAKER.set(speaker)
            try:
                with self._open(peer):
                    if not inspect.isasyncgenfunction(inner):
                        return await inner(request, context)
                    async with aclosing(inner(request, context)) as responses:
                        async for response in responses:
                            await context.write(response)
            except asyncio.CancelledError:
                cause = self._ended(peer)
                if cause is None:
                    raise
                current = asyncio.current_task()
                if current:
                    current.uncancel()
                await context.abort(*status_of(self._refuse(method, peer, cause)))

        write = handler.response_serializer
        if handler.request_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.stream_unary_rpc_method_handler
            )
            return make(streaming, parse, write)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(streaming, None, write)
        return grpc.unary_unary_rpc_method_handler(unary, None, write)

    @contextmanager
    def _open(self, peer: _Peer) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = peer
        try:
            yield
        finally:
            del self._streams[task]


def _parsed(parse: Callable[[bytes], Any] | None, data: bytes) -> Any:
    try:
        return parse(data) if parse else data
    except DecodeError as error:
        raise InputError("the message cannot be read") from error
