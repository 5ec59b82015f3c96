"""Whether the tier above answers with stranger classes than this one does: `LabelMix`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOUBT_ROWS = 100
"""Rows at which half of what they say is believed."""

MAX_CLASSES = 4096


class LabelMix:
    """Shares of the classes: usual, and of both tiers' answers to the same inputs since the last change.

    A tier that is lost often answers with a few classes only. If classes are as frequent as usual, a tier is right
    on ``1 - TV`` of all inputs at most, ``TV`` being half the sum of the absolute differences between the shares of its
    answers and the usual ones. What counts is the difference of the two tiers' ``TV`` on the same rows, in which a
    selection of rows and a real change of the classes' shares cancel in part.

    Examples
    --------
    >>> mix = LabelMix(reference=4)
    >>> for label in (0, 1, 2, 3):
    ...     mix.add(label, -1, learn=True)
    >>> mix.restart()
    >>> for _ in range(100):
    ...     for label in (0, 1, 2, 3):
    ...         mix.add(label, 3, learn=False)
    >>> mix.suspicion()                                       # 0.75, believed for 400 of 500
    0.6
    """

    def __init__(self, reference: int) -> None:
        self.reference = reference
        self._usual: list[int] = []
        self._local: list[int] = []
        self._upper: list[int] = []
        self._learnt = 0

    def add(self, local: int, upper: int, *, learn: bool) -> None:
        """Count one row's labels, `upper` negative where unknown; with `learn` also as usual, while that is learnt."""
        highest = max(local, upper)
        if local < 0 or highest >= MAX_CLASSES:
            return
        if highest >= len(self._usual):
            more = [0] * (highest + 1 - len(self._usual))
            self._usual, self._local, self._upper = self._usual + more, self._local + more, self._upper + more
        if learn and self._learnt < self.reference:
            self._usual[local] += 1
            self._learnt += 1
        if upper >= 0:
            self._local[local] += 1
            self._upper[upper] += 1

    def restart(self) -> None:
        """Forget all but what is usual."""
        self._local = [0] * len(self._usual)
        self._upper = [0] * len(self._usual)

    def suspicion(self) -> float:
        """Return how much stranger the upper tier's answers are, from -1 to 1; 0 while nothing is known."""
        rows = sum(self._local)
        if not rows or self._learnt < self.reference:
            return 0.0
        difference = 0.0
        for usual, local, upper in zip(self._usual, self._local, self._upper, strict=True):
            share = usual / self._learnt
            difference += abs(upper / rows - share) - abs(local / rows - share)
        return 0.5 * difference * rows / (rows + DOUBT_ROWS)

    def state(self) -> NDArray[np.int64]:
        """Return int64 ``[3, C]``: counts of the usual, the lower and the upper tier's classes."""
        return np.array([self._usual, self._local, self._upper], np.int64).reshape(3, -1)

    def load(self, state: NDArray[np.int64]) -> None:
        """Take over a state; ValueError if it is none."""
        table = np.asarray(state)
        if table.dtype != np.int64 or table.ndim != 2 or len(table) != 3 or table.shape[1] > MAX_CLASSES:
            raise ValueError("a label mix must be int64 [3, C]")
        if (table < 0).any():
            raise ValueError("a label mix must count 0 or more")
        self._usual, self._local, self._upper = table.tolist()
        self._learnt = sum(self._usual)
