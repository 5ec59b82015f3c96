"""Batteries, as kernels: what idling, inferring and sending take, and the very moment at which one is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.jit import inline, kernel
from escalade.simulations.fleet.result import Count, Series
from escalade.simulations.fleet.rows import DEAD, State

if TYPE_CHECKING:
    from escalade.simulations.fleet.compiled import Kinds
    from escalade.simulations.fleet.local import Devices
    from escalade.simulations.fleet.result import Stats

LONG_NS, STRONG_UW = 1 << 41, 1 << 22
"""Below 37 minutes and 4 W a product fits 63 bits."""


@inline
def energy_pj(power_uw: Any, ns: Any) -> Any:
    """Return the energy of a power over a time, rounded down, without overflow for a month at 100 W."""
    if ns < LONG_NS and power_uw < STRONG_UW:
        return ns * power_uw // 1000
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
        spent = energy_pj(power, until - since)
        if spent >= charge and power > 0:
            return np.int64(0), since + lasts_ns(charge, power)
        return charge - spent, np.int64(-1)
    return charge, np.int64(-1)


@inline
def charged(charge: Any, since: Any, end: Any, service: Any, idle: Any, active: Any, sending: Any) -> Any:
    """Return what an inference that ends then, and a message, leave; and when the device died, -1 if it did not."""
    left, death = drained(charge, since, end, idle)
    if death < 0:
        left -= energy_pj(active, service) + sending
        if left <= 0:
            return np.int64(0), end
    return left, death


def last_drain(kinds: Kinds, devices: Devices, stats: Stats, interval: int, until: int) -> None:
    """Let the living idle until the end of the run."""
    _last_drain(
        kinds.idle_uw, devices.kind, devices.state, devices.died, stats.count, stats.series, interval, until
    )  # fmt: skip


@kernel
def _last_drain(
    idle: Any, kind_of: Any, state: Any, died: Any, count: Any, series: Any, interval: Any, until: Any
) -> None:  # fmt: skip
    for d in range(died.shape[0]):
        if state[d, State.SINCE] >= 0:
            left, death = drained(state[d, State.CHARGE], state[d, State.SINCE], until, idle[kind_of[d]])
            state[d, State.CHARGE] = left
            if death >= 0:
                state[d, State.SINCE], died[d] = DEAD, death
                count[Count.DEATHS] += 1
                series[min(death // interval, series.shape[0] - 1), Series.DEATHS] += 1
