"""Estimating labels and confusion matrices together: `crowd_em`, the method of Dawid and Skene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.fusion.head import probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Crowd:
    """What is known of a crowd of nodes.

    Attributes
    ----------
    confusion
        float64 ``[N, C, C]``: the probability that node ``n`` says the third when the second is true.
    prior
        float64 ``[C]``: how frequent each class is.
    """

    confusion: NDArray[np.float64]
    prior: NDArray[np.float64]

    def log_joint(self, answers: NDArray[np.int64], weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return ``log prior(c) + sum_n w_n log confusion_n(c, answer_n)``, float64 ``[E, C]``."""
        logs = np.log(np.maximum(self.confusion, 1e-12)).transpose(0, 2, 1)  # [N, said, true]
        total = np.tile(np.log(np.maximum(self.prior, 1e-12)), (len(answers), 1))
        for node in range(len(logs)):
            total += weights[:, node, None] * logs[node][answers[:, node]]
        return total


def count_answers(
    answers: NDArray[np.int64], mask: NDArray[np.bool_], truth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return float64 ``[N, C, C]``: how often each node said what, by the probable truth ``[E, C]``."""
    classes = truth.shape[1]
    counts = np.empty((answers.shape[1], classes, classes))
    for node in range(answers.shape[1]):
        said = np.eye(classes)[answers[:, node]] * mask[:, node, None]
        counts[node] = truth.T @ said
    return counts


def crowd_of(counts: NDArray[np.float64], frequency: NDArray[np.float64], smoothing: float) -> Crowd:
    """Turn counts ``[N, C, C]`` and ``[C]`` into probabilities, `smoothing` answers added to each row."""
    classes = len(frequency)
    smoothed = counts + smoothing / classes
    rows = smoothed.sum(axis=2, keepdims=True)
    confusion = np.where(rows > 0.0, smoothed / np.maximum(rows, 1e-300), 1.0 / classes)
    return Crowd(confusion, (frequency + smoothing / classes) / (frequency.sum() + smoothing))


def crowd_em(
    answers: NDArray[np.int64],
    mask: NDArray[np.bool_],
    classes: int,
    *,
    labels: NDArray[np.int64] | None = None,
    smoothing: float = 0.01,
    rounds: int = 100,
    tolerance: float = 1e-6,
) -> tuple[Crowd, NDArray[np.float64]]:
    """Estimate each node's confusion matrix and each event's label from the answers alone.

    Starts from the shares of votes, or from the labels where there are any, and repeats until the
    posterior moves by less than `tolerance`:

    - M: ``confusion_n(c, k)`` is the share of ``k`` among node ``n``'s answers to events of class ``c``, each
      event counted with its probability of being ``c``;
    - E: ``posterior(c) ~ prior(c) prod_n confusion_n(c, answer_n)``.

    Parameters
    ----------
    answers
        int64 ``[E, N]`` in [0, C).
    mask
        bool ``[E, N]``, true where the node answered.
    classes
        ``C``.
    labels
        int64 ``[E]``, -1 where unknown; known ones are kept.
    smoothing
        Answers added to every row of a confusion matrix, spread over the classes.

    Returns
    -------
    Crowd, NDArray
        The estimate and the posterior, float64 ``[E, C]``.

    Notes
    -----
    Dawid and Skene (1979), "Maximum likelihood estimation of observer error-rates using the EM algorithm",
    equations 2.3 to 2.5. It finds a local maximum near the majority vote. It assumes that nodes err
    independently given the class; views of one object do not, and its posterior is then too sure. Where
    most nodes are wrong it finds the wrong classes with confidence.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 3, (2000, 1))
    >>> answers = np.where(rng.random((2000, 4)) < [0.9, 0.8, 0.7, 0.4], truth, rng.integers(0, 3, (2000, 4)))
    >>> crowd, _ = crowd_em(answers, np.ones((2000, 4), bool), 3)
    >>> crowd.confusion.diagonal(axis1=1, axis2=2).mean(axis=1).round(2).tolist()  # right by chance included
    [0.94, 0.86, 0.8, 0.6]
    """
    known = np.empty(0, np.int64) if labels is None else np.flatnonzero(labels >= 0)
    truth = np.eye(classes)[known if labels is None else labels[known]]
    votes = np.full((len(answers), classes), 1e-9)
    for node in range(answers.shape[1]):
        votes += np.eye(classes)[answers[:, node]] * mask[:, node, None]
    posterior = votes / votes.sum(axis=1, keepdims=True)
    posterior[known] = truth
    weights = mask.astype(np.float64)
    if len(known):  # believe the labels; the votes are worth one event of each class
        worth = np.full((len(answers), 1), classes / max(len(answers), 1))
        worth[known] = 1.0
        told = posterior * worth
        begin = crowd_of(count_answers(answers, mask, told), told.sum(axis=0), smoothing)
        posterior = probabilities(begin.log_joint(answers, weights))
        posterior[known] = truth
    crowd = Crowd(np.empty((0, classes, classes)), np.empty(classes))
    for _ in range(rounds):
        crowd = crowd_of(count_answers(answers, mask, posterior), posterior.sum(axis=0), smoothing)
        following = probabilities(crowd.log_joint(answers, weights))
        following[known] = truth
        moved = np.abs(following - posterior).max(initial=0.0)
        posterior = following
        if moved <= tolerance:
            break
    return crowd, posterior
