"""A threshold for each class that the model names: `PerClassThreshold`."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from escalade.policies.class_table import ClassTable
from escalade.policies.policy import Policy

if TYPE_CHECKING:
    from escalade.policies.types import Action, Batch, Context, Decisions

_MOST_CLASSES = 1_000_000


class PerClassThreshold(Policy):
    """Accept where the score is at least the threshold of the predicted class, escalate elsewhere.

    ``accept  <=>  score >= thresholds[argmax posterior]``. A model that is often wrong when it says "shirt" and
    seldom when it says "boot" is asked for more certainty about shirts.

    Parameters
    ----------
    thresholds
        By class number, in units of the score: a mapping of some classes or a list of the first ones. Rounded
        to float32 once, here; ``inf`` escalates every finite score of that class.
    default
        For the classes not in `thresholds`; by default they are always escalated.

    Raises
    ------
    ValueError
        If a threshold is ``nan`` or a class number negative; from `decide`, if the model gives no posterior.

    Notes
    -----
    The rule of Chow (1970) with a threshold a class, as Fumera, Roli and Giacinto (2000, "Reject option with
    multiple thresholds") have it. It promises nothing about accuracy. `RiskControlled` finds such thresholds
    from data and says what they give up.

    Examples
    --------
    >>> from escalade.policies.types import Batch
    >>> policy = PerClassThreshold({0: 0.6}, default=0.9)
    >>> policy.decide(Batch.of([0.7, 0.7, 0.9], [[0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])).action.tolist()
    [0, 1, 0]
    """

    def __init__(self, thresholds: dict[int, float] | list[float], default: float = inf) -> None:
        self.thresholds, self.default = thresholds, default
        named = thresholds if isinstance(thresholds, dict) else dict(enumerate(thresholds))
        for label in named:
            if not 0 <= label < _MOST_CLASSES:
                raise ValueError(f"thresholds: {label} is no class number; they start at 0")
        classes = max(named, default=0) + 1
        self._table = ClassTable([named.get(label, default) for label in range(classes)], default)

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with the threshold of its class."""
        return self._table.decide(batch)

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with the threshold of its class."""
        return self._table.decide_one(score, context)

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the score, the predicted class and its threshold."""
        return self._table.numbers(score, context)

    def __repr__(self) -> str:
        return f"PerClassThreshold({self.thresholds!r}, default={self.default!r})"
