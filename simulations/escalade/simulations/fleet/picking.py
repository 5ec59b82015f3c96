"""Which messages go on after a tier or a link, as kernels: copied once, and only where they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.rows import Status, Up

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def inferred(rows: Any, t1: Any, which: Any) -> Any:
    """Put into `which` those whose inference ends before `t1`; return how many, and how many were turned away."""
    n, away = 0, 0
    for i in range(rows.shape[0]):
        if rows[i, Up.END] >= 0:
            if rows[i, Up.STATUS] != Status.DONE:
                away += 1
            elif rows[i, Up.END] < t1:
                which[n] = i
                n += 1
    return n, away


def under_way(rows: NDArray[np.int64], n: int, t1: int) -> NDArray[np.int64]:
    """Return a copy of the `n` that are neither inferred before `t1` nor turned away."""
    out = np.empty((n, rows.shape[1]), np.int64)
    if n:
        _under_way(rows, t1, out)
    return out


@kernel
def _under_way(rows: Any, t1: Any, out: Any) -> None:
    n = 0
    for i in range(rows.shape[0]):
        end = rows[i, Up.END]
        if end < 0 or (end >= t1 and rows[i, Up.STATUS] == Status.DONE):
            for column in range(rows.shape[1]):
                out[n, column] = rows[i, column]
            n += 1


@kernel
def arrived(rows: Any, out: Any, n: Any) -> Any:
    """Copy those that got over a link behind the `n` first of `out`; return how many these then are."""
    for i in range(rows.shape[0]):
        if rows[i, Up.STATUS] == Status.DONE:
            for column in range(rows.shape[1]):
                out[n, column] = rows[i, column]
            n += 1
    return n
