"""An endpoint's own part, as kernels: who is there, awake and free; what a decision does to battery and network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import GOLDEN, Purpose, below, drawn, mix, uniform
from escalade.simulations.fleet.intervals import up_again
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Class, Count, Hist, Reason, Series
from escalade.simulations.fleet.rows import ANSWERED_0, FAR, Local, Status, Up
from escalade.simulations.fleet.sink import AT_UP, bin_of_one, put_end, put_fed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Kinds
    from escalade.simulations.fleet.intervals import Intervals
    from escalade.simulations.fleet.result import Stats
    from escalade.simulations.fleet.sink import Sink

ACCEPT, ESCALATE, DEFER, ABSTAIN = 0, 1, 2, 3
DIED = 4
"""In a column of actions: the battery was empty before the decision."""
NO_LIMIT = FAR
CHARGE, SINCE, DEATH = range(3)
ALIVE, NO_BATTERY = -1, -2
"""In place of a time of death."""


class Devices(NamedTuple):
    """The state of a cell's endpoints, int64 ``[D]`` but where it says otherwise; times in ns, energy in pJ."""

    kind: NDArray[np.int64]
    number: NDArray[np.int64]
    """In the fleet."""
    node: NDArray[np.int64]
    """Of the cell; where it lives, or is at home."""
    free: NDArray[np.int64]
    """When its processor is."""
    upgrade: NDArray[np.int64]
    """When a rollout reaches it; empty where there is none."""
    phase: NDArray[np.int64]
    """Of its moves; empty where nobody moves."""
    away: Intervals
    throttled: NDArray[np.uint8]
    """Empty where nothing throttles."""
    busy: NDArray[np.int64]
    """In this control interval; empty likewise."""
    battery: NDArray[np.int64]
    """``[D, 3]``: what is left, since when, and when it died (`ALIVE`, `NO_BATTERY`); empty where no one has any."""
    told: NDArray[np.int32]
    """``[D, 3]``: answers, those in time and escalations that telemetry has not been told of; empty for no one."""


class Place(NamedTuple):
    """Which cell it is."""

    cell: int
    keys: NDArray[np.uint64]
    nodes: int
    first_node: int
    """In the fleet."""
    samples: int


def infer(
    place: Any,
    kinds: Any,
    devices: Any,
    sink: Any,
    by_class: Any,
    t: Any,
    device: Any,
    first_rid: Any,
    t1: Any,
    ready: Any,
    n_ready: Any,
    later: Any,
    n_later: Any,
) -> Any:
    """Let new arrivals through the endpoints' processors, first come, first served.

    Those that end before `t1` are appended to `ready`, the others to `later`, int64 ``[LOCAL, room]``; returns how
    full both then are.
    """
    return _infer(
        place.cell,
        place.keys,
        place.samples,
        kinds.awake,
        kinds.pass_share,
        kinds.service,
        kinds.slo,
        kinds.slowdown,
        kinds.wake,
        devices.away.end,
        devices.away.first,
        devices.away.start,
        devices.busy,
        devices.free,
        devices.kind,
        devices.number,
        devices.throttled,
        devices.upgrade,
        sink.ended,
        sink.size,
        by_class,
        t,
        device,
        first_rid,
        t1,
        ready,
        n_ready,
        later,
        n_later,
    )


