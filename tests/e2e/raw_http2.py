"""HTTP/2 by hand, so far as it takes to be a bad client: to begin calls and not end them, to read nothing."""

from __future__ import annotations

import socket
import struct
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW_SIZE = 4


class RawConnection:
    """One connection to a gRPC server; what the server sends is left in the socket's buffer unless it is read.

    Parameters
    ----------
    window:
        How many bytes the server may send on a stream before this side takes some.
    """

    def __init__(self, address: str, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self._next_stream = 1
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

    def send(self, stream: int, data: bytes) -> None:
        """Send bytes of a call's messages."""
        self._socket.sendall(frame(DATA, 0, stream, data))

    def closed(self, timeout_s: float) -> bool:
        """Read on until the server closes the connection; whether it did in time."""
        self._socket.settimeout(timeout_s)
        try:
            while self._socket.recv(65_536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
