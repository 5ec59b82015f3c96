"""Why an array and a single row give the same float32, to the last bit.

numpy and the ``math`` module may compute ``exp`` and ``log`` with different last bits, and sums depend
on their order. Both forms of a score therefore work in float64 and round to float32 at the end: they can
only disagree where the float64 value lies within that noise of a rounding boundary. Such rows, less than
one in ten thousand for ten classes, are recognised here and computed again as the single row would be.
"""

from __future__ import annotations

from ctypes import c_float
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

ULP = 2.0**-52


def to_float32(value: float) -> float:
    """Round one number to float32; beyond its range to ``inf``.

    Examples
    --------
    >>> to_float32(0.1)
    0.10000000149011612
    """
    return c_float(value).value


def noise(classes: int) -> float:
    """Bound the relative difference of two ways to add up `classes` exponentials or logarithms.

    Each addition may differ by a unit in the last place, each term by a few (numpy allows itself 4, a C
    library 1), and an exponential besides by the rounding of its argument, which is below 1000 units
    since one that counts has an argument of at most 709. The bound is generous: a larger one only
    recomputes a few rows more.
    """
    return (classes + 1040) * ULP


def columns(values: ArrayLike) -> NDArray[np.float64]:
    """Copy rows ``[B, C]`` of any float type and layout into contiguous float64 ``[C, B]``.

    Reductions over few classes are several times faster along the first axis.

    Raises
    ------
    ValueError
        If `values` is not two-dimensional or has no class.
    """
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"expected rows of shape [B, C] with at least one class, got {list(array.shape)}")
    return np.array(array.T, dtype=np.float64, order="C")


def settle(low: NDArray[np.float32], high: NDArray[np.float32], one: Callable[[int], Any]) -> NDArray[np.float32]:
    """Return the float32 that both bounds round to, and ``one(row)`` where they differ.

    Parameters
    ----------
    low, high
        float32 ``[..., B]``: the lower and upper bound of each value, rounded. `high` is overwritten.
    one
        Computes the row of that number the single-row way.

    Examples
    --------
    >>> low, high = np.float32([0.5, 0.25]), np.float32([0.5, 0.26])
    >>> settle(low, high, lambda row: 0.255).tolist()
    [0.5, 0.2549999952316284]
    """
    unsure = low != high
    if unsure.any():
        unsure &= low == low  # nan differs from itself, but is settled
        for row in np.flatnonzero(unsure.reshape(-1, unsure.shape[-1]).any(axis=0)):
            high[..., row] = one(int(row))
    return high
