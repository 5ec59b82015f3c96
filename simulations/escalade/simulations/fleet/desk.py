"""A tier that many ask, as kernels: workers that take requests first come, first served, alone or in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import Purpose, drawn
from escalade.simulations.fleet.intervals import up_again
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Count, Hist, Series
from escalade.simulations.fleet.rows import Status, Up
from escalade.simulations.fleet.sink import bin_of_one, row_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk
    from escalade.simulations.fleet.intervals import Intervals


class Units(NamedTuple):
    """The state of the nodes of a cell, or of the servers; times in ns."""

    free: NDArray[np.int64]
    """``[units, workers]``: when each worker is; a heap with the earliest first."""
    begun: NDArray[np.int64]
    """``[units, max_queue]``: when the latest began, in a ring; no columns without a bound."""
    turn: NDArray[np.int64]
    """``[units]``: the place in the ring of the one that began longest ago."""
    upgrade: NDArray[np.int64]
    """When a rollout reaches each."""
    failures: Intervals

    @classmethod
    def idle(cls, desk: Desk, count: int, upgrade: NDArray[np.int64], failures: Intervals) -> Units:
        """Make units without work."""
        bound = desk.max_queue if desk.max_batch == 1 else 0
        return cls(
            np.zeros((count, desk.workers), np.int64),
            np.full((count, bound), -1, np.int64),
            np.zeros(count, np.int64),
            upgrade,
            failures,
        )


@inline
def _occupy(free: Any, until: Any) -> None:
    """Give the worker that is free first work until then."""
    place, n = 0, free.shape[0]
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and free[child + 1] < free[child]:
            child += 1
        if free[child] >= until:
            break
        free[place] = free[child]
        place = child
    free[place] = until


@inline
def _slowed(desk: Any, service: Any, start: Any) -> Any:
    """Return the time of an inference that begins in a brown-out, or else as it is."""
    for k in range(desk.slow_from.shape[0]):
        if desk.slow_from[k] <= start < desk.slow_to[k]:
            return np.int64(service * desk.slowdown[k])
    return service


@inline
def _begin(desk: Any, units: Any, sink: Any, rows: Any, i: Any, unit: Any, start: Any, end: Any, level: Any, samples: Any) -> None:  # fmt: skip
    """Note that a request's inference begins."""
    at = rows[Up.AT, i]
    rows[Up.END, i] = end
    rows[Up.STATUS, i] = Status.DONE
    row = rows[Up.ROW_0, i]
    if row >= samples:
        row -= samples
    if at >= units.upgrade[unit]:
        row += samples
    rows[Up.ROW_1 if level == 1 else Up.ROW_2, i] = row
    sink.count[Count.SERVED_0 + level] += 1
    sink.count[Count.WAIT_NS_0 + level] += start - at
    sink.series[row_of(sink, start), Series.WAIT_NS_1 + level - 1] += start - at
    sink.hist[Hist.EDGE if level == 1 else Hist.SERVER, bin_of_one(end - at)] += 1


@inline
def _work(sink: Any, start: Any, service: Any, level: Any) -> None:
    """Note a worker's time."""
    sink.count[Count.BUSY_NS_0 + level] += service
    sink.count[Count.BATCHES_1 + level - 1] += 1
    sink.series[row_of(sink, start), Series.BUSY_NS_0 + level] += service


