"""Fit a `GainModel` by ridge regression, with estimates of each row from the others: `GainFit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.gain_model import GainModel, top_two

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MAX_CELLS = 4096
"""With more classes x knots than this a class has an offset only, no curve of its own."""

FOLDS = 5


class GainFit:
    """The regression of a target on one tier's posteriors; the normal equations are set up once.

    Every row has eight numbers that are not 0: two of the shared curve, its class's offset, two of its class's
    own curve, two of the margin's and one of its runner-up. So the normal equations are sums of 64 counts.

    Parameters
    ----------
    posterior
        float32 ``[N, C]``.
    knots
        At most so many, at quantiles of the highest probability; the margin gets half of them.
    ridge
        Penalty on what is particular to a class, in rows; what is shared is penalised by 1.
    seed
        Of the folds.
    """

    def __init__(self, posterior: NDArray[np.float32], *, knots: int, ridge: float, seed: int) -> None:
        rows, self.classes = posterior.shape
        top, best, second, after = top_two(posterior.astype(np.float64))
        self.knots, self.margin_knots = _ladder(best, knots), _ladder(best - second, max(2, knots // 2))
        shared, margin = len(self.knots), len(self.margin_knots)
        own = shared if self.classes * shared <= MAX_CELLS else 0
        starts = np.cumsum([0, shared, self.classes, self.classes * own, margin, self.classes])
        self._starts, self._own = starts, own
        at, low = _hat(best, self.knots)
        margin_at, margin_low = _hat(best - second, self.margin_knots)
        where = [at, at + 1, starts[1] + top, starts[3] + margin_at, starts[3] + margin_at + 1, starts[4] + after]
        value = [low, 1.0 - low, np.ones(rows), margin_low, 1.0 - margin_low, np.ones(rows)]
        if own:
            cell = starts[2] + top * own + at
            where, value = [*where, cell, cell + 1], [*value, low, 1.0 - low]
        self._where, self._value = np.stack(where), np.stack(value)
        penalty = np.full(starts[-1], float(ridge))
        penalty[: starts[2]] = 1.0
        penalty[starts[3] : starts[4]] = 1.0
        self._fold = np.random.default_rng(seed).permutation(rows) % min(FOLDS, rows)
        grams = [self._gram(self._fold == fold) for fold in range(self._fold.max() + 1)]
        whole = np.sum(grams, axis=0) + np.diag(penalty)
        self._inverse = np.linalg.inv(whole)
        self._without = [np.linalg.inv(whole - gram) for gram in grams]

    def cross_fitted(self, target: Floats) -> Floats:
        """Return float64 ``[N]``: each row's estimate from a fit to the folds that it is not in."""
        estimate = np.empty(len(target))
        for fold, inverse in enumerate(self._without):
            inside = self._fold == fold
            weights = inverse @ self._moments(target, ~inside)
            estimate[inside] = (weights[self._where[:, inside]] * self._value[:, inside]).sum(axis=0)
        return estimate

    def model(self, target: Floats) -> GainModel:
        """Return the fit to all rows."""
        weights = self._inverse @ self._moments(target, np.ones(len(target), bool))
        shared, offset, own, margin, runner_up = np.split(weights, self._starts[1:-1])
        curve = shared[None, :] + offset[:, None]
        if self._own:
            curve = curve + own.reshape(self.classes, -1)
        return GainModel(self.knots, np.ascontiguousarray(curve), self.margin_knots, margin.copy(), runner_up.copy())

    def _moments(self, target: Floats, rows: NDArray[np.bool_]) -> Floats:
        size = int(self._starts[-1])
        pairs = zip(self._where[:, rows], self._value[:, rows], strict=True)
        moments: Floats = np.sum([np.bincount(w, v * target[rows], size) for w, v in pairs], axis=0)
        return moments

    def _gram(self, rows: NDArray[np.bool_]) -> Floats:
        size = int(self._starts[-1])
        where, value = self._where[:, rows], self._value[:, rows]
        cell = (where[:, None, :] * size + where[None, :, :]).reshape(-1)
        products = (value[:, None, :] * value[None, :, :]).reshape(-1)
        return np.bincount(cell, products, size * size).astype(np.float64, copy=False).reshape(size, size)


def _ladder(values: Floats, count: int) -> Floats:
    """Return at most `count` ascending knots at quantiles of the values, at least two."""
    knots: Floats = np.unique(np.quantile(values, np.linspace(0.0, 1.0, max(2, count))))
    return knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1.0])


def _hat(values: Floats, knots: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return the piece that each value lies in and the weight of that piece's lower end."""
    at = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, len(knots) - 2)
    return at, (knots[at + 1] - values) / (knots[at + 1] - knots[at])
