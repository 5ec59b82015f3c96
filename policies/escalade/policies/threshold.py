"""The plain confidence cascade: `Threshold`."""

from __future__ import annotations

import numpy as np

from escalade.policies.policy import Policy
from escalade.policies.types import Action, Batch, Context, Decisions

_ACCEPT = Action.ACCEPT
_ESCALATE = Action.ESCALATE
_LOWEST = float(np.finfo(np.float32).min)


class Threshold(Policy):
    """Accept where the score is at least a threshold, escalate elsewhere.

    Scores are float32, so the threshold is rounded to float32 once, here: a score of ``0.9`` that a
    model computed then meets a threshold of ``0.9`` from a file, in `decide` and `decide_one` alike.
    A row without a usable score (``nan``, ``-inf``) is escalated whatever the threshold.

    Parameters
    ----------
    threshold
        In units of the score; ``-inf`` accepts every usable score, ``inf`` escalates every finite one.

    Raises
    ------
    ValueError
        If the threshold is ``nan``.

    Notes
    -----
    It promises nothing about accuracy: that depends on the scores. `cheapest_threshold` finds one on
    labelled data. The rule is the reject option of Chow (1970, "On optimum recognition error and
    reject tradeoff"), with the tier above in the place of rejection.

    Examples
    --------
    >>> policy = Threshold(0.8)
    >>> policy.decide(Batch.of([0.95, 0.8, 0.3, float("nan")])).action.tolist()
    [0, 0, 1, 1]
    >>> policy.decide_one(0.95, Context())
    <Action.ACCEPT: 0>
    """

    def __init__(self, threshold: float) -> None:
        if np.isnan(threshold):
            raise ValueError("threshold must be a number, got nan")
        self.threshold = threshold
        with np.errstate(over="ignore"):
            limit = np.float32(threshold)
        self._limit = max(float(limit), _LOWEST)  # so that -inf never passes

    def decide(self, batch: Batch) -> Decisions:
        """Compare every score with the threshold."""
        return Decisions.of((~(batch.score >= np.float32(self._limit))).view(np.int8))  # True is `Action.ESCALATE`

    def decide_one(self, score: float, context: Context) -> Action:
        """Compare one score with the threshold."""
        return _ACCEPT if score >= self._limit else _ESCALATE

    def __repr__(self) -> str:
        return f"Threshold({self.threshold!r})"
