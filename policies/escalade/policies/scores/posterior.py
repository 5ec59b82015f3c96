"""The scores of a posterior: `MAX_PROB`, `MARGIN`, `ENTROPY`.

All three give ``-inf`` for a row with a value that is not finite.
"""

from __future__ import annotations

from math import inf, isfinite, log2, nan
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.scores.rounding import columns, noise, settle, to_float32
from escalade.policies.scores.score import Needs, Score

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class MaxProb(Score):
    """The highest class probability, in [1/C, 1].

    Source: Hendrycks and Gimpel (2017), "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", section 2.

    Examples
    --------
    >>> MAX_PROB.batch([[0.5, 0.25, 0.25], [float("nan"), 0.5, 0.5]]).tolist()
    [0.5, -inf]
    """

    name = "max_prob"
    needs: Needs = "posterior"

    def batch(self, values: ArrayLike) -> NDArray[np.float32]:
        """Take the highest value of each row."""
        p = columns(values)
        return _usable(p.max(axis=0), p)

    def one(self, row: list[float]) -> float:
        """Take the highest value."""
        return max(row) if isfinite(sum(row)) else -inf


class Margin(Score):
    """The highest probability less the second highest, in [0, 1]; with one class its probability.

    Source: Scheffer, Decomain and Wrobel (2001), "Active hidden Markov models for information extraction".

    Examples
    --------
    >>> MARGIN.batch([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]).tolist()
    [0.25, 0.625]
    """

    name = "margin"
    needs: Needs = "posterior"

    def batch(self, values: ArrayLike) -> NDArray[np.float32]:
        """Subtract the second highest value of each row from the highest."""
        p = columns(values)
        if len(p) == 1:
            return _usable(p[0], p)
        best = np.partition(np.asarray(values), len(p) - 2, axis=1)[:, -2:].astype(np.float64)
        with np.errstate(invalid="ignore"):
            return _usable(best[:, 1] - best[:, 0], p)

    def one(self, row: list[float]) -> float:
        """Subtract the second highest value from the highest."""
        if not isfinite(sum(row)):
            return -inf
        if len(row) == 1:
            return row[0]
        ordered = sorted(row)
        return to_float32(ordered[-1] - ordered[-2])


class Entropy(Score):
    """One less the entropy over its maximum, ``1 - H(p) / log C``, in [0, 1].

    It is 0 for a uniform posterior, 1 for a one-hot one, and 1 where there is one class only. The ratio
    is rounded to float32 before it is subtracted, so the lowest scores are multiples of 2^-24.

    Source: Shannon (1948), "A mathematical theory of communication", section 6.

    Examples
    --------
    >>> ENTROPY.batch([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]).tolist()
    [0.5, 1.0, 0.0]
    """

    name = "entropy"
    needs: Needs = "posterior"

    def batch(self, values: ArrayLike) -> NDArray[np.float32]:
        """Compute ``1 - H / log C`` of each row."""
        p = columns(values)
        if len(p) == 1:
            return _usable(np.ones(p.shape[1]), p)
        with np.errstate(invalid="ignore"):
            q = np.maximum(p, 0.0)
            h = -(q * np.log2(np.maximum(q, 1e-300))).sum(axis=0) / log2(len(p))
            slack = noise(len(p)) * (1.0 + np.abs(h))
            low, high = _one_less(h + slack), _one_less(h - slack)
        score = settle(low, high, lambda row: self.one(np.asarray(values)[row].astype(np.float64).tolist()))
        return _usable(score, p)

    def one(self, row: list[float]) -> float:
        """Compute ``1 - H / log C``."""
        try:
            h = -sum(map(mul, row, map(log2, row)))
        except ValueError:  # the logarithm of 0
            h = -sum([p * log2(p) for p in row if p > 0.0]) if isfinite(sum(row)) else nan
        if not isfinite(h):
            return -inf
        if len(row) == 1:
            return 1.0
        score = to_float32(1.0 - to_float32(h / log2(len(row))))
        return score if 0.0 <= score <= 1.0 else float(score > 0.0)


def _one_less(h: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.clip(1.0 - h.astype(np.float32).astype(np.float64), 0.0, 1.0).astype(np.float32)


def _usable(score: NDArray[np.float32] | NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round scores to float32, with ``-inf`` for the rows whose values do not sum to a finite number."""
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(p.sum(axis=0))
    return np.where(finite, score, -inf).astype(np.float32)


MAX_PROB = MaxProb()
MARGIN = Margin()
ENTROPY = Entropy()
