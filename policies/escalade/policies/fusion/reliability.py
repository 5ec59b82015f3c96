"""Learning online whom to believe: `ReliabilityWeighted`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.fusion.observations import checked_labels, checked_posteriors
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

PRIOR_RIGHT, PRIOR_WRONG = 8.0, 2.0
"""What a node is credited with before anything was seen of it: ten events, eight of them right."""


class ReliabilityWeighted(FusionRule):
    """The mean posterior, each node weighted by the log-odds of its being right.

    The weight is ``log((C - 1) a / (1 - a))`` with ``a`` the node's share of right answers so far, and 0
    where that is no better than guessing. An event with a label counts as one; without, agreement with
    the weighted vote of the other nodes counts as `agreement` of one.

    Parameters
    ----------
    memory
        Events after which an observation's influence has fallen to 1/e; ``inf`` forgets nothing.
    agreement
        Worth, 0 to 1, of agreeing with the others against agreeing with a label.

    Notes
    -----
    The weights are those of Nitzan and Paroush (1982), "Optimal decision rules in uncertain dichotomous
    choice situations": optimal for votes of independent nodes. `observe` learns event by event in the order
    given. Not promised: anything where most nodes are wrong together, since agreement is then misleading;
    and quick reaction, which is what `NodeHealth` is for. Once it has learnt it is not `symmetric`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 4, (300, 1))
    >>> labels = np.where(rng.random((300, 3)) < [0.95, 0.9, 0.3], truth, rng.integers(0, 4, (300, 3)))
    >>> rule = ReliabilityWeighted()
    >>> rule.observe(np.eye(4)[labels])
    >>> rule.accuracy.round(1).tolist()
    [0.9, 0.9, 0.5]
    """

    def __init__(self, memory: float = 500.0, agreement: float = 0.5) -> None:
        if not memory >= 1.0:
            raise ValueError(f"memory must be at least 1 event, got {memory!r}")
        if not 0.0 <= agreement <= 1.0:
            raise ValueError(f"agreement must be 0 to 1, got {agreement!r}")
        self.memory, self.agreement = memory, agreement
        self._counts: NDArray[np.float64] | None = None  # [N, 2]: right, wrong

    @property
    def symmetric(self) -> bool:
        """Until it has learnt."""
        return self._counts is None

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of right answers of each node, float64 ``[N]``; empty before anything was observed."""
        if self._counts is None:
            return np.empty(0)
        right, wrong = (self._counts + np.array([PRIOR_RIGHT, PRIOR_WRONG])).T
        share: NDArray[np.float64] = right / (right + wrong)
        return share

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the mean, weighted by log-odds; plain where no node is better than guessing."""
        if self._counts is not None:
            known = weights * _log_odds(self.accuracy, posteriors.shape[2]).astype(np.float32)
            weights = np.where(known.any(axis=1, keepdims=True), known, weights)
        total: NDArray[np.float32] = np.matmul(weights[:, None, :], posteriors)[:, 0]
        return total

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Observe labelled events."""
        self.observe(posteriors, mask, labels)
        return self

    def observe(self, posteriors: ArrayLike, mask: ArrayLike | None = None, labels: ArrayLike | None = None) -> None:
        """Learn from events in their order: from the label (-1 = unknown), else from agreement."""
        p, present = checked_posteriors(posteriors, mask)
        events, nodes, classes = p.shape
        y = np.full(events, -1) if labels is None else checked_labels(labels, events, classes, unknown=True)
        answers = p.argmax(axis=2)
        if self._counts is None:
            self._counts = np.zeros((nodes, 2))
        counts, keep = self._counts.copy(), np.exp(-1.0 / self.memory)
        for answer, here, label in zip(answers, present, y.tolist(), strict=True):
            if label >= 0:
                right, worth, judged = answer == label, 1.0, here
            else:
                odds = (
                    _log_odds((counts[:, 0] + PRIOR_RIGHT) / (counts.sum(axis=1) + PRIOR_RIGHT + PRIOR_WRONG), classes)
                    * here
                )
                votes = np.zeros((nodes, classes))
                votes[np.arange(nodes), answer] = odds
                others = votes.sum(axis=0) - votes
                right, worth = answer == others.argmax(axis=1), self.agreement
                judged = here & (others.max(axis=1) > 1e-9)
            counts[judged] *= keep
            counts[judged & right, 0] += worth
            counts[judged & ~right, 1] += worth
        self._counts = counts

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, if anything was observed."""
        return {} if self._counts is None else {"counts": self._counts.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over counts."""
        if set(state) - {"counts"}:
            raise ValueError(f"ReliabilityWeighted keeps 'counts', got {sorted(state)}")
        self._counts = np.asarray(state["counts"], np.float64).copy() if state else None

    def __repr__(self) -> str:
        return f"ReliabilityWeighted(memory={self.memory!r}, agreement={self.agreement!r})"


def _log_odds(accuracy: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    sure = np.clip(accuracy, 1e-3, 1.0 - 1e-3)
    return np.maximum(np.log(max(classes - 1, 1) * sure / (1.0 - sure)), 0.0)
