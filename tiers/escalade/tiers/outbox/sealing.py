"""Items and corrections as they lie on the disk: sealed where a key is configured. A checksum covers what is stored,
so that a damaged file is rescued without the key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from escalade.tiers.outbox.correction import to_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from escalade.tiers.outbox.correction import Correction, CorrectionRow
    from escalade.tiers.outbox.item import Item


MAGIC = b"\x93esc\xffSL1"
"""How everything sealed begins; the key's id of `KEY_ID_BYTES` follows."""
KEY_ID_BYTES = 8
PLAIN = b"\x93esc\xffPL1"
"""Put before plain content that happens to begin as something sealed does, or as this."""


class Seal(Protocol):
    """A port: encryption of what is kept.

    `about` is bound to the content: it opens for that alone, so that rows cannot be exchanged.
    """

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """Return what to store."""
        ...

    def open(self, stored: bytes, about: bytes) -> bytes:
        """Return what was sealed; ValueError when it is not what was stored."""
        ...

    def knows(self, key_id: bytes) -> bool:
        """Whether what was sealed with this key can be opened."""
        ...


class Unsealed:
    """A `Seal` that leaves nearly everything as it is: no key is configured."""

    def seal(self, plain: bytes, about: bytes) -> bytes:
        """Return the same, marked where it could be taken for something sealed."""
        del about
        return PLAIN + plain if plain.startswith(DOUBTFUL) else plain

    def open(self, stored: bytes, about: bytes) -> bytes:
        """Return what was stored; ValueError for what another process has sealed."""
        del about
        if stored.startswith(MAGIC):
            raise ValueError("it is encrypted")
        return stored.removeprefix(PLAIN)

    def knows(self, key_id: bytes) -> bool:
        """No key is known."""
        del key_id
        return False


UNSEALED = Unsealed()
DOUBTFUL = (MAGIC, PLAIN)


def key_id_of(stored: bytes) -> bytes:
    """Return the id of the key that something is sealed with; empty for what is not sealed."""
    return stored[len(MAGIC) : len(MAGIC) + KEY_ID_BYTES] if stored.startswith(MAGIC) else b""


def seal_item(seal: Seal, seq: int, item: Item) -> Item:
    """Return the item as it is stored under a number."""
    if seal is UNSEALED and not item.payload.startswith(DOUBTFUL) and not item.provisional.startswith(DOUBTFUL):
        return item
    payload, provisional = _about("payload", seq, item), _about("provisional", seq, item)
    return replace(item, payload=seal.seal(item.payload, payload), provisional=seal.seal(item.provisional, provisional))


def open_item(seal: Seal, seq: int, stored: Item) -> Item:
    """Return the item that is stored under a number; ValueError when it is not what was sealed."""
    if seal is UNSEALED and not stored.payload.startswith(DOUBTFUL) and not stored.provisional.startswith(DOUBTFUL):
        return stored
    payload, provisional = _about("payload", seq, stored), _about("provisional", seq, stored)
    return replace(
        stored, payload=seal.open(stored.payload, payload), provisional=seal.open(stored.provisional, provisional)
    )


def seal_corrections(seal: Seal, corrections: Iterable[Correction]) -> list[CorrectionRow]:
    """Return corrections as they are stored."""
    rows = []
    for one in corrections:
        provisional, answer = one.provisional, one.answer
        if seal is not UNSEALED or provisional.startswith(DOUBTFUL) or answer.startswith(DOUBTFUL):
            provisional = seal.seal(provisional, _about("old", one.seq, one))
            answer = seal.seal(answer, _about("new", one.seq, one))
        rows.append(to_row(one._replace(provisional=provisional, answer=answer)))
    return rows


def open_correction(seal: Seal, stored: Correction) -> Correction:
    """Return the stored correction; ValueError when it is not what was sealed."""
    return stored._replace(
        provisional=seal.open(stored.provisional, _about("old", stored.seq, stored)),
        answer=seal.open(stored.answer, _about("new", stored.seq, stored)),
    )


def _about(what: str, seq: int, whose: Item | Correction) -> bytes:
    return f"{what}\0{seq}\0{whose.device}\0{whose.id}".encode()
