"""The events that a fusion rule is tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVENTS = 200


def posteriors(nodes: int, classes: int, seed: int) -> NDArray[np.float32]:
    """Return float32 ``[E, N, C]``: ordinary ones, ties, one-hot ones that contradict each other, uniform ones."""
    rng = np.random.default_rng(seed)
    sharpness = rng.choice([0.3, 1.0, 3.0], (EVENTS, nodes, 1))
    p = np.exp(sharpness * rng.normal(size=(EVENTS, nodes, classes)))
    p /= p.sum(axis=2, keepdims=True)
    p[:10] = p[:10, :1]
    p[10:20] = np.eye(classes)[rng.integers(0, classes, (10, nodes))]
    p[20:25] = 1.0 / classes
    p[25:30] = np.eye(classes)[np.arange(nodes) % classes]
    return p.astype(np.float32)


def masks(nodes: int, seed: int) -> NDArray[np.bool_]:
    """Return bool ``[E, N]``: every node missing now and then, at least one there."""
    rng = np.random.default_rng(seed + 1)
    mask = rng.random((EVENTS, nodes)) < 0.6
    mask[np.arange(EVENTS), rng.integers(0, nodes, EVENTS)] = True
    return mask
