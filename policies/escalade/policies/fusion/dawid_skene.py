"""Fusion by confusion matrices: `DawidSkene`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from escalade.policies.errors import NotFittedError
from escalade.policies.fusion.crowd import Crowd, count_answers, crowd_em, crowd_of
from escalade.policies.fusion.head import probabilities
from escalade.policies.fusion.observations import checked_labels, checked_posteriors
from escalade.policies.fusion.rule import FusionRule

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class DawidSkene(FusionRule):
    """Bayes' rule on the nodes' labels: ``prior(c) prod_n confusion_n(c, label_n)``.

    The confusion matrices come from events without labels (`fit` with labels of -1, by `crowd_em`), with
    some or with all, and follow the nodes online: `observe` takes a batch of events, weighs what it knew
    so far by ``exp(-events / memory)`` and adds the new ones, with the probable labels it finds itself.

    Parameters
    ----------
    memory
        Events after which what was counted before has fallen to 1/e; ``inf`` forgets nothing.
    smoothing
        Answers added to every row of a confusion matrix, spread over the classes.

    Notes
    -----
    Sources: Dawid and Skene (1979); Cappe and Moulines (2009), "On-line expectation-maximization algorithm
    for latent data models", for `observe`. Only labels count, not how sure a node is. What `crowd_em` does
    not promise is not promised here: nodes that err together make it too sure, and online it can drift
    with a majority that errs. It knows nodes by their place: neither `symmetric` nor `identity`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 3, (2000, 1))
    >>> labels = np.where(rng.random((2000, 3)) < [0.9, 0.8, 0.3], truth, rng.integers(0, 3, (2000, 3)))
    >>> rule = DawidSkene().fit(np.eye(3)[labels], np.full(2000, -1))
    >>> rule.fuse(np.eye(3)[[[0, 1, 1]]]).posterior.argmax().item()       # the first node outweighs both
    0
    """

    def __init__(self, memory: float = 2000.0, smoothing: float = 0.1) -> None:
        if not memory >= 1.0:
            raise ValueError(f"memory must be at least 1 event, got {memory!r}")
        if not smoothing > 0.0:
            raise ValueError(f"smoothing must be positive, got {smoothing!r}")
        self.memory, self.smoothing = memory, smoothing
        self._counts: NDArray[np.float64] | None = None  # [N, C, C]
        self._frequency: NDArray[np.float64] = np.empty(0)  # [C]
        self._crowd: Crowd | None = None

    @property
    def symmetric(self) -> bool:
        """Each node has a matrix of its own."""
        return False

    @property
    def identity(self) -> bool:
        """A label is all that counts of a posterior."""
        return False

    @property
    def crowd(self) -> Crowd:
        """The confusion matrices and class frequencies; NotFittedError without."""
        if self._crowd is None:
            raise NotFittedError("DawidSkene knows no confusion matrices: call fit or observe first")
        return self._crowd

    def combine(self, posteriors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Apply Bayes' rule; a weight is the power of the node's likelihood."""
        return probabilities(self.crowd.log_joint(posteriors.argmax(axis=2), weights))

    def fit(self, posteriors: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """Fit to events whose labels are known, unknown (-1) or mixed."""
        p, present = checked_posteriors(posteriors, mask)
        y = checked_labels(labels, len(p), p.shape[2], unknown=True)
        answers = p.argmax(axis=2)
        _, truth = crowd_em(answers, present, p.shape[2], labels=y, smoothing=self.smoothing)
        self._learn(count_answers(answers, present, truth), truth.sum(axis=0))
        return self

    def observe(self, posteriors: ArrayLike, mask: ArrayLike | None = None, labels: ArrayLike | None = None) -> None:
        """Learn from a batch of events: one step of expectation, one of maximisation."""
        p, present = checked_posteriors(posteriors, mask)
        events, _, classes = p.shape
        y = np.full(events, -1) if labels is None else checked_labels(labels, events, classes, unknown=True)
        if self._counts is None:
            self.fit(p, y, present)
            return
        answers = p.argmax(axis=2)
        truth = probabilities(self.crowd.log_joint(answers, present.astype(np.float64)))
        known = np.flatnonzero(y >= 0)
        truth[known] = np.eye(classes)[y[known]]
        keep = np.exp(-events / self.memory)
        self._learn(
            keep * self._counts + count_answers(answers, present, truth),
            keep * self._frequency + truth.sum(axis=0),
        )

    def _learn(self, counts: NDArray[np.float64], frequency: NDArray[np.float64]) -> None:
        self._counts, self._frequency = counts, frequency
        self._crowd = crowd_of(counts, frequency, self.smoothing)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, if there are any."""
        if self._counts is None:
            return {}
        return {"counts": self._counts.copy(), "frequency": self._frequency.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over counts."""
        if not state:
            self._counts, self._crowd = None, None
        elif set(state) == {"counts", "frequency"}:
            self._learn(np.array(state["counts"], np.float64), np.array(state["frequency"], np.float64))
        else:
            raise ValueError(f"DawidSkene keeps 'counts' and 'frequency', got {sorted(state)}")

    def __repr__(self) -> str:
        return f"DawidSkene(memory={self.memory!r}, smoothing={self.smoothing!r})"
