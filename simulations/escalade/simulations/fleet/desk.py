"""A tier that many ask, as kernels: workers that take requests first come, first served, alone or in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import Purpose, drawn
from escalade.simulations.fleet.intervals import up_again
from escalade.simulations.fleet.jit import inline, kernel, prefetch
from escalade.simulations.fleet.result import Count, Hist, Series
from escalade.simulations.fleet.rows import Status, Up
from escalade.simulations.fleet.sink import bin_of_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk
    from escalade.simulations.fleet.intervals import Intervals


AHEAD = 12
"""How many messages before its turn one is fetched from memory."""


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
def _occupy(free: Any, unit: Any, until: Any) -> None:
    """Give the unit's worker that is free first work until then."""
    place, n = 0, free.shape[1]
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and free[unit, child + 1] < free[unit, child]:
            child += 1
        if free[unit, child] >= until:
            break
        free[unit, place] = free[unit, child]
        place = child
    free[unit, place] = until


@inline
def _slowed(slow_from: Any, slow_to: Any, slowdown: Any, service: Any, start: Any) -> Any:
    """Return the time of an inference that begins in a brown-out, or else as it is."""
    for k in range(slow_from.shape[0]):
        if slow_from[k] <= start < slow_to[k]:
            return np.int64(service * slowdown[k])
    return service


@inline
def _row(row: Any, samples: Any, upgraded: Any) -> Any:
    """Return the row of the tier's score table that answers the sample of the endpoints' row."""
    if row >= samples:
        row -= samples
    return row + samples if upgraded else row


def serve(
    desk: Any,
    units: Any,
    keys: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    unit_of: Any,
    level: Any,
    samples: Any,
) -> None:
    """Serve requests one at a time; sets `STATUS`, `END` and the row of the score table.

    Parameters
    ----------
    rows
        Messages that arrive in this window.
    order
        By arrival, then by cell and number.
    unit_of
        From the edge node, of the cell or of the fleet, to the unit.
    """
    _serve(
        desk.service,
        desk.slow_from,
        desk.slow_to,
        desk.slowdown,
        units.begun,
        units.failures.end,
        units.failures.first,
        units.failures.start,
        units.free,
        units.turn,
        units.upgrade,
        keys,
        count,
        hist,
        series,
        interval,
        rows,
        order,
        unit_of,
        level,
        samples,
    )


