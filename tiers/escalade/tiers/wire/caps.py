"""What a message may be made of: bounds that hold before, or while, it is parsed.

`limits.max_message_bytes` bounds its bytes. Parsed, a part of two bytes takes up to 150: an empty tensor, an empty
observation. So a message is refused, unparsed, when it has more parts than any honest one.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from escalade.tiers.errors import InputError

PARTS = 4096
"""Fields of a message and of its tensors together; of a message that is smaller than `SMALL` whatever fits."""
SMALL = 65_536
PARAMETERS = 64
"""Parameters of one request."""
ID_BYTES = 1024
"""Of a request; answers carry it back, and an outbox keeps it."""
EVENT_BYTES = 1024
"""Of the key of an event."""

_TENSORS = (5, 6)
"""The fields of a ModelInferRequest and of a ModelInferResponse that have parts of their own."""


def parsed(message: type[Any], data: bytes) -> Any:
    """Return a message; InputError when the bytes are none, or one of too many parts."""
    if len(data) > SMALL and has_too_many_parts(data):
        raise InputError(f"the message has more than {PARTS} parts")
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise InputError(f"the message is not a {message.DESCRIPTOR.name}") from error


def has_too_many_parts(data: bytes, most: int = PARTS) -> bool:
    """Whether a serialised message has more than `most` fields; one that is malformed has as many as can be read."""
    parts, todo = 0, [(0, len(data), True)]
    try:
        while todo:
            place, end, outer = todo.pop()
            while place < end:
                parts += 1
                if parts > most:
                    return True
                tag, place = _varint(data, place)
                kind = tag & 7
                if kind == 2:
                    size, place = _varint(data, place)
                    if outer and tag >> 3 in _TENSORS:
                        todo.append((place, min(place + size, end), False))
                    place += size
                elif kind == 0:
                    _, place = _varint(data, place)
                elif kind in (1, 5):
                    place += 8 if kind == 1 else 4
    except IndexError:
        return False
    return False


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it; IndexError at the end of the data."""
    value = shift = 0
    while (byte := data[place]) > 0x7F:
        value |= (byte & 0x7F) << shift
        shift += 7
        place += 1
    return value | byte << shift, place + 1
