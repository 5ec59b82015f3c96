"""An endpoint's own part, as kernels: who is there, awake and free; what a decision does to battery and network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.battery import charged
from escalade.simulations.fleet.draws import GOLDEN, Purpose, below, drawn, mix, uniform
from escalade.simulations.fleet.intervals import next_start, up_again
from escalade.simulations.fleet.jit import inline, kernel, prefetch
from escalade.simulations.fleet.result import Class, Count, Hist, Reason, Series
from escalade.simulations.fleet.rows import ANSWERED_0, DEAD, FAR, NO_BATTERY, Local, State, Status, Up
from escalade.simulations.fleet.sink import AT_UP, bin_of_one, put_end, put_fed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Kinds
    from escalade.simulations.fleet.intervals import Intervals
    from escalade.simulations.fleet.result import Stats
    from escalade.simulations.fleet.sink import Sink

ACCEPT, ESCALATE, DEFER, ABSTAIN = 0, 1, 2, 3
NO_LIMIT = FAR
AHEAD = 16
"""How many requests before its turn a device's state is fetched from memory."""


class Devices(NamedTuple):
    """The state of a cell's endpoints, int64 ``[D]`` but where it says otherwise; times in ns, energy in pJ."""

    kind: NDArray[np.int32]
    number: NDArray[np.int64]
    """In the fleet."""
    state: NDArray[np.int64]
    """``[D, 1 or more]``: see `rows.State`."""
    upgrade: NDArray[np.int64]
    """When a rollout reaches it; empty where there is none."""
    phase: NDArray[np.int64]
    """Of its moves; empty where nobody moves."""
    away: Intervals
    throttled: NDArray[np.uint8]
    """Empty where nothing throttles."""
    busy: NDArray[np.int64]
    """In this control interval; empty likewise."""
    died: NDArray[np.int64]
    """When the battery became empty, -1 before; empty where no one has any."""


class Place(NamedTuple):
    """Which cell it is."""

    cell: int
    keys: NDArray[np.uint64]
    nodes: int
    first_node: int
    """In the fleet."""
    fleet_nodes: int
    samples: int
    numbers_from: NDArray[np.int64]
    """Of each class: a device's number in the fleet, minus that in the cell."""
    places_from: NDArray[np.int64]
    """Of each class: a device's place in the class, minus its number in the cell."""
    class_sizes: NDArray[np.int64]
    """In the fleet."""


def infer(
    place: Place,
    kinds: Kinds,
    devices: Devices,
    sink: Sink,
    by_class: NDArray[np.int64],
    t: NDArray[np.int64],
    device: NDArray[np.int64],
    first_rid: int,
    t1: int,
    ready: NDArray[np.int64],
    n_ready: int,
    later: NDArray[np.int64],
    n_later: int,
) -> tuple[int, int]:
    """Let new arrivals through the endpoints' processors, first come, first served.

    Those that end before `t1` are appended to `ready`, the others to `later`, int64 ``[LOCAL, room]``; returns how
    full both then are.
    """
    full: tuple[int, int] = _infer(
        place.cell, place.samples, place.keys[Purpose.SAMPLE], place.keys[Purpose.SERVICE_0],
        place.keys[Purpose.TRIGGER], kinds.service, kinds.pass_share, kinds.awake, kinds.wake, kinds.slowdown,
        devices.kind, place.numbers_from, devices.state, devices.upgrade, devices.away.first, devices.away.start,
        devices.away.end, devices.throttled, devices.busy, sink.ended, sink.size, by_class, t, device, first_rid, t1,
        ready, n_ready, later, n_later,
    )  # fmt: skip
    return full


