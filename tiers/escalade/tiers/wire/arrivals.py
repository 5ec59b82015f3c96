"""How many calls may be on their way in, and how many streams open: callers that are slow on purpose.

gRPC hands a call over when its headers are there, and then waits for the message, as long as the caller likes; a
part of it that came is held in memory. A call whose message does not come must neither stay for ever nor keep
others out:

- While few are on their way nothing is done: a caller is served as directly as gRPC can.
- From `FREE` on, a call's message has to come within `receive_s`.
- From `most` on, each further call takes the place of the one that has waited longest.

Streams may be idle as long as they like, but there are only so many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Unary = Callable[[bytes, Context], Awaitable[bytes]]

FREE = 64
"""So many calls may be on their way in without being watched; at most half of all that may be on their way."""


class Arrivals:
    """Watches the calls of one server.

    Parameters
    ----------
    most:
        Calls whose message is not there yet.
    streams:
        Streams of any kind that may be open.
    receive_s:
        How long a message may take when many are on their way.
    """

    def __init__(self, *, most: int, streams: int, receive_s: float) -> None:
        self._most, self._most_streams, self._receive_s = most, streams, receive_s
        self._free = min(FREE, most // 2)
        self._coming: set[asyncio.Task[Any]] = set()
        self._watched: dict[asyncio.Task[bytes | None], None] = {}
        self._streams: set[asyncio.Task[Any]] = set()

    def guard(self, inner: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        """Return a handler of the same calls that keeps to the bounds; its methods speak bytes."""
        return _Guarded(self, inner)

    def unary(self, behaviour: Unary) -> grpc.RpcMethodHandler[Any, Any]:
        """Return how a call that begins now is to be read. To be called in the call's own task."""
        coming = self._coming
        if len(coming) >= self._free:
            coming -= {task for task in coming if task.done()}  # those whose callers went away
        if len(coming) + len(self._watched) >= self._free:
            return grpc.stream_unary_rpc_method_handler(self._timed(behaviour))
        task = _this_task()
        coming.add(task)

        async def arrived(data: bytes, context: Context) -> bytes:
            coming.discard(task)
            return await behaviour(data, context)

        return grpc.unary_unary_rpc_method_handler(arrived)

    def stream(self, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the handler, or one that refuses, for a stream that begins now. As `unary`."""
        if len(self._streams) >= self._most_streams:
            self._streams -= {task for task in self._streams if task.done()}
        if len(self._streams) >= self._most_streams:
            return grpc.stream_stream_rpc_method_handler(self._refuse_stream)
        self._streams.add(_this_task())
        return handler

    def _timed(self, behaviour: Unary) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
        async def handle(messages: AsyncIterator[bytes], context: Context) -> bytes:
            if len(self._coming) + len(self._watched) >= self._most and self._watched:
                next(iter(self._watched)).cancel()
            read = asyncio.create_task(_first(messages))
            self._watched[read] = None
            timer = asyncio.get_running_loop().call_later(self._receive_s, read.cancel)
            try:
                await asyncio.wait([read])
            finally:
                timer.cancel()
                del self._watched[read]
                if not read.done():
                    read.cancel()
            if read.cancelled():
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the request was too long on its way: over {self._receive_s:g} s (limits.receive_ms), "
                    f"or longest of {self._most} (limits.max_unread)",
                )
            data = read.result()
            if data is None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a message")
                raise AssertionError("abort raises")  # pragma: no cover
            return await behaviour(data, context)

        return handle

    async def _refuse_stream(self, _: AsyncIterator[bytes], context: Context) -> None:
        await context.abort(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{self._most_streams} streams are open (limits.max_streams); close some, or share one",
        )


class _Guarded(grpc.GenericRpcHandler):
    def __init__(self, arrivals: Arrivals, inner: grpc.GenericRpcHandler) -> None:
        self._arrivals, self._inner = arrivals, inner

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = self._inner.service(handler_call_details)
        if handler is None:
            return None
        if handler.request_streaming or handler.response_streaming:
            return self._arrivals.stream(handler)
        return self._arrivals.unary(cast("Unary", handler.unary_unary))


async def _first(messages: AsyncIterator[bytes]) -> bytes | None:
    async for data in messages:
        return data
    return None


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
