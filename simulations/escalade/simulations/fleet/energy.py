"""Energy and batteries of a run: `energy_j` by part and tier, `battery`, how long batteries last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.result import Class, Count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult


def energy_j(result: FleetResult) -> dict[str, float]:
    """Return joules: of the endpoints computing, sending and idling, and of each tier in all.

    Computing is what it adds to idling. Stations are counted in proportion to their busy workers; a device's
    idling ends with its battery.
    """
    scenario, count = result.scenario, result.stats.count
    found = dict.fromkeys(("endpoint_compute", "endpoint_radio", "endpoint_idle"), 0.0)
    lived, first = lived_s(result), 0
    for one, row in zip(scenario.endpoints, result.stats.by_class, strict=True):
        profile = profile_of(one)
        busy_s, sent = float(row[Class.BUSY_NS]) / 1e9, float(row[Class.SENT])
        idle_mw = profile.idle_mw + (profile.trigger.power_mw if profile.trigger else 0.0)
        message_uj = profile.radio_uj_per_message + profile.radio_nj_per_byte * one.bytes_up / 1e3
        found["endpoint_compute"] += max(profile.active_mw - profile.idle_mw, 0.0) * busy_s / 1e3
        found["endpoint_radio"] += sent * message_uj / 1e6
        found["endpoint_idle"] += idle_mw * float(lived[first : first + one.count].sum()) / 1e3
        first += one.count
    found["endpoint"] = sum(found.values())
    for level, (tier, station) in enumerate(
        (("edge_node", scenario.edge_nodes), ("edge_server", scenario.edge_servers)), start=1
    ):
        profile = profile_of(station)
        busy_s = float(count[Count.BUSY_NS_0 + level]) / 1e9 / station.workers
        extra_mw = max(profile.active_mw - profile.idle_mw, 0.0)
        found[tier] = (station.count * profile.idle_mw * result.simulated_s + extra_mw * busy_s) / 1e3
    return found


def lived_s(result: FleetResult) -> NDArray[np.float64]:
    """Return how long each device lived within the run, s."""
    lived = np.full(result.scenario.device_count, result.simulated_s)
    if result.devices is not None:
        died = result.devices["died_s"]
        dead = np.isfinite(died)
        lived[result.devices["device"][dead].astype(np.intp)] = died[dead]
    return lived


def battery_life_s(result: FleetResult) -> NDArray[np.float64] | None:
    """Return how long each battery lasts, s: until its death, or as its use so far foretells; None without any.

    A device of which nothing was used lasts for ever (inf).
    """
    if result.devices is None or not result.simulated_s:
        return None
    left, died = result.devices["charge_share"], result.devices["died_s"]
    with np.errstate(divide="ignore"):
        foretold = result.simulated_s / np.maximum(1.0 - left, 0.0)
    return np.where(np.isfinite(died), died, foretold)


def battery(result: FleetResult) -> dict[str, float] | None:
    """Return what became of the batteries: how many died, charge left, life in hours; None without any."""
    life = battery_life_s(result)
    if life is None or result.devices is None:
        return None
    left = result.devices["charge_share"]
    hours = np.quantile(life, [0.01, 0.5], method="lower") / 3600.0
    return {
        "devices": len(left),
        "died": int(result.stats.count[Count.DEATHS]),
        "charge_left_mean": float(left.mean()),
        "life_p1_h": float(hours[0]),
        "life_p50_h": float(hours[1]),
    }
