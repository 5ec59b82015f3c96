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
from escalade.simulations.fleet.sink import bin_of_one, row_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.intervals import Intervals


class Links(NamedTuple):
    """The state of one hop's links of a cell, one for each edge node."""

    free: NDArray[np.int64]
    """When the last message had been transmitted, ns."""
    outages: Intervals
    circuits: Circuits


@inline
def _leave(wire: Any, keys: Any, sink: Any, rows: Any, i: Any, when: Any, hop: Any) -> None:
    """Let a message go onto the air at a time: it arrives, or is lost after every retry."""
    sent, rid = rows[Up.SENT_0 if hop == 0 else Up.SENT_1, i], rows[Up.RID, i]
    delay = drawn(wire.latency, keys[Purpose.ACCESS_UP if hop == 0 else Purpose.UPLINK_UP], rid)
    retries = 0
    if wire.loss > 0.0:
        chance = uniform(keys[Purpose.LOSS_0 if hop == 0 else Purpose.LOSS_1], rid)
        share = wire.loss
        while chance < share and retries <= wire.max_retries:
            retries += 1
            share *= wire.loss
        sink.count[Count.RETRIES] += min(retries, wire.max_retries)
    if retries > wire.max_retries:
        rows[Up.STATUS, i] = Status.LOST
        rows[Up.AT, i] = FAR
        rows[Up.END, i] = when
        sink.count[Count.LOST_0 + hop] += 1
        sink.series[row_of(sink, when), Series.LOST] += 1
    else:
        at = when + delay + retries * wire.retry
        rows[Up.STATUS, i] = Status.DONE
        rows[Up.AT, i] = at
        sink.hist[Hist.ACCESS if hop == 0 else Hist.UPLINK, bin_of_one(at - sent)] += 1


@kernel
def pass_on(wire: Any, keys: Any, sink: Any, rows: Any, hop: Any) -> None:
    """Send messages over links on which none waits for another."""
    for i in range(rows.shape[1]):
        _leave(wire, keys, sink, rows, i, rows[Up.SENT_0 if hop == 0 else Up.SENT_1, i], hop)


@inline
def _advance(
    wire: Any, keys: Any, links: Any, sink: Any, rows: Any, hop: Any, head: Any, following: Any, waiting: Any,
    link: Any, until: Any,
) -> None:  # fmt: skip
    """Transmit what can begin at `until` or before."""
    while waiting[link] > 0:
        i = head[link]
        when = max(links.free[link], rows[Up.SENT_0 if hop == 0 else Up.SENT_1, i])
        when = up_again(links.outages, link, when)
        if when > until:
            return
        links.free[link] = when + np.int64(rows[Up.SIZE, i] * wire.ns_per_byte)
        _leave(wire, keys, sink, rows, i, links.free[link], hop)
        head[link] = following[i]
        waiting[link] -= 1


@kernel
def queue_up(wire: Any, keys: Any, links: Any, sink: Any, rows: Any, order: Any, t1: Any, hop: Any) -> None:
    """Send messages over links on which they wait for one another; sets `STATUS`, and `AT` or `END`.

    Parameters
    ----------
    rows
        Those that waited at the end of the last window, and new ones, all sent before `t1`.
    order
        By time of sending, then by number.
    """
    units = links.free.shape[0]
    head = np.zeros(units, np.int64)
    tail = np.zeros(units, np.int64)
    waiting = np.zeros(units, np.int64)
    following = np.zeros(rows.shape[1], np.int64)
    answered = ANSWERED_0 if hop == 0 else ANSWERED_1
    for place in range(order.shape[0]):
        i = order[place]
        link, sent = rows[Up.NODE, i], rows[Up.SENT_0 if hop == 0 else Up.SENT_1, i]
        if rows[Up.STATUS, i] != Status.WAITING:
            _advance(wire, keys, links, sink, rows, hop, head, following, waiting, link, sent)
            if wire.failures > 0 and rows[Up.FLAGS, i] & answered == 0:
                if allows(links.circuits, link, sent):
                    good = up_again(links.outages, link, sent) == sent
                    ended(
                        links.circuits, link, sent, good, wire.failures, wire.wait, wire.max_wait,
                        keys[Purpose.BREAKER_0 if hop == 0 else Purpose.BREAKER_1],
                    )  # fmt: skip
                    if not good:
                        rows[Up.FLAGS, i] |= UNREACHED
                else:
                    rows[Up.FLAGS, i] |= OPEN
            kept = waiting[link] + (1 if links.free[link] > sent else 0)
            if wire.max_waiting > 0 and kept >= wire.max_waiting:
                if wire.evicts and waiting[link] > 0:
                    oldest = head[link]
                    rows[Up.STATUS, oldest] = Status.EVICTED
                    rows[Up.END, oldest] = sent
                    head[link] = following[oldest]
                    waiting[link] -= 1
                else:
                    rows[Up.STATUS, i] = Status.REFUSED
                    rows[Up.END, i] = sent
                sink.count[Count.LOST_0 + hop] += 1
                sink.series[row_of(sink, sent), Series.LOST] += 1
                if rows[Up.STATUS, i] == Status.REFUSED:
                    continue
        rows[Up.STATUS, i] = Status.WAITING
        if waiting[link] == 0:
            head[link] = i
        else:
            following[tail[link]] = i
        tail[link] = i
        waiting[link] += 1
    for link in range(units):
        _advance(wire, keys, links, sink, rows, hop, head, following, waiting, link, t1 - 1)
