"""Thresholds by predicted class that mean the same risk: `class_ladder`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.threshold_grid import closed, plain_ladder, quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWEST_EVENTS = 20
_RIDGE = 10.0
_EDGE = 1e-7


def class_ladder(
    score: NDArray[np.float32],
    predicted: NDArray[np.int64],
    event: NDArray[np.bool_],
    classes: int,
    rungs: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Make a ladder of thresholds by class, each rung of which stands for one estimated risk.

    Parameters
    ----------
    score, predicted
        float32 and int64 ``[N]``: a tier's scores and answers.
    event
        bool ``[N]``: what to be afraid of where the tier answers.
    classes, rungs
        The shape of the ladder.

    Returns
    -------
    NDArray
        float32 ``[rungs, classes]``, ascending down the columns; ``[rungs, 1]``, the same for all classes,
        where fewer than 20 events (or 20 others) say too little of the classes.
    NDArray
        float64 ``[N]``, the estimated risk; where there are too few events, the events themselves.

    Notes
    -----
    A logistic regression of the event on the score's log-odds and the predicted class, whose class effects
    are shrunk towards 0 by a ridge of strength 10. A rung is one level of the regression's risk, read back
    as a score for each class. Nothing rests on the regression being right: it only chooses which thresholds
    are tried.

    Examples
    --------
    Class 1 errs as often at 0.9 as class 0 at 0.7, and gets higher thresholds.

    >>> rng = np.random.default_rng(0)
    >>> score, predicted = rng.random(20_000, np.float32), rng.integers(0, 2, 20_000)
    >>> event = rng.random(20_000) < np.where(predicted == 1, (1 - score) * 3, 1 - score).clip(0, 0.6)
    >>> ladder, risk = class_ladder(score, predicted, event, classes=2, rungs=100)
    >>> ladder[60].round(2).tolist()
    [0.2800000011920929, 0.6700000166893005]
    """
    z = _spread(score, score)
    events = int(event.sum())
    if min(events, len(event) - events) < _FEWEST_EVENTS:
        return plain_ladder(score, rungs), event.astype(np.float64)
    weight = _regression(z, predicted, event, classes)
    if not weight[1] < -1e-3:  # a surer score has to mean less risk
        return plain_ladder(score, rungs), event.astype(np.float64)
    shift = weight[2:] / weight[1]  # in units of z: the log-odds of the event are linear in z + shift
    risk = _chance(weight[0] + weight[1] * (z + shift[predicted]))
    level = quantiles(z + shift[predicted], rungs - 1)
    inner = _gathered(level[:, None] - shift[None, :], score).astype(np.float32)
    return closed(np.maximum.accumulate(inner, axis=0)), risk


def _bounded(score: NDArray[np.float32]) -> bool:
    return bool(score.min() >= 0.0 and score.max() <= 1.0)


def _spread(values: NDArray[Any], score: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return scores on an unbounded scale: log-odds of those in [0, 1], else in standard deviations."""
    wide = values.astype(np.float64)
    if _bounded(score):
        inside = np.clip(wide, _EDGE, 1.0 - _EDGE)
        spread: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
        return spread
    return (wide - float(score.mean())) / (float(score.std()) or 1.0)


def _gathered(spread: NDArray[np.float64], score: NDArray[np.float32]) -> NDArray[np.float64]:
    """Undo `_spread`."""
    if _bounded(score):
        return _chance(spread)
    return spread * (float(score.std()) or 1.0) + float(score.mean())


def _regression(
    z: NDArray[np.float64], predicted: NDArray[np.int64], event: NDArray[np.bool_], classes: int
) -> NDArray[np.float64]:
    """Return intercept, slope of z and the classes' effects of a ridge logistic regression, by Newton's method."""
    design = np.zeros((len(z), 2 + classes))
    design[:, 0], design[:, 1] = 1.0, z
    design[np.arange(len(z)), 2 + predicted] = 1.0
    ridge = np.array([1e-3, 1e-3, *([_RIDGE] * classes)])
    weight, target = np.zeros(2 + classes), event.astype(np.float64)
    weight[0] = np.log(target.mean() / (1.0 - target.mean()))
    for _ in range(25):
        chance = _chance(design @ weight)
        gradient = design.T @ (chance - target) + ridge * weight
        curvature = (design * (chance * (1.0 - chance))[:, None]).T @ design
        step = np.linalg.solve(curvature + np.diag(ridge), gradient)
        weight -= step * min(1.0, 4.0 / float(np.abs(step).max() or 1.0))
        if np.abs(step).max() < 1e-6:
            break
    return weight


def _chance(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities from log-odds; beyond 40 they are 0 or 1 to the last bit."""
    chance: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(odds, -40.0, 40.0)))
    return chance
