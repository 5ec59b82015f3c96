"""How full a tier's units are between two windows: `Occupancy`; and which of them an endpoint would ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.draws import Purpose, below
from escalade.simulations.fleet.jit import kernel
from escalade.simulations.fleet.local import home_of
from escalade.simulations.fleet.rows import FAR, Up

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk
    from escalade.simulations.fleet.local import Place

    Rows = NDArray[np.int64]

UNIT, AT, END, LIMIT = range(4)


class Occupancy:
    """Who is in the units of a tier between two windows."""

    def __init__(self, desk: Desk, units: int, level: int) -> None:
        from escalade.simulations.fleet.gauge import Gauge  # what it takes of the tiers is loaded where it is used

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
