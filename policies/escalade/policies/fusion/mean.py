"""The linear opinion pool: `MeanProbability`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.early import lead_is_safe
from escalade.policies.fusion.observations import checked_posteriors, checked_weights
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class MeanProbability(FusionRule):
    """The weighted mean of the posteriors, ``sum_n w_n p_n(c) / sum_n w_n``.

    Source: Stone (1961), "The opinion pool".

    Notes
    -----
    One node moves the answer by its share of the weight at most, so it degrades gracefully. It is never
    surer than its surest node, hence too unsure when several independent nodes agree. Not promised: that
    the mean beats the best node; with very unequal nodes it often does not.

    Examples
    --------
    >>> MeanProbability().fuse([[[0.75, 0.25], [0.25, 0.75]]], weights=[3, 1]).posterior.tolist()
    [[0.625, 0.375]]
    """

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the weighted sum."""
        total: NDArray[np.float32] = np.matmul(weights[:, None, :], posteriors)[:, 0]
        return total

    def settled(self, posteriors: ArrayLike, mask: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Return where the first class leads by more than the missing nodes' weight."""
        p, present = checked_posteriors(posteriors, mask)
        trust = checked_weights(weights, p.shape[1])
        return lead_is_safe(self.combine(np.where(present[:, :, None], p, 0.0), present * trust), present, trust)
