"""How a message's way ends, as kernels: answered above in time, answered below because it was not, or both.

Each takes rows int64 ``[n, UP]`` and puts down ends (`rows.Ended`) and what policies learn (`rows.Fed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.draws import Purpose, drawn
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.local import ABSTAIN, ACCEPT, DEFER, ESCALATE, NO_LIMIT, budget
from escalade.simulations.fleet.result import Count, Reason, Series
from escalade.simulations.fleet.rows import ANSWERED_0, ANSWERED_1, CORRECTED, OPEN, UNREACHED, Fed, Status, Up
from escalade.simulations.fleet.sink import AT_FED, AT_UP, put_end, put_fed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Desk, World
    from escalade.simulations.fleet.sink import Sink


@inline
def _way_back(latency: Any, keys: Any, rows: Any, i: Any) -> Any:
    """Return the latency of a row's answer from the edge node to the endpoint, ns."""
    return drawn(latency, 0, keys[rows[i, Up.CELL], Purpose.ACCESS_DOWN], rows[i, Up.RID])


@inline
def _end(rows: Any, i: Any, ended: Any, size: Any, tier: Any, why: Any, at: Any, row: Any) -> None:
    put_end(
        ended, size, rows[i, Up.CELL], rows[i, Up.RID], rows[i, Up.T], rows[i, Up.NUMBER], rows[i, Up.KIND], tier, why,
        at, row, rows[i, Up.SENT_0],
    )  # fmt: skip


@inline
def _fed_0(rows: Any, i: Any, fed: Any, size: Any, known: Any, upper: Any, upper_row: Any) -> None:
    """Tell the endpoint's policy; `upper` -1: nobody above answered."""
    asked = rows[i, Up.SENT_0]
    put_fed(
        fed, size, 0, known, rows[i, Up.CELL], rows[i, Up.RID], rows[i, Up.NUMBER], rows[i, Up.ROW_0], ESCALATE,
        rows[i, Up.PROPENSITY_0], asked, upper, upper_row, known - asked if upper >= 0 else -1,
    )  # fmt: skip


@inline
def _fed_1(
    rows: Any, i: Any, fed: Any, size: Any, action: Any, decided: Any, known: Any, upper: Any, upper_row: Any
) -> None:  # fmt: skip
    """Tell the edge node's policy."""
    put_fed(
        fed, size, 1, known, rows[i, Up.CELL], rows[i, Up.RID], rows[i, Up.NUMBER], rows[i, Up.ROW_1], action,
        rows[i, Up.PROPENSITY_1], decided, upper, upper_row, known - decided if upper >= 0 else -1,
    )  # fmt: skip
    if fed.shape[0] > 0:
        fed[size[AT_FED] - 1, Fed.NODE] = rows[i, Up.FLEET_NODE]


@inline
def _give_up_0(rows: Any, i: Any, ended: Any, fed: Any, size: Any, at: Any, why: Any) -> None:
    """Let the endpoint answer itself, at its limit at the latest."""
    if rows[i, Up.FLAGS] & ANSWERED_0 == 0:
        if at > rows[i, Up.LIMIT_0]:
            at, why = rows[i, Up.LIMIT_0], Reason.TIMEOUT
        _end(rows, i, ended, size, 0, why, at, rows[i, Up.ROW_0])
        _fed_0(rows, i, fed, size, at, -1, 0)
        rows[i, Up.FLAGS] |= ANSWERED_0


@inline
def _deliver(rows: Any, i: Any, ended: Any, fed: Any, size: Any, at: Any, tier: Any, why: Any, row: Any) -> None:
    """Bring an answer of a tier to the endpoint; -1 for a policy's answer that there is none."""
    if rows[i, Up.FLAGS] & ANSWERED_0 == 0 and at <= rows[i, Up.LIMIT_0]:
        _end(rows, i, ended, size, tier, why, at, row)
        _fed_0(rows, i, fed, size, at, tier, row)
        rows[i, Up.FLAGS] |= ANSWERED_0
        return
    _give_up_0(rows, i, ended, fed, size, rows[i, Up.LIMIT_0], Reason.TIMEOUT)
    if tier >= 0:
        _end(rows, i, ended, size, tier, CORRECTED, at, row)


@inline
def _give_up_1(rows: Any, i: Any, ended: Any, fed: Any, size: Any, at: Any, why: Any, back: Any) -> None:
    """Let the edge node answer itself, at its limit at the latest."""
    if rows[i, Up.FLAGS] & ANSWERED_1 == 0:
        if at > rows[i, Up.LIMIT_1]:
            at, why = rows[i, Up.LIMIT_1], Reason.TIMEOUT
        _fed_1(rows, i, fed, size, ESCALATE, rows[i, Up.SENT_1], at, -1, 0)
        _deliver(rows, i, ended, fed, size, at + back, 1, why, rows[i, Up.ROW_1])
        rows[i, Up.FLAGS] |= ANSWERED_1


