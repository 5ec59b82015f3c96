"""The two ends every cascade is compared with: `AlwaysAccept` and `AlwaysEscalate`."""

from __future__ import annotations

from math import inf

import numpy as np

from escalade.policies.policy import Policy
from escalade.policies.types import Action, Batch, Context, Decisions


class AlwaysAccept(Policy):
    """Answer every input here, however unsure the model is.

    A row without a usable score (``nan``, ``-inf``) is escalated all the same: there is no answer to
    accept where the model produced ``nan``.

    Examples
    --------
    >>> AlwaysAccept().decide(Batch.of([0.99, 0.01, float("nan")])).action.tolist()
    [0, 0, 1]
    """

    def decide(self, batch: Batch) -> Decisions:
        """Accept every row that has a usable score."""
        return Decisions.of(np.where(batch.score > -inf, np.int8(0), np.int8(1)))

    def decide_one(self, score: float, context: Context) -> Action:
        """Accept if the score is usable."""
        return Action.ACCEPT if score > -inf else Action.ESCALATE

    def __repr__(self) -> str:
        return "AlwaysAccept()"


class AlwaysEscalate(Policy):
    """Ask the tier above about every input.

    Examples
    --------
    >>> AlwaysEscalate().decide(Batch.of([0.99, 0.01])).action.tolist()
    [1, 1]
    """

    def decide(self, batch: Batch) -> Decisions:
        """Escalate every row."""
        return Decisions.of(np.full(len(batch), Action.ESCALATE, np.int8))

    def decide_one(self, score: float, context: Context) -> Action:
        """Escalate."""
        return Action.ESCALATE

    def __repr__(self) -> str:
        return "AlwaysEscalate()"
