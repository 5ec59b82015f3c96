"""The cheapest thresholds for a target accuracy: `TargetThreshold`."""

from __future__ import annotations

import warnings
from copy import copy
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.bounds import interval
from escalade.policies.class_table import ClassTable
from escalade.policies.errors import NotFittedError
from escalade.policies.fitting_data import FittingData
from escalade.policies.policy import FittedPolicy
from escalade.policies.threshold_grid import ThresholdGrid, plain_ladder, rungs_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.trace import Trace
    from escalade.policies.types import Action, Batch, Context, Decisions

_NUMBERS = ("target", "accuracy", "low", "high", "top_accuracy", "cost", "rows")


class TargetThreshold(FittedPolicy):
    """Accept where the score is at least a threshold found for a target accuracy of the whole cascade.

    The fit takes, of one threshold a tier, the cheapest combination whose cascade is right in at least
    `target` of the calibration rows, and keeps the confidence interval of that accuracy. It warns
    (``UserWarning``, kept in the state and in `explain`) when the data do not support the target: the interval
    reaches below it, or no thresholds reach it, perhaps because the top tier does not.

    Parameters
    ----------
    target
        Accuracy, a share in (0, 1].
    level
        The tier it decides at, 0 the lowest.
    score
        The tiers' score that the thresholds are compared with.
    confidence
        Of the interval, in (0, 1).
    cautious
        Take the cheapest thresholds whose interval lies above the target, where there are such.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    The search of Wang et al. (2018, "IDK cascades", section 3.2: cost-aware, constrained by accuracy), by trying
    all combinations of the scores' quantiles (with two tiers, all scores); the interval is that of Clopper and
    Pearson. It is of the chosen thresholds as if nobody had chosen them, so it is somewhat optimistic, and of
    the calibration data's distribution. For a promise that counts the choice in, see `RiskControlled`.

    Examples
    --------
    >>> from escalade.policies.trace import Trace
    >>> low = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]] * 50
    >>> top = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]] * 50
    >>> policy = TargetThreshold(target=0.9).fit(Trace.of([low, top], [0, 0, 1, 1] * 50))
    >>> policy.thresholds
    [0.699999988079071]
    >>> round(policy.low, 3), policy.warning
    (0.982, '')
    """

    def __init__(
        self, target: float, level: int = 0, score: str = "max_prob", confidence: float = 0.95, cautious: bool = False
    ) -> None:
        if not 0.0 < target <= 1.0:
            raise ValueError(f"target must be above 0 and at most 1, got {target!r}")
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"confidence must be above 0 and below 1, got {confidence!r}")
        if level < 0:
            raise ValueError(f"level must be 0 or more, got {level!r}")
        self.target, self.level, self.score = target, level, score
        self.confidence, self.cautious = confidence, cautious
        self.warning = ""
        self._limits: NDArray[np.float32] | None = None
        self._numbers: dict[str, float] = {}
        self._table: ClassTable | None = None

    @property
    def fitted(self) -> bool:
        """Whether it has thresholds."""
        return self._table is not None

    @property
    def thresholds(self) -> list[float]:
        """For each tier that decides, lowest first; NotFittedError before the fit."""
        return [float(limit) for limit in self._fit()]

    @property
    def accuracy(self) -> float:
        """Share of the calibration rows that the cascade answers right; NotFittedError before the fit."""
        return self._number("accuracy")

    @property
    def low(self) -> float:
        """Lower end of the accuracy's confidence interval; NotFittedError before the fit."""
        return self._number("low")

    @property
    def high(self) -> float:
        """Upper end of the accuracy's confidence interval; NotFittedError before the fit."""
        return self._number("high")

    def fit(self, trace: Trace) -> Self:
        """Find the thresholds of all tiers.

        Parameters
        ----------
        trace
            Labelled inputs that no tier was trained on, with the prices of the tiers.

        Raises
        ------
        TraceError
            If there are too few tiers, or all rows are of one class.
        FitError
            If the score cannot be computed from the trace.
        """
        data, rows = FittingData.of(trace, self.score, self.level), len(trace)
        rungs = rungs_for(trace.tiers - 1)
        grid = ThresholdGrid(tuple(plain_ladder(score, rungs) for score in data.scores))
        cells = grid.cells(grid.held(data.scores, data.predicted), data.losses("error"), data.costs)
        right = rows - np.round(cells.loss[0]).astype(np.int64)
        wanted = self._enough(rows) if self.cautious else None
        reach = right >= (wanted if wanted is not None else np.ceil(self.target * rows - 1e-9))
        if reach.any():
            allowed = np.flatnonzero(reach)
        else:
            allowed = np.flatnonzero(right >= min(int(right.max()), int(np.ceil(self.target * rows - 1e-9))))
        best = int(allowed[np.lexsort((-right[allowed], cells.cost[allowed]))[0]])
        low, high = interval(int(right[best]), rows, self.confidence)
        self._limits = np.array(
            [ladder[rung, 0] for ladder, rung in zip(grid.ladders, cells.rungs[:, best], strict=True)]
        )
        self._numbers = {
            "target": self.target,
            "accuracy": float(right[best]) / rows,
            "low": low,
            "high": high,
            "top_accuracy": float(data.correct[-1].mean()),
            "cost": float(cells.cost[best]),
            "rows": float(rows),
        }
        self.warning = self._doubt()
        self._table = self._table_of(self.level)
        if self.warning:
            warnings.warn(self.warning, UserWarning, stacklevel=2)
        return self

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with the threshold of this tier."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        return self._table.decide(batch)

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with the threshold of this tier."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        return self._table.decide_one(score, context)

    def at_tier(self, level: int) -> TargetThreshold:
        """Return the policy of the same fit at tier `level`; ValueError if it was fitted for fewer tiers."""
        view = copy(self)
        view.level = level
        if self.fitted:
            view._table = self._table_of(level)
        return view

    def state_dict(self) -> dict[str, Any]:
        """Return thresholds, interval and warning; empty before the fit."""
        if self._limits is None:
            return {}
        return {"thresholds": self._limits.copy(), **self._numbers, "warning": self.warning}

    def check_score(self, name: str) -> None:
        """Refuse a tier with another score: its numbers mean something else."""
        if name != self.score:
            raise ValueError(f"its thresholds are of the score '{self.score}', the tier's is '{name}'; make them one")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a fit; ValueError if it is none, or one for another target."""
        if not state and not self.fitted:
            return
        if set(state) != {"thresholds", "warning", *_NUMBERS}:
            raise ValueError(f"the state has thresholds, warning, {', '.join(_NUMBERS)}; got {sorted(state)}")
        limits = np.asarray(state["thresholds"])
        if limits.ndim != 1 or not len(limits) or limits.dtype != np.float32 or np.isnan(limits).any():
            raise ValueError(f"thresholds must be float32 numbers, one a tier, got {limits.dtype} {list(limits.shape)}")
        numbers = {name: float(state[name]) for name in _NUMBERS}
        if not all(isfinite(number) for number in numbers.values()):
            raise ValueError(f"the state's numbers must be finite, got {numbers}")
        if numbers["target"] != self.target:
            raise ValueError(f"target is {self.target}, but the state was fitted for {numbers['target']}; fit again")
        previous = self._limits
        self._limits = limits.copy()
        try:
            self._table = self._table_of(self.level)
        except ValueError:
            self._limits = previous
            raise
        self._numbers, self.warning = numbers, str(state["warning"])

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the score, the threshold, the accuracy with its interval, and the warning."""
        if self._table is None:
            raise NotFittedError(_NOT_FITTED)
        found = {**self._table.numbers(score, context), "level": self.level, **self._numbers}
        return {**found, "warning": self.warning} if self.warning else found

    def _enough(self, rows: int) -> int:
        """Return how many rows must be right for the interval to lie above the target; more than all if none do."""
        low, high = 0, rows + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if interval(middle, rows, self.confidence)[0] >= self.target else (middle, high)
        return high

    def _doubt(self) -> str:
        found = self._numbers
        seen = (
            f"{found['accuracy']:.4f} on {found['rows']:.0f} rows "
            f"({self.confidence:.0%} interval {found['low']:.4f} to {found['high']:.4f})"
        )
        if found["accuracy"] < self.target - 1e-9:
            top = f"the top tier alone has {found['top_accuracy']:.4f}"
            return f"no thresholds reach the target accuracy {self.target:g}: the best have {seen}, {top}"
        if found["low"] < self.target:
            return (
                f"the data do not support the target accuracy {self.target:g}: it is {seen}; "
                "give more rows, lower the target, or set cautious"
            )
        return ""

    def _fit(self) -> NDArray[np.float32]:
        if self._limits is None:
            raise NotFittedError(_NOT_FITTED)
        return self._limits

    def _number(self, name: str) -> float:
        self._fit()
        return self._numbers[name]

    def _table_of(self, level: int) -> ClassTable:
        limits = self._fit()
        if not 0 <= level < len(limits):
            raise ValueError(f"level is {level}, but it was fitted for tiers 0 to {len(limits) - 1} to decide")
        return ClassTable([float(limits[level])])

    def __repr__(self) -> str:
        return f"TargetThreshold(target={self.target!r}, level={self.level})"


_NOT_FITTED = "TargetThreshold has no thresholds yet; fit it to calibration data or load its state"
