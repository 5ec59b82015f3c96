"""Believing whoever is surest: `MaxConfidence`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaxConfidence(FusionRule):
    """The posterior of the node with the highest weighted maximum probability; the mean of those tied.

    Source: the max rule of Kittler et al. (1998), "On combining classifiers", as a choice of node.

    Notes
    -----
    Good where nodes know when they cannot see. It believes a broken node that is sure: one stuck at a
    certain answer decides every event. Use it with `HealthChecked` or not at all.

    Examples
    --------
    >>> MaxConfidence().fuse([[[0.5, 0.5], [0.25, 0.75]]]).posterior.tolist()
    [[0.25, 0.75]]
    """

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Choose the surest node of each event."""
        confidence = np.ascontiguousarray(posteriors.transpose(2, 0, 1)).max(axis=0) * weights
        surest = (confidence == confidence.max(axis=1, keepdims=True)).astype(np.float32)
        total: NDArray[np.float32] = np.matmul(surest[:, None, :], posteriors)[:, 0]
        return total
