"""The linear opinion pool: `MeanProbability`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
