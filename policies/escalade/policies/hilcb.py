"""Learn the threshold online by confidence bounds, with the labels of escalated inputs only: `HILCB`."""

from __future__ import annotations

from math import inf, isnan, log, nan

import numpy as np

from escalade.policies.threshold_learner import UNIT, ThresholdLearner, escalates, positive
from escalade.policies.types import Action, Batch, Context, Decisions

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE
SPANS = (1, 2, 4, 8)
"""How many neighbouring intervals are judged together."""


class HILCB(ThresholdLearner):
    """Accept from the lowest score on at which accepting is known to be cheaper than escalating.

    Only an escalated input brings a label, so the policy is optimistic about escalating: it asks above until it is
    confident that the tier's accuracy at that score is at least ``1 - cost``. Accuracy is taken to rise with the score,
    which helps twice: what holds for an interval of scores holds for all above, and the 1, 2, 4 or 8 intervals up to
    and including one may be judged together. With ``n`` labels there and ``D`` the loss of accepting them less that of
    escalating, it is confident if ``-D >= sqrt(2 alpha log(N + 7) * cost (1 - cost) * n)``: a score test at a level
    that sharpens with the number ``N`` of labels in all. The decision is a threshold, and deterministic.

    Parameters
    ----------
    cost
        Of escalating an input, in errors, in (0, 1).
    alpha
        Caution: more asks more and errs less often.
    least
        Labels without which it is not confident; with fewer than about 30 it now and then accepts for good, on a
        lucky start, what it should not.
    thresholds
        Ascending, in units of the score; None: 48, evenly spaced in their logits in (0.05, 1).
    count
        How many, where they are not given.
    top
        How many tiers up a label has to come from to be believed. Above 1, rows' propensities must be as for `HILN`.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `observe`, if a propensity is not in [1e-6, 1].

    Notes
    -----
    Source: Chattopadhyay, Sutar, Champati and Moharir (2025), "Low-regret and low-complexity learning for hierarchical
    inference", arXiv 2508.08985 (HI-LCB, two tiers). Differences: the bound is Wilson's (1927), which is tighter
    where errors are few, intervals are pooled, and the cost is known and constant.

    Not promised: their bound, of the order of log T, which holds for their confidence bound and needs an accuracy
    that rises with the score. Where it does not rise, intervals above a good one are accepted unseen. It does not
    forget: after a change it goes on accepting what it accepted; see `DriftGuard`.

    Examples
    --------
    >>> from escalade.policies.feedback import Feedback
    >>> rng = np.random.default_rng(0)
    >>> policy = HILCB(cost=0.3)
    >>> policy.threshold                                             # asks about everything at first
    inf
    >>> for _ in range(60):
    ...     score = rng.random(50).astype(np.float32)
    ...     local = (rng.random(50) > score).astype(int)             # wrong with probability 1 - score
    ...     asked = policy.decide(Batch.of(score)).action
    ...     policy.observe(Feedback.of(score, local=local, action=asked, upper=np.where(asked, 0, -1), hops=asked))
    >>> round(policy.threshold, 2)
    0.76
    """

    def __init__(
        self,
        cost: float,
        alpha: float = 0.15,
        least: int = 30,
        thresholds: list[float] | None = None,
        count: int = 48,
        top: int = 1,
    ) -> None:
        self.alpha, self.least = positive("alpha", alpha), least
        last = np.arange(1, (count if thresholds is None else len(thresholds)) + 2)
        self._from = np.maximum(last[:, None] - np.array(SPANS), 0)
        self._units = np.array([1.0 / UNIT, 1.0 / UNIT, 1.0])[:, None, None]
        super().__init__(cost, thresholds, count, top)

    def _weight(self, action: int, propensity: float) -> float:
        return 1.0 / propensity if escalates(action) else 1.0

    def _refresh(self) -> None:
        total = self._sums.cumsum(axis=1)
        loss, squares, labels = (total[:, 1:, None] - total[:, self._from]) * self._units
        needed = 2.0 * self.alpha * log(self._rows + 7) * self.cost * (1.0 - self.cost) * squares
        sure = (loss < 0.0) & (loss * loss >= needed) & (labels >= self.least)
        first = int(sure.argmax())  # in the order of the intervals
        found = sure.item(first)
        self._limit = self._steps[first // len(SPANS)] if found else nan  # which no score meets, inf neither

    @property
    def threshold(self) -> float:
        """The lowest score that is accepted; ``inf`` while none is."""
        return inf if isnan(self._limit) else self._limit

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with the threshold."""
        return Decisions.of(np.where(batch.score >= np.float32(self._limit), np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with the threshold."""
        return _ACCEPT if score >= self._limit else _ESCALATE

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the threshold, and what the labels at this score say."""
        at = self.interval_of(score)
        return {
            "score": score,
            "threshold": self.threshold,
            "cost": self.cost,
            "rows": self.rows,
            "labels_here": int(self._labels[at]),
            "gain_of_accepting_here": -float(self._loss[at]) / UNIT,
        }

    def __repr__(self) -> str:
        return f"HILCB(cost={self.cost!r}, alpha={self.alpha!r})"