def below(world: World, sink: Sink, rows: NDArray[np.int64], hop: int) -> None:
    """Let the sending tier answer what did not get onto or over a hop; see `travel`."""
    _below(world.access.latency_down, world.keys, sink.ended, sink.fed, sink.size, rows, hop)


@kernel
def _below(latency: Any, keys: Any, ended: Any, fed: Any, size: Any, rows: Any, hop: Any) -> None:
    sent_at, limit_at = (Up.SENT_0, Up.LIMIT_0) if hop == 0 else (Up.SENT_1, Up.LIMIT_1)
    for i in range(rows.shape[0]):
        flags, status = rows[i, Up.FLAGS], rows[i, Up.STATUS]
        at, why, kept = np.int64(0), Reason.OK, False
        if flags & (OPEN | UNREACHED):
            at, why, kept = rows[i, sent_at], Reason.CIRCUIT_OPEN if flags & OPEN else Reason.UNAVAILABLE, True
            rows[i, Up.FLAGS] = flags & (ANSWERED_0 | ANSWERED_1)
        elif status == Status.REFUSED or status == Status.EVICTED:
            at, why = rows[i, Up.END], Reason.BUFFER_FULL
        elif status == Status.LOST:
            at, why = rows[i, limit_at], Reason.TIMEOUT
        if why != Reason.OK:
            if hop == 0:
                _give_up_0(rows, i, ended, fed, size, at, why)
            else:
                _give_up_1(rows, i, ended, fed, size, at, why, _way_back(latency, keys, rows, i))
            if kept:  # in the outbox now: nobody waits for it any more
                rows[i, limit_at] = NO_LIMIT


def turned_away(world: World, sink: Sink, rows: NDArray[np.int64]) -> None:
    """Let endpoints answer what their edge node refused or did not come to."""
    _turned_away(world.access.latency_down, world.keys, sink.ended, sink.fed, sink.size, rows)


@kernel
def _turned_away(latency: Any, keys: Any, ended: Any, fed: Any, size: Any, rows: Any) -> None:
    for i in range(rows.shape[0]):
        status = rows[i, Up.STATUS]
        if status == Status.EXPIRED:
            _give_up_0(rows, i, ended, fed, size, rows[i, Up.LIMIT_0], Reason.TIMEOUT)
        else:
            why = Reason.REFUSED if status == Status.REFUSED else Reason.UNAVAILABLE
            _give_up_0(rows, i, ended, fed, size, rows[i, Up.END] + _way_back(latency, keys, rows, i), why)


def settle_edge(
    edge: Desk,
    latency: NDArray[np.int64],
    keys: NDArray[np.uint64],
    sink: Sink,
    count: NDArray[np.int64],
    series: NDArray[np.int64],
    interval: int,
    rows: NDArray[np.int64],
    which: NDArray[np.intp],
    action: NDArray[np.int8],
    propensity: NDArray[np.int64],
    up: NDArray[np.int64],
) -> None:
    """Carry out the edge nodes' decisions on the rows `which`.

    What ends here is put down, what goes up is appended to `up`, int64 ``[room, UP]``.
    """
    _settle_edge(
        edge.reserve, edge.timeout, edge.size, latency, keys, sink.ended, sink.fed, sink.size, count, series, interval,
        rows, which, action, propensity, up,
    )  # fmt: skip


