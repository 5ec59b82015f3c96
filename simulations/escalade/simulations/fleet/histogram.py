"""Log-linear histograms of times: whole numbers, so that parts merge exactly in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BITS = 6
"""2 ** BITS bins an octave: each is at most 1.6 % wide."""
OCTAVES = 48
"""Up to 2 ** 48 ns, three days; longer times count in the last bin."""
BINS = OCTAVES << BITS
SHIFT = 52 - BITS
FIRST = 1023 << BITS
"""What the exponent and the leading bits of 1.0 are, as a float64's bits; times below 1 ns count as that."""

EDGES_MS: NDArray[np.float64] = (
    np.ldexp(1.0 + (np.arange(BINS + 1) % (1 << BITS)) / (1 << BITS), np.arange(BINS + 1) >> BITS) / 1e6
)
"""Lower bounds of the bins, and the upper bound of the last, ms."""


def bin_of(ns: ArrayLike) -> NDArray[np.int64]:
    """Return the bins of times in ns, as the kernels count them."""
    bits = np.maximum(np.asarray(ns, np.int64), 1).astype(np.float64).view(np.int64)
    bins: NDArray[np.int64] = np.minimum((bits >> SHIFT) - FIRST, BINS - 1)
    return bins


def quantile_ms(counts: NDArray[np.int64], share: float) -> float:
    """Return the time that a share of the counted stays below, ms; linear inside a bin, nan without counts.

    Examples
    --------
    >>> counts = np.bincount(bin_of([1_000_000] * 99 + [64_000_000]), minlength=BINS)
    >>> round(quantile_ms(counts, 0.5), 2), round(quantile_ms(counts, 1.0), 0)
    (1.0, 65.0)
    """
    running = np.cumsum(counts)
    total = int(running[-1])
    if not total:
        return float("nan")
    wanted = share * total
    index = min(int(np.searchsorted(running, wanted, side="left")), BINS - 1)
    before = int(running[index] - counts[index])
    inside = (wanted - before) / int(counts[index]) if counts[index] else 0.0
    return float(EDGES_MS[index] + inside * (EDGES_MS[index + 1] - EDGES_MS[index]))
