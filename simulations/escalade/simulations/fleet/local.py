"""An endpoint's own part, as kernels: who is there, awake and free; what a decision does to battery and network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from escalade.simulations.fleet.draws import Purpose, below, drawn, uniform
from escalade.simulations.fleet.intervals import up_again
from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Class, Count, Hist, Reason, Series
from escalade.simulations.fleet.rows import ANSWERED_0, FAR, Local, Status, Up
from escalade.simulations.fleet.sink import AT_UP, bin_of_one, note_end, note_fed, note_outcome, row_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.intervals import Intervals

ACCEPT, ESCALATE, DEFER, ABSTAIN = 0, 1, 2, 3
DIED = 4
"""In a column of actions: the battery was empty before the decision."""
NO_LIMIT = FAR


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
    """When a rollout reaches it."""
    phase: NDArray[np.int64]
    """Of its moves; empty where nobody moves."""
    away: Intervals
    throttled: NDArray[np.uint8]
    """Empty where nothing throttles."""
    busy: NDArray[np.int64]
    """In this control interval; empty likewise."""
    charge: NDArray[np.int64]
    """Left in the battery; empty where there is none."""
    since: NDArray[np.int64]
    """When `charge` was that."""
    died: NDArray[np.int64]
    """-1 for the living."""
    powered: NDArray[np.uint8]
    """Whether a device has a battery."""


class Place(NamedTuple):
    """Which cell it is."""

    cell: int
    keys: NDArray[np.uint64]
    nodes: int
    first_node: int
    """In the fleet."""
    samples: int


@kernel
def infer(
    place: Any, kinds: Any, devices: Any, sink: Any, t: Any, device: Any, first_rid: Any, t1: Any, ready: Any,
    n_ready: Any, later: Any, n_later: Any,
) -> Any:  # fmt: skip
    """Let new arrivals through the endpoints' processors, first come, first served.

    Those that end before `t1` are appended to `ready`, the others to `later`, int64 ``[LOCAL, room]``; returns how
    full both then are.
    """
    keys = place.keys
    hash_key, sample_key, service_key = keys[Purpose.HASH], keys[Purpose.SAMPLE], keys[Purpose.SERVICE_0]
    single = kinds.slo.shape[0] == 1
    churns = devices.away.first.shape[0] > 1
    heats = devices.busy.shape[0] > 0
    for i in range(t.shape[0]):
        when, d, rid = t[i], device[i], first_rid + i
        kind = 0 if single else devices.kind[d]
        sink.series[row_of(sink, when), Series.ARRIVED] += 1
        sink.by_class[kind, Class.ARRIVED] += 1
        if churns and up_again(devices.away, d, when) != when:
            note_end(
                sink, hash_key, place.cell, rid, when, devices.number[d], kind, kinds.slo[kind], -1, when,
                Reason.OFFLINE, 0,
            )  # fmt: skip
            continue
        share = kinds.pass_share[kind]
        if share < 1.0 and uniform(keys[Purpose.TRIGGER], rid) >= share:
            note_end(
                sink, hash_key, place.cell, rid, when, devices.number[d], kind, kinds.slo[kind], -1, when,
                Reason.FILTERED, 0,
            )  # fmt: skip
            continue
        service = drawn(kinds.service[kind], service_key, rid)
        if heats and devices.throttled[d] == 1:
            service = np.int64(service * kinds.slowdown[kind])
        start = max(when, devices.free[d])
        if when >= devices.free[d] + kinds.awake[kind]:
            start = when + kinds.wake[kind]
        end = start + service
        devices.free[d] = end
        if heats:
            devices.busy[d] += service
        row = below(sample_key, rid, place.samples)
        if when >= devices.upgrade[d]:
            row += place.samples
        if end < t1:
            _put(ready, n_ready, rid, when, d, row, service, end)
            n_ready += 1
        else:
            _put(later, n_later, rid, when, d, row, service, end)
            n_later += 1
    sink.count[Count.ARRIVED] += t.shape[0]
    return n_ready, n_later


@inline
def _put(rows: Any, place: Any, rid: Any, when: Any, d: Any, row: Any, service: Any, end: Any) -> None:
    rows[Local.RID, place] = rid
    rows[Local.T, place] = when
    rows[Local.DEVICE, place] = d
    rows[Local.ROW, place] = row
    rows[Local.SERVICE, place] = service
    rows[Local.END, place] = end


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
def drain(devices: Any, kinds: Any, sink: Any, d: Any, until: Any) -> Any:
    """Let a living device idle until a time; return whether it still lives then."""
    kind = devices.kind[d]
    if until > devices.since[d]:
        power = kinds.idle_uw[kind]
        spent = idle_pj(power, until - devices.since[d])
        if spent >= devices.charge[d] and power > 0:
            dies(devices, sink, d, devices.since[d] + lasts_ns(devices.charge[d], power))
            return False
        devices.charge[d] -= spent
        devices.since[d] = until
    return True


@inline
def dies(devices: Any, sink: Any, d: Any, when: Any) -> None:
    """Note a death."""
    devices.died[d] = when
    devices.charge[d] = 0
    sink.count[Count.DEATHS] += 1
    sink.series[row_of(sink, when), Series.DEATHS] += 1


@kernel
def spend(place: Any, kinds: Any, devices: Any, sink: Any, rows: Any, action: Any) -> None:
    """Charge batteries for inferences and messages, in order; mark as `DIED` what a device did not live to decide.

    A device that runs out while it infers, or by sending, is dead at the end of that inference; what it sent with its
    last charge is not received.
    """
    for i in range(action.shape[0]):
        d = rows[Local.DEVICE, i]
        if devices.powered[d] == 0:
            continue
        if devices.died[d] >= 0:
            action[i] = DIED
            continue
        end, kind = rows[Local.END, i], devices.kind[d]
        if not drain(devices, kinds, sink, d, end - rows[Local.SERVICE, i]) or not drain(devices, kinds, sink, d, end):
            action[i] = DIED
            continue
        cost = idle_pj(kinds.active_uw[kind], rows[Local.SERVICE, i])
        if action[i] == ESCALATE or action[i] == DEFER:
            cost += kinds.message_pj[kind] + kinds.byte_pj[kind] * kinds.size[kind]
        if cost >= devices.charge[d]:
            dies(devices, sink, d, end)
            action[i] = DIED
        else:
            devices.charge[d] -= cost


@kernel
def last_drain(kinds: Any, devices: Any, sink: Any, until: Any) -> None:
    """Let the living idle until the end of the run."""
    for d in range(devices.charge.shape[0]):
        if devices.powered[d] == 1 and devices.died[d] < 0:
            drain(devices, kinds, sink, d, until)


@inline
def node_of(place: Any, kinds: Any, devices: Any, d: Any, when: Any) -> Any:
    """Return the node of the cell that a device is at."""
    kind = devices.kind[d]
    if kinds.dwell[kind] == NO_LIMIT or devices.phase.shape[0] == 0:
        return devices.node[d]
    move = (when + devices.phase[d]) // kinds.dwell[kind]
    if move == 0:
        return devices.node[d]
    return below(place.keys[Purpose.MOBILITY], (np.int64(d) << 32) + move, place.nodes)


@inline
def budget(left: Any, reserve: Any, timeout: Any) -> Any:
    """Return how long the tier above may take, ns: the twin of `tiers.deadline.upstream_budget_s`."""
    if left >= NO_LIMIT >> 1:
        return timeout
    return min(left - min(reserve, (left + 3) // 4), timeout)


@kernel
def settle(
    place: Any, kinds: Any, devices: Any, sink: Any, rows: Any, action: Any, propensity: Any, right: Any, up: Any
) -> None:  # fmt: skip
    """Carry out the endpoints' decisions: note what ends here, append what goes up to `up`, int64 ``[UP, room]``.

    What goes up has its time of sending in `SENT_0`, nothing yet in `AT`.
    """
    keys = place.keys
    key = keys[Purpose.HASH]
    single = kinds.slo.shape[0] == 1
    for i in range(action.shape[0]):
        rid, when, d = rows[Local.RID, i], rows[Local.T, i], rows[Local.DEVICE, i]
        row, end, what = rows[Local.ROW, i], rows[Local.END, i], action[i]
        kind = 0 if single else devices.kind[d]
        slo = kinds.slo[kind]
        number = devices.number[d]
        if what == DIED:
            note_end(sink, key, place.cell, rid, when, number, kind, slo, -1, end, Reason.DEAD, 0)
            continue
        service = rows[Local.SERVICE, i]
        at = row_of(sink, end)
        sink.count[Count.BUSY_NS_0] += service
        sink.count[Count.WAIT_NS_0] += end - service - when
        sink.count[Count.SERVED_0] += 1
        sink.series[at, Series.BUSY_NS_0] += service
        sink.hist[Hist.LOCAL, bin_of_one(end - when)] += 1
        sink.by_class[kind, Class.SERVED] += 1
        sink.by_class[kind, Class.BUSY_NS] += service
        chance = propensity[i] if propensity.shape[0] > 0 else 0
        if what == ACCEPT:
            note_end(sink, key, place.cell, rid, when, number, kind, slo, 0, end, Reason.OK, right[row])
            note_fed(sink, 0, end, place.cell, rid, number, row, ACCEPT, chance, end, -1, 0, -1)
            continue
        if what == ABSTAIN:
            note_end(sink, key, place.cell, rid, when, number, kind, slo, -1, end, Reason.ABSTAINED, 0)
            note_fed(sink, 0, end, place.cell, rid, number, row, ABSTAIN, chance, end, -1, 0, -1)
            continue
        flags = 0
        if what == DEFER:
            note_end(sink, key, place.cell, rid, when, number, kind, slo, 0, end, Reason.DEFERRED, right[row])
            note_fed(sink, 0, end, place.cell, rid, number, row, ACCEPT, chance, end, -1, 0, -1)
            flags, limit = ANSWERED_0, NO_LIMIT
        else:
            sink.count[Count.ESCALATED_0] += 1
            sink.by_class[kind, Class.ESCALATED] += 1
            note_outcome(sink, 0, number, end, 0, 0, 1)
            deadline = kinds.deadline[kind]
            left = NO_LIMIT if deadline == NO_LIMIT else when + deadline - end
            allowed = budget(left, kinds.reserve[kind], kinds.timeout[kind])
            if allowed <= 0:
                note_end(sink, key, place.cell, rid, when, number, kind, slo, 0, end, Reason.DEADLINE, right[row])
                note_fed(sink, 0, end, place.cell, rid, number, row, ACCEPT, chance, end, -1, 0, -1)
                continue
            limit = end + allowed
        sink.by_class[kind, Class.SENT] += 1
        sink.count[Count.BYTES_0] += kinds.size[kind]
        sink.series[at, Series.BYTES_0] += kinds.size[kind]
        n = sink.size[AT_UP]
        up[Up.RID, n] = rid
        up[Up.T, n] = when
        up[Up.DEVICE, n] = d
        up[Up.CELL, n] = place.cell
        up[Up.ROW_0, n] = row
        up[Up.SENT_0, n] = end
        up[Up.LIMIT_0, n] = limit
        node = node_of(place, kinds, devices, d, end)
        up[Up.NODE, n] = node
        up[Up.FLEET_NODE, n] = place.first_node + node
        up[Up.FLAGS, n] = flags
        up[Up.STATUS, n] = Status.DONE
        up[Up.PROPENSITY_0, n] = chance
        up[Up.KIND, n] = kind
        up[Up.NUMBER, n] = number
        up[Up.SIZE, n] = kinds.size[kind]
        sink.size[AT_UP] = n + 1