@kernel
def _settle_edge(
    reserve: Any, timeout: Any, bytes_up: Any, latency: Any, keys: Any, ended: Any, fed: Any, size: Any, count: Any,
    series: Any, interval: Any, rows: Any, which: Any, action: Any, propensity: Any, up: Any,
) -> None:  # fmt: skip
    last, learns = series.shape[0] - 1, fed.shape[0] > 0
    for place in range(action.shape[0]):
        i, what = which[place], action[place]
        end, row = rows[i, Up.END], rows[i, Up.ROW_1]
        rows[i, Up.PROPENSITY_1] = propensity[place] if propensity.shape[0] > 0 else 0
        back = drawn(latency, 0, keys[rows[i, Up.CELL], Purpose.ACCESS_DOWN], rows[i, Up.RID])
        in_time = rows[i, Up.FLAGS] & ANSWERED_0 == 0 and end + back <= rows[i, Up.LIMIT_0]
        if what == ACCEPT and in_time and not learns:  # most of all
            _end(rows, i, ended, size, 1, Reason.OK, end + back, row)
            continue
        tier, why, told, done, limit = 1, Reason.OK, ACCEPT, True, NO_LIMIT
        if what == ABSTAIN:
            tier, why, told = -1, Reason.ABSTAINED, ABSTAIN
        elif what == DEFER:
            why = Reason.DEFERRED
        elif what == ESCALATE:
            count[Count.ESCALATED_1] += 1
            wanted = rows[i, Up.LIMIT_0]
            allowed = budget(NO_LIMIT if wanted >= NO_LIMIT else wanted - end, reserve, timeout)
            if allowed <= 0 and rows[i, Up.AT] <= wanted:
                why = Reason.DEADLINE
            else:
                done, limit = False, end + (allowed if allowed > 0 else timeout)
        if done:
            _fed_1(rows, i, fed, size, told, end, end, -1, 0)
            _deliver(rows, i, ended, fed, size, end + back, tier, why, row)
            if what != DEFER:
                continue
            rows[i, Up.FLAGS] |= ANSWERED_1
        count[Count.BYTES_1] += bytes_up
        series[min(end // interval, last), Series.BYTES_1] += bytes_up
        n = size[AT_UP]
        for column in range(rows.shape[1]):
            up[n, column] = rows[i, column]
        up[n, Up.SENT_1] = end
        up[n, Up.LIMIT_1] = limit
        up[n, Up.SIZE] = bytes_up
        up[n, Up.STATUS] = Status.DONE
        size[AT_UP] = n + 1


def settle_server(
    world: World, sink: Sink, series: NDArray[np.int64], rows: NDArray[np.int64], order: NDArray[np.intp]
) -> None:
    """Bring the servers' answers home; of `rows` those in `order`, which a server is done with."""
    _settle_server(
        world.access.latency_down, world.uplink.latency_down, world.keys, sink.ended, sink.fed, sink.size, series,
        world.interval, rows, order,
    )  # fmt: skip


@kernel
def _settle_server(
    access: Any, uplink: Any, keys: Any, ended: Any, fed: Any, size: Any, series: Any, interval: Any, rows: Any,
    order: Any,
) -> None:  # fmt: skip
    last = series.shape[0] - 1
    for place in range(order.shape[0]):
        i = order[place]
        status, back = rows[i, Up.STATUS], _way_back(access, keys, rows, i)
        if status == Status.EXPIRED:
            _give_up_1(rows, i, ended, fed, size, rows[i, Up.LIMIT_1], Reason.TIMEOUT, back)
            continue
        at = rows[i, Up.END] + drawn(uplink, 0, keys[rows[i, Up.CELL], Purpose.UPLINK_DOWN], rows[i, Up.RID])
        if status != Status.DONE:
            why = Reason.REFUSED if status == Status.REFUSED else Reason.UNAVAILABLE
            _give_up_1(rows, i, ended, fed, size, at, why, back)
            continue
        row, asked = rows[i, Up.ROW_2], rows[i, Up.SENT_1]
        if rows[i, Up.FLAGS] & ANSWERED_1 == 0 and at <= rows[i, Up.LIMIT_1]:
            _fed_1(rows, i, fed, size, ESCALATE, asked, at, 2, row)
            series[min(at // interval, last), Series.ABOVE_1] += 1
            series[min(at // interval, last), Series.ABOVE_NS_1] += at - asked
            _deliver(rows, i, ended, fed, size, at + back, 2, Reason.OK, row)
        else:
            _give_up_1(rows, i, ended, fed, size, rows[i, Up.LIMIT_1], Reason.TIMEOUT, back)
            _end(rows, i, ended, size, 2, CORRECTED, at + back, row)


def time_out(world: World, sink: Sink, rows: NDArray[np.int64], t1: int, *, edge: bool) -> None:
    """Let tiers answer what is still under way above them at `t1`, after their limit; `edge`: edge nodes too."""
    _time_out(world.access.latency_down, world.keys, sink.ended, sink.fed, sink.size, rows, t1, edge)


@kernel
def _time_out(
    latency: Any, keys: Any, ended: Any, fed: Any, size: Any, rows: Any, t1: Any, edge: Any
) -> None:  # fmt: skip
    for i in range(rows.shape[0]):
        if edge and rows[i, Up.LIMIT_1] < t1:
            back = _way_back(latency, keys, rows, i)
            _give_up_1(rows, i, ended, fed, size, rows[i, Up.LIMIT_1], Reason.TIMEOUT, back)
        if rows[i, Up.LIMIT_0] < t1:
            _give_up_0(rows, i, ended, fed, size, rows[i, Up.LIMIT_0], Reason.TIMEOUT)
