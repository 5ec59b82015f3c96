"""The way from a tier to the next, as kernels: bandwidth, outages, a bounded buffer, loss, breaker, latency.

A node's link carries one message after another, in order of sending. What waits is what the outbox keeps: with one
priority and one device its order is first come, first served, and a full one evicts the oldest that waits
(`escalade.tiers.outbox.order`; a test holds that both agree).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.circuit import Circuits, allows, ended
from escalade.simulations.fleet.draws import Purpose, drawn, uniform
from escalade.simulations.fleet.intervals import up_again
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Count, Hist, Series
from escalade.simulations.fleet.rows import ANSWERED_0, ANSWERED_1, FAR, OPEN, UNREACHED, Status, Up
from escalade.simulations.fleet.sink import bin_of_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.intervals import Intervals


class Links(NamedTuple):
    """The state of one hop's links of a cell, one for each edge node."""

    free: NDArray[np.int64]
    """When the last message had been transmitted, ns."""
    outages: Intervals
    circuits: Circuits
    tokens: NDArray[np.float64]
    """Repeats that each may still pay for."""


@inline
def paid(tokens: Any, link: Any, ratio: Any, burst: Any, repeats: Any) -> Any:
    """Return how many repeats of a message its link can pay for: the twin of `escalade.tiers.retry.RetryBudget`."""
    if tokens[link] < burst:
        tokens[link] = min(tokens[link] + ratio, np.float64(burst))
    made = 0
    while made < repeats and tokens[link] >= 1.0:
        tokens[link] -= 1.0
        made += 1
    return made


@inline
def _delay(
    tables: Any, latency_key: Any, loss_key: Any, loss: Any, retry: Any, max_retries: Any, rid: Any, count: Any,
    tokens: Any, link: Any, ratio: Any, burst: Any,
) -> Any:  # fmt: skip
    """Return how long a message is on the air, retries included; -1 for one that is lost."""
    lost = 0
    if loss > 0.0:
        chance = uniform(loss_key, rid)
        share = loss
        while chance < share and lost <= max_retries:
            lost += 1
            share *= loss
        made = min(lost, max_retries)
        if ratio >= 0.0:
            made = paid(tokens, link, ratio, burst, made)
        count[Count.RETRIES] += made
        if made < lost:
            return np.int64(-1)
    return drawn(tables, 0, latency_key, rid) + lost * retry


