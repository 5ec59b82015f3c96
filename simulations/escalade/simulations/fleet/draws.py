"""Random numbers as a pure function of (seed, purpose, cell, number): whoever draws, and when, draws the same.

Each (seed, purpose, cell) has a key of 64 bits, and the ``i``-th number is SplitMix64's output at ``key + i * G``
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17). A time is looked up in a
table of quantiles; all is integers, so that compiled code, numpy and Python agree to the bit.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.jit import inline

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
R11, R27, R30, R31, R32 = (np.uint64(n) for n in (11, 27, 30, 31, 32))
ONE = np.uint64(1)

OCTAVES = 24
CELLS = OCTAVES * 64
"""A table has 64 cells for each halving of the share above, 24 times: the tail is as fine as the middle."""
WIDTH = CELLS + 2
CONSTANT = CELLS + 1
"""Place of a mark: 1 where all entries are the same."""
_LEAST = (1023 + 53 - OCTAVES) << 6
_FRACTION = 0xFFFFF
TO_UNIT = 2.0**-53


class Purpose(IntEnum):
    """What a number is drawn for."""

    GAP = 0
    DEVICE = 1
    SAMPLE = 2
    SERVICE_0 = 3
    SERVICE_1 = 4
    SERVICE_2 = 5
    ACCESS_UP = 6
    ACCESS_DOWN = 7
    UPLINK_UP = 8
    UPLINK_DOWN = 9
    LOSS_0 = 10
    LOSS_1 = 11
    UNIFORM_0 = 12
    UNIFORM_1 = 13
    PHASE = 14
    JITTER = 15
    CHURN = 16
    OUTAGE_0 = 17
    OUTAGE_1 = 18
    FAILURE_1 = 19
    FAILURE_2 = 20
    TRIGGER = 21
    AUDIT = 22
    ROLLOUT_0 = 23
    ROLLOUT_1 = 24
    ROLLOUT_2 = 25
    MOBILITY = 26
    BATTERY = 27
    BREAKER_0 = 28
    BREAKER_1 = 29
    BURST = 30
    HASH = 31
    EVENT_SAMPLE = 32
    EVENT_FAULT = 33
    EVENT_NOISE = 34
    EVENT_HASH = 35


PURPOSES = len(Purpose)


@inline
def mix(z: Any) -> Any:
    """Scramble 64 bits."""
    z = (z ^ (z >> R30)) * FIRST
    z = (z ^ (z >> R27)) * SECOND
    return z ^ (z >> R31)


@inline
def bits(key: Any, number: Any) -> Any:
    """Return 64 random bits."""
    return mix(key + np.uint64(number) * GOLDEN)


@inline
def below(key: Any, number: Any, n: Any) -> Any:
    """Return a whole number in [0, n), n up to 2 ** 31."""
    return np.int64(((bits(key, number) >> R32) * np.uint64(n)) >> R32)


@inline
def uniform(key: Any, number: Any) -> Any:
    """Return a number in [0, 1)."""
    return np.float64(bits(key, number) >> R11) * TO_UNIT


@inline
def drawn(tables: Any, which: Any, key: Any, number: Any) -> Any:
    """Return the number-th time of one of the tables of quantiles, ``[tables, WIDTH]``."""
    if tables[which, CONSTANT] != 0:
        return tables[which, 0]
    place = np.float64((bits(key, number) >> R11) | ONE).view(np.int64)
    cell = (place >> 46) - _LEAST
    if cell < 0:
        return tables[which, 0]
    low = tables[which, cell]
    return low + (((tables[which, cell + 1] - low) * ((place >> 26) & _FRACTION)) >> 20)


def keys(seed: int, cells: int) -> NDArray[np.uint64]:
    """Return uint64 ``[cells, PURPOSES]``: the key of each cell's numbers for each purpose."""
    with np.errstate(over="ignore"):
        start = mix(np.array([seed], np.uint64) + GOLDEN)
        cell = mix(start + np.arange(1, cells + 1, dtype=np.uint64)[:, None] * FIRST)
        table: NDArray[np.uint64] = mix(cell + np.arange(1, PURPOSES + 1, dtype=np.uint64) * GOLDEN)
        return table
