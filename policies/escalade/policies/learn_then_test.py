"""Thresholds whose loss is shown to be small: `learn_then_test`."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite, log, log1p
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from escalade.policies.bounds import POWER, most_events, most_net_events, rows_needed
from escalade.policies.class_ladder import class_ladder
from escalade.policies.errors import FitError
from escalade.policies.threshold_grid import Cells, ThresholdGrid, front, plain_ladder, rungs_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies.fitting_data import FittingData

_FIRST_STEPS = 24
_LEAST_LEARNING = 0.2


@dataclass(frozen=True, slots=True)
class Promise:
    """What is to be shown: ``P(loss > alpha) <= delta``; and how the rows are used for it.

    Attributes
    ----------
    loss
        ``regret`` or ``net``, as in `FittingData.losses`.
    reserve
        Share of alpha that the chosen thresholds leave unused on the data.
    learning
        Share of the rows that choose what to test; down to a fifth where the test would have too few.
    per_class
        Whether each predicted class has a threshold of its own.
    seed
        Of the draw of those rows.
    """

    alpha: float
    delta: float
    loss: Literal["regret", "net"] = "regret"
    reserve: float = 0.0
    learning: float = 0.5
    per_class: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Thresholds, and the evidence for them.

    Attributes
    ----------
    thresholds
        One float32 ``[C]`` (or ``[1]``) for each tier that decides.
    n_test
        Rows of the test.
    counts
        On those rows, at these thresholds: inputs lost, and (``net``) inputs won.
    measured
        The loss on all rows.
    cost
        Mean price of an input on all rows.
    """

    thresholds: tuple[NDArray[np.float32], ...]
    n_test: int
    counts: tuple[int, ...]
    measured: float
    cost: float


def learn_then_test(data: FittingData, classes: int, promise: Promise) -> Shown:
    """Find the cheapest thresholds that keep a promise.

    Parameters
    ----------
    data
        Independent labelled inputs.
    classes
        How many there are.

    Raises
    ------
    FitError
        If nothing can be shown with these rows; it says about how many labels it takes.

    Notes
    -----
    Learn-then-Test (Angelopoulos et al. 2021, "Learn then test: calibrating predictive algorithms to achieve
    risk control") with Pareto testing (Laufer-Goldshtein et al. 2023, "Efficiently controlling multiple
    risks with Pareto testing"):

    1. A part of the rows, drawn at random, gives ladders of thresholds and the front of those combinations
       that no other beats in both loss and cost.
    2. Along it, from the safest (first come steps from "accept nothing" to it) to the cheapest, each is
       tested on the other rows at level delta, and the walk ends at the first that fails. In a fixed
       sequence the level need not be divided: with probability ``1 - delta`` none that passed has a loss
       above alpha.
    3. Of those that passed any may be taken, by looking at all rows: here the cheapest whose loss on all
       rows is at most ``(1 - reserve) alpha``, or the safest if there is none.
    """
    order = np.random.default_rng(promise.seed).permutation(len(data))
    if not any(data.costs[1:]):
        raise FitError("asking the tiers above costs nothing, so there is nothing to save; give the tiers' prices")
    split = _split(len(data), promise)
    learning, testing = data.take(order[:split]), data.take(order[split:])
    grid, path = _planned(learning, classes, promise)
    tested, whole = _cells(grid, testing, promise), _cells(grid, data, promise)
    passed = _passed(tested.loss[:, path].astype(np.int64), len(testing), promise)
    measured = _rates(whole, len(data))
    useful = whole.cost[path[:passed]] < whole.cost[-1]  # the last cell accepts nothing
    if not useful.any():
        raise FitError(_cannot(promise, len(data), _labels_needed(whole.loss[:, path], len(data), promise)))
    candidates = path[:passed][useful]
    within = candidates[measured[candidates] <= (1.0 - promise.reserve) * promise.alpha + 1e-12]
    cheapest, safest = whole.cost[within], measured[candidates]
    best = int(within[cheapest.argmin()] if len(within) else candidates[safest.argmin()])
    chosen = tuple(ladder[rung] for ladder, rung in zip(grid.ladders, whole.rungs[:, best], strict=True))
    counts = tuple(int(count) for count in tested.loss[:, best])
    return Shown(chosen, len(testing), counts, float(measured[best]), float(whole.cost[best]))


