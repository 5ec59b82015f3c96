"""The calls of a link, made on whatever channel it has at that moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from escalade.tiers.errors import NotSentError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import grpc

    from escalade.tiers.wire.link_channel import LinkChannel

    Make = Callable[[grpc.aio.Channel], Callable[..., Any]]


class Call:
    """One method, on the channel of the moment."""

    def __init__(self, link: LinkChannel, make: Make) -> None:
        self._link, self._make = link, make

    def use(self, channel: grpc.aio.Channel) -> None:
        """Call there from now on."""
        self._now = self._make(channel)


class UnaryCall(Call):
    """A call with one answer."""

    def __call__(self, request: Any, timeout: float | None = None, **more: Any) -> Awaitable[Any]:
        """Call; NotSentError when there is no connection within `timeout` seconds."""
        if self._link.connected:
            return self._now(request, timeout=timeout, **more)  # type: ignore[no-any-return]
        return self._connected(request, timeout, more)

    async def _connected(self, request: Any, timeout_s: float | None, more: dict[str, Any]) -> Any:
        started = time.monotonic()
        await self._link.connect(timeout_s)
        return await self._now(request, timeout=left_s(timeout_s, started), **more)


class StreamCall(Call):
    """A call with a stream of answers."""

    async def __call__(self, request: Any, **more: Any) -> AsyncIterator[Any]:
        """Call, and yield what comes; NotSentError when nothing that the peer says may be believed any more."""
        link = self._link
        await link.connect(more.get("timeout"))
        bars = link.bars
        async for message in self._now(request, **more):
            if link.bars != bars:
                raise NotSentError("denied", "the peer's certificate is believed no more")
            yield message


def left_s(timeout_s: float | None, started: float) -> float | None:
    """Return what is left of a time that began at `started`, by the monotonic clock; None: there is no limit."""
    return None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started))
