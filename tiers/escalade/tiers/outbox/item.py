"""What an outbox keeps."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args
from zlib import crc32

Kind = Literal["escalation", "result", "telemetry"]
ReportKind = Literal["result", "telemetry"]
Priority = Literal["critical", "normal", "bulk"]

KINDS: tuple[Kind, ...] = get_args(Kind)
REPORT_KINDS: tuple[ReportKind, ...] = get_args(ReportKind)
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""Most urgent first. An item's rank is its priority's place here."""

ITEM_OVERHEAD_BYTES = 128
"""Counted for every item beside its own bytes: columns, index, the page's slack."""

RANKS = {priority: rank for rank, priority in enumerate(PRIORITIES)}
_KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
_HEAD = struct.Struct("<qBBdIII")

Row = tuple[int, int, int, float, int, bytes, bytes, bytes, bytes]
"""`seq, rank, kind, created_s, checksum, device, id, provisional, payload`, as they are stored."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be sent upward when that is possible.

    Parameters
    ----------
    device, id:
        Who made it and its name there; the pair is what the tier above recognises a repeat by.
    payload:
        What to send.
    kind, priority:
        `critical` goes first and is evicted last.
    created_s:
        When its maker made it, in the maker's time of day; passed on, never reckoned with.
    provisional:
        The answer that was given meanwhile, for the correction; empty when there was none.

    Raises
    ------
    ValueError
        A field that cannot be stored: one bad item must not fail the group it would be written with.
    """

    device: str
    id: str
    payload: bytes
    kind: Kind = "escalation"
    priority: Priority = "normal"
    created_s: float = 0.0
    provisional: bytes = b""

    def __post_init__(self) -> None:
        if self.kind not in _KIND_NUMBERS or self.priority not in RANKS:
            raise ValueError(f"kind must be one of {KINDS}, priority of {PRIORITIES}: {self.kind}, {self.priority}")
        if type(self.payload) is not bytes or type(self.provisional) is not bytes:
            raise ValueError("payload and provisional must be bytes")
        if not math.isfinite(self.created_s):
            raise ValueError(f"created_s must be a finite number of seconds, not {self.created_s}")
        if self.device.isascii() and self.id.isascii():
            return
        try:
            self.device.encode()
            self.id.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"device and id must be valid text: {error}") from None

    @property
    def size(self) -> int:
        """Bytes that count against the outbox's `max_bytes`."""
        own = len(self.device.encode()) + len(self.id.encode()) + len(self.provisional) + len(self.payload)
        return own + ITEM_OVERHEAD_BYTES


class Leased(NamedTuple):
    """An item taken out to be sent: settled by `done` or `failed`, or by the process's end, which puts it back."""

    seq: int
    """Its name towards the outbox; later ones are greater."""
    item: Item
    attempts: int
    """Failed ones so far."""
    age_s: float
    """How long it has been kept."""


def to_row(seq: int, item: Item) -> Row:
    """Return the item as columns, with a checksum over all of them."""
    rank, kind = RANKS[item.priority], _KIND_NUMBERS[item.kind]
    device, name = item.device.encode(), item.id.encode()
    checksum = _checksum(seq, rank, kind, item.created_s, device, name, item.provisional, item.payload)
    return seq, rank, kind, item.created_s, checksum, device, name, item.provisional, item.payload


def from_row(row: Row) -> Item:
    """Return the item; ValueError when a column is not as it was written."""
    seq, rank, kind, created_s, checksum, device, name, provisional, payload = row
    try:
        if _checksum(seq, rank, kind, created_s, device, name, provisional, payload) != checksum:
            raise ValueError("the checksum does not fit")
        return Item(device.decode(), name.decode(), payload, KINDS[kind], PRIORITIES[rank], created_s, provisional)
    except (struct.error, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"a column is not of its type: {error}") from error


def _checksum(
    seq: int, rank: int, kind: int, created_s: float, device: bytes, name: bytes, provisional: bytes, payload: bytes
) -> int:
    head = _HEAD.pack(seq, rank, kind, created_s, len(device), len(name), len(provisional))
    return crc32(payload, crc32(b"".join((head, device, name, provisional))))
