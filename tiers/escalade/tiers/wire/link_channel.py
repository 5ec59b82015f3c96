"""A link's channel: made anew when the tier's certificates change, and not used towards a peer that is revoked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import structlog

from escalade.tiers.errors import NotSentError
from escalade.tiers.tls_files import LOOK_S
from escalade.tiers.wire.certificates import serial_and_end
from escalade.tiers.wire.channel import bytes_call, client_options
from escalade.tiers.wire.credentials import channel_credentials
from escalade.tiers.wire.link_calls import Call, StreamCall, UnaryCall, left_s
from escalade.tiers.wire.peer_certificate import certificate_at
from escalade.tiers.wire.status import failure_of

if TYPE_CHECKING:
    from escalade.tiers.tls_files import TlsFiles

C = TypeVar("C", bound=Call)

log = structlog.get_logger(__name__)

CONNECT_S, DRAIN_S = 10.0, 30.0
"""So long a new channel may take to connect before it is used all the same; so long calls on the old one may take."""
AGAIN_S, PATROL_S = 1.0, 60.0
"""Between two looks at a peer's certificate: while there is no connection, and while there is."""

READY = grpc.ChannelConnectivity.READY
ON_THE_WAY = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)


def open_channel(
    address: str, max_message_bytes: int, files: TlsFiles | None, peer: bytes | None = None
) -> grpc.aio.Channel:
    """Return a channel; plaintext without files.

    Parameters
    ----------
    peer:
        The only certificate that is believed, as PEM; None: all of the CAs'.
    """
    options = client_options(max_message_bytes, ages=files is not None)
    if files is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, channel_credentials(files.credentials, peer), options)


