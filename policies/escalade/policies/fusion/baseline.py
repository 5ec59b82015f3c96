"""How a healthy node answers: `Baseline`, the measure against which evidence of a fault is weighed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from escalade.policies.calibration import fit_temperature
from escalade.policies.fusion.crowd import count_answers, crowd_em, crowd_of
from escalade.policies.fusion.head import probabilities

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASSUMED_RIGHT = 0.75
"""Share of right answers of a node about which nothing is known."""

SURPRISE = 0.02
"""Share of a healthy node's answers that are anything at all: bounds what a single event can prove."""


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What healthy nodes answer, by class, and how far their joint answer is to be believed.

    Attributes
    ----------
    confusion
        float64 ``[N, C, C]``: probability that node ``n`` says the third when the second is true.
    prior
        float64 ``[C]``.
    temperature
        Views of one object err together, so their joint posterior is too sure; this divides its logits.
    """

    confusion: NDArray[np.float64]
    prior: NDArray[np.float64]
    temperature: float

    @classmethod
    def assumed(cls, nodes: int, classes: int) -> Baseline:
        """Return what is assumed of nodes that nobody has measured."""
        wrong = (1.0 - ASSUMED_RIGHT) / max(classes - 1, 1)
        matrix = np.full((classes, classes), wrong)
        np.fill_diagonal(matrix, ASSUMED_RIGHT if classes > 1 else 1.0)
        return cls(np.tile(matrix, (nodes, 1, 1)), np.full(classes, 1.0 / classes), 1.5)

    @classmethod
    def of(
        cls, answers: NDArray[np.int64], mask: NDArray[np.bool_], labels: NDArray[np.int64], classes: int
    ) -> Baseline:
        """Measure healthy nodes on events with labels, or without (-1) by `crowd_em`."""
        _, truth = crowd_em(answers, mask, classes, labels=labels, smoothing=1.0)
        crowd = crowd_of(count_answers(answers, mask, truth), truth.sum(axis=0), 1.0)
        measured = cls((1.0 - SURPRISE) * crowd.confusion + SURPRISE / classes, crowd.prior, 1.0)
        everyone = np.ones(answers.shape[1], bool)
        logits = measured.others(answers, mask, everyone, tempered=False).reshape(-1, classes)
        target = truth.argmax(axis=1).repeat(answers.shape[1])
        return cls(measured.confusion, measured.prior, max(fit_temperature(logits, target), 1.0))

    def others(
        self, answers: NDArray[np.int64], mask: NDArray[np.bool_], trusted: NDArray[np.bool_], *, tempered: bool = True
    ) -> NDArray[np.float64]:
        """Return for each node what the trusted others make of the event: float64 ``[E, N, C]``.

        Probabilities if `tempered`, else their logits before the temperature.
        """
        logs = np.log(self.confusion).transpose(0, 2, 1)  # [N, said, true]
        count = answers.shape[1]
        said = logs[np.arange(count), answers] * (mask & trusted)[:, :, None]
        joint: NDArray[np.float64] = np.log(self.prior) + said.sum(axis=1, keepdims=True) - said
        if not tempered:
            return joint
        flat = joint.reshape(-1, joint.shape[2]) / self.temperature
        return probabilities(flat).reshape(joint.shape)

    def likelihood(self, answers: NDArray[np.int64], others: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how probable each node's answer is if it is well: ``sum_c others(c) confusion(c, answer)``."""
        count = answers.shape[1]
        columns = self.confusion.transpose(0, 2, 1)[np.arange(count), answers]  # [E, N, true]
        result: NDArray[np.float64] = np.einsum("enc,enc->en", others, columns)
        return result