@inline
def _leave(
    rows: Any, i: Any, when: Any, sent: Any, delay: Any, hop: Any, count: Any, hist: Any, series: Any, interval: Any
) -> None:  # fmt: skip
    """Let a message go onto the air at a time: it arrives, or is lost."""
    if delay < 0:
        rows[i, Up.STATUS] = Status.LOST
        rows[i, Up.AT] = FAR
        rows[i, Up.END] = when
        count[Count.LOST_0 + hop] += 1
        series[min(when // interval, series.shape[0] - 1), Series.LOST] += 1
    else:
        rows[i, Up.STATUS] = Status.DONE
        rows[i, Up.AT] = when + delay
        rows[i, Up.END] = -1
        hist[Hist.ACCESS + 2 * hop, bin_of_one(when + delay - sent)] += 1


def pass_on(wire: Any, keys: Any, count: Any, hist: Any, series: Any, interval: Any, rows: Any, hop: Any) -> None:
    """Send messages over links on which none waits for another; sets `STATUS` and `AT`."""
    _pass_on(wire.latency, wire.loss, wire.max_retries, wire.retry, keys, count, hist, series, interval, rows, hop)


@kernel
def _pass_on(
    wire_latency: Any,
    wire_loss: Any,
    wire_max_retries: Any,
    wire_retry: Any,
    keys: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    hop: Any,
) -> None:
    tables, loss, retry, most = wire_latency, wire_loss, wire_retry, wire_max_retries
    sent_at = Up.SENT_0 if hop == 0 else Up.SENT_1
    latency_key = keys[Purpose.ACCESS_UP if hop == 0 else Purpose.UPLINK_UP]
    loss_key = keys[Purpose.LOSS_0 if hop == 0 else Purpose.LOSS_1]
    if loss <= 0.0:  # of all the rows, since a call that takes arrays costs more than what it does for one
        for i in range(rows.shape[0]):
            delay = drawn(tables, 0, latency_key, rows[i, Up.RID])
            rows[i, Up.STATUS] = Status.DONE
            rows[i, Up.AT] = rows[i, sent_at] + delay
            rows[i, Up.END] = -1
            hist[Hist.ACCESS + 2 * hop, bin_of_one(delay)] += 1
        return
    tokens = np.empty(0)
    for i in range(rows.shape[0]):
        sent = rows[i, sent_at]
        delay = _delay(
            tables, latency_key, loss_key, loss, retry, most, rows[i, Up.RID], count, tokens, 0, -1.0, 0
        )  # fmt: skip
        _leave(rows, i, sent, sent, delay, hop, count, hist, series, interval)


def queue_up(
    wire: Any,
    keys: Any,
    links: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    t1: Any,
    hop: Any,
) -> None:
    """Send messages over links on which they wait for one another; sets `STATUS`, and `AT` or `END`.

    Parameters
    ----------
    rows
        Those that waited at the end of the last window, and new ones, all sent before `t1`.
    order
        By time of sending, then by number. After the last, all links go on until `t1`.
    """
    _queue_up(
        wire.burst,
        wire.evicts,
        wire.failures,
        wire.latency,
        wire.loss,
        wire.max_retries,
        wire.max_wait,
        wire.max_waiting,
        wire.ns_per_byte,
        wire.ratio,
        wire.retry,
        wire.wait,
        keys,
        links.circuits,
        links.free,
        links.outages.end,
        links.outages.first,
        links.outages.start,
        links.tokens,
        count,
        hist,
        series,
        interval,
        rows,
        order,
        t1,
        hop,
    )


@kernel
def _queue_up(
    wire_burst: Any,
    wire_evicts: Any,
    wire_failures: Any,
    wire_latency: Any,
    wire_loss: Any,
    wire_max_retries: Any,
    wire_max_wait: Any,
    wire_max_waiting: Any,
    wire_ns_per_byte: Any,
    wire_ratio: Any,
    wire_retry: Any,
    wire_wait: Any,
    keys: Any,
    links_circuits: Any,
    links_free: Any,
    links_outages_end: Any,
    links_outages_first: Any,
    links_outages_start: Any,
    links_tokens: Any,
    count: Any,
    hist: Any,
    series: Any,
    interval: Any,
    rows: Any,
    order: Any,
    t1: Any,
    hop: Any,
) -> None:
    tables, loss, retry, most = wire_latency, wire_loss, wire_retry, wire_max_retries
    sent_at = Up.SENT_0 if hop == 0 else Up.SENT_1
    latency_key = keys[Purpose.ACCESS_UP if hop == 0 else Purpose.UPLINK_UP]
    loss_key = keys[Purpose.LOSS_0 if hop == 0 else Purpose.LOSS_1]
    breaker_key = keys[Purpose.BREAKER_0 if hop == 0 else Purpose.BREAKER_1]
    free, circuits = links_free, links_circuits
    first, down, back = links_outages_first, links_outages_start, links_outages_end
    units = free.shape[0]
    head = np.zeros(units, np.int64)
    tail = np.zeros(units, np.int64)
    waiting = np.zeros(units, np.int64)
    following = np.zeros(rows.shape[0], np.int64)
    answered = ANSWERED_0 if hop == 0 else ANSWERED_1
    for place in range(order.shape[0] + units):
        # A new message lets its link go on until it is sent; at the end every link goes on until t1.
        closing = place >= order.shape[0]
        i = np.int64(-1) if closing else order[place]
        link = place - order.shape[0] if closing else rows[i, Up.NODE]
        until = t1 - 1 if closing else rows[i, sent_at]
        if closing or rows[i, Up.STATUS] != Status.WAITING:
            while waiting[link] > 0:
                k = head[link]
                sent = rows[k, sent_at]
                begin = up_again(first, down, back, link, max(free[link], sent))
                if begin > until:
                    break
                free[link] = begin + np.int64(rows[k, Up.SIZE] * wire_ns_per_byte)
                delay = _delay(
                    tables, latency_key, loss_key, loss, retry, most, rows[k, Up.RID], count, links_tokens, link,
                    wire_ratio, wire_burst,
                )  # fmt: skip
                _leave(rows, k, free[link], sent, delay, hop, count, hist, series, interval)
                head[link] = following[k]
                waiting[link] -= 1
        if closing:
            continue
        if rows[i, Up.STATUS] != Status.WAITING:
            if wire_failures > 0 and rows[i, Up.FLAGS] & answered == 0:
                if allows(circuits, link, until):
                    good = up_again(first, down, back, link, until) == until
                    ended(circuits, link, until, good, wire_failures, wire_wait, wire_max_wait, breaker_key)
                    if not good:
                        rows[i, Up.FLAGS] |= UNREACHED
                else:
                    rows[i, Up.FLAGS] |= OPEN
            kept = waiting[link] + (1 if free[link] > until else 0)
            if wire_max_waiting > 0 and kept >= wire_max_waiting:
                count[Count.LOST_0 + hop] += 1
                series[min(until // interval, series.shape[0] - 1), Series.LOST] += 1
                if not wire_evicts or waiting[link] == 0:
                    rows[i, Up.STATUS] = Status.REFUSED
                    rows[i, Up.END] = until
                    continue
                oldest = head[link]
                rows[oldest, Up.STATUS] = Status.EVICTED
                rows[oldest, Up.END] = until
                head[link] = following[oldest]
                waiting[link] -= 1
        rows[i, Up.STATUS] = Status.WAITING
        if waiting[link] == 0:
            head[link] = i
        else:
            following[tail[link]] = i
        tail[link] = i
        waiting[link] += 1