@kernel
def _infer(
    cell: Any, samples: Any, sample_key: Any, service_key: Any, trigger_key: Any, tables: Any, shares: Any, awake: Any,
    wake: Any, slowdown: Any, kind_of: Any, numbers_from: Any, state: Any, upgrade: Any, first: Any, start_away: Any,
    end_away: Any, throttled: Any, busy: Any, ended: Any, size: Any, by_class: Any, t: Any, device: Any, first_rid: Any,
    t1: Any, ready: Any, n_ready: Any, later: Any, n_later: Any,
) -> Any:  # fmt: skip
    single = shares.shape[0] == 1
    heats, churns = busy.shape[0] > 0, first.shape[0] > 1
    kind, final = 0, t.shape[0] - 1
    for i in range(t.shape[0]):
        prefetch(state, device[min(i + AHEAD, final)], 0)
        when, d, rid = t[i], device[i], first_rid + i
        if not single:
            kind = kind_of[d]
            by_class[kind, Class.ARRIVED] += 1
        if churns and when >= state[d, State.LEAVES]:
            if up_again(first, start_away, end_away, d, when) != when:
                put_end(ended, size, cell, rid, when, d + numbers_from[kind], kind, -1, Reason.OFFLINE, when, 0, -1)
                continue
            state[d, State.LEAVES] = next_start(first, start_away, d, when)
        if shares[kind] < 1.0 and uniform(trigger_key, rid) >= shares[kind]:
            put_end(ended, size, cell, rid, when, d + numbers_from[kind], kind, -1, Reason.FILTERED, when, 0, -1)
            continue
        service = drawn(tables, kind, service_key, rid)
        if heats and throttled[d] == 1:
            service = np.int64(service * slowdown[kind])
        free = state[d, State.FREE]
        start = max(when, free)
        if when >= free + awake[kind]:
            start = when + wake[kind]
        end = start + service
        state[d, State.FREE] = end
        if heats:
            busy[d] += service
        row = below(sample_key, rid, samples)
        if upgrade.shape[0] > 0 and when >= upgrade[d]:
            row += samples
        if end < t1:
            ready[Local.RID, n_ready] = rid
            ready[Local.T, n_ready] = when
            ready[Local.DEVICE, n_ready] = d
            ready[Local.ROW, n_ready] = row
            ready[Local.SERVICE, n_ready] = service
            ready[Local.END, n_ready] = end
            n_ready += 1
        else:
            later[Local.RID, n_later] = rid
            later[Local.T, n_later] = when
            later[Local.DEVICE, n_later] = d
            later[Local.ROW, n_later] = row
            later[Local.SERVICE, n_later] = service
            later[Local.END, n_later] = end
            n_later += 1
    if single:
        by_class[0, Class.ARRIVED] += t.shape[0]
    return n_ready, n_later


