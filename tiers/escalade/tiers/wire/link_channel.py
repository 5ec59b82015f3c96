"""A link's channel, which is made anew when the tier's certificates change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from escalade.tiers.tls_files import LOOK_S
from escalade.tiers.wire.channel import client_options
from escalade.tiers.wire.credentials import channel_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from escalade.tiers.tls_files import TlsFiles

log = structlog.get_logger(__name__)

CONNECT_S, DRAIN_S = 10.0, 30.0
"""So long a new channel may take to connect before it is used all the same; so long calls on the old one may take."""


def open_channel(address: str, max_message_bytes: int, files: TlsFiles | None) -> grpc.aio.Channel:
    """Return a channel; plaintext without files."""
    options = client_options(max_message_bytes, ages=files is not None)
    if files is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, channel_credentials(files.credentials), options)


class LinkChannel:
    """Makes calls on the newest channel to an address.

    When the files change a new channel is made, calls go there once it is connected, and those on the old one end
    in peace.
    """

    def __init__(self, address: str, max_message_bytes: int, files: TlsFiles | None) -> None:
        self._address, self._max_message_bytes = address, max_message_bytes
        self._version = files.version if files else 0
        self._channel = open_channel(address, max_message_bytes, files)
        self._calls: list[_Call] = []
        self._tasks: set[asyncio.Task[None]] = set()
        if files:
            self._run(self._follow(files))

    def unary_unary(self, method: str, *details: Any, **more: Any) -> _Call:
        """Return a callable as `grpc.aio.Channel.unary_unary` does."""
        return self._call(lambda channel: channel.unary_unary(method, *details, **more))

    def unary_stream(self, method: str, *details: Any, **more: Any) -> _Call:
        """Return a callable as `grpc.aio.Channel.unary_stream` does."""
        return self._call(lambda channel: channel.unary_stream(method, *details, **more))

    async def close(self) -> None:
        """Close all channels; calls under way end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _follow(self, files: TlsFiles) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            files.refresh()
            if files.version != self._version:
                self._version = files.version
                await self._renew(files)

    async def _renew(self, files: TlsFiles) -> None:
        new, old = open_channel(self._address, self._max_message_bytes, files), self._channel
        try:
            await asyncio.wait_for(new.channel_ready(), CONNECT_S)
        except TimeoutError:
            log.warning("upstream takes no connection with the new certificate", address=self._address)
        except BaseException:
            await new.close()
            raise
        self._channel = new
        for call in self._calls:
            call.use(new)
        self._run(_drain(old))
        log.info("link uses the new certificate", address=self._address)

    def _call(self, make: Callable[[grpc.aio.Channel], Any]) -> _Call:
        call = _Call(make, self._channel)
        self._calls.append(call)
        return call

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Call:
    """One method, on the channel of the moment."""

    def __init__(self, make: Callable[[grpc.aio.Channel], Any], channel: grpc.aio.Channel) -> None:
        self._make = make
        self.use(channel)

    def use(self, channel: grpc.aio.Channel) -> None:
        """Call there from now on."""
        self._now = self._make(channel)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Call."""
        return self._now(*arguments, **more)


async def _drain(channel: grpc.aio.Channel) -> None:
    """Close a channel when the calls on it have ended; `Channel.close` with a grace does not see all of them."""
    try:
        await asyncio.sleep(DRAIN_S)
    finally:
        await channel.close()