class LinkChannel:
    """Makes calls on the newest channel to an address.

    When the files change a new channel is made, calls go there once it is connected, and those on the old one end
    in peace. While the deny-list names anybody, the peer's certificate is looked at first, and the channel believes
    that one alone; when the peer comes with another, or the list changes, it is looked at again.

    No message is given to gRPC before there is a connection: a call that finds none raises NotSentError, and what
    fails otherwise may have left.
    """

    def __init__(self, address: str, max_message_bytes: int, files: TlsFiles | None) -> None:
        self._address, self._max_message_bytes, self._files = address, max_message_bytes, files
        self._channel: grpc.aio.Channel | None = None
        self._for: tuple[int, bytes | None] = (files.version if files else 0, None)
        """The version of the files and the peer's certificate that the channel is made for."""
        self._barred: NotSentError | None = None
        self._decided = asyncio.Event()
        self._denied, self._looked = frozenset[int](), 0.0
        self._bars = 0
        self._change: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._calls: list[Call] = []
        self._tasks: set[asyncio.Task[None]] = set()
        if files is None or not files.denied:
            self._use(open_channel(address, max_message_bytes, files))
        if files:
            self._run(self._follow(files))

    def unary_unary(self, method: str, *details: Any, **more: Any) -> UnaryCall:
        """Return a callable as `grpc.aio.Channel.unary_unary` does; its calls raise NotSentError besides."""
        return self._add(UnaryCall(self, lambda channel: channel.unary_unary(method, *details, **more)))

    def unary_stream(self, method: str, *details: Any, **more: Any) -> StreamCall:
        """Return a callable as `grpc.aio.Channel.unary_stream` does; its calls raise NotSentError besides."""
        return self._add(StreamCall(self, lambda channel: channel.unary_stream(method, *details, **more)))

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._channel is not None and self._channel.get_state() is READY

    @property
    def bars(self) -> int:
        """How often the link was taken out of use: what came from its peer before is believed no more."""
        return self._bars

    def check(self) -> None:
        """Raise NotSentError while nothing may be sent to the peer."""
        if self._barred:
            raise NotSentError(self._barred.reason, str(self._barred))

    async def connect(self, timeout_s: float | None) -> None:
        """Return when there is a connection.

        Raises
        ------
        NotSentError
            `timeout`, `unavailable`, or `denied`: the peer's certificate is revoked.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self._decided.wait()
                self.check()
                state = await self._settled()
        except TimeoutError:
            raise NotSentError("timeout", f"no connection to {self._address} in time") from None
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and self._channel:
            await _ask_why(self._channel, left_s(timeout_s, started))

    async def close(self) -> None:
        """Close all channels; calls under way end."""
        channel, self._channel = self._channel, None
        self._barred = NotSentError("unavailable", "the link is closed")
        self._decided.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if channel:
            await channel.close()

    async def _settled(self) -> grpc.ChannelConnectivity | None:
        """Return the channel's state once it neither is nor should be connecting; None when there is none any more."""
        while channel := self._channel:
            state = channel.get_state(try_to_connect=True)
            if state not in ON_THE_WAY:
                return state
            if self._change is None or self._change.done():
                self._change = self._run(_changed(channel, state))
            await asyncio.wait([self._change])  # shared, so that a peer that is silent has one of them alone
        self.check()
        return None

    async def _follow(self, files: TlsFiles) -> None:
        while True:
            try:
                files.refresh()
                await self._look(files)
            except Exception as error:
                log.error("the files of a link cannot be followed", address=self._address, exc_info=error)
            await asyncio.sleep(LOOK_S)

    async def _look(self, files: TlsFiles) -> None:
        """Make a channel for what the files say now, and for whom they deny."""
        peer, denied, now = None, files.denied, time.monotonic()
        if denied:
            known = self._for[1]
            if known and serial_and_end(known)[0] in denied:
                self._bar(self._revoked(known))
            if not self._due(files, now):
                return
            self._denied, self._looked = denied, now
            try:
                peer = await certificate_at(self._address, files)
            except NotSentError as error:
                if known is None or self._channel is None:
                    self._bar(error)
                return
            if serial_and_end(peer)[0] in denied:
                self._bar(self._revoked(peer))
                return
        if self._channel is None or self._for != (files.version, peer):
            self._for = (files.version, peer)
            self._renew(files, peer)

    def _due(self, files: TlsFiles, now: float) -> bool:
        """Whether the peer's certificate must be looked at."""
        if files.denied != self._denied or files.version != self._for[0]:
            return True
        return now >= self._looked + (PATROL_S if self.connected else AGAIN_S)

    def _revoked(self, peer: bytes) -> NotSentError:
        text = f"the certificate {serial_and_end(peer)[0]:X} of {self._address} is on the deny-list"
        return NotSentError("denied", text)

    def _bar(self, why: NotSentError) -> None:
        """Use no channel from now on; what is under way on the one there was may end."""
        if self._barred is None or self._barred.reason != why.reason:
            log.warning("link is not used", address=self._address, reason=why.reason, detail=str(why))
        self._barred = why
        self._decided.set()
        if self._renewal:
            self._renewal.cancel()
        if self._channel:
            self._run(_drain(self._channel))
            self._channel = None
            self._bars += 1
            self._wake()

    def _renew(self, files: TlsFiles, peer: bytes | None) -> None:
        if self._renewal:
            self._renewal.cancel()
        self._renewal = self._run(self._change_over(open_channel(self._address, self._max_message_bytes, files, peer)))

    async def _change_over(self, new: grpc.aio.Channel) -> None:
        try:
            if self._channel:
                await asyncio.wait_for(new.channel_ready(), CONNECT_S)
        except TimeoutError:
            log.warning("upstream takes no connection with the new certificate", address=self._address)
        except BaseException:
            await new.close()
            raise
        old = self._channel
        self._use(new)
        if old:
            self._run(_drain(old))
            log.info("link uses the new certificate", address=self._address)

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._wake()
        self._channel, self._barred = channel, None
        for call in self._calls:
            call.use(channel)
        self._decided.set()

    def _wake(self) -> None:
        """Have those that wait for the channel look for another."""
        if self._change:
            self._change.cancel()

    def _add(self, call: C) -> C:
        if self._channel:
            call.use(self._channel)
        self._calls.append(call)
        return call

    def _run(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _ask_why(channel: grpc.aio.Channel, timeout_s: float | None) -> None:
    """Raise as NotSentError what gRPC says of a connection that failed, unless it stands by now."""
    try:
        await bytes_call(channel, "ServerReady")(b"", timeout=timeout_s)
    except (grpc.aio.AioRpcError, grpc.aio.UsageError) as error:
        failure = failure_of(error)
        if failure.reason in ("timeout", "unavailable"):
            raise NotSentError(failure.reason, str(failure)) from error


async def _changed(channel: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
    with contextlib.suppress(grpc.aio.UsageError):  # it is closed: a change as well
        await channel.wait_for_state_change(state)


async def _drain(channel: grpc.aio.Channel) -> None:
    """Close a channel when the calls on it have ended; `Channel.close` with a grace does not see all of them."""
    try:
        await asyncio.sleep(DRAIN_S)
    finally:
        await channel.close()
