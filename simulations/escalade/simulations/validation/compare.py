"""Predicted against measured: `rows` with the targets, and whether policies come in the same order: `swapped`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import TYPE_CHECKING

from escalade.simulations.validation.measured import MEAN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from escalade.simulations.validation.measured import Case

    Figures = Mapping[str, float]

TARGETS = {"share": 0.01, "accuracy": 0.01, "p50": 0.10, "p99": 0.25}
"""Points of shares and accuracy; relative errors of latencies."""
RANKED = ("accuracy", "share endpoint", MEAN)


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of one case.

    Attributes
    ----------
    error, noise
        Of the prediction, and of the second real run, against the first one: a difference of shares or accuracy, or a
        relative error. `noise` is nan without a second run.
    """

    case: str
    what: str
    predicted: float
    measured: float
    again: float

    @property
    def kind(self) -> str:
        """Which target it has."""
        return self.what.partition(" ")[0]

    @property
    def error(self) -> float:
        """See above."""
        return self._off(self.predicted)

    @property
    def noise(self) -> float:
        """See above."""
        return self._off(self.again)

    @property
    def within(self) -> bool:
        """Whether the prediction is within its target."""
        return abs(self.error) <= TARGETS[self.kind]

    @property
    def in_points(self) -> bool:
        """Whether it is a share."""
        return self.kind in ("share", "accuracy")

    def _off(self, value: float) -> float:
        return value - self.measured if self.in_points else value / self.measured - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of one case: the figures predicted, measured, and measured again where it was run again.

    `degraded` counts, by reason, the answers of any real run below the tier that was asked for: of those nothing is
    predicted.
    """

    case: Case
    inputs: int
    degraded: Mapping[str, int]
    predicted: Figures
    measured: Figures
    again: Figures | None

    def compared(self) -> list[Compared]:
        """Return a row for each figure that has a target and enough answers in every real run."""
        found = []
        for what, predicted in self.predicted.items():
            again = float("nan") if self.again is None else self.again[what]
            known = isfinite(self.measured[what]) and (self.again is None or isfinite(again))
            if known and what.partition(" ")[0] in TARGETS:
                found.append(Compared(self.case.title, what, predicted, self.measured[what], again))
        return found


@dataclass(frozen=True, slots=True)
class Swap:
    """Two policies that come the other way round in reality than in the prediction."""

    what: str
    first: str
    second: str


def swapped(outcomes: Sequence[Outcome]) -> list[Swap]:
    """Return the pairs of policies, under the same load, that the prediction ranks otherwise than the real runs do.

    By accuracy, by what stays at the endpoint, and by mean latency. Where two real runs differ about a pair, or have it
    equal, reality has no order to be met.
    """
    found = []
    for a, b in combinations(outcomes, 2):
        if a.case.rate_hz != b.case.rate_hz:
            continue
        for what in RANKED:
            real = {_order(a.measured[what], b.measured[what])}
            if a.again is not None and b.again is not None:
                real.add(_order(a.again[what], b.again[what]))
            if len(real) == 1 and 0 not in real and _order(a.predicted[what], b.predicted[what]) not in real:
                found.append(Swap(what, a.case.title, b.case.title))
    return found


def _order(a: float, b: float) -> int:
    return (a > b) - (a < b)


def met(outcomes: Sequence[Outcome]) -> bool:
    """Return whether every target holds and no two policies are swapped."""
    return all(row.within for one in outcomes for row in one.compared()) and not swapped(outcomes)