@kernel
def _serve(
    desk_service: Any,
    desk_slow_from: Any,
    desk_slow_to: Any,
    desk_slowdown: Any,
    units_begun: Any,
    units_failures_end: Any,
    units_failures_first: Any,
    units_failures_start: Any,
    units_free: Any,
    units_turn: Any,
    units_upgrade: Any,
    keys: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    unit_of: Any,
    level: Any,
    samples: Any,
) -> None:
    node_at, limit_at, row_at, purpose = (
        (Up.NODE, Up.LIMIT_0, Up.ROW_1, Purpose.SERVICE_1)
        if level == 1
        else (Up.FLEET_NODE, Up.LIMIT_1, Up.ROW_2, Purpose.SERVICE_2)
    )
    tables, slow_from, slow_to, slowdown = desk_service, desk_slow_from, desk_slow_to, desk_slowdown
    free, begun, turn, upgrade = units_free, units_begun, units_turn, units_upgrade
    first, down, back = units_failures_first, units_failures_start, units_failures_end
    bound, last = begun.shape[1], series.shape[0] - 1
    fails, slows, alone = first.shape[0] > 1, slow_from.shape[0] > 0, free.shape[1] == 1
    final = order.shape[0] - 1
    for place in range(order.shape[0]):
        i = order[min(place + AHEAD, final)]
        prefetch(rows, i, 0)
        prefetch(rows, i, 8)
        i = order[place]
        unit, at = unit_of[rows[i, node_at]], rows[i, Up.AT]
        if fails and up_again(first, down, back, unit, at) != at:
            rows[i, Up.STATUS] = Status.DOWN
            rows[i, Up.END] = at
            continue
        if bound > 0 and begun[unit, turn[unit]] > at:
            rows[i, Up.STATUS] = Status.REFUSED
            rows[i, Up.END] = at
            continue
        start = max(at, free[unit, 0])
        if bound > 0:
            begun[unit, turn[unit]] = start
            turn[unit] = (turn[unit] + 1) % bound
        if at < rows[i, limit_at] <= start:
            rows[i, Up.STATUS] = Status.EXPIRED
            rows[i, Up.END] = start
            continue
        service = drawn(tables, 0, keys[rows[i, Up.CELL], purpose], rows[i, Up.RID])
        if slows:
            service = _slowed(slow_from, slow_to, slowdown, service, start)
        if alone:
            free[unit, 0] = start + service
        else:
            _occupy(free, unit, start + service)
        rows[i, Up.STATUS] = Status.DONE
        rows[i, Up.END] = start + service
        rows[i, row_at] = _row(rows[i, Up.ROW_0], samples, at >= upgrade[unit])
        interval_row = min(start // interval, last)
        count[Count.BUSY_NS_0 + level] += service
        count[Count.BATCHES_1 + level - 1] += 1
        count[Count.SERVED_0 + level] += 1
        count[Count.WAIT_NS_0 + level] += start - at
        series[interval_row, Series.BUSY_NS_0 + level] += service
        series[interval_row, Series.WAIT_NS_1 + level - 1] += start - at
        hist[Hist.ACCESS + 2 * level - 1, bin_of_one(start + service - at)] += 1


def serve_batches(
    desk: Any,
    units: Any,
    keys: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    unit_of: Any,
    level: Any,
    samples: Any,
    t1: Any,
) -> None:
    """Serve requests in batches: a free worker takes all that waits; sets what `serve` does.

    `rows` begins with those that were `WAITING` at the end of the last window; those that still do stay so.
    """
    _serve_batches(
        desk.each_more,
        desk.max_batch,
        desk.max_queue,
        desk.service,
        desk.slow_from,
        desk.slow_to,
        desk.slowdown,
        units.failures.end,
        units.failures.first,
        units.failures.start,
        units.free,
        units.upgrade,
        keys,
        count,
        hist,
        series,
        interval,
        rows,
        order,
        unit_of,
        level,
        samples,
        t1,
    )


@kernel
def _serve_batches(
    desk_each_more: Any,
    desk_max_batch: Any,
    desk_max_queue: Any,
    desk_service: Any,
    desk_slow_from: Any,
    desk_slow_to: Any,
    desk_slowdown: Any,
    units_failures_end: Any,
    units_failures_first: Any,
    units_failures_start: Any,
    units_free: Any,
    units_upgrade: Any,
    keys: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    unit_of: Any,
    level: Any,
    samples: Any,
    t1: Any,
) -> None:
    node_at, limit_at, row_at, purpose = (
        (Up.NODE, Up.LIMIT_0, Up.ROW_1, Purpose.SERVICE_1)
        if level == 1
        else (Up.FLEET_NODE, Up.LIMIT_1, Up.ROW_2, Purpose.SERVICE_2)
    )
    tables, slow_from, slow_to, slowdown = desk_service, desk_slow_from, desk_slow_to, desk_slowdown
    free, upgrade = units_free, units_upgrade
    first, down, back = units_failures_first, units_failures_start, units_failures_end
    number, last = free.shape[0], series.shape[0] - 1
    head = np.zeros(number, np.int64)
    tail = np.zeros(number, np.int64)
    waiting = np.zeros(number, np.int64)
    following = np.zeros(rows.shape[0], np.int64)
    batch = np.zeros(desk_max_batch, np.int64)
    for place in range(order.shape[0] + number):
        # An arrival lets its unit begin every batch that begins before it; at the end, every one before t1.
        closing = place >= order.shape[0]
        i = np.int64(-1) if closing else order[place]
        unit = place - order.shape[0] if closing else unit_of[rows[i, node_at]]
        until = t1 if closing else rows[i, Up.AT]
        if closing or rows[i, Up.STATUS] != Status.WAITING:
            while waiting[unit] > 0:
                start = max(free[unit, 0], rows[head[unit], Up.AT])
                if start >= until:
                    break
                size = 0
                while waiting[unit] > 0 and size < desk_max_batch:
                    k = head[unit]
                    head[unit] = following[k]
                    waiting[unit] -= 1
                    if rows[k, Up.AT] < rows[k, limit_at] <= start:
                        rows[k, Up.STATUS] = Status.EXPIRED
                        rows[k, Up.END] = start
                    else:
                        batch[size] = k
                        size += 1
                if size == 0:
                    continue
                leader = batch[0]
                service = drawn(tables, 0, keys[rows[leader, Up.CELL], purpose], rows[leader, Up.RID])
                service = np.int64(service * (1.0 + desk_each_more * (size - 1)))
                service = _slowed(slow_from, slow_to, slowdown, service, start)
                _occupy(free, unit, start + service)
                interval_row = min(start // interval, last)
                count[Count.BUSY_NS_0 + level] += service
                count[Count.BATCHES_1 + level - 1] += 1
                series[interval_row, Series.BUSY_NS_0 + level] += service
                for b in range(size):
                    k = batch[b]
                    at = rows[k, Up.AT]
                    rows[k, Up.STATUS] = Status.DONE
                    rows[k, Up.END] = start + service
                    rows[k, row_at] = _row(rows[k, Up.ROW_0], samples, at >= upgrade[unit])
                    count[Count.SERVED_0 + level] += 1
                    count[Count.WAIT_NS_0 + level] += start - at
                    series[interval_row, Series.WAIT_NS_1 + level - 1] += start - at
                    hist[Hist.ACCESS + 2 * level - 1, bin_of_one(start + service - at)] += 1
        if closing:
            continue
        if rows[i, Up.STATUS] != Status.WAITING:
            if up_again(first, down, back, unit, until) != until:
                rows[i, Up.STATUS] = Status.DOWN
                rows[i, Up.END] = until
                continue
            if desk_max_queue > 0 and waiting[unit] >= desk_max_queue:
                rows[i, Up.STATUS] = Status.REFUSED
                rows[i, Up.END] = until
                continue
        rows[i, Up.STATUS] = Status.WAITING
        if waiting[unit] == 0:
            head[unit] = i
        else:
            following[tail[unit]] = i
        tail[unit] = i
        waiting[unit] += 1
