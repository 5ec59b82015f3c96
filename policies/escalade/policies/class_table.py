"""A threshold for each predicted class, as what decides: `ClassTable`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.types import Action, Batch, Context, Decisions

if TYPE_CHECKING:
    from collections.abc import Sequence

LOWEST = float(np.finfo(np.float32).min)
HIGHEST = float(np.finfo(np.float32).max)

_NO_POSTERIOR = "a threshold for each class needs the posterior, which this tier's model does not give"


class ClassTable:
    """Accept where the score is at least the threshold of the class that the posterior names.

    Where the score is at least the highest threshold of all or below the lowest, the posterior is not looked
    at. Else it must be there; a row whose posterior holds ``nan`` is then escalated.

    Parameters
    ----------
    thresholds
        One a class, in units of the score, at least one; rounded to float32 here.
    otherwise
        For classes beyond these; None where the only threshold is that of all classes.

    Raises
    ------
    ValueError
        If a threshold is ``nan``, or there is none.
    """

    __slots__ = ("_beyond", "_classes", "_high", "_limits", "_low", "_table")

    def __init__(self, thresholds: Sequence[float], otherwise: float | None = None) -> None:
        if not len(thresholds):
            raise ValueError("thresholds must name at least one class")
        if otherwise is None and len(thresholds) > 1:
            raise ValueError("thresholds by class need one for the classes beyond")
        with np.errstate(over="ignore"):
            table = np.array([*thresholds, thresholds[0] if otherwise is None else otherwise], np.float32)
        if np.isnan(table).any():
            raise ValueError(f"thresholds must be numbers, got nan for class {int(np.isnan(table).argmax())}")
        self._table = np.maximum(table, np.float32(LOWEST))  # so that -inf never passes
        self._limits: list[float] = [float(limit) for limit in self._table]
        self._classes = len(thresholds) if otherwise is not None else 1 << 62
        self._beyond = self._limits[-1]
        self._low, self._high = min(self._limits[:-1]), max(self._limits[:-1])

    def decide(self, batch: Batch) -> Decisions:
        """Decide on every row; ValueError where the posterior is needed and missing."""
        score, posterior = batch.score, batch.posterior
        low, high = self._low, self._high
        if posterior is not None and posterior.shape[1] > self._classes:
            low, high = min(low, self._beyond), max(high, self._beyond)
        accept = score >= np.float32(high)
        if low < high:
            between = np.flatnonzero((score >= np.float32(low)) & ~accept)
            if len(between):
                if posterior is None:
                    raise ValueError(_NO_POSTERIOR)
                near = posterior[between]
                predicted = near.argmax(axis=1)  # the first nan, where there is one
                limit = self._table[np.minimum(predicted, len(self._table) - 1)]
                accept[between] = (score[between] >= limit) & ~np.isnan(near[np.arange(len(near)), predicted])
        return Decisions.of(np.where(accept, np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Decide on one row; ValueError where the posterior is needed and missing."""
        low, high, posterior = self._low, self._high, context.posterior
        if posterior is not None and len(posterior) > self._classes:
            low, high = min(low, self._beyond), max(high, self._beyond)
        if score >= high:
            return Action.ACCEPT
        if not score >= low:
            return Action.ESCALATE
        if posterior is None:
            raise ValueError(_NO_POSTERIOR)
        total = sum(posterior)
        if total != total:
            return Action.ESCALATE
        return Action.ACCEPT if score >= self.limit(posterior.index(max(posterior))) else Action.ESCALATE

    def limit(self, predicted: int) -> float:
        """Return the float32 threshold of a class."""
        return self._limits[predicted] if predicted < self._classes else self._beyond

    def numbers(self, score: float, context: Context) -> dict[str, object]:
        """Return what leads to the action on one row, by name."""
        if self._low == self._high == self._beyond:
            return {"score": score, "threshold": self._low}
        if context.posterior is None:
            return {"score": score, "lowest_threshold": self._low, "highest_threshold": self._high}
        predicted = int(np.asarray(context.posterior, np.float32).argmax())
        return {"score": score, "class": predicted, "threshold": self.limit(predicted)}
