"""From logits to a posterior: `softmax` for arrays, `posterior_one` for one row of plain floats."""

from __future__ import annotations

from functools import cache
from math import exp, inf, isfinite, nan
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.scores.rounding import columns, noise, settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


def softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float32]:
    """Turn logits into class probabilities ``exp(z/T) / sum(exp(z/T))``.

    Parameters
    ----------
    logits
        ``[B, C]`` of any number type and memory layout; ``B`` may be 0.
    temperature
        ``T`` > 0: above 1 makes the posterior less sure, below 1 surer (Guo et al. 2017, "On calibration
        of modern neural networks", section 4.2).

    Returns
    -------
    NDArray
        float32 ``[B, C]``. A row with ``nan`` becomes ``nan`` as a whole, as does a row of ``-inf`` only;
        classes at ``+inf`` share the probability equally.

    Raises
    ------
    ValueError
        If `logits` is not ``[B, C]`` with at least one class, or the temperature is not positive and finite.

    Notes
    -----
    Computed in float64 with the row's maximum subtracted, so nothing overflows. Each row equals
    `posterior_one` of that row bit for bit.

    Examples
    --------
    >>> softmax([[2.0, 1.0, 0.0], [9000.0, 9000.0, float("-inf")]]).round(3).tolist()
    [[0.6650000214576721, 0.24500000476837158, 0.09000000357627869], [0.5, 0.5, 0.0]]
    """
    if not (temperature > 0 and isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
    z = columns(logits)
    with np.errstate(all="ignore"):
        z -= z.max(axis=0)  # +inf - +inf is nan: such rows are set right below
        if temperature != 1.0:
            z /= temperature
        np.exp(z, out=z)
        z /= z.sum(axis=0)
        slack = noise(len(z))
        high = (z * (1.0 + slack)).astype(np.float32)
        z *= 1.0 - slack
        low = z.astype(np.float32)

    def one(row: int) -> list[float]:
        return posterior_one(np.asarray(logits)[row].astype(np.float64).tolist(), temperature)

    posterior = np.ascontiguousarray(settle(low, high, one).T)
    for row in np.flatnonzero(np.isnan(posterior[:, 0])):
        posterior[row] = one(int(row))
    return posterior


def posterior_one(row: list[float], temperature: float = 1.0) -> list[float]:
    """Turn one row of logits into class probabilities without numpy: what `softmax` gives for it.

    About 1 us for 10 classes where `softmax` on one row takes 10; above some 150 classes `softmax` is
    the faster one.

    Parameters
    ----------
    row
        ``C`` >= 1 logits.
    temperature
        ``T`` > 0; not checked here.

    Returns
    -------
    list of float
        ``C`` float32 values held in Python floats.

    Examples
    --------
    >>> posterior_one([1.0, 1.0, 1.0, 1.0])
    [0.25, 0.25, 0.25, 0.25]
    """
    scaled = row if temperature == 1.0 else [logit / temperature for logit in row]
    try:
        weights = list(map(exp, scaled))
        total = sum(weights)
    except OverflowError:
        total = inf
    if not 1e-200 < total < 1e200:  # too far from 0 to do without subtracting the maximum, or nan
        return _far(row, temperature)
    pack, unpack = _rounding(len(row))
    return list(unpack(pack(*[weight / total for weight in weights])))


def _far(row: list[float], temperature: float) -> list[float]:
    """Return the posterior of a row with large, infinite or missing logits."""
    top = max(row)
    if isfinite(top):
        weights = [exp((logit - top) / temperature) for logit in row]
    else:
        weights = [float(logit == top == inf) for logit in row]
    total = nan if any(logit != logit for logit in row) else sum(weights)
    if not total > 0.0:
        return [nan] * len(row)
    pack, unpack = _rounding(len(row))
    return list(unpack(pack(*[weight / total for weight in weights])))


@cache
def _rounding(classes: int) -> tuple[Callable[..., bytes], Callable[[bytes], tuple[Any, ...]]]:
    """Return a pair of functions that round `classes` numbers to float32 at once."""
    layout = Struct(f"{classes}f")
    return layout.pack, layout.unpack
