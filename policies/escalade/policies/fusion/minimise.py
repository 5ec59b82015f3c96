"""Fitting in plain numpy: `minimise`, a quasi-Newton method for smooth functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Objective = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]

MEMORY = 10


def minimise(
    objective: Objective, start: NDArray[np.float64], *, steps: int = 300, tolerance: float = 1e-8
) -> NDArray[np.float64]:
    """Find a local minimum by limited-memory BFGS with a backtracking line search.

    Parameters
    ----------
    objective
        Returns value and gradient at a point ``[P]``.
    start
        Where to begin, ``[P]``.
    steps
        At most so many.
    tolerance
        Ends when a step lowers the value by less than this share of it.

    Notes
    -----
    Nocedal and Wright (2006), "Numerical optimization", algorithms 3.1, 7.4 and 7.5. For a convex objective
    the minimum is global. It ends after `steps` without a word: the fits here are regularised by that too.

    Examples
    --------
    >>> minimise(lambda x: (float(((x - 3.0) ** 2).sum()), 2.0 * (x - 3.0)), np.zeros(2)).round(6).tolist()
    [3.0, 3.0]
    """
    point = np.array(start, np.float64)
    value, slope = objective(point)
    moves: list[NDArray[np.float64]] = []
    turns: list[NDArray[np.float64]] = []
    for _ in range(steps):
        direction = -_times_inverse_hessian(slope, moves, turns)
        descent = float(direction @ slope)
        if descent >= 0.0:
            break
        length = 1.0 if moves else min(1.0, 1.0 / float(np.abs(slope).sum()))
        following, next_slope = objective(point + length * direction)
        while not following <= value + 1e-4 * length * descent and length > 1e-12:
            length *= 0.5
            following, next_slope = objective(point + length * direction)
        if not following < value:
            break
        move, turn = length * direction, next_slope - slope
        if move @ turn > 1e-12 * (turn @ turn):
            moves, turns = [*moves, move][-MEMORY:], [*turns, turn][-MEMORY:]
        done = value - following <= tolerance * max(abs(following), 1e-12)
        point, value, slope = point + move, following, next_slope
        if done:
            break
    return point


def _times_inverse_hessian(
    slope: NDArray[np.float64], moves: list[NDArray[np.float64]], turns: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    vector = slope.copy()
    shares = []
    for move, turn in zip(reversed(moves), reversed(turns), strict=True):
        share = (move @ vector) / (move @ turn)
        shares.append(share)
        vector -= share * turn
    if moves:
        vector *= (moves[-1] @ turns[-1]) / (turns[-1] @ turns[-1])
    for move, turn, share in zip(moves, turns, reversed(shares), strict=True):
        vector += move * (share - (turn @ vector) / (move @ turn))
    return vector
