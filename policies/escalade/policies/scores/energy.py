"""The score of raw logits: `ENERGY`."""

from __future__ import annotations

from math import exp, inf, isfinite, log
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.scores.rounding import columns, noise, settle, to_float32
from escalade.policies.scores.score import Needs, Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Energy(Score):
    """The negative free energy of the logits, ``T * log(sum(exp(z / T)))``.

    It has no fixed range, so a threshold for one model says nothing about another. On outputs that are
    already probabilities its log-sum-exp says nothing either; `load_score` refuses that. A row with
    ``nan`` gives ``-inf``.

    Source: Liu et al. (2020), "Energy-based out-of-distribution detection", section 2, eq. 4.

    Parameters
    ----------
    temperature
        ``T`` > 0.

    Raises
    ------
    ValueError
        If the temperature is not positive and finite.

    Examples
    --------
    >>> ENERGY.batch([[1000.0, 0.0], [0.0, 0.0], [float("nan"), 1.0]]).tolist()
    [1000.0, 0.6931471824645996, -inf]
    >>> ENERGY.one([0.0, 0.0])
    0.6931471824645996
    """

    name = "energy"
    needs: Needs = "logits"

    def __init__(self, temperature: float = 1.0) -> None:
        if not (temperature > 0 and isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        self.temperature = temperature

    def batch(self, values: ArrayLike) -> NDArray[np.float32]:
        """Compute ``T * log(sum(exp(z / T)))`` of each row."""
        z = columns(values)
        with np.errstate(all="ignore"):
            top = z.max(axis=0)
            broken = np.isnan(top)
            z -= np.where(np.isfinite(top), top, 0.0)  # an infinite maximum stays what it is
            z /= self.temperature
            excess = self.temperature * np.log(np.exp(z, out=z).sum(axis=0))
            slack = noise(len(z)) * (np.abs(top) + excess + self.temperature)
            middle = top + excess
            middle[~np.isfinite(top)] = top[~np.isfinite(top)]
            slack[~np.isfinite(middle)] = 0.0
            low, high = (middle - slack).astype(np.float32), (middle + slack).astype(np.float32)
        score = settle(low, high, lambda row: self.one(np.asarray(values)[row].astype(np.float64).tolist()))
        score[broken] = -inf
        return score

    def one(self, row: list[float]) -> float:
        """Compute ``T * log(sum(exp(z / T)))``."""
        temperature = self.temperature
        try:
            total = sum(map(exp, row if temperature == 1.0 else [logit / temperature for logit in row]))
        except OverflowError:
            total = inf
        if 1e-200 < total < 1e200:
            return to_float32(temperature * log(total))
        top = max(row)  # too far from 0 to do without subtracting the maximum, or nan
        if any(logit != logit for logit in row):
            return -inf
        if not isfinite(top):
            return top
        return to_float32(top + temperature * log(sum([exp((logit - top) / temperature) for logit in row])))


ENERGY = Energy()
