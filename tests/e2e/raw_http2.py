"""HTTP/2 by hand, so far as it takes to be a bad client: to begin calls and not end them, to read nothing."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
FRAME_BYTES = 16_384
START_WINDOW = 65_535
INITIAL_WINDOW_SIZE = 4


class RawConnection:
    """One connection to a gRPC server; what the server sends is left in the socket's buffer unless it is read.

    Parameters
    ----------
    window:
        How many bytes the server may send on a stream before this side takes some.
    """

    def __init__(self, address: str, window: int = START_WINDOW) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._next_stream = 1
        self._windows = {0: START_WINDOW}
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
        self._socket.sendall(frame(SETTINGS, ACK, 0))

    def begin(self, path: str, more: tuple[tuple[str, str], ...] = ()) -> int:
        """Send the headers of a call; return its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "tier"),
            ("content-type", "application/grpc"), ("te", "trailers"), *more,
        )  # fmt: skip
        self._socket.sendall(frame(HEADERS, END_HEADERS, stream, b"".join(literal(*one) for one in headers)))
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes of a call's messages, at most 16,384 at a time."""
        self._socket.sendall(frame(DATA, END_STREAM if end else 0, stream, data))

    def send_all(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """Send a call's messages as fast as the server takes them; OSError when it closes the connection."""
        self._windows.setdefault(stream, START_WINDOW)
        while data:
            room = min(self._windows[0], self._windows[stream], FRAME_BYTES)
            if room <= 0:
                if not self._read_frame(stream):
                    return
                continue
            part, data = data[:room], data[room:]
            self.send(stream, part, end=end and not data)
            self._windows[0] -= len(part)
            self._windows[stream] -= len(part)

    def read_until(self, text: bytes, times: int) -> bool:
        """Read until a text came so often; False when the server closes the connection before."""
        found = b""
        while found.count(text) < times:
            if not (more := self._socket.recv(65_536)):
                return False
            found += more
        return True

    def _read_frame(self, stream: int) -> bool:
        """Read one frame; whether the stream is still open to what is sent."""
        head = self._read(9)
        payload = self._read(int.from_bytes(head[:3], "big"))
        kind, flags, place = head[3], head[4], int.from_bytes(head[5:9], "big")
        if kind == WINDOW_UPDATE:
            self._windows[place] = self._windows.get(place, START_WINDOW) + int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & ACK:
            wanted = dict(struct.unpack_from(">HI", payload, at) for at in range(0, len(payload), 6))
            grown = wanted.get(INITIAL_WINDOW_SIZE, START_WINDOW) - START_WINDOW
            self._windows[stream] += grown
        return kind not in (GOAWAY,) and not (place == stream and (kind == RST_STREAM or flags & END_STREAM))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if not (more := self._socket.recv(size - len(data))):
                raise ConnectionError("the server closed the connection")
            data += more
        return data

    def reset(self, stream: int) -> None:
        """Take a call back."""
        self._socket.sendall(frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header without any compression (RFC 7541, section 6.2.2)."""
    return b"\0" + _text(name.encode()) + _text(value.encode())


def message(payload: bytes, *, compressed: bool = False, size: int | None = None) -> bytes:
    """Return a gRPC message with its prefix, which may say another size."""
    return struct.pack(">BI", compressed, len(payload) if size is None else size) + payload


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, encoded = len(data) - 127, bytearray((127,))
    while rest > 127:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*encoded, rest)) + data
