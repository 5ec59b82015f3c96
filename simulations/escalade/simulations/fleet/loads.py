"""How full a tier's units are, as their answers would say: `Occupancy`, by the tiers' own `Admission`.

The tiers take the largest of three shares: requests inside over `max_queue`, waiting work over the time that callers
give, and how busy the event loop is. The simulator knows no event loop; requests that wait for an answer from further
up count in the tiers and not here; and the time that callers give is that of those who are inside, where the tiers
take a running mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.draws import Purpose, below
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.local import home_of
from escalade.simulations.fleet.quantiles import mean_ms
from escalade.simulations.fleet.rows import FAR, Up
from escalade.tiers.admission import Admission, RunTimes
from escalade.tiers.config import LimitsConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk
    from escalade.simulations.fleet.local import Place

    Rows = NDArray[np.int64]

UNIT, AT, END, LIMIT = range(4)


class Gauge:
    """The load of one unit of a tier, from what is in it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        row_s = mean_ms(desk.service) / 1e3
        self._times = RunTimes(row_s, max_rows=desk.max_batch)
        rows = 2
        while rows < 2 * desk.max_batch:
            size = min(rows, desk.max_batch)
            self._times.observe(size, row_s * (1.0 + desk.each_more * (size - 1)))
            rows *= 2
        self._max_queue = desk.max_queue or LimitsConfig().max_queue

    def load(self, inside: int, waiting: int, given_ns: int, callers: int) -> float:
        """Return it, in eighths from 0 to 1.

        Parameters
        ----------
        inside, waiting
            Requests in the unit, and those of them that no worker has begun.
        given_ns, callers
            The time from arrival to limit of those that have one, summed, and how many these are.
        """
        desk = self._desk
        one = Admission("", self._times, max_queue=self._max_queue, max_batch=desk.max_batch, workers=desk.workers)
        if callers:
            one.admit(1, 0, given_ns / callers / 1e9, 0.0, pending=0, waiting=(), free_in_s=-1.0)
        return one.load(inside, (waiting,))


class Occupancy:
    """Who is in the units of a tier between two windows."""

    def __init__(self, desk: Desk, units: int, level: int) -> None:
        self._desk, self._units, self._gauge = desk, units, Gauge(desk)
        self._limit_at = Up.LIMIT_0 if level == 1 else Up.LIMIT_1
        self._leaving = np.empty((0, 4), np.int64)

    def leave(self, unit: Rows, rows: Rows, t1: int) -> None:
        """Note rows that are not kept though their `END` may lie at `t1` or later."""
        self._leaving = np.concatenate([self._leaving, self._columns(unit, rows)])
        self._leaving = self._leaving[self._leaving[:, END] >= t1]

    def loads(self, unit: Rows, rows: Rows, t1: int) -> NDArray[np.float64]:
        """Return each unit's load at `t1`, float64 ``[units]``; `rows` are kept, on their way to the tier or in it."""
        inside = np.concatenate([self._leaving, self._columns(unit, rows)])
        inside = inside[(inside[:, AT] < t1) & ((inside[:, END] < 0) | (inside[:, END] >= t1))]
        count = np.bincount(inside[:, UNIT], minlength=self._units)
        if self._desk.max_batch > 1:
            waiting = np.bincount(inside[inside[:, END] < 0, UNIT], minlength=self._units)
        else:  # served in advance; no worker is idle while one waits
            waiting = np.maximum(count - self._desk.workers, 0)
        limited = inside[(inside[:, LIMIT] < FAR) & (inside[:, LIMIT] > inside[:, AT])]
        callers = np.bincount(limited[:, UNIT], minlength=self._units)
        given = np.zeros(self._units, np.int64)
        np.add.at(given, limited[:, UNIT], limited[:, LIMIT] - limited[:, AT])
        out = np.zeros(self._units)
        for one in np.flatnonzero(count).tolist():
            out[one] = self._gauge.load(int(count[one]), int(waiting[one]), int(given[one]), int(callers[one]))
        return out

    def _columns(self, unit: Rows, rows: Rows) -> Rows:
        return np.stack([unit, rows[:, Up.AT], rows[:, Up.END], rows[:, self._limit_at]], axis=1)


def nodes_at(place: Place, phase: Rows, kind: int, dwell: int, device: Rows, t: Rows, out: Rows) -> None:
    """Set the cell's node that each device of a class would ask at a time: home, or where it has moved to."""
    _nodes_at(
        place.places_from[kind], place.fleet_nodes, place.class_sizes[kind], place.first_node, phase, dwell,
        place.keys[Purpose.MOBILITY], place.nodes, device, t, out,
    )  # fmt: skip


@kernel
def _nodes_at(
    places_from: Any, fleet_nodes: Any, size: Any, first_node: Any, phase: Any, dwell: Any, key: Any, nodes: Any,
    device: Any, t: Any, out: Any,
) -> None:  # fmt: skip
    for i in range(out.shape[0]):
        d = device[i]
        out[i] = home_of(d + places_from, fleet_nodes, size) - first_node
        if phase.shape[0] > 0 and dwell < FAR:
            move = (t[i] + phase[d]) // dwell
            if move > 0:
                out[i] = below(key, (np.int64(d) << 32) + move, nodes)
