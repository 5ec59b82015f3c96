"""Escalate where the tier above is expected to gain more than it costs: `LearnedDeferral`."""

from __future__ import annotations

import re
import warnings
from bisect import bisect_left
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.errors import FitError, NotFittedError, TraceError
from escalade.policies.gain_fit import GainFit
from escalade.policies.gain_model import GainModel
from escalade.policies.policy import FittedPolicy
from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.trace import Trace

MIN_ROWS = 50
KNOTS, RIDGES = (9, 21), (5.0, 80.0)
CANDIDATES = [*np.geomspace(1.0, 1e-3, 150).tolist(), 0.0]
_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE


class LearnedDeferral(FittedPolicy):
    """Escalate where the estimated gain in accuracy exceeds the price: ``g(x) > cost * price``.

    ``g(x)`` estimates ``P(upper right | x) - P(local right | x)`` from the local posterior ``x``: from its
    highest probability, by a curve for each predicted class, its margin and its second class. A confidence
    score estimates the second probability only; where the tier above errs on the same inputs, or is the
    worse one for a class, the gain is small or negative and the input stays, however unsure the tier is.

    With several tiers above, "upper right" is what the rest of the cascade makes of the input, less what that
    costs: the tiers are fitted from the top down. Ridge regression of ``right above - right here`` in numpy;
    the same rows and seed give the same fit.

    Parameters
    ----------
    cost
        Accuracy that one unit of the trace's ``costs`` is worth: with a price of 1 (as by default) an input
        is escalated if that gains more than `cost`. None: the highest cost at which the cascade, estimated
        by cross-fitting, is still at least as accurate as always asking the top tier.
    level
        The tier that it decides for, 0 the lowest; `fit` fits every tier at once.
    knots
        Points of a curve, at quantiles of the rows fitted to. None: 9 or 21, whichever cross-fits better.
    ridge
        How many rows' worth of doubt a class's own curve needs to overcome. None: 5 or 80, likewise.
    seed
        Of the folds of the cross-fitting.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `decide`, if the batch has no posterior.

    Notes
    -----
    A row whose posterior has another number of classes than the fit, or is not finite, is escalated.

    Source: Jitkrittum et al. (2023), "When does confidence-based cascade deferral suffice?", equation 5 (the
    optimal rule) and section 4.2 (post-hoc estimates of it).

    Not promised: any accuracy. It is an estimate from the rows fitted to, and says nothing of inputs of
    another kind; `RiskControlled` gives a guarantee, `DriftGuard` watches. With ``cost=None`` the accuracy is
    met on average, so it is missed, by a little, in about half of all cases.

    Examples
    --------
    A tier that is as unsure of class 1 as of class 0, but the tier above is no better on it: a threshold would
    ask about both.

    >>> from escalade.policies.trace import Trace
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 2000)
    >>> right = rng.random((2, 2000)) < np.where(labels == 0, [[0.7], [0.95]], [[0.7], [0.6]])
    >>> answers = np.where(right, labels, 1 - labels)
    >>> trace = Trace.of([np.where(np.eye(2)[a] == 1, 0.7, 0.3) for a in answers], labels)
    >>> policy = LearnedDeferral(cost=0.1).fit(trace)
    >>> policy.decide(Batch.of([0.7, 0.7], [[0.7, 0.3], [0.3, 0.7]])).action.tolist()
    [1, 0]
    >>> round(policy.explain(0.7, Context(posterior=[0.7, 0.3]))["gain"], 2)
    0.15
    """

    def __init__(
        self,
        cost: float | None = None,
        level: int = 0,
        knots: int | None = None,
        ridge: float | None = None,
        seed: int = 0,
    ) -> None:
        if cost is not None and not (isfinite(cost) and cost >= 0.0):
            raise ValueError(f"cost must be 0 or more, or None, got {cost!r}")
        if level < 0:
            raise ValueError(f"level must be 0 or more, got {level}")
        if knots is not None and knots < 2:
            raise ValueError(f"knots must be 2 or more, got {knots}")
        if ridge is not None and not (isfinite(ridge) and ridge > 0.0):
            raise ValueError(f"ridge must be above 0, got {ridge!r}")
        self.cost, self.level, self.knots, self.ridge, self.seed = cost, level, knots, ridge, seed
        self._models: list[GainModel] = []
        self._limits: list[float] = []
        self.fitted_cost = nan
        """The cost that was fitted with: `cost`, or the one found."""

    @property
    def fitted(self) -> bool:
        """Whether it can decide."""
        return bool(self._models)

    def fit(self, trace: Trace) -> Self:
        """Fit the gains of all tiers but the top one.

        Raises
        ------
        TraceError
            If there is no tier above `level`, or fewer than 50 rows.
        FitError
            If ``cost=None`` and no cost keeps the accuracy of the top tier, to within one standard error; a
            cost that does within that, but not exactly, is warned of.
        """
        top = trace.tiers - 1
        if self.level >= top:
            raise TraceError("posteriors", f"level {self.level} needs {self.level + 2} tiers, here are {trace.tiers}")
        if len(trace) < MIN_ROWS:
            raise TraceError("labels", f"{len(trace)} rows are too few to learn from: give {MIN_ROWS} or more")
        right = [trace.correct(tier).astype(np.float64) for tier in range(trace.tiers)]
        fits = [self._best_fit(trace.posteriors[tier], right[top] - right[tier]) for tier in range(top)]
        highest = fits[-1].cross_fitted(right[-1] - right[-2])
        cost = self._cheapest(fits, right, highest, trace.costs) if self.cost is None else self.cost
        _, targets = _cascade(fits, right, highest, trace.costs, cost)
        self._models = [fit.model(target) for fit, target in zip(fits, targets, strict=True)]
        self._limits = [cost * price for price in trace.costs[1:]]
        self.fitted_cost = cost
        return self

    def _best_fit(self, posterior: NDArray[np.float32], target: NDArray[np.float64]) -> GainFit:
        knots = KNOTS if self.knots is None else (self.knots,)
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        fits = [GainFit(posterior, knots=k, ridge=r, seed=self.seed) for k in knots for r in ridges]
        return min(fits, key=lambda fit: float(np.square(fit.cross_fitted(target) - target).mean()))

    def _cheapest(
        self,
        fits: list[GainFit],
        right: list[NDArray[np.float64]],
        highest: NDArray[np.float64],
        costs: tuple[float, ...],
    ) -> float:
        unit = max(costs[1:])
        if unit <= 0.0:
            raise FitError("every tier above costs nothing: give the trace's prices, or a cost")
        wanted = float(right[-1].mean())

        def met(candidate: float) -> bool:
            return _cascade(fits, right, highest, costs, candidate / unit)[0] >= wanted

        if not met(0.0):
            best, rows = _cascade(fits, right, highest, costs, 0.0)[0], len(right[0])
            found = f"no cost keeps the top tier's accuracy: {best:.4f} at best against {wanted:.4f}, on {rows} rows"
            if best < wanted - sqrt(wanted * (1.0 - wanted) / rows):
                raise FitError(f"{found}; give a cost, such as 0.05, or ask the top tier always (AlwaysEscalate)")
            warnings.warn(f"{found}; that is within chance: fitted with cost 0", stacklevel=3)
            return 0.0
        return float(CANDIDATES[bisect_left(CANDIDATES, True, key=met)]) / unit

    def at_tier(self, level: int) -> LearnedDeferral:
        """Return the policy of tier `level` with the same fit."""
        if level < 0 or (self.fitted and level >= len(self._models)):
            raise ValueError(f"there is no tier above level {level} in this fit of {len(self._models)} levels")
        twin = type(self)(self.cost, level, self.knots, self.ridge, self.seed)
        twin._models, twin._limits, twin.fitted_cost = self._models, self._limits, self.fitted_cost
        return twin

    def decide(self, batch: Batch) -> Decisions:
        """Estimate the gain of every row and compare it with the price."""
        model, limit = self._model()
        if batch.posterior is None:
            raise ValueError("LearnedDeferral decides on the posterior, which this tier's model does not give")
        stay = (model.batch(batch.posterior) <= limit) & (batch.score > -np.inf)
        return Decisions.of(np.where(stay, np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Estimate the gain of one row and compare it with the price."""
        model, limit = self._model()
        if context.posterior is None:
            raise ValueError("LearnedDeferral decides on the posterior, which this tier's model does not give")
        return _ACCEPT if score > -np.inf and model.one(context.posterior) <= limit else _ESCALATE

    def gain(self, posterior: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64 ``[B]``: the estimated gain of escalating each row, ``inf`` for one it knows nothing of."""
        return self._model()[0].batch(posterior)

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the estimated gain and the price that it is compared with."""
        model, limit = self._model()
        gain = nan if context.posterior is None else model.one(context.posterior)
        return {"score": score, "level": self.level, "gain": gain, "price": limit, "cost": self.fitted_cost}

    def _model(self) -> tuple[GainModel, float]:
        if not self._models:
            raise NotFittedError("LearnedDeferral is not fitted: fit it to a trace, or give its state file")
        return self._models[self.level], self._limits[self.level]

    def state_dict(self) -> dict[str, Any]:
        """Return the tables of every level and the limits; empty before the fit."""
        if not self._models:
            return {}
        state: dict[str, Any] = {"limits": np.array(self._limits), "cost": self.fitted_cost}
        for level, model in enumerate(self._models):
            state |= {f"{name}_{level}": array.copy() for name, array in model.arrays.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a fit.

        Raises
        ------
        ValueError
            If an array is missing, unknown or of the wrong shape, or there is no level for this policy's.
        """
        if not state:
            raise ValueError("an empty state is no LearnedDeferral's: it was saved before the fit")
        limits = np.asarray(state.get("limits"))
        if limits.dtype != np.float64 or limits.ndim != 1 or not np.isfinite(limits).all():
            raise ValueError("a LearnedDeferral's 'limits' must be finite float64 [levels]")
        names = {f"{name}_{level}" for name in GainModel.NAMES for level in range(len(limits))} | {"limits", "cost"}
        if set(state) != names:
            wrong = sorted(set(state) ^ names, key=lambda name: [re.sub(r"\d", "", name), name])
            raise ValueError(f"not the state of a LearnedDeferral of {len(limits)} levels: {wrong[:5]}")
        if self.level >= len(limits):
            raise ValueError(f"the state has {len(limits)} levels, none for level {self.level}")
        models = []
        for level in range(len(limits)):
            arrays = [state[f"{name}_{level}"] for name in GainModel.NAMES]
            models.append(GainModel(*(np.array(array) for array in arrays)))
        self._models, self._limits, self.fitted_cost = models, limits.tolist(), float(state["cost"])

    def __repr__(self) -> str:
        return f"LearnedDeferral(cost={self.cost!r}, level={self.level})"


def _cascade(
    fits: list[GainFit],
    right: list[NDArray[np.float64]],
    highest: NDArray[np.float64],
    costs: tuple[float, ...],
    cost: float,
) -> tuple[float, list[NDArray[np.float64]]]:
    """Return the cross-fitted cascade's accuracy, and each level's target: what escalating gains.

    `highest` is the cross-fitted gain of the highest level, which does not depend on the cost.
    """
    value = accurate = right[-1]
    targets = []
    for level in reversed(range(len(fits))):
        target = value - right[level]
        targets.append(target)
        price = cost * costs[level + 1]
        gain = highest if level == len(fits) - 1 else fits[level].cross_fitted(target)
        above = gain > price
        value = np.where(above, value - price, right[level])
        accurate = np.where(above, accurate, right[level])
    return float(accurate.mean()), targets[::-1]
