"""What became of a delivered item: the answer given meanwhile, and the one that came from above."""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

CorrectionRow = tuple[int, float, float, int, bytes, bytes, bytes, bytes]
"""`seq, created_s, delay_s, checksum, device, id, provisional, answer`, as they are stored."""

_HEAD = struct.Struct("<qddIII")


class Delivered(NamedTuple):
    """A leased item that the tier above has answered."""

    seq: int
    """The leased item's."""
    answer: bytes
    """Empty when no correction is wanted."""


class Correction(NamedTuple):
    """An answer that came later than the provisional one; kept until it is too old, or one of too many."""

    seq: int
    """Its place among the corrections of this outbox; greater than that of all before."""
    device: str
    id: str
    provisional: bytes
    answer: bytes
    created_s: float
    """Time of day when the item was delivered."""
    delay_s: float
    """From the item's put to its delivery."""


def to_row(correction: Correction) -> CorrectionRow:
    """Return the correction as columns, with a checksum over all of them."""
    seq, device, name, provisional, answer, created_s, delay_s = correction
    columns = device.encode(), name.encode(), provisional, answer
    return seq, created_s, delay_s, _checksum(seq, created_s, delay_s, *columns), *columns


def from_row(row: CorrectionRow) -> Correction:
    """Return the correction; ValueError when a column is not as it was written."""
    seq, created_s, delay_s, checksum, device, name, provisional, answer = row
    try:
        if _checksum(seq, created_s, delay_s, device, name, provisional, answer) != checksum:
            raise ValueError("the checksum does not fit")
        return Correction(seq, device.decode(), name.decode(), provisional, answer, created_s, delay_s)
    except (struct.error, TypeError, AttributeError) as error:
        raise ValueError(f"a column is not of its type: {error}") from error


def _checksum(
    seq: int, created_s: float, delay_s: float, device: bytes, name: bytes, provisional: bytes, answer: bytes
) -> int:
    head = _HEAD.pack(seq, created_s, delay_s, len(device), len(name), len(provisional))
    return crc32(b"".join((head, device, name, provisional, answer)))
