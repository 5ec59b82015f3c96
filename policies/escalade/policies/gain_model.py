"""What the tier above is expected to gain on a row, from this tier's posterior: `GainModel`."""

from __future__ import annotations

from bisect import bisect_right
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class GainModel:
    """An additive table: ``gain = curve[c](p1) + margin_curve(p1 - p2) + runner_up[r]``.

    ``c`` is the class of the highest probability ``p1``, ``r`` that of the second highest, ``p2``. The
    curves are piecewise linear in the probability itself, so that a row needs comparisons, products and
    sums of float64 only, always in one order: `batch` and `one` agree to the last bit.

    Parameters
    ----------
    knots
        float64 ``[K]``, ascending, at least two.
    curve
        float64 ``[C, K]``: each class's value at each knot; constant beyond the ends.
    margin_knots, margin_curve
        float64 ``[M]``, as above, for the margin.
    runner_up
        float64 ``[C]``.

    Raises
    ------
    ValueError
        If an array is not of finite float64 or its shape does not fit.

    Examples
    --------
    >>> flat = np.zeros(2)
    >>> model = GainModel(np.array([0.5, 1.0]), np.array([[0.4, 0.0], [0.2, 0.0]]), np.array([0.0, 1.0]), flat, flat)
    >>> model.batch(np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]], np.float32)).tolist()
    [0.2, 0.4, 0.0]
    >>> model.one([0.75, 0.25])
    0.2
    """

    NAMES = ("knots", "curve", "margin_knots", "margin_curve", "runner_up")

    def __init__(
        self, knots: Floats, curve: Floats, margin_knots: Floats, margin_curve: Floats, runner_up: Floats
    ) -> None:
        given = dict(zip(self.NAMES, (knots, curve, margin_knots, margin_curve, runner_up), strict=True))
        for name, array in given.items():
            if not isinstance(array, np.ndarray) or array.dtype != np.float64 or not np.isfinite(array).all():
                raise ValueError(f"'{name}' must be an array of finite float64")
        for name, ladder in (("knots", knots), ("margin_knots", margin_knots)):
            if ladder.ndim != 1 or len(ladder) < 2 or np.any(np.diff(ladder) <= 0):
                raise ValueError(f"'{name}' must be two or more ascending numbers")
        if runner_up.ndim != 1 or curve.shape != (len(runner_up), len(knots)):
            raise ValueError(f"'curve' is {list(curve.shape)}, not {[len(runner_up), len(knots)]}: classes, knots")
        if margin_curve.shape != margin_knots.shape:
            raise ValueError(f"'margin_curve' has {len(margin_curve)} values for {len(margin_knots)} knots")
        self.arrays = given
        slope, margin_slope = np.diff(curve, axis=1) / np.diff(knots), np.diff(margin_curve) / np.diff(margin_knots)
        self._tables = (knots, curve, slope, margin_knots, margin_curve, margin_slope, runner_up)
        self._plain: tuple[Any, ...] = tuple(table.tolist() for table in self._tables)

    @property
    def classes(self) -> int:
        """How many classes its posteriors have."""
        return len(self.arrays["runner_up"])

    def batch(self, posterior: NDArray[np.float32]) -> Floats:
        """Return float64 ``[B]``, the gain of each row; ``inf`` for a row that is not finite or of other classes."""
        rows, classes = posterior.shape
        gain = np.full(rows, inf)
        if classes != self.classes or not rows:
            return gain
        finite = np.asarray(np.isfinite(posterior).all(axis=1))
        p = np.where(finite[:, None], posterior, np.float32(0)).astype(np.float64)
        top, best, second, after = top_two(p)
        knots, curve, slope, margin_knots, margin_curve, margin_slope, runner_up = self._tables
        x, at = _place(best, knots)
        value = curve[top, at] + slope[top, at] * (x - knots[at])
        x, at = _place(best - second, margin_knots)
        value += margin_curve[at] + margin_slope[at] * (x - margin_knots[at])
        value += runner_up[after]
        gain[finite] = value[finite]
        return gain

    def one(self, row: list[float]) -> float:
        """Return the gain of one row of float32 values held in Python floats."""
        knots, curve, slope, margin_knots, margin_curve, margin_slope, runner_up = self._plain
        if len(row) != len(runner_up) or not all(map(isfinite, row)):
            return inf
        best = max(row)
        top = row.index(best)
        after, second = top, 0.0
        if len(row) > 1:
            others = row.copy()
            others[top] = -inf
            second = max(others)
            after = others.index(second)
        x = min(max(best, knots[0]), knots[-1])
        at = min(bisect_right(knots, x), len(knots) - 1) - 1
        value = curve[top][at] + slope[top][at] * (x - knots[at])
        x = min(max(best - second, margin_knots[0]), margin_knots[-1])
        at = min(bisect_right(margin_knots, x), len(margin_knots) - 1) - 1
        value += margin_curve[at] + margin_slope[at] * (x - margin_knots[at])
        value += runner_up[after]
        return float(value)


def top_two(p: Floats) -> tuple[NDArray[np.int64], Floats, Floats, NDArray[np.int64]]:
    """Return each row's best class, its probability, the second highest one and its class (the first at a tie)."""
    rows = np.arange(len(p))
    top = p.argmax(axis=1)
    best = p[rows, top]
    if p.shape[1] == 1:
        return top, best, np.zeros(len(p)), top
    others = p.copy()
    others[rows, top] = -inf
    after = others.argmax(axis=1)
    return top, best, others[rows, after], after


def _place(x: Floats, knots: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the values, kept within the knots, and the piece that each lies in."""
    inside = np.minimum(np.maximum(x, knots[0]), knots[-1])
    return inside, np.minimum(np.searchsorted(knots, inside, side="right"), len(knots) - 1) - 1
