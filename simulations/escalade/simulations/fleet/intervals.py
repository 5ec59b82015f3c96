"""When things are down: for every unit its periods, in one array: outages, failures and churn alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import drawn
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.quantiles import UNIT_MEAN, exponential_table
from escalade.simulations.fleet.rows import FAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.network import UpDown


class Intervals(NamedTuple):
    """Down periods ``[start, end)`` of units, ns, ascending within a unit.

    Attributes
    ----------
    first
        int64 ``[units + 1]``: where a unit's periods begin; ``[1]`` when nothing is ever down.
    start, end
        int64 ``[P]``.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


NEVER = Intervals(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))


@inline
def up_again(first: Any, start: Any, end: Any, unit: Any, t: Any) -> Any:
    """Return when a unit is up at or after `t`: `t` itself unless it is down then. The arrays are `Intervals`'."""
    if first.shape[0] == 1:
        return t
    low, high = first[unit], first[unit + 1]
    last = high
    while low < high:  # the first period that ends after t
        middle = (low + high) >> 1
        if end[middle] > t:
            high = middle
        else:
            low = middle + 1
    if low < last and start[low] <= t:
        return end[low]
    return t


@inline
def next_start(first: Any, start: Any, unit: Any, t: Any) -> Any:
    """Return when a unit that is up at `t` goes down next; `FAR` for never."""
    low, high = first[unit], first[unit + 1]
    while low < high:
        middle = (low + high) >> 1
        if start[middle] > t:
            high = middle
        else:
            low = middle + 1
    return start[low] if low < first[unit + 1] else FAR


def from_config(config: UpDown | None, units: int, duration_ns: int, key: np.uint64) -> Intervals:
    """Return the periods of `units`; drawn ones begin before the end of the run and end there at the latest."""
    if config is None or not units:
        return NEVER
    if config.periods:
        start = np.array([round(one.from_s * 1e9) for one in config.periods], np.int64)
        end = np.array([round(one.to_s * 1e9) for one in config.periods], np.int64)
        first = np.arange(units + 1, dtype=np.int64) * len(start)
        return Intervals(first, np.tile(start, units), np.tile(end, units))
    assert config.up_s is not None
    assert config.down_s is not None
    return alternating(config.up_s, config.down_s, units, duration_ns, key)


def alternating(up_s: float, down_s: float, units: int, duration_ns: int, key: np.uint64) -> Intervals:
    """Draw exponential times up and down in turn; all start up."""
    means = np.array([up_s, down_s]) * 1e9 / UNIT_MEAN
    table = exponential_table()
    first = np.zeros(units + 1, np.int64)
    none = np.zeros(0, np.int64)
    _draw(table, key, means, duration_ns, first, none, none)
    start, end = np.empty(first[-1], np.int64), np.empty(first[-1], np.int64)
    _draw(table, key, means, duration_ns, first, start, end)
    return Intervals(first, start, end)


@kernel
def _draw(table: Any, key: Any, means: Any, duration: Any, first: Any, start: Any, end: Any) -> None:
    place = 0
    for unit in range(first.shape[0] - 1):
        t = np.int64(0)
        number = np.int64(unit) << 32
        while True:
            t += np.int64(drawn(table, 0, key, number) * means[0]) + 1
            if t >= duration:
                break
            back = min(t + np.int64(drawn(table, 0, key, number + 1) * means[1]) + 1, duration)
            if start.shape[0] > 0:
                start[place] = t
                end[place] = back
            place += 1
            number += 2
            t = back
        first[unit + 1] = place
