"""The best that any policy could do on a trace, knowing the answers: `oracle_tiers`, `oracle_curve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.policies import Trace


def oracle_tiers(trace: Trace) -> NDArray[np.int8]:
    """Return int8 ``[N]``: the cheapest tier whose answer is right; the lowest where none is.

    No policy does better at once in accuracy and in cost: an input that some tier gets right is answered
    right at the least price, and nothing is paid for one that no tier gets right.

    Examples
    --------
    >>> from escalade.policies import Trace
    >>> a, b = [0.9, 0.1], [0.1, 0.9]
    >>> oracle_tiers(Trace.of([[a, b, a], [a, a, a]], labels=[0, 0, 1])).tolist()
    [0, 1, 0]
    """
    right = np.stack([trace.correct(tier) for tier in range(trace.tiers)])
    return np.where(right.any(axis=0), right.argmax(axis=0), 0).astype(np.int8)


def oracle_curve(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least mean price at each accuracy: two float64 arrays of the same length, prices and accuracies.

    The corners of a line that bends at each tier. It starts with every input answered at the lowest tier;
    then those that a higher one alone gets right go up, the cheapest first. Each gains one right answer,
    so no other order reaches an accuracy for less; between corners the line is straight.
    """
    best = oracle_tiers(trace)
    price = np.cumsum(trace.costs)
    costs, accuracies = [price[0]], [float(trace.correct(0).mean())]
    for tier in range(1, trace.tiers):
        gained = float((best == tier).mean())
        costs.append(costs[-1] + gained * (price[tier] - price[0]))
        accuracies.append(accuracies[-1] + gained)
    return np.array(costs), np.array(accuracies)


def oracle_cost_at(trace: Trace, accuracy: float) -> float:
    """Return the least mean price at which the oracle is right that often; ``nan`` above what it reaches."""
    costs, accuracies = oracle_curve(trace)
    if accuracy > accuracies[-1] + 1e-12:
        return float("nan")
    return float(np.interp(accuracy, accuracies, costs))
