"""From a distribution to the table of quantiles that draws are looked up in."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.distribution import Constant, Distribution, Exponential, Lognormal, Quantiles, Uniform
from escalade.simulations.fleet.draws import CELLS, CONSTANT, OCTAVES, WIDTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

NS_PER_MS = 1_000_000
UNIT_MEAN = 1 << 30
"""Mean of `exponential_table`, which arrivals are drawn from."""

# The share above each entry: (1 + m / 64) * 2 ** -e, ascending, up to 1.
_ABOVE: NDArray[np.float64] = np.append(
    np.ldexp(1.0 + (np.arange(CELLS) % 64) / 64, np.arange(CELLS) // 64 - OCTAVES), 1.0
)


def time_table(distribution: Distribution) -> NDArray[np.int64]:
    """Return int64 ``[1, WIDTH]``: times in ns, descending as the share above ascends; then the mark of a constant."""
    return _table(_ms(distribution) * NS_PER_MS)


def exponential_table() -> NDArray[np.int64]:
    """Return the table of an exponential of mean `UNIT_MEAN`."""
    return _table(-np.log(_ABOVE) * UNIT_MEAN)


def mean_ms(table: NDArray[np.int64]) -> float:
    """Return the mean of what is drawn from a table, ms."""
    row = table.reshape(-1)
    middle = (row[:CELLS] + row[1 : CELLS + 1]) / 2
    return float((middle * np.diff(_ABOVE)).sum() + row[0] * _ABOVE[0]) / NS_PER_MS


def _table(values: NDArray[np.float64]) -> NDArray[np.int64]:
    table = np.empty(WIDTH, np.int64)
    table[: CELLS + 1] = np.rint(values)
    table[CONSTANT] = int((table[:CONSTANT] == table[0]).all())
    return table[None, :]


def _ms(distribution: Distribution) -> NDArray[np.float64]:
    match distribution:
        case Constant():
            return np.full(CELLS + 1, distribution.ms)
        case Exponential():
            return -np.log(_ABOVE) * distribution.mean_ms
        case Uniform():
            return distribution.high_ms - _ABOVE * (distribution.high_ms - distribution.low_ms)
        case Lognormal():
            sigma = np.log(distribution.p99_ms / distribution.p50_ms) / NormalDist().inv_cdf(0.99)
            z = np.array([NormalDist().inv_cdf(min(share, 1 - 2.0**-20)) for share in _ABOVE])
            return np.asarray(distribution.p50_ms * np.exp(-sigma * z))
        case Quantiles():
            return np.interp(1.0 - _ABOVE, distribution.share, distribution.ms)
