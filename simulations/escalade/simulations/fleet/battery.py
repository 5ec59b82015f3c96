"""Batteries, as kernels: what idling, inferring and sending take, and the very moment at which one is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.local import ALIVE, CHARGE, DEATH, DEFER, DIED, ESCALATE, NO_BATTERY, SINCE
from escalade.simulations.fleet.result import Count, Series
from escalade.simulations.fleet.rows import Local

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.compiled import Kinds
    from escalade.simulations.fleet.local import Devices
    from escalade.simulations.fleet.result import Stats


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
