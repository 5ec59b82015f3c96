"""What every combination of thresholds costs and loses on a trace, at once: `ThresholdGrid`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies.class_table import HIGHEST, LOWEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CELLS = 40_000


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """One value for each combination of rungs, flat. Rung 0 of a tier accepts most, its last nothing.

    Attributes
    ----------
    rungs
        int64 ``[K, M]``: which rung each of the `K` tiers that decide stands on.
    cost
        float64 ``[M]``: mean price of an input.
    loss
        float64 ``[L, M]``: sums over the inputs, one row for each kind of loss.
    """

    rungs: NDArray[np.int64]
    cost: NDArray[np.float64]
    loss: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdGrid:
    """A ladder of thresholds for each tier that decides.

    Attributes
    ----------
    ladders
        One float32 ``[G, C]`` a tier, the same `G` for all: row `g` holds the thresholds by predicted class
        of rung `g`, in ascending order down the column. ``C`` may be 1: the same for all classes.
    """

    ladders: tuple[NDArray[np.float32], ...]

    def held(self, scores: Sequence[NDArray[np.float32]], predicted: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return int64 ``[K, N]``: on how many rungs, counted from the lowest, each tier accepts each input."""
        return np.stack([_held(*columns) for columns in zip(self.ladders, scores, predicted, strict=True)])

    def cells(self, held: NDArray[np.int64], losses: Sequence[NDArray[np.float64]], costs: Sequence[float]) -> Cells:
        """Sum losses and prices over the inputs, for every combination of rungs.

        Parameters
        ----------
        held
            As `held` returns it.
        losses
            For each kind of loss float64 ``[K + 1, N]``: what an input loses if this tier answers it.
        costs
            Price of reaching each tier, ``K + 1``.

        Notes
        -----
        An input goes through tier t where it is held on no more rungs than the tier's own. The sums over all
        combinations are cumulative sums of a histogram over the rungs: the time is that of counting the
        inputs once plus the number of combinations.
        """
        deciding, rows = held.shape
        rungs = len(self.ladders[0])
        shape = (rungs,) * deciding
        total = np.zeros((len(losses), *shape))
        reached = np.full(shape, costs[0] * rows)
        for tier in range(deciding + 1):
            axes = min(tier + 1, deciding)  # the last tier answers all that reaches it
            key = np.ravel_multi_index(tuple(held[:axes]), (rungs + 1,) * axes)
            for kind, table in enumerate(losses):
                if table[tier].any():
                    total[kind] += self._summed(key, table[tier], axes, answering=tier < deciding, of=deciding)
            if tier:
                through = np.ravel_multi_index(tuple(held[:tier]), (rungs + 1,) * tier)
                reached += costs[tier] * self._summed(through, None, tier, answering=False, of=deciding)
        where = np.indices(shape).reshape(deciding, -1)
        return Cells(where, reached.ravel() / rows, total.reshape(len(losses), -1))

    def _summed(
        self, key: NDArray[np.int64], weight: NDArray[np.float64] | None, axes: int, *, answering: bool, of: int
    ) -> NDArray[Any]:
        rungs = len(self.ladders[0])
        table: NDArray[Any] = np.bincount(key, weight, (rungs + 1) ** axes).astype(np.float64)
        table = table.reshape((rungs + 1,) * axes)
        for axis in range(axes):
            if answering and axis == axes - 1:
                table = np.flip(np.cumsum(np.flip(table, axis), axis), axis)
                table = np.take(table, np.arange(1, rungs + 1), axis)  # accepted here: held on more rungs
            else:
                table = np.take(np.cumsum(table, axis), np.arange(rungs), axis)
        return table.reshape(table.shape + (1,) * (of - axes))


def rungs_for(deciding: int) -> int:
    """Return how many rungs to give each of so many tiers."""
    return max(4, int(float(_CELLS) ** (1.0 / deciding) + 1e-9))


def front(cells: Cells, risk: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the cells that no other beats in both risk and cost, the safest and dearest first."""
    order = np.lexsort((cells.cost, risk))
    cheapest = np.minimum.accumulate(cells.cost[order])
    best: NDArray[np.int64] = order[np.append(True, cheapest[1:] < cheapest[:-1])]
    return best


def plain_ladder(score: NDArray[np.float32], rungs: int) -> NDArray[np.float32]:
    """Return float32 ``[rungs, 1]``: thresholds at quantiles of the scores, closer together among low ones."""
    return closed(quantiles(score, rungs - 1)[:, None])


def quantiles(values: NDArray[Any], rungs: int) -> NDArray[Any]:
    """Return `rungs` of the values, ascending; all of them where there are no more."""
    distinct = np.unique(values)
    if len(distinct) <= rungs:
        return np.concatenate([distinct, np.repeat(distinct[-1:], rungs - len(distinct))])
    levels = np.linspace(0.0, 1.0, rungs) ** 1.5
    found: NDArray[Any] = np.quantile(values, levels, method="higher")
    return found


def closed(inner: NDArray[Any]) -> NDArray[np.float32]:
    """Return the ladder with ends that accept every usable score and none: the lowest rung's place, and one more."""
    ladder = np.append(inner, inner[-1:], axis=0).astype(np.float32)
    ladder[0], ladder[-1] = LOWEST, HIGHEST
    return ladder


def _held(ladder: NDArray[np.float32], score: NDArray[np.float32], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    if ladder.shape[1] == 1:
        return np.searchsorted(ladder[:, 0], score, side="right").astype(np.int64)
    held = np.zeros(len(score), np.int64)
    for label in range(ladder.shape[1]):
        rows = predicted == label
        held[rows] = np.searchsorted(ladder[:, label], score[rows], side="right")
    return held
