"""Sorting by time: fast, and with ties broken by what does not depend on windows or workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLACE_BITS = 22


def by_time(
    t: NDArray[np.int64], number: NDArray[np.int64], cell: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the order by time, then by cell, then by number.

    Times and places are packed into one whole number, which sorts several times as fast as an indirect sort.
    """
    n = len(t)
    if n < 2:
        return np.arange(n, dtype=np.int64)
    low = int(t.min())
    if n >= 1 << _PLACE_BITS or (int(t.max()) - low) >> (62 - _PLACE_BITS):
        return _slow(t, number, cell)
    packed = ((t - low) << _PLACE_BITS) | np.arange(n, dtype=np.int64)
    packed.sort()
    order: NDArray[np.int64] = packed & ((1 << _PLACE_BITS) - 1)
    packed >>= _PLACE_BITS
    same = packed[1:] == packed[:-1]
    if same.any():  # only those are sorted again; they stand together
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        mine = order[tied]
        order[tied] = mine[_slow(t[mine], number[mine], None if cell is None else cell[mine])]
    return order


def _slow(t: NDArray[np.int64], number: NDArray[np.int64], cell: NDArray[np.int64] | None) -> NDArray[np.int64]:
    order: NDArray[np.int64] = np.lexsort((number, t) if cell is None else (number, cell, t))
    return order
