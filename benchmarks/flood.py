"""An open-loop load generator: requests are sent when they are due, whatever becomes of those before.

It speaks as much of HTTP/2 as that takes, over plain sockets, and prepares all bytes beforehand: about 10 us a
request, a tenth of what a gRPC server in Python needs, so that one core can flood another. Like a gRPC client
it cancels a request whose deadline has passed. Times count from the moment that a request was due. Run as a
process of its own: `python -m benchmarks.flood --help`; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from benchmarks.bare import SERVICE

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
WINDOW = 2**30
TICK_S = 0.0005


@dataclass
class Tally:
    """What became of the requests of one kind."""

    sent: int = 0
    in_time: int = 0
    refused: int = 0
    late: int = 0
    """Given up at their deadline."""
    times_s: list[float] = field(default_factory=list)


class Connection:
    """One HTTP/2 connection; sends what fits into the peer's window and keeps the rest."""

    def __init__(self, address: str, timeout_s: float) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._out += frame(SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, WINDOW))
        self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW))
        self._in = bytearray()
        self._room, self._taken, self._next = 65_535, 0, 1
        self._headers = request_headers(address, timeout_s)
        self.open: dict[int, tuple[int, float]] = {}
        self.closed = False

    def begin(self, body: bytes, kind: int, due: float) -> bool:
        """Write one request, unless the peer's window is full."""
        if len(body) > self._room or self.closed:
            return False
        stream, self._next = self._next, self._next + 2
        self._room -= len(body)
        self._out += frame(HEADERS, END_HEADERS, stream, self._headers)
        self._out += frame(DATA, END_STREAM, stream, body)
        self.open[stream] = (kind, due)
        return True

    def give_up(self, due_before: float) -> list[int]:
        """Cancel what was due before, and return the kinds."""
        late = []
        for stream, (kind, due) in self.open.items():  # in the order in which they were due
            if due > due_before:
                break
            late.append((stream, kind))
        for stream, _ in late:
            del self.open[stream]
            self._out += frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        return [kind for _, kind in late]

    def flush(self) -> None:
        """Hand the kernel what it takes."""
        if self._out and not self.closed:
            try:
                sent = self.socket.send(self._out)
                del self._out[:sent]
            except BlockingIOError:
                pass
            except OSError:
                self.closed = True

    def read(self) -> list[tuple[int, float, bool]]:
        """Return kind and due time of the requests that ended, and whether each brought an answer."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return []
        self._in += data
        ended, at, have = [], 0, len(self._in)
        while have - at >= 9:
            size = int.from_bytes(self._in[at : at + 3], "big")
            if have - at < 9 + size:
                break
            kind, flags = self._in[at + 3], self._in[at + 4]
            stream = int.from_bytes(self._in[at + 5 : at + 9], "big")
            payload = bytes(self._in[at + 9 : at + 9 + size])
            at += 9 + size
            if kind == DATA:
                self._taken += size
                if size > 5 and stream in self.open:  # more than gRPC's own prefix: an answer
                    ended.append((*self.open.pop(stream), True))
            elif kind in (HEADERS, RST_STREAM):
                if stream in self.open and (kind == RST_STREAM or flags & END_STREAM):
                    ended.append((*self.open.pop(stream), False))
            elif kind == SETTINGS and not flags & ACK:
                self._out += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self._out += frame(PING, ACK, 0, payload)
            elif kind == WINDOW_UPDATE and not stream:
                self._room += int.from_bytes(payload, "big")
            elif kind == GOAWAY:
                self.closed = True
        del self._in[:at]
        if self._taken > WINDOW // 2:
            self._out += frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._taken))
            self._taken = 0
        return ended


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def request_headers(address: str, timeout_s: float) -> bytes:
    """Return the header block of ModelInfer, without indexing (RFC 7541), so that every request may use it."""

    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()  # at most 126 bytes here

    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + text(f"/{SERVICE}/ModelInfer"),
            b"\x01" + text(address),
            b"\x00" + text("te") + text("trailers"),
            b"\x00" + text("content-type") + text("application/grpc"),
            b"\x00" + text("grpc-timeout") + text(f"{round(timeout_s * 1e6)}u"),
        )
    )


def flood(
    address: str,
    bodies: list[bytes],
    shares: list[float],
    *,
    rate: float = 0.0,
    window: int = 0,
    seconds: float,
    deadline_s: float,
    connections: int = 4,
    seed: int = 0,
) -> tuple[list[Tally], float]:
    """Send `rate` requests a second for `seconds`, Poisson, of kinds drawn by `shares`.

    With a `window` instead, so many are kept in flight: a closed loop, which finds the peer's capacity.

    Returns
    -------
    tallies, behind_s
        By kind; and how late, at most, a request was sent after it was due: above a few milliseconds the
        generator, or the peer's flow control, was the bottleneck.
    """
    rng = random.Random(seed)  # traffic, not secrets
    messages = [b"\0" + len(body).to_bytes(4, "big") + body for body in bodies]
    kinds = rng.choices(range(len(bodies)), shares, k=1 << 14)
    links = [Connection(address, deadline_s) for _ in range(connections)]
    tallies = [Tally() for _ in bodies]
    clock, count, behind_s = time.perf_counter, 0, 0.0
    start = clock() + 0.05
    due, stop = start, start + seconds
    while True:
        now = clock()
        room = window - sum(len(link.open) for link in links)
        if window:
            due = now if now < stop and room else inf
        while due <= now and due < stop:
            kind = kinds[count & (1 << 14) - 1]
            if not links[count % connections].begin(messages[kind], kind, due):
                if links[count % connections].closed:
                    raise ConnectionError("the server closed the connection")
                break
            tallies[kind].sent += 1
            behind_s = max(behind_s, now - due)
            count += 1
            room -= 1
            if not window:
                due += rng.expovariate(rate)
            elif not room:
                due = inf
        open_ = 0
        for link in links:
            for kind in link.give_up(now - deadline_s):
                tallies[kind].late += 1
            link.flush()
            open_ += len(link.open)
        if now >= stop and not open_:
            break
        readable, _, _ = select.select([link.socket for link in links], [], [], TICK_S)
        ready = {sock.fileno() for sock in readable}
        now = clock()
        for link in links:
            if link.socket.fileno() in ready:
                for kind, since, answered in link.read():
                    tally, took = tallies[kind], now - since
                    if not answered:
                        tally.refused += 1
                    elif took <= deadline_s:
                        tally.in_time += 1
                        tally.times_s.append(took)
                    else:
                        tally.late += 1
    for link in links:
        link.socket.close()
    return tallies, behind_s


def main() -> None:
    """Read what to send, flood, print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--bodies", type=Path, nargs="+", required=True, help="a serialised request of each kind")
    parser.add_argument("--shares", type=float, nargs="+", required=True)
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=float, default=0.0, help="requests a second")
    load.add_argument("--window", type=int, default=0, help="requests in flight, instead: a closed loop")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--deadline-ms", type=float, required=True)
    options = parser.parse_args()
    tallies, behind_s = flood(
        options.address,
        [file.read_bytes() for file in options.bodies],
        options.shares,
        rate=options.rate,
        window=options.window,
        seconds=options.seconds,
        deadline_s=options.deadline_ms / 1e3,
    )
    kinds = []
    for tally in tallies:
        times = sorted(tally.times_s) or [float("nan")]
        p50, p99 = times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3
        counts = {name: getattr(tally, name) for name in ("sent", "in_time", "refused", "late")}
        kinds.append({**counts, "p50_ms": p50, "p99_ms": p99})
    json.dump({"kinds": kinds, "behind_ms": behind_s * 1e3}, sys.stdout)


if __name__ == "__main__":
    main()
