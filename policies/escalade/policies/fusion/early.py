"""Answering before everyone has reported: when the nodes that are missing cannot change the label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING = 1e-5
"""Kept between the lead and what could take it: sums of float32 differ with their order."""


def lead_is_safe(
    total: NDArray[np.floating], mask: NDArray[np.bool_], weights: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return bool ``[E]``: whether the first class keeps its lead whatever the missing nodes say.

    For rules that add up, over the nodes, at most the node's weight for one class and at least nothing for
    any other: then a missing node moves two classes against each other by its weight at most.

    Parameters
    ----------
    total
        ``[E, C]``, the sums over the nodes that reported.
    mask
        bool ``[E, N]``, true where the node reported.
    weights
        ``[N]``.

    Examples
    --------
    >>> votes = np.array([[2.0, 0.0], [1.0, 0.0]])
    >>> lead_is_safe(votes, np.array([[True, True, False], [True, False, False]]), np.ones(3)).tolist()
    [True, False]
    """
    if total.shape[1] < 2:
        return np.ones(len(total), bool)
    missing = (~mask * weights).sum(axis=1)
    best = np.partition(total, -2, axis=1)
    safe: NDArray[np.bool_] = best[:, -1] - best[:, -2] > missing + ROUNDING * weights.sum()
    safe |= missing == 0.0
    return safe