def _planned(data: FittingData, classes: int, promise: Promise) -> tuple[ThresholdGrid, NDArray[np.int64]]:
    """Return a grid of thresholds and which of its cells to test, in order."""
    rungs, losses = rungs_for(len(data.scores)), data.losses(promise.loss)
    ladders = []
    for tier, (score, predicted) in enumerate(zip(data.scores, data.predicted, strict=True)):
        if promise.per_class:
            ladder, risk = class_ladder(score, predicted, data.lost(tier), classes, rungs)
            losses[0][tier] = (losses[0][tier] + risk) / 2  # half smoothed: the front follows chance less
        else:
            ladder = plain_ladder(score, rungs)
        ladders.append(ladder)
    grid = ThresholdGrid(tuple(ladders))
    cells = grid.cells(grid.held(data.scores, data.predicted), losses, data.costs)
    return grid, _path(cells, rungs)


def _cells(grid: ThresholdGrid, data: FittingData, promise: Promise) -> Cells:
    return grid.cells(grid.held(data.scores, data.predicted), data.losses(promise.loss), data.costs)


def _rates(cells: Cells, rows: int) -> NDArray[np.float64]:
    net: NDArray[np.float64] = cells.loss[0] if len(cells.loss) == 1 else cells.loss[0] - cells.loss[1]
    return net / rows


def _path(cells: Cells, rungs: int) -> NDArray[np.int64]:
    """Return the cells to test: from accepting nothing to the safest of the front, then along it."""
    best = front(cells, _rates(cells, 1))
    deciding = len(cells.rungs)
    steps = np.linspace(0.0, 1.0, _FIRST_STEPS, endpoint=False)[1:, None]
    between = np.round(rungs - 1 + steps * (cells.rungs[:, best[0]] - (rungs - 1))).astype(np.int64)
    path = np.concatenate([np.ravel_multi_index(tuple(between.T), (rungs,) * deciding), best])
    path = path[path != len(cells.cost) - 1]  # the last cell accepts nothing
    once: NDArray[np.int64] = path[np.sort(np.unique(path, return_index=True)[1])]
    return once


def _passed(counts: NDArray[np.int64], rows: int, promise: Promise) -> int:
    """Return how many of the path pass before the first that fails."""
    if promise.loss == "regret":
        fails = counts[0] > most_events(rows, promise.alpha, promise.delta)
        return int(fails.argmax()) if fails.any() else len(fails)
    for place, (lost, won) in enumerate(counts.T.tolist()):
        if lost - won > most_net_events(rows, won, promise.alpha, promise.delta):
            return place
    return int(counts.shape[1])


def _split(rows: int, promise: Promise) -> int:
    """Return how many rows choose what to test; FitError where the others could not show anything."""
    tested = _least_tested(promise)
    split = round(rows * promise.learning)
    if rows - split < tested:
        split = max(rows - tested, ceil(rows * min(promise.learning, _LEAST_LEARNING)))
    if split < 1 or rows - split < tested:
        raise FitError(_cannot(promise, rows, _least_rows(promise)))
    return split


def _least_tested(promise: Promise) -> int:
    """Return how many tested rows show the promise if not one of them is lost."""
    return ceil(log(promise.delta) / log1p(-promise.alpha))


def _least_rows(promise: Promise) -> float:
    """Return how many rows of both parts that takes."""
    return _least_tested(promise) / (1.0 - min(promise.learning, _LEAST_LEARNING))


def _labels_needed(counts: NDArray[np.float64], rows: int, promise: Promise) -> float:
    """Return about how many rows of both parts would do for the easiest on the path, if all stays as it is."""
    needed = inf
    if promise.loss == "regret":
        for lost in np.unique(counts[0])[:8].tolist():
            needed = min(needed, rows_needed(lost / rows, promise.alpha, promise.delta))
    else:
        z = NormalDist().inv_cdf(1.0 - promise.delta) + NormalDist().inv_cdf(POWER)
        for lost, won in counts.T.tolist():
            room = promise.alpha - (lost - won) / rows
            if room > 0:
                spread = max((lost + won) / rows, promise.alpha) - ((lost - won) / rows) ** 2
                needed = min(needed, z * z * spread / room**2)
    return max(needed / (1.0 - promise.learning), _least_rows(promise))


def _cannot(promise: Promise, rows: int, needed: float) -> str:
    text = f"alpha={promise.alpha:g} at delta={promise.delta:g} cannot be certified with {rows} rows; "
    if not isfinite(needed):
        return text + "no number of labels would do: even the safest thresholds seem to lose as much; raise alpha"
    wanted = max(ceil(needed), rows + 1)
    step = 10 ** max(0, len(str(wanted)) - 2)
    return text + f"about {-(-wanted // step) * step} labels needed"
