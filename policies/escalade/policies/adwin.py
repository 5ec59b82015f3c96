"""Notice that the mean of a stream has changed: `Adwin`."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKETS = 5
"""Buckets of one size that are kept before the two oldest are merged."""

LEAST = 8
"""Values that either side of a cut has to have."""


class Adwin:
    """A window over the latest values that drops its older part when the means of the two parts differ.

    The window is kept as sums over buckets of 1, 2, 4, ... values, so it takes memory and time of the order of its
    length's logarithm. At every bucket's border the means of the older and the newer part, of ``n0`` and ``n1``
    values, are compared: with ``m = 1 / (1/n0 + 1/n1)`` and ``d = log(2 log(n) / delta)`` the older part is dropped if
    they differ by more than ``sqrt(2/m * var * d) + 2/(3m) * d``.

    Parameters
    ----------
    delta
        How readily it sees a change where there is none, in (0, 1), for each time that it looks.
    every
        It looks after so many values.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Source: Bifet and Gavalda (2007), "Learning from time-changing data with adaptive windowing", section 3 (ADWIN2);
    the bound is that of section 4. Values should lie in [0, 1] or a range of that size. It sees changes of the mean
    only. Not promised: a rate of false alarms over a long stream; the bound is conservative, and in practice they are
    rare at the default.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> adwin = Adwin()
    >>> any(adwin.add(value) for value in rng.normal(0.8, 0.1, 2000))
    False
    >>> next(i for i, value in enumerate(rng.normal(0.7, 0.1, 2000)) if adwin.add(value))
    119
    >>> adwin.size < 2000
    True
    """

    def __init__(self, delta: float = 0.002, every: int = 8) -> None:
        if not 0.0 < delta < 1.0:
            raise ValueError(f"delta must be between 0 and 1, got {delta!r}")
        if every < 1:
            raise ValueError(f"every must be 1 or more, got {every}")
        self.delta, self.every = delta, every
        self.size, self._sum, self._squares, self._since = 0, 0.0, 0.0, 0
        self._levels: list[list[tuple[float, float]]] = [[]]  # newest first in each: sum and sum of squares

    def add(self, value: float) -> bool:
        """Take in one finite value and return whether the window has just been cut."""
        self._levels[0].insert(0, (value, value * value))
        self.size += 1
        self._sum += value
        self._squares += value * value
        for level, buckets in enumerate(self._levels):
            if len(buckets) <= BUCKETS:
                break
            (last, last_squares), (other, other_squares) = buckets.pop(), buckets.pop()
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].insert(0, (last + other, last_squares + other_squares))
        self._since += 1
        if self._since < self.every or self.size < 2 * LEAST:
            return False
        self._since = 0
        cut = False
        while self._differs():
            self._drop()
            cut = True
        return cut

    @property
    def mean(self) -> float:
        """The mean of the window, 0 of an empty one."""
        return self._sum / self.size if self.size else 0.0

    def _differs(self) -> bool:
        """Whether there is a border at which older and newer part differ."""
        n = self.size
        if n < 2 * LEAST:
            return False
        variance = max(self._squares / n - (self._sum / n) ** 2, 0.0)
        doubt = log(2.0 * log(n) / self.delta)
        older, older_sum = 0, 0.0
        for level in range(len(self._levels) - 1, -1, -1):
            width = 1 << level
            for total, _ in reversed(self._levels[level]):
                older += width
                older_sum += total
                newer = n - older
                if newer < LEAST:
                    return False
                if older < LEAST:
                    continue
                inverse = 1.0 / older + 1.0 / newer
                bound = sqrt(2.0 * inverse * variance * doubt) + 2.0 / 3.0 * inverse * doubt
                if abs(older_sum / older - (self._sum - older_sum) / newer) > bound:
                    return True
        return False

    def _drop(self) -> None:
        """Forget the oldest bucket."""
        while not self._levels[-1]:
            self._levels.pop()
        total, squares = self._levels[-1].pop()
        self.size -= 1 << (len(self._levels) - 1)
        self._sum -= total
        self._squares -= squares

    def state(self) -> NDArray[np.float64]:
        """Return everything as float64 ``[buckets + 1, 3]``.

        For each bucket, newest first, level, sum and sum of squares; last ``-1 -`` the values since it looked, and the
        window's own two sums, whose last bits depend on what was dropped.
        """
        rows = [(float(level), *bucket) for level, buckets in enumerate(self._levels) for bucket in buckets]
        return np.array([*rows, (-1.0 - self._since, self._sum, self._squares)])

    def load(self, state: NDArray[np.float64]) -> None:
        """Take over a state; ValueError if it is none."""
        table = np.asarray(state)
        if table.dtype != np.float64 or table.ndim != 2 or table.shape[1] != 3 or not np.isfinite(table).all():
            raise ValueError("an Adwin's state must be finite float64 [buckets + 1, 3]")
        levels = table[:-1, 0].astype(np.int64)
        if table[-1, 0] > -1.0 or np.any(levels != table[:-1, 0]) or np.any(np.diff(levels, prepend=0) < 0):
            raise ValueError("not an Adwin's state: its levels must ascend from 0, with -1 or less last")
        counts = np.bincount(levels, minlength=1)
        if counts.max() > BUCKETS or len(counts) > 48:
            raise ValueError(f"not an Adwin's state: more than {BUCKETS} buckets of one size, or a window too long")
        rows = table[:-1].tolist()
        self._levels = [[(b, c) for a, b, c in rows if a == level] for level in range(len(counts))]
        self.size = int((counts << np.arange(len(counts))).sum())
        last, self._sum, self._squares = table[-1].tolist()
        self._since = int(-1.0 - last)
