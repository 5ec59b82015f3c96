"""Breaking a node on purpose: what `evaluate` and tests replace its logits by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE = 10.0
"""Standard deviation of the logits of a noisy node: its answers are random, and it is sure of them."""

STUCK = 12.0
"""Logit of the class at which a stuck node stays, the others' being 0: it is certain."""


def noisy(logits: NDArray[np.floating], seed: int) -> NDArray[np.float64]:
    """Replace logits ``[E, C]`` by independent normal ones."""
    return np.random.default_rng(seed).normal(scale=NOISE, size=logits.shape)


def stuck(logits: NDArray[np.floating], answer: int) -> NDArray[np.float64]:
    """Replace logits ``[E, C]`` by those of one certain answer."""
    return np.tile(STUCK * np.eye(logits.shape[1])[answer], (len(logits), 1))


def miswired(logits: NDArray[np.floating], order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Permute the classes: what was said of class ``order[c]`` is said of ``c``."""
    return logits[:, order].astype(np.float64)


def drifting(logits: NDArray[np.floating], events: int, seed: int) -> NDArray[np.float64]:
    """Replace ever more of the events by noise, from none at the first to all after `events`."""
    share = np.arange(len(logits)) / events
    lost = np.random.default_rng(seed + 1).random(len(logits)) < share
    return np.where(lost[:, None], noisy(logits, seed), logits)
