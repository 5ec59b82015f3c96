"""Counting labels: `MajorityVote`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.early import lead_is_safe
from escalade.policies.fusion.observations import checked_posteriors, checked_weights
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TIE_BREAK = 2.0**-10
"""The part of the answer that the mean posterior has: it decides between classes with equal votes."""


class MajorityVote(FusionRule):
    """The share of votes for each class, each node voting for its most probable one.

    A thousandth (`TIE_BREAK`) of the mean posterior is mixed in, so ties go to the class that the nodes
    find more probable, in any order of the nodes. A node's own tie goes to the lower class.

    Source: Lam and Suen (1997), "Application of majority voting to pattern recognition".

    Notes
    -----
    How sure a node is does not count, so one broken node is one vote and no more. The shares are no
    calibrated probabilities: three of four votes do not mean 75 %. Not `identity`: one node alone is certain.

    Examples
    --------
    >>> p = [[[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.4, 0.6, 0.0]]]
    >>> MajorityVote().fuse(p).posterior.round(2).tolist()
    [[0.33000001311302185, 0.6700000166893005, 0.0]]
    """

    @property
    def identity(self) -> bool:
        """A node alone has all votes, whatever its posterior."""
        return False

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the weights of the nodes that vote for each class."""
        events, _, classes = posteriors.shape
        index = posteriors.argmax(axis=2) + np.arange(0, events * classes, classes)[:, None]
        votes = np.bincount(index.ravel(), weights.ravel(), minlength=events * classes).reshape(events, classes)
        mean = np.matmul(weights[:, None, :], posteriors)[:, 0]
        shares: NDArray[np.float32] = ((1.0 - TIE_BREAK) * votes + TIE_BREAK * mean).astype(np.float32)
        return shares

    def settled(self, posteriors: ArrayLike, mask: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Return where the first class leads by more votes, ties broken, than are missing."""
        p, present = checked_posteriors(posteriors, mask)
        trust = checked_weights(weights, p.shape[1])
        return lead_is_safe(self.combine(np.where(present[:, :, None], p, 0.0), present * trust), present, trust)