@kernel
def serve(
    desk: Any, units: Any, keys: Any, sink: Any, rows: Any, order: Any, unit_of: Any, level: Any, samples: Any
) -> None:  # fmt: skip
    """Serve requests one at a time; sets `STATUS` and `END`.

    Parameters
    ----------
    rows
        Messages that arrive in this window.
    order
        By arrival, then by cell and number.
    unit_of
        From the edge node, of the cell or of the fleet, to the unit.
    """
    limit_of = Up.LIMIT_0 if level == 1 else Up.LIMIT_1
    purpose = Purpose.SERVICE_1 if level == 1 else Purpose.SERVICE_2
    bound = units.begun.shape[1]
    fails = units.failures.first.shape[0] > 1
    for place in range(order.shape[0]):
        i = order[place]
        unit, at = unit_of[rows[Up.NODE if level == 1 else Up.FLEET_NODE, i]], rows[Up.AT, i]
        if fails and up_again(units.failures, unit, at) != at:
            rows[Up.STATUS, i] = Status.DOWN
            rows[Up.END, i] = at
            continue
        if bound > 0 and units.begun[unit, units.turn[unit]] > at:
            rows[Up.STATUS, i] = Status.REFUSED
            rows[Up.END, i] = at
            continue
        free = units.free[unit]
        start = max(at, free[0])
        if bound > 0:
            units.begun[unit, units.turn[unit]] = start
            units.turn[unit] = (units.turn[unit] + 1) % bound
        limit = rows[limit_of, i]
        if at < limit <= start:
            rows[Up.STATUS, i] = Status.EXPIRED
            rows[Up.END, i] = start
            continue
        service = _slowed(desk, drawn(desk.service, keys[rows[Up.CELL, i], purpose], rows[Up.RID, i]), start)
        _occupy(free, start + service)
        _work(sink, start, service, level)
        _begin(desk, units, sink, rows, i, unit, start, start + service, level, samples)


@inline
def _batches(
    desk: Any, units: Any, keys: Any, sink: Any, rows: Any, head: Any, following: Any, waiting: Any, unit: Any,
    until: Any, level: Any, samples: Any, batch: Any,
) -> None:  # fmt: skip
    """Begin every batch that begins before `until`."""
    limit_of = Up.LIMIT_0 if level == 1 else Up.LIMIT_1
    free = units.free[unit]
    while waiting[unit] > 0:
        start = max(free[0], rows[Up.AT, head[unit]])
        if start >= until:
            return
        size = 0
        while waiting[unit] > 0 and size < desk.max_batch:
            i = head[unit]
            head[unit] = following[i]
            waiting[unit] -= 1
            if rows[Up.AT, i] < rows[limit_of, i] <= start:
                rows[Up.STATUS, i] = Status.EXPIRED
                rows[Up.END, i] = start
            else:
                batch[size] = i
                size += 1
        if size > 0:
            first = batch[0]
            purpose = Purpose.SERVICE_1 if level == 1 else Purpose.SERVICE_2
            service = drawn(desk.service, keys[rows[Up.CELL, first], purpose], rows[Up.RID, first])
            service = _slowed(desk, np.int64(service * (1.0 + desk.each_more * (size - 1))), start)
            _occupy(free, start + service)
            _work(sink, start, service, level)
            for k in range(size):
                _begin(desk, units, sink, rows, batch[k], unit, start, start + service, level, samples)


@kernel
def serve_batches(
    desk: Any, units: Any, keys: Any, sink: Any, rows: Any, order: Any, unit_of: Any, level: Any, samples: Any, t1: Any
) -> None:  # fmt: skip
    """Serve requests in batches: a free worker takes all that waits; sets `STATUS` and `END`.

    `rows` begins with those that were `WAITING` at the end of the last window; those that still do stay so.
    """
    count = units.free.shape[0]
    head = np.zeros(count, np.int64)
    tail = np.zeros(count, np.int64)
    waiting = np.zeros(count, np.int64)
    following = np.zeros(rows.shape[1], np.int64)
    batch = np.zeros(desk.max_batch, np.int64)
    for place in range(order.shape[0]):
        i = order[place]
        unit, at = unit_of[rows[Up.NODE if level == 1 else Up.FLEET_NODE, i]], rows[Up.AT, i]
        if rows[Up.STATUS, i] != Status.WAITING:
            _batches(
                desk, units, keys, sink, rows, head, following, waiting, unit, at, level, samples, batch
            )  # fmt: skip
            if up_again(units.failures, unit, at) != at:
                rows[Up.STATUS, i] = Status.DOWN
                rows[Up.END, i] = at
                continue
            if desk.max_queue > 0 and waiting[unit] >= desk.max_queue:
                rows[Up.STATUS, i] = Status.REFUSED
                rows[Up.END, i] = at
                continue
        rows[Up.STATUS, i] = Status.WAITING
        if waiting[unit] == 0:
            head[unit] = i
        else:
            following[tail[unit]] = i
        tail[unit] = i
        waiting[unit] += 1
    for unit in range(count):
        _batches(desk, units, keys, sink, rows, head, following, waiting, unit, t1, level, samples, batch)