@inline
def budget(left: Any, reserve: Any, timeout: Any) -> Any:
    """Return how long the tier above may take, ns: the twin of `tiers.deadline.upstream_budget_s`."""
    if left >= NO_LIMIT >> 1:
        return timeout
    return min(left - min(reserve, (left + 3) // 4), timeout)


@inline
def home_of(place: Any, nodes: Any, size: Any) -> Any:
    """Return the edge node, of the fleet, at which the device at a place of a class of that size lives."""
    return place * nodes // size


def settle(
    place: Place,
    kinds: Kinds,
    devices: Devices,
    sink: Sink,
    stats: Stats,
    interval: int,
    rows: NDArray[np.int64],
    action: NDArray[np.int8],
    propensity: NDArray[np.int64],
    up: NDArray[np.int64],
    right: NDArray[np.uint8],
    *,
    each: bool,
) -> None:
    """Carry out the endpoints' decisions: put down what ends here, append what goes up to `up`, int64 ``[room, UP]``.

    Batteries are charged for inferences and messages, in order. A device that runs out while it infers, or by sending,
    is dead at the end of that inference; what it sent with its last charge is not received.
    What goes up has its time of sending in `SENT_0`, nothing yet in `AT`. Unless `each` request is asked for, inputs
    that are accepted, most of all, are counted here as `sink.count_ended` would count them.
    """
    _settle(
        place.cell, place.keys[Purpose.MOBILITY], place.keys[Purpose.HASH], place.nodes, place.first_node,
        kinds.deadline, kinds.reserve, kinds.timeout, kinds.size, kinds.dwell, kinds.slo,
        kinds.idle_uw, kinds.active_uw, kinds.message_pj, kinds.byte_pj,
        place.fleet_nodes, place.numbers_from, place.places_from, place.class_sizes,
        devices.kind, devices.phase, devices.state, devices.died,
        sink.ended, sink.fed, sink.size, stats.count, stats.reason, stats.hist, stats.series, stats.digest,
        stats.by_class, interval, rows, action, propensity, up, right, each,
    )  # fmt: skip


@kernel
def _settle(
    cell: Any, move_key: Any, hash_key: Any, nodes: Any, first_node: Any,
    deadlines: Any, reserves: Any, timeouts: Any, sizes: Any, dwells: Any, slos: Any,
    idle: Any, active: Any, message: Any, a_byte: Any,
    fleet_nodes: Any, numbers_from: Any, places_from: Any, class_sizes: Any,
    kind_of: Any, phase: Any, state: Any, died: Any,
    ended: Any, fed: Any, size: Any, count: Any, reason: Any, hist: Any, series: Any, digest: Any,
    by_class: Any, interval: Any, rows: Any, action: Any, propensity: Any, up: Any, right: Any, each: Any,
) -> None:  # fmt: skip
    single, batteries, tells = slos.shape[0] == 1, died.shape[0] > 0, state.shape[1] > State.ESCALATED
    last, kind, final = series.shape[0] - 1, 0, action.shape[0] - 1
    begin, at = np.int64(0), np.int64(0)
    zero = np.int64(0)
    busy, waited, took_all, served, accepted, correct, late = zero, zero, zero, zero, zero, zero, zero
    busy_0, took_0, accepted_0, correct_0, late_0 = zero, zero, zero, zero, zero  # until the interval began
    total = np.uint64(0)
    for i in range(action.shape[0]):
        prefetch(state, rows[Local.DEVICE, min(i + AHEAD, final)], 0)
        rid, when, d = rows[Local.RID, i], rows[Local.T, i], rows[Local.DEVICE, i]
        row, end, what = rows[Local.ROW, i], rows[Local.END, i], action[i]
        if not single:
            kind = kind_of[d]
        service = rows[Local.SERVICE, i]
        if batteries and state[d, State.SINCE] != NO_BATTERY:
            since, death = state[d, State.SINCE], np.int64(-1)
            if since != DEAD:
                sending = message[kind] + a_byte[kind] * sizes[kind] if what in (ESCALATE, DEFER) else 0
                state[d, State.CHARGE], death = charged(
                    state[d, State.CHARGE], since, end, service, idle[kind], active[kind], sending
                )
                state[d, State.SINCE] = since = DEAD if death >= 0 else end
            if death >= 0:
                died[d] = death
                count[Count.DEATHS] += 1
                series[min(death // interval, last), Series.DEATHS] += 1
            if since == DEAD:
                put_end(ended, size, cell, rid, when, d + numbers_from[kind], kind, -1, Reason.DEAD, end, 0, -1)
                continue
        if end < begin or end - begin >= interval:
            series[at, Series.BUSY_NS_0] += busy - busy_0
            series[at, Series.LATENCY_NS] += took_all - took_0
            series[at, Series.ANSWERED_0] += accepted - accepted_0
            series[at, Series.CORRECT] += correct - correct_0
            series[at, Series.LATE] += late - late_0
            busy_0, took_0, accepted_0, correct_0, late_0 = busy, took_all, accepted, correct, late
            at = min(end // interval, last)
            begin = at * interval
        busy += service
        waited += end - service - when
        served += 1
        took = end - when
        place = bin_of_one(took)
        hist[Hist.LOCAL, place] += 1
        if not single:
            by_class[kind, Class.SERVED] += 1
            by_class[kind, Class.BUSY_NS] += service
        if what == ACCEPT and not each:
            good = np.int64(right[row])
            slow = 1 if took > slos[kind] else 0
            code = np.uint64((Reason.OK << 8) | (1 << 4) | good)
            total += mix(mix(hash_key + np.uint64(rid) * GOLDEN + code) ^ np.uint64(end))
            hist[Hist.ENDPOINT, place] += 1
            if not single:
                by_class[kind, Class.ANSWERED] += 1
                by_class[kind, Class.CORRECT] += good
                by_class[kind, Class.LATE] += slow
            if tells:
                state[d, State.ANSWERED] += 1
                state[d, State.IN_TIME] += 1 - slow
            took_all += took
            accepted += 1
            correct += good
            late += slow
            continue
        number = d + numbers_from[kind]
        chance = propensity[i] if propensity.shape[0] > 0 else 0
        flags, limit, told = 0, NO_LIMIT, ACCEPT
        tier, why, done = 0, Reason.OK, True
        if what == ABSTAIN:
            tier, why, told = -1, Reason.ABSTAINED, ABSTAIN
        elif what == DEFER:
            why, flags = Reason.DEFERRED, ANSWERED_0
        elif what == ESCALATE:
            count[Count.ESCALATED_0] += 1
            if tells:
                state[d, State.ESCALATED] += 1
            by_class[kind, Class.ESCALATED] += 1
            deadline = deadlines[kind]
            left = NO_LIMIT if deadline == NO_LIMIT else when + deadline - end
            allowed = budget(left, reserves[kind], timeouts[kind])
            if allowed <= 0:
                why = Reason.DEADLINE
            else:
                done, limit = False, end + allowed
        if done:
            put_end(ended, size, cell, rid, when, number, kind, tier, why, end, row, -1)
            put_fed(fed, size, 0, end, cell, rid, number, row, told, chance, end, -1, 0, -1)
            if what != DEFER:
                continue
        by_class[kind, Class.SENT] += 1
        count[Count.BYTES_0] += sizes[kind]
        series[at, Series.BYTES_0] += sizes[kind]
        node = home_of(d + places_from[kind], fleet_nodes, class_sizes[kind]) - first_node
        if phase.shape[0] > 0 and dwells[kind] != NO_LIMIT:
            move = (end + phase[d]) // dwells[kind]
            if move > 0:
                node = below(move_key, (np.int64(d) << 32) + move, nodes)
        n = size[AT_UP]
        up[n, Up.RID] = rid
        up[n, Up.T] = when
        up[n, Up.DEVICE] = d
        up[n, Up.CELL] = cell
        up[n, Up.ROW_0] = row
        up[n, Up.SENT_0] = end
        up[n, Up.LIMIT_0] = limit
        up[n, Up.NODE] = node
        up[n, Up.FLEET_NODE] = first_node + node
        up[n, Up.FLAGS] = flags
        up[n, Up.STATUS] = Status.DONE
        up[n, Up.PROPENSITY_0] = chance
        up[n, Up.KIND] = kind
        up[n, Up.NUMBER] = number
        up[n, Up.SIZE] = sizes[kind]
        size[AT_UP] = n + 1
    series[at, Series.BUSY_NS_0] += busy - busy_0
    series[at, Series.LATENCY_NS] += took_all - took_0
    series[at, Series.ANSWERED_0] += accepted - accepted_0
    series[at, Series.CORRECT] += correct - correct_0
    series[at, Series.LATE] += late - late_0
    if single:
        by_class[0, Class.SERVED] += served
        by_class[0, Class.BUSY_NS] += busy
        by_class[0, Class.ANSWERED] += accepted
        by_class[0, Class.CORRECT] += correct
        by_class[0, Class.LATE] += late
    count[Count.BUSY_NS_0] += busy
    count[Count.WAIT_NS_0] += waited
    count[Count.SERVED_0] += served
    count[Count.ANSWERED_0] += accepted
    count[Count.CORRECT_0] += correct
    count[Count.LATE] += late
    count[Count.LATENCY_NS_0] += took_all
    reason[Reason.OK] += accepted
    digest[0] += total
