"""Sorting messages by time: fast, and with ties broken by what does not depend on windows or workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.rows import FAR, Up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

MOVES = 32
"""For each message, on average: more are not made, since then few buckets hold most of the messages."""


def arriving(rows: Rows, t1: int) -> NDArray[np.int64]:
    """Return which messages, int64 ``[n, UP]``, arrive before `t1` and were not answered (`END` -1), in order.

    The order is by time, then by cell, then by number.
    """
    return _by_time(rows, int(Up.AT), t1)


def by_sending(rows: Rows, column: int) -> NDArray[np.int64]:
    """Return the order of all by a time of sending, then by cell, then by number."""
    return _by_time(rows, int(column), -1)


def _by_time(rows: Rows, column: int, t1: int) -> NDArray[np.int64]:
    order = np.empty(len(rows), np.int64)
    n, done = _in_buckets(rows, column, t1, order)
    order = order[:n]
    if not done:
        order = order[np.lexsort((rows[order, Up.RID], rows[order, Up.CELL], rows[order, column]))]
    return order


@kernel
def _in_buckets(rows: Any, column: Any, t1: Any, order: Any) -> Any:
    """Return how many there are, and False if their times are so uneven that they were left unsorted."""
    n, low, high = 0, np.int64(FAR), np.int64(-1)
    times = np.empty(rows.shape[0], np.int64)
    for i in range(rows.shape[0]):
        t = rows[i, column]
        if t1 < 0 or (t < t1 and rows[i, Up.END] < 0):
            order[n] = i
            times[n] = t
            low, high = min(low, t), max(high, t)
            n += 1
    if n < 2:
        return n, True
    buckets, shift = 1, 0
    while buckets < n:
        buckets *= 2
    while (high - low) >> shift >= buckets:
        shift += 1
    begin = np.zeros(buckets + 1, np.int64)
    for k in range(n):
        begin[((times[k] - low) >> shift) + 1] += 1
    for b in range(buckets):
        begin[b + 1] += begin[b]
    found, when = np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(n):
        b = (times[k] - low) >> shift
        found[begin[b]] = order[k]
        when[begin[b]] = times[k]
        begin[b] += 1
    moves = MOVES * n
    for k in range(n):
        i, t, place = found[k], when[k], k
        while place > 0 and when[place - 1] >= t:
            before = found[place - 1]
            if when[place - 1] == t:
                cell, other = rows[i, Up.CELL], rows[before, Up.CELL]
                if other < cell or (other == cell and rows[before, Up.RID] < rows[i, Up.RID]):
                    break
            found[place], when[place] = before, when[place - 1]
            place -= 1
        found[place], when[place] = i, t
        moves -= k - place
        if moves < 0:
            return n, False
    for k in range(n):
        order[k] = found[k]
    return n, True
