"""What the online learners share: `ThresholdLearner`."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.feedback import UNKNOWN, Feedback
from escalade.policies.policy import Policy
from escalade.policies.types import Action

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNIT = 2**20
"""Losses are added up as whole numbers of 1 / UNIT, so that their order cannot matter."""

LEAST_PROPENSITY = 1e-6
_LOWEST = float(np.finfo(np.float32).min)


def default_thresholds(count: int) -> list[float]:
    """Return `count` thresholds between 0.05 and 0.99995, evenly spaced in their logits.

    They suit scores in [0, 1] whose interesting range is near 1, as `max_prob` and `margin` have.

    Examples
    --------
    >>> [round(threshold, 3) for threshold in default_thresholds(4)]
    [0.047, 0.791, 0.997, 1.0]
    """
    thresholds: list[float] = (1.0 / (1.0 + np.exp(-np.linspace(-3.0, 10.0, count)))).tolist()
    return thresholds


class ThresholdLearner(Policy):
    """Sums of losses by interval of the score, from which a subclass makes its decisions.

    The thresholds cut the scores into intervals; two experts more accept and escalate everything. An input
    costs 1 if it is accepted and wrong, and `cost` if it is escalated, plus 1 if the tier above is wrong, as far
    as an audit tells. For every interval it adds up the difference between the two losses, as whole numbers:
    feedback may come in any order, in any portions, and gives the same state.

    Which label counts as the truth: the audited one; else that of the tier above, if it comes from `top` tiers
    up or more. A row without such a label teaches nothing. A row of DEFER counts as one of ESCALATE.

    Parameters
    ----------
    cost
        Of escalating an input, in errors, in (0, 1).
    thresholds
        Ascending, in units of the score, rounded to float32; None: `default_thresholds`.
    count
        How many, where they are not given.
    top
        How many tiers further up the label has to come from: 1 believes the tier next above; in three tiers the
        lowest gives 2 to believe the top one only. See `HILN` on propensities in that case.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `observe`, if a row's propensity is not in [1e-6, 1].
    """

    def __init__(self, cost: float, thresholds: list[float] | None, count: int, top: int) -> None:
        if not 0.0 < cost < 1.0:
            raise ValueError(f"cost must be between 0 and 1, got {cost!r}")
        if top < 1:
            raise ValueError(f"top must be 1 or more, got {top}")
        chosen = default_thresholds(count) if thresholds is None else thresholds
        grid = np.array(chosen, np.float32)
        if not grid.size or not np.isfinite(grid).all() or np.any(np.diff(grid) <= 0) or grid[0] <= _LOWEST:
            raise ValueError("thresholds must be one or more finite, ascending numbers that differ in float32")
        self.cost, self.thresholds, self.top = cost, thresholds, top
        self._grid = np.concatenate([np.array([_LOWEST], np.float32), grid])
        self._steps: list[float] = self._grid.tolist()
        intervals = len(self._grid) + 1
        self._sums = np.zeros((3, intervals), np.int64)
        self._loss, self._squares, self._labels = self._sums
        self._rows = 0
        self._refresh()

    @abstractmethod
    def _weight(self, action: int, propensity: float) -> float:
        """Return what a labelled row counts, 0 to leave it out."""

    @abstractmethod
    def _refresh(self) -> None:
        """Compute from the sums what `decide` uses."""

    @property
    def rows(self) -> int:
        """How many labelled rows it has learnt from."""
        return self._rows

    def observe(self, feedback: Feedback) -> None:
        """Add up the losses of the rows whose label is known; about 15 us a row alone, 2 us in an array."""
        propensities = feedback.propensity.tolist()
        if not all(LEAST_PROPENSITY <= p <= 1.0 for p in propensities):
            row = next(i for i, p in enumerate(propensities) if not LEAST_PROPENSITY <= p <= 1.0)
            raise ValueError(f"row {row} of the feedback has propensity {propensities[row]}: give one in [1e-6, 1]")
        columns = (feedback.score, feedback.action, feedback.local, feedback.upper, feedback.truth, feedback.hops)
        changed = False
        for score, action, local, upper, truth, hops, propensity in zip(
            *(column.tolist() for column in columns), propensities, strict=True
        ):
            if not score > -np.inf:
                continue
            escalating = self.cost
            if truth != UNKNOWN:
                label = truth
                escalating += upper not in (UNKNOWN, truth)
            elif upper != UNKNOWN and hops >= self.top:
                label = upper
            else:
                continue
            weight = self._weight(action, propensity)
            if weight == 0.0:
                continue
            interval = bisect_right(self._steps, score)
            self._loss[interval] += round(((local != label) - escalating) * weight * UNIT)
            self._squares[interval] += round(weight * weight * UNIT)
            self._labels[interval] += 1
            self._rows += 1
            changed = True
        if changed:
            self._refresh()

    def intervals(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return each score's interval: how many thresholds it meets; 0 for one that is not usable."""
        interval = np.searchsorted(self._grid, scores, side="right")
        return np.where(scores > -np.inf, interval, 0)

    def interval_of(self, score: float) -> int:
        """Return one score's interval."""
        return bisect_right(self._steps, score) if score > -np.inf else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"loss": self._loss.copy(), "squares": self._squares.copy(), "labels": self._labels.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the sums of a learner with as many thresholds.

        Raises
        ------
        ValueError
            If the state is not one of this class, or of another number of thresholds.
        """
        names = ("loss", "squares", "labels")
        if set(state) != set(names):
            raise ValueError(f"{type(self).__name__}'s state has {', '.join(names)}, got {sorted(state)}")
        arrays = [np.asarray(state[name]) for name in names]
        for name, array in zip(names, arrays, strict=True):
            if array.dtype != np.int64 or array.shape != self._loss.shape:
                raise ValueError(
                    f"'{name}' must be int64 [{len(self._loss)}], got {array.dtype} {list(array.shape)}: "
                    "the thresholds are others"
                )
        if min(arrays[1].min(), arrays[2].min()) < 0:
            raise ValueError("'squares' and 'labels' must be 0 or more")
        self._sums[:] = arrays
        self._rows = int(arrays[2].sum())
        self._refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the views of the sums, which a copy would not share."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_loss", "_squares", "_labels")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the views again."""
        self.__dict__.update(state)
        self._loss, self._squares, self._labels = self._sums


