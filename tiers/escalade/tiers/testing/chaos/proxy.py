"""A link between two tiers that can be cut, slowed and spoilt: an asyncio TCP proxy.

It sees a stream of bytes, not packets, and so some faults are told differently from what a network does:

- *Dropped* bytes are held and go on when the link heals, as TCP's retransmissions would. A new connection is accepted
  (by the proxy, not by the peer) and then hears nothing: what a cut cable and a frozen peer have in common.
- *Loss* cannot be seen above TCP. What can be seen is its price: a lost segment stalls everything behind it for a
  retransmission timeout, 200 ms at least and twice as long each time; now and then a connection is given up.
- A *delay* holds what comes, and what was sent after it waits behind it, as in any stream. Upward bandwidth is a line
  of its own for each connection, on which pieces are transmitted one after another.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

Way = Literal["up", "down"]
CHUNK_BYTES = 16 * 1024
HELD_CHUNKS = 64
"""So many are on their way at most; then the sender is not read."""
RETRANSMIT_S = 0.2
GIVEN_UP = 0.02
"""The share of lost segments with which the connection is lost."""
_LINGER_0 = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Trouble:
    """What a link does to its bytes; the default is nothing.

    Attributes
    ----------
    drop_up, drop_down:
        Nothing passes towards the tier above, or from it.
    delay_s, delay_up_s:
        Added to whatever comes from the tier above, or goes to it.
    jitter_s:
        Mean of what each piece is held longer than that, each way with a delay: exponential, drawn.
    loss:
        Share of segments that are lost, 0 to 1.
    bytes_per_s:
        The most that passes each way in one connection; 0: no limit.
    up_bytes_per_s:
        The line upward: a piece arrives when it has been transmitted, before its delay; 0: no limit.
    reset:
        Every connection is reset, new ones at once.
    garbage:
        What comes from the tier above is replaced by random bytes.
    """

    drop_up: bool = False
    drop_down: bool = False
    delay_s: float = 0.0
    delay_up_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0
    up_bytes_per_s: float = 0.0
    reset: bool = False
    garbage: bool = False

    def drops(self, way: Way) -> bool:
        """Whether nothing passes that way."""
        return self.drop_up if way == "up" else self.drop_down

    def delays_s(self, way: Way, draw: random.Random) -> float:
        """Return how long a piece is held on its way."""
        delay_s = self.delay_up_s if way == "up" else self.delay_s
        return delay_s + draw.expovariate(1 / self.jitter_s) if delay_s and self.jitter_s else delay_s


class FaultyLink:
    """Listens on a free port of the loopback and passes everything on to `target`, with the trouble of the moment.

    Parameters
    ----------
    target:
        `host:port` of the tier above.
    seed:
        Of what is drawn: jitter, losses and garbage.

    Attributes
    ----------
    bytes_up:
        That went towards the tier above, over all connections.

    Examples
    --------
    ::

        async with FaultyLink(server.address) as link:
            config["upstream"] = {"address": link.address}
            link.set(Trouble(drop_up=True, drop_down=True))
            ...
            link.set(Trouble())
    """

    def __init__(self, target: str, *, seed: int = 0) -> None:
        self.address = ""
        self.bytes_up = 0
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._draw = random.Random(seed)  # no secrets here
        self._trouble = Trouble()
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def set(self, trouble: Trouble) -> None:
        """Do this to the bytes from now on."""
        async with self._changed:
            self._trouble = trouble
            self._changed.notify_all()
        if trouble.reset:
            for writer in list(self._writers):
                _reset(writer)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        self._writers.add(writer)
        try:
            if self._trouble.reset:
                return
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            ends.append(far_writer)
            self._writers.add(far_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass("up", reader, far_writer))
                both.create_task(self._pass("down", far_reader, writer))
        except* (OSError, asyncio.CancelledError):  # one end is gone: so is the other
            pass
        finally:
            for end in ends:
                _reset(end)
                self._writers.discard(end)
            self._tasks.discard(task)

    async def _pass(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one direction on until its end; raises ConnectionError when the connection is lost."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._receive(way, reader, on_the_way))
            both.create_task(self._deliver(way, on_the_way, writer))

    async def _receive(
        self, way: Way, reader: asyncio.StreamReader, on_the_way: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        clock = asyncio.get_running_loop().time
        sent = 0.0
        while True:
            data = await reader.read(CHUNK_BYTES)
            trouble, sent = self._trouble, max(sent, clock())
            if way == "up":
                self.bytes_up += len(data)
                sent += len(data) / trouble.up_bytes_per_s if trouble.up_bytes_per_s else 0.0
            await on_the_way.put((sent + trouble.delays_s(way, self._draw), data))
            if not data:
                return

    async def _deliver(
        self, way: Way, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await asyncio.sleep(self._stall_s())
            async with self._changed:
                await self._changed.wait_for(lambda: not self._trouble.drops(way))
            if not data:
                writer.write_eof()
                return
            trouble = self._trouble
            writer.write(self._draw.randbytes(len(data)) if trouble.garbage and way == "down" else data)
            await writer.drain()
            if trouble.bytes_per_s:
                await asyncio.sleep(len(data) / trouble.bytes_per_s)

    def _stall_s(self) -> float:
        """Return how long retransmissions take for the next piece; raises ConnectionError now and then."""
        stall_s, timeout_s = 0.0, RETRANSMIT_S
        while self._trouble.loss and self._draw.random() < self._trouble.loss:
            if self._draw.random() < GIVEN_UP:
                raise ConnectionResetError("given up after too many retransmissions")
            stall_s, timeout_s = stall_s + timeout_s, 2 * timeout_s
        return stall_s


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with a reset rather than with an orderly end; nothing happens to one that is closed."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