@kernel
def _infer(
    place_cell: Any,
    place_keys: Any,
    place_samples: Any,
    kinds_awake: Any,
    kinds_pass_share: Any,
    kinds_service: Any,
    kinds_slo: Any,
    kinds_slowdown: Any,
    kinds_wake: Any,
    devices_away_end: Any,
    devices_away_first: Any,
    devices_away_start: Any,
    devices_busy: Any,
    devices_free: Any,
    devices_kind: Any,
    devices_number: Any,
    devices_throttled: Any,
    devices_upgrade: Any,
    sink_ended: Any,
    sink_size: Any,
    by_class: Any,
    t: Any,
    device: Any,
    first_rid: Any,
    t1: Any,
    ready: Any,
    n_ready: Any,
    later: Any,
    n_later: Any,
) -> Any:
    keys, cell, samples = place_keys, place_cell, place_samples
    sample_key, service_key, trigger_key = keys[Purpose.SAMPLE], keys[Purpose.SERVICE_0], keys[Purpose.TRIGGER]
    tables, shares, awake, wake, slowdown = kinds_service, kinds_pass_share, kinds_awake, kinds_wake, kinds_slowdown
    kind_of, number, free, upgrade = devices_kind, devices_number, devices_free, devices_upgrade
    first, start_away, end_away = devices_away_first, devices_away_start, devices_away_end
    throttled, busy, ended, size = devices_throttled, devices_busy, sink_ended, sink_size
    single = kinds_slo.shape[0] == 1
    heats, churns = busy.shape[0] > 0, first.shape[0] > 1
    kind = 0
    for i in range(t.shape[0]):
        when, d, rid = t[i], device[i], first_rid + i
        if not single:
            kind = kind_of[d]
            by_class[kind, Class.ARRIVED] += 1
        if churns and up_again(first, start_away, end_away, d, when) != when:
            put_end(ended, size, cell, rid, when, number[d], kind, -1, Reason.OFFLINE, when, 0, -1)
            continue
        if shares[kind] < 1.0 and uniform(trigger_key, rid) >= shares[kind]:
            put_end(ended, size, cell, rid, when, number[d], kind, -1, Reason.FILTERED, when, 0, -1)
            continue
        service = drawn(tables, kind, service_key, rid)
        if heats and throttled[d] == 1:
            service = np.int64(service * slowdown[kind])
        start = max(when, free[d])
        if when >= free[d] + awake[kind]:
            start = when + wake[kind]
        end = start + service
        free[d] = end
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
def idle_pj(power_uw: Any, ns: Any) -> Any:
    """Return the energy of a power over a time, rounded down, without overflow for a month at 100 W."""
    us = ns // 1000
    return us * power_uw + ((ns - us * 1000) * power_uw) // 1000


@inline
def lasts_ns(charge_pj: Any, power_uw: Any) -> Any:
    """Return how long a charge lasts at a power, rounded up."""
    us = charge_pj // power_uw
    return us * 1000 + ((charge_pj - us * power_uw) * 1000 + power_uw - 1) // power_uw


@inline
def drained(charge: Any, since: Any, until: Any, power: Any) -> Any:
    """Return what is left of a charge when a device idles until a time, and when it died, -1 if it did not."""
    if until > since:
        spent = idle_pj(power, until - since)
        if spent >= charge and power > 0:
            return np.int64(0), since + lasts_ns(charge, power)
        return charge - spent, np.int64(-1)
    return charge, np.int64(-1)


def spend(
    kinds: Kinds, devices: Devices, stats: Stats, interval: int, rows: NDArray[np.int64], action: NDArray[np.int8]
) -> None:
    """Charge batteries for inferences and messages, in order; mark as `DIED` what a device did not live to decide.

    A device that runs out while it infers, or by sending, is dead at the end of that inference; what it sent with its
    last charge is not received.
    """
    _spend(
        kinds.idle_uw, kinds.active_uw, kinds.message_pj + kinds.byte_pj * kinds.size, devices.kind, devices.battery,
        stats.count, stats.series, interval, rows, action,
    )  # fmt: skip