def accept_probabilities(loss: NDArray[np.int64], rate: float) -> NDArray[np.float64]:
    """Return, for each interval, the weight of the thresholds that accept it (Hedge).

    Threshold ``k`` accepts the intervals above ``k``, so its loss relative to escalating everything is the sum
    of `loss` there, and its weight ``exp(-rate * loss)``.

    Parameters
    ----------
    loss
        int64 ``[K + 1]``: for each interval the summed loss of accepting less that of escalating, in 1 / UNIT.
    rate
        The learning rate, a unit of loss.

    Examples
    --------
    >>> accept_probabilities(np.array([0, UNIT, -UNIT]), rate=1.0).round(2).tolist()
    [0.0, 0.21, 0.79]
    """
    # Threshold k's loss is the total less what lies in the intervals up to k.
    relative = loss.cumsum()
    relative -= np.maximum.reduce(relative)
    total = np.exp(relative * (rate / UNIT)).cumsum()
    accept = np.empty(len(loss))
    accept[0] = 0.0
    accept[1:] = total[:-1] / total[-1]
    return accept


def escalates(action: int) -> bool:
    """Whether the tier above was asked."""
    return action in (Action.ESCALATE, Action.DEFER)


def in_open_unit(name: str, value: float) -> float:
    """Return the value if it lies in (0, 1]; ValueError else."""
    if not 0.0 < value <= 1.0:
        raise ValueError(f"{name} must be above 0 and at most 1, got {value!r}")
    return value


def positive(name: str, value: float) -> float:
    """Return the value if it is positive and finite; ValueError else."""
    if not (isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return value
