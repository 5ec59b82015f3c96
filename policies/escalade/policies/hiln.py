"""Learn the threshold online, with the labels of escalated inputs only: `HILN`."""

from __future__ import annotations

from escalade.policies.hilf import RandomThreshold
from escalade.policies.threshold_learner import escalates, in_open_unit


class HILN(RandomThreshold):
    """Learn the threshold online where a label comes back only if the input was escalated.

    As `HILF`, with two changes. Every input is escalated with probability `explore` at least, so that the tier
    keeps learning where it is sure; and the loss of an escalated input counts ``1 / propensity`` times, which makes
    the sums unbiased estimates of those that `HILF` has. An input that was accepted teaches nothing, and its
    feedback need not come.

    Parameters
    ----------
    cost
        Of escalating an input, in errors, in (0, 1).
    explore
        Least probability of escalating an input, in (0, 1].
    rate
        Learning rate, one an error.
    thresholds, count
        As in `HILF`.
    top
        How many tiers up a label has to come from to be believed.

    Raises
    ------
    ValueError
        If a parameter is out of range; from `observe`, if a propensity is not in [1e-6, 1].

    Notes
    -----
    Source: Moothedath, Champati and Gross (2024), as for `HILF`, the case without local feedback (HIL-N there).

    Three tiers with labels from the top only: give the lowest tier ``top=2``. A row then teaches only if both
    tiers escalated it, so its propensity must be the product of both tiers' propensities, or the estimate is biased
    towards what the middle tier finds hard. That product gets small with the number of tiers, and the variance
    grows as its inverse (Zhang et al. 2026, "Online learning for multi-layer hierarchical inference under partial
    and policy-dependent feedback", arXiv 2603.04247); no variance reduction is done here.

    Not promised: a bound on the regret with these default values. Exploring costs `explore` times `cost` for
    every input that would have been accepted, for ever.

    Examples
    --------
    >>> import numpy as np
    >>> from escalade.policies.feedback import Feedback
    >>> from escalade.policies.types import Batch, Context
    >>> rng = np.random.default_rng(0)
    >>> policy = HILN(cost=0.3)
    >>> for _ in range(60):
    ...     score = rng.random(50).astype(np.float32)
    ...     local = (rng.random(50) > score).astype(int)             # wrong with probability 1 - score
    ...     done = policy.decide(Batch.of(score, uniform=rng.random(50)))
    ...     upper = np.where(done.action == 1, 0, -1)                # 0 is right
    ...     policy.observe(Feedback.of(score, local=local, action=done.action, propensity=done.propensity,
    ...                                upper=upper, hops=done.action))
    >>> [round(policy.explain(s, Context())["escalate_probability"], 2) for s in (0.5, 0.9)]
    [1.0, 0.02]
    """

    def __init__(
        self,
        cost: float,
        explore: float = 0.02,
        rate: float = 1.0,
        thresholds: list[float] | None = None,
        count: int = 256,
        top: int = 1,
    ) -> None:
        super().__init__(cost, thresholds, count, top, rate, in_open_unit("explore", explore))

    def _weight(self, action: int, propensity: float) -> float:
        return 1.0 / propensity if escalates(action) else 0.0

    def __repr__(self) -> str:
        return f"HILN(cost={self.cost!r}, explore={self.explore!r}, rate={self.rate!r})"
