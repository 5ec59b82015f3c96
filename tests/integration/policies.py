"""Policies for the tests' tiers."""

from __future__ import annotations

import numpy as np

from escalade.policies import Action, Batch, Decisions, Policy


class DeferBelow(Policy):
    """Accept at `threshold`, and answer the rest provisionally."""

    def __init__(self, threshold: float) -> None:
        self.threshold = np.float32(threshold)

    def decide(self, batch: Batch) -> Decisions:
        return Decisions.of(np.where(batch.score >= self.threshold, Action.ACCEPT, Action.DEFER))
