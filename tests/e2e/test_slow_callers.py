"""Callers that begin what they do not end, against a server with small bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from escalade.tiers.wire import arrivals
from escalade.tiers.wire.arrivals import Arrivals

from .raw_http2 import RawConnection, message

pytestmark = pytest.mark.asyncio

MOST, STREAMS, RECEIVE_S = 6, 2, 0.5
FREE = 2


@pytest_asyncio.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(arrivals, "FREE", FREE)

    async def echo(data: bytes, context: Any) -> bytes:
        return data

    async def echo_all(_: Any, context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(data)

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "EchoAll": grpc.stream_stream_rpc_method_handler(echo_all),
    }
    guarded = Arrivals(most=MOST, streams=STREAMS, receive_s=RECEIVE_S)
    server.add_generic_rpc_handlers([guarded.guard(grpc.method_handlers_generic_handler("test", methods))])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def begin_calls(address: str, count: int) -> RawConnection:
    connection = await asyncio.to_thread(RawConnection, address)
    for _ in range(count):
        connection.send(connection.begin("/test/Echo"), message(b"half", size=8))
    return connection


async def test_calls_that_do_not_arrive_keep_nobody_out(address: str) -> None:
    """Many more of them than may be on their way, and others are answered."""
    slow = await begin_calls(address, 5 * MOST)
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/test/Echo")
        for _ in range(3):
            assert await call(b"live", timeout=20) == b"live"
    slow.close()


async def test_a_call_that_does_not_arrive_is_ended_while_many_are_on_their_way(address: str) -> None:
    """All but the first few are, with a status that names the limits."""
    slow = await begin_calls(address, MOST)
    ended = await asyncio.to_thread(slow.read_until, b"limits.receive_ms", MOST - FREE)
    assert ended
    slow.close()


async def test_an_idle_stream_takes_a_place_until_it_ends(address: str) -> None:
    """One more than may be open is refused, and taken when another was closed."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream("/test/EchoAll")
        streams = [call() for _ in range(STREAMS)]
        for stream in streams:
            await stream.write(b"here")
            assert await stream.read() == b"here"
        surplus = call()
        assert await surplus.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limits.max_streams" in await surplus.details()
        await streams[0].done_writing()
        assert await streams[0].read() is grpc.aio.EOF
        again = call()
        await again.write(b"now")
        assert await again.read() == b"now"
