"""A seeded mutator: the same seeds and the same number give the same bytes, on every machine."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_BYTES = 16_384
TELLING = (
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff\x0f",
    b"\xff" * 9 + b"\x01",
    b"\x80" * 10,
    b"nan",
    b"-1",
)
"""Ends of ranges, of lengths and of protobuf's numbers."""


def mutated(seeds: Sequence[bytes], count: int, number: int = 0) -> Iterator[bytes]:
    """Yield so many inputs, each a seed that was changed in one to four places."""
    rng = Random(number)  # not for secrets
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
            _change(data, rng, seeds)
        yield bytes(data[:MOST_BYTES])


def _change(data: bytearray, rng: Random, seeds: Sequence[bytes]) -> None:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.choice((0, 0, 0, 1, 1, 2, 3, 4, 5, 6)):
        case 0 if data:
            data[start % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            data[start:end] = rng.choice(TELLING)
        case 2:
            data[start:start] = rng.randbytes(rng.randint(1, 8))
        case 3:
            del data[start:end]
        case 4:
            data[start:start] = data[start:end] * rng.choice((1, 2, 30))
        case 5:
            other = rng.choice(seeds)
            place = rng.randint(0, len(other))
            data[start:end] = other[place : place + rng.randint(0, 64)]
        case _:
            del data[rng.randint(0, len(data)) :]