@kernel
def _spend(
    idle: Any, active: Any, sending: Any, kind_of: Any, battery: Any, count: Any, series: Any, interval: Any, rows: Any,
    action: Any,
) -> None:  # fmt: skip
    single, kind, last = idle.shape[0] == 1, 0, series.shape[0] - 1
    for i in range(action.shape[0]):
        d = rows[Local.DEVICE, i]
        if battery[d, DEATH] == NO_BATTERY:
            continue
        if battery[d, DEATH] >= 0:
            action[i] = DIED
            continue
        if not single:
            kind = kind_of[d]
        end, service, since = rows[Local.END, i], rows[Local.SERVICE, i], battery[d, SINCE]
        left, death = drained(battery[d, CHARGE], since, end - service, idle[kind])
        if death < 0:
            left, death = drained(left, max(since, end - service), end, idle[kind])
        if death < 0:
            cost = idle_pj(active[kind], service)
            if action[i] == ESCALATE or action[i] == DEFER:
                cost += sending[kind]
            if cost >= left:
                left, death = np.int64(0), end
            else:
                left -= cost
        battery[d, CHARGE] = left
        battery[d, SINCE] = end
        if death >= 0:
            battery[d, DEATH] = death
            action[i] = DIED
            count[Count.DEATHS] += 1
            series[min(death // interval, last), Series.DEATHS] += 1


def last_drain(kinds: Kinds, devices: Devices, stats: Stats, interval: int, until: int) -> None:
    """Let the living idle until the end of the run."""
    _last_drain(kinds.idle_uw, devices.kind, devices.battery, stats.count, stats.series, interval, until)


@kernel
def _last_drain(
    idle: Any, kind_of: Any, battery: Any, count: Any, series: Any, interval: Any, until: Any
) -> None:  # fmt: skip
    for d in range(battery.shape[0]):
        if battery[d, DEATH] == ALIVE:
            left, death = drained(battery[d, CHARGE], battery[d, SINCE], until, idle[kind_of[d]])
            battery[d, CHARGE] = left
            if death >= 0:
                battery[d, DEATH] = death
                count[Count.DEATHS] += 1
                series[min(death // interval, series.shape[0] - 1), Series.DEATHS] += 1


@inline
def budget(left: Any, reserve: Any, timeout: Any) -> Any:
    """Return how long the tier above may take, ns: the twin of `tiers.deadline.upstream_budget_s`."""
    if left >= NO_LIMIT >> 1:
        return timeout
    return min(left - min(reserve, (left + 3) // 4), timeout)


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

    What goes up has its time of sending in `SENT_0`, nothing yet in `AT`. Unless `each` request is asked for, inputs
    that are accepted, most of all, are counted here as `sink.count_ended` would count them.
    """
    _settle(
        place.cell, place.keys[Purpose.MOBILITY], place.keys[Purpose.HASH], place.nodes, place.first_node,
        kinds.deadline, kinds.reserve, kinds.timeout, kinds.size, kinds.dwell, kinds.slo,
        devices.kind, devices.number, devices.node, devices.phase, devices.told,
        sink.ended, sink.fed, sink.size, stats.count, stats.reason, stats.hist, stats.series, stats.digest,
        stats.by_class, interval, rows, action, propensity, up, right, each,
    )  # fmt: skip


@kernel
def _settle(
    cell: Any, move_key: Any, hash_key: Any, nodes: Any, first_node: Any,
    deadlines: Any, reserves: Any, timeouts: Any, sizes: Any, dwells: Any, slos: Any,
    kind_of: Any, numbers: Any, home: Any, phase: Any, told_of: Any,
    ended: Any, fed: Any, size: Any, count: Any, reason: Any, hist: Any, series: Any, digest: Any,
    by_class: Any, interval: Any, rows: Any, action: Any, propensity: Any, up: Any, right: Any, each: Any,
) -> None:  # fmt: skip
    single, tells = slos.shape[0] == 1, told_of.shape[0] > 0
    last, kind = series.shape[0] - 1, 0
    begin, at = np.int64(0), np.int64(0)
    zero = np.int64(0)
    busy, waited, took_all, served, accepted, correct, late = zero, zero, zero, zero, zero, zero, zero
    busy_0, took_0, accepted_0, correct_0, late_0 = zero, zero, zero, zero, zero  # until the interval began
    total = np.uint64(0)
    for i in range(action.shape[0]):
        rid, when, d = rows[Local.RID, i], rows[Local.T, i], rows[Local.DEVICE, i]
        row, end, what = rows[Local.ROW, i], rows[Local.END, i], action[i]
        if not single:
            kind = kind_of[d]
        if what == DIED:
            put_end(ended, size, cell, rid, when, numbers[d], kind, -1, Reason.DEAD, end, 0, -1)
            continue
        service = rows[Local.SERVICE, i]
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
                told_of[d, 0] += 1
                told_of[d, 1] += 1 - slow
            took_all += took
            accepted += 1
            correct += good
            late += slow
            continue
        number = numbers[d]
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
                told_of[d, 2] += 1
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
        node = home[d]
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
