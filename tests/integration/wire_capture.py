"""A TCP proxy that keeps what went upward, and reads the gRPC messages in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
DATA, PADDED = 0, 0x8


class Capture:
    """Stands before a tier; `sent` are the bytes of each connection upward."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.sent: list[bytearray] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Capture:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def messages(self) -> list[bytes]:
        """Return every gRPC message that was sent upward, of all connections and streams."""
        found = []
        for connection in self.sent:
            streams: dict[int, bytearray] = defaultdict(bytearray)
            place = PREFACE
            while place + 9 <= len(connection):
                size = int.from_bytes(connection[place : place + 3])
                kind, flags = connection[place + 3], connection[place + 4]
                content = connection[place + 9 : place + 9 + size]
                if kind == DATA:
                    if flags & PADDED:
                        content = content[1 : size - content[0]]
                    streams[int.from_bytes(connection[place + 5 : place + 9])] += content
                place += 9 + size
            for data in streams.values():
                while data:  # flag, length, message
                    size = int.from_bytes(data[1:5])
                    assert data[0] == 0, "compressed"
                    found.append(bytes(data[5 : 5 + size]))
                    del data[: 5 + size]
        return found

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.partition(":")
        with contextlib.closing(writer), contextlib.suppress(OSError):
            above_reader, above_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(above_writer):
                kept = bytearray()
                self.sent.append(kept)
                await asyncio.gather(_pump(reader, above_writer, kept), _pump(above_reader, writer, bytearray()))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    while data := await reader.read(65_536):
        kept += data
        writer.write(data)
        await writer.drain()
    writer.close()
