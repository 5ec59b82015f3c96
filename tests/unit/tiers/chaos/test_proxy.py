"""The faulty link, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from escalade.tiers.testing.chaos.proxy import FaultyLink, Trouble

pytestmark = pytest.mark.asyncio


class Pair:
    """The ends of one connection through a link."""

    def __init__(self, link: FaultyLink, seen: asyncio.Queue[bytes]) -> None:
        self.link, self.seen = link, seen
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def connect(self) -> None:
        host, _, port = self.link.address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))

    async def greeted(self) -> bytes:
        await self.connect()
        return await asyncio.wait_for(self.reader.read(1), 5)

    async def echoed(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await asyncio.wait_for(self.reader.readexactly(len(data)), 5)


@asynccontextmanager
async def echo() -> AsyncIterator[Pair]:
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            seen.put_nowait(data)
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, FaultyLink(f"{host}:{port}", seed=1) as link:
        pair = Pair(link, seen)
        await pair.connect()
        assert await pair.echoed(b"before") == b"before"
        assert await seen.get() == b"before"
        yield pair
        pair.writer.transport.abort()


async def test_a_whole_link_passes_everything_on() -> None:
    """More than any buffer holds, unchanged, to the end of the stream."""
    async with echo() as pair:
        data = bytes(range(256)) * 40_000
        assert await pair.echoed(data) == data
        pair.writer.write_eof()
        assert await asyncio.wait_for(pair.reader.read(), 5) == b""


async def test_what_is_dropped_upward_never_arrives_until_the_link_heals() -> None:
    """Then it goes on, once, as TCP sends it again."""
    async with echo() as pair:
        await pair.link.set(Trouble(drop_up=True))
        pair.writer.write(b"held")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.seen.get(), 0.2)
        await pair.link.set(Trouble())
        assert await asyncio.wait_for(pair.reader.readexactly(4), 5) == b"held"


async def test_what_is_dropped_downward_has_been_seen_above() -> None:
    """The peer acted; only its answer is missing: the case for which repeats must be recognised."""
    async with echo() as pair:
        await pair.link.set(Trouble(drop_down=True))
        pair.writer.write(b"acted")
        assert await asyncio.wait_for(pair.seen.get(), 5) == b"acted"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.reader.readexactly(5), 0.2)


async def test_a_reset_ends_open_connections_and_new_ones() -> None:
    """With an error, not with an orderly end; afterwards connections are as before."""
    async with echo() as pair:
        await pair.link.set(Trouble(reset=True))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(pair.reader.read(1), 5)
        with pytest.raises(ConnectionResetError):
            await pair.greeted()
        await pair.link.set(Trouble())
        await pair.connect()
        assert await pair.echoed(b"again") == b"again"


async def test_garbage_replaces_answers_and_leaves_questions() -> None:
    """As many bytes, others."""
    async with echo() as pair:
        await pair.link.set(Trouble(garbage=True))
        assert await pair.echoed(b"question") != b"question"
        assert await pair.seen.get() == b"question"


async def test_a_delay_holds_answers() -> None:
    """What was seen above at once arrives below that much later, in its order."""
    async with echo() as pair:
        await pair.link.set(Trouble(delay_s=0.2))
        started = time.monotonic()
        for piece in range(10):
            pair.writer.write(bytes([piece]))
            await pair.writer.drain()
            assert await asyncio.wait_for(pair.seen.get(), 5)
        assert await asyncio.wait_for(pair.reader.readexactly(10), 5) == bytes(range(10))
        assert time.monotonic() - started >= 0.2


async def test_a_line_upward_transmits_and_then_delays() -> None:
    """What goes up needs its transmission and both ways' delays with jitter; its bytes are counted."""
    async with echo() as pair:
        before = pair.link.bytes_up
        await pair.link.set(Trouble(delay_s=0.02, delay_up_s=0.03, jitter_s=0.01, up_bytes_per_s=10_000))
        started = time.monotonic()
        assert await pair.echoed(bytes(1000)) == bytes(1000)
        assert time.monotonic() - started >= 0.1 + 0.02 + 0.03
        assert pair.link.bytes_up - before == 1000


async def test_loss_stalls_and_a_cap_slows() -> None:
    """Lost segments cost retransmissions; nothing is lost to the stream."""
    async with echo() as pair:
        await pair.link.set(Trouble(loss=0.3))
        started = time.monotonic()
        for _ in range(5):
            assert await pair.echoed(b"x") == b"x"
        assert time.monotonic() - started > 0.2
        await pair.link.set(Trouble(bytes_per_s=10_000))
        started = time.monotonic()
        await pair.echoed(bytes(1000))
        await pair.echoed(bytes(1000))
        assert time.monotonic() - started > 0.1


async def test_a_target_that_refuses_ends_the_connection() -> None:
    """A killed tier's port."""
    async with FaultyLink("127.0.0.1:1") as link:
        with pytest.raises(ConnectionResetError):
            await Pair(link, asyncio.Queue()).greeted()
