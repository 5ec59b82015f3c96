"""Learn the threshold online, every label known: `HILF`; and what `HILN` shares with it: `RandomThreshold`."""

from __future__ import annotations

import numpy as np

from escalade.policies.threshold_learner import ThresholdLearner, accept_probabilities, positive
from escalade.policies.types import Action, Batch, Context, Decisions

_ACCEPT, _ESCALATE = Action.ACCEPT, Action.ESCALATE


class RandomThreshold(ThresholdLearner):
    """Draws a threshold for every input, by exponential weights over the thresholds.

    The draw is the row's own uniform number: it is escalated if that is below the weight of the thresholds
    above its score (at least `explore`). The propensity is that weight, or what is left of 1.
    """

    def __init__(
        self, cost: float, thresholds: list[float] | None, count: int, top: int, rate: float, explore: float
    ) -> None:
        self.rate, self.explore = positive("rate", rate), explore
        super().__init__(cost, thresholds, count, top)

    def _refresh(self) -> None:
        accept = accept_probabilities(self._loss, self.rate)
        accept *= 1.0 - self.explore
        self._escalate = 1.0 - accept

    def decide(self, batch: Batch) -> Decisions:
        """Escalate each row with the probability that its interval has."""
        chance = self._escalate[self.intervals(batch.score)]
        asked = batch.uniform < chance
        return Decisions(asked.astype(np.int8), np.where(asked, chance, 1.0 - chance))

    def decide_one(self, score: float, context: Context) -> Action:
        """Escalate with the probability that the score's interval has."""
        return _ESCALATE if context.uniform < self._escalate.item(self.interval_of(score)) else _ACCEPT

    def explain(self, score: float, context: Context) -> dict[str, object]:
        """Return the probability of escalating, the row's draw and what has been learnt from."""
        chance = self._escalate.item(self.interval_of(score))
        return {
            "score": score,
            "escalate_probability": chance,
            "uniform": context.uniform,
            "cost": self.cost,
            "rows": self.rows,
        }


class HILF(RandomThreshold):
    """Learn the threshold online where the right label of every input comes back, sooner or later.

    Every threshold ``k`` is an expert with the loss that it would have had, ``L_k``: `cost` for an input below
    it, 1 for an error above it. An input is escalated with the weight of the experts that would escalate it,
    ``P(k) ~ exp(-rate * L_k)``. Losses are sums of whole numbers, so delayed feedback in any order gives the
    same weights as feedback in order.

    Parameters
    ----------
    cost
        Of escalating an input, in errors, in (0, 1).
    rate
        Learning rate, one an error. 3 suits inputs that come as if drawn at random. For the guarantee below on
        any sequence of ``T`` inputs give ``sqrt(8 * log(K + 1) / T)``.
    thresholds
        The experts, ascending, in units of the score; None: 256, evenly spaced in their logits in (0.05, 1).
        One that accepts and one that escalates everything are always among them.
    top
        How many tiers up a label has to come from to be believed; see `ThresholdLearner`.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Notes
    -----
    Source: Moothedath, Champati and Gross (2024), "Getting the best out of both worlds: algorithms for
    hierarchical inference at the edge", the case of full feedback (HIL-F there), here on a fixed grid; the
    weights are those of Freund and Schapire (1997).

    With ``rate = sqrt(8 log(K+1) / T)`` the expected loss over ``T`` inputs exceeds that of the best threshold
    of the grid by ``sqrt(T log(K+1) / 2)`` at most, on any sequence fixed beforehand, when feedback is at once.
    Not promised: this bound with the default rate, or with delays; anything where labels are missing in a way
    that depends on the score, as when only escalated inputs are labelled. Use `HILN` or `HILCB` there.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> score = rng.random(3000).astype(np.float32)
    >>> local = (rng.random(3000) > score).astype(int)               # wrong with probability 1 - score
    >>> policy = HILF(cost=0.3)
    >>> from escalade.policies.feedback import Feedback
    >>> policy.observe(Feedback.of(score, local=local, action=0, truth=0))
    >>> [round(policy.explain(s, Context())["escalate_probability"], 2) for s in (0.5, 0.9)]
    [1.0, 0.0]
    """

    def __init__(
        self, cost: float, rate: float = 3.0, thresholds: list[float] | None = None, count: int = 256, top: int = 1
    ) -> None:
        super().__init__(cost, thresholds, count, top, rate, 0.0)

    def _weight(self, action: int, propensity: float) -> float:
        return 1.0

    def __repr__(self) -> str:
        return f"HILF(cost={self.cost!r}, rate={self.rate!r})"
