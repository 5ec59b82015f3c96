"""Sequential evidence that a node is broken: cumulative sums of log-likelihood ratios, `Evidence`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.fusion.baseline import Baseline

LOST, WEAK, FIRST_ROW = 0, 1, 2
"""Columns of the sums: answers like chance, half of them like chance, answers like chance to one class."""

SURE_OF_CLASS = 0.6
"""How probable a class must be, to the others, for an event to count for that class's row."""


@dataclass(slots=True, eq=False)
class Evidence:
    """The running sums of every node, and which of them have reached the alarm.

    Each sum ``S`` follows Page's rule ``S = min(max(S + x, 0), alarm)``, ``x`` the logarithm of how much
    likelier the node's answer is if it is broken than if it is well. It alarms at the limit, and the alarm
    ends when it is back at 0. Answers that agree with the others only ever lower it, so a node that says
    the same for hours because the world is the same for hours stays trusted.

    Attributes
    ----------
    total
        float64 ``[N, 2 + C]``.
    alarmed
        bool ``[N, 2 + C]``.
    right
        bool ``[N, C]``: whether the node agreed when the others were last sure of that class. A node that is
        right about ``l`` and says ``l`` where the others are sure of another class may well be right there
        too: that does not count for a row, which would else collect the others' errors.

    Notes
    -----
    Page (1954), "Continuous inspection schemes"; Lorden (1971), "Procedures for reacting to a change in
    distribution": the mean number of events between false alarms of one sum is at least ``exp(alarm)``,
    if the baseline is right. Detection takes about ``alarm / E[x]`` events.
    """

    total: NDArray[np.float64]
    alarmed: NDArray[np.bool_]
    right: NDArray[np.bool_]

    @classmethod
    def none(cls, nodes: int, classes: int) -> Evidence:
        """Return what is known of nodes that nobody has watched yet."""
        size = (nodes, FIRST_ROW + classes)
        return cls(np.zeros(size), np.zeros(size, bool), np.ones((nodes, classes), bool))

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """The nodes without an alarm, bool ``[N]``."""
        return np.asarray(~self.alarmed.any(axis=1))

    def add(
        self, increment: NDArray[np.float64], answer: NDArray[np.int64], sure_of: NDArray[np.int64], alarm: float
    ) -> bool:
        """Add one event and return whether an alarm began or ended.

        Parameters
        ----------
        increment
            float64 ``[N, 2 + C]``, see `increments`.
        answer, sure_of
            int64 ``[N]``: the node's answer, and the class that the others are sure of or -1.
        alarm
            The limit.

        Notes
        -----
        Only the worst of several nodes that reach the limit at once is distrusted: what spoke against the
        others was in part its voice. So the trusted others' sums start anew whenever an alarm begins.
        """
        nodes = np.arange(len(answer))
        doubted = ~self.right[nodes, answer]
        raw = self.total + increment
        rows = raw[:, FIRST_ROW:]
        np.minimum(rows, self.total[:, FIRST_ROW:], out=rows, where=~doubted[:, None])
        judged = np.flatnonzero(sure_of >= 0)
        self.right[judged, sure_of[judged]] = answer[judged] == sure_of[judged]
        self.total = np.clip(raw, 0.0, alarm)
        rising = (raw >= alarm) & ~self.alarmed
        ending = self.alarmed & (raw <= 0.0)
        if not (rising.any() or ending.any()):
            return False
        self.alarmed &= ~ending
        if rising.any():
            trusted = self.trusted
            new = rising.any(axis=1) & trusted
            worst = int(np.where(new, raw.max(axis=1), -np.inf).argmax()) if new.any() else -1
            begin = rising & (~trusted | (np.arange(len(raw)) == worst))[:, None]
            self.alarmed |= begin
            if new.any():
                self.total[self.trusted] = 0.0
            lost = self.alarmed[:, LOST]
            self.total[lost[:, None] & ~self.alarmed] = 0.0
        return True


def increments(
    baseline: Baseline,
    answers: NDArray[np.int64],
    mask: NDArray[np.bool_],
    evidence: Evidence,
    min_others: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return what each event adds to the sums, float64 ``[E, N, 2 + C]``, and the others' class, ``[E, N]``.

    The class is returned twice: -1 where the node is not judged, and -1 where the others are not sure either.

    With ``h`` the probability of the node's answer if it is well and ``u = 1 / C``: ``log(u / h)`` for
    `LOST`, ``log(1/2 + u / 2h)`` for `WEAK`, and for the row of the class that the others see, if they are
    sure of it, ``log(u / h)`` again. Nodes that did not report and those with fewer than `min_others`
    trusted others add nothing. While `LOST` is in alarm, so that all answers are wrong anyhow, nothing is
    added to sums that were not yet.
    """
    trusted = evidence.trusted
    classes = baseline.confusion.shape[1]
    others = baseline.others(answers, mask, trusted)
    healthy = baseline.likelihood(answers, others)
    seen = mask & trusted
    judged = mask & (seen.sum(axis=1, keepdims=True) - seen >= min_others)
    lost = np.where(judged, -np.log(classes * healthy), 0.0)
    result = np.zeros((*answers.shape, FIRST_ROW + classes))
    result[:, :, LOST] = lost
    result[:, :, WEAK] = np.where(judged, np.log(0.5 + 0.5 / (classes * healthy)), 0.0)
    reference: NDArray[np.int64] = others.argmax(axis=2)
    sure = judged & (others.max(axis=2) >= SURE_OF_CLASS)
    event, node = np.nonzero(sure)
    result[event, node, FIRST_ROW + reference[event, node]] = lost[event, node]
    result[:, evidence.alarmed[:, LOST, None] & ~evidence.alarmed] = 0.0
    return result, np.where(judged, reference, -1), np.where(sure, reference, -1)
