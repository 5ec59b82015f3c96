"""Energy and batteries of a run: `energy_j` by part and tier, `battery`, how long batteries last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from escalade.simulations.fleet.compiled import profile_of
from escalade.simulations.fleet.result import Class, Count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult

PARTS = ("compute", "radio", "idle")
"""Of an endpoint's energy."""


def energy_j(result: FleetResult) -> dict[str, float]:
    """Return joules: of the endpoints computing, sending and idling, and of each tier in all.

    Computing is what it adds to idling. Stations are counted in proportion to their busy workers; a device's
    idling ends with its battery.
    """
    scenario, count = result.scenario, result.stats.count
    found = {f"endpoint_{part}": sum(one[part] for one in class_energy_j(result)) for part in PARTS}
    found["endpoint"] = sum(found.values())
    for level, (tier, station) in enumerate(
        (("edge_node", scenario.edge_nodes), ("edge_server", scenario.edge_servers)), start=1
    ):
        profile = profile_of(station)
        busy_s = float(count[Count.BUSY_NS_0 + level]) / 1e9 / station.workers
        extra_mw = max(profile.active_mw - profile.idle_mw, 0.0)
        found[tier] = (station.count * profile.idle_mw * result.simulated_s + extra_mw * busy_s) / 1e3
    return found


def class_energy_j(result: FleetResult) -> list[dict[str, float]]:
    """Return joules of each class of endpoints, by `PARTS`."""
    lived, first, found = lived_s(result), 0, []
    for one, row in zip(result.scenario.endpoints, result.stats.by_class, strict=True):
        profile = profile_of(one)
        busy_s, sent = float(row[Class.BUSY_NS]) / 1e9, float(row[Class.SENT])
        idle_mw = profile.idle_mw + (profile.trigger.power_mw if profile.trigger else 0.0)
        message_uj = profile.radio_uj_per_message + profile.radio_nj_per_byte * one.bytes_up / 1e3
        found.append(
            {
                "compute": max(profile.active_mw - profile.idle_mw, 0.0) * busy_s / 1e3,
                "radio": sent * message_uj / 1e6,
                "idle": idle_mw * float(lived[first : first + one.count].sum()) / 1e3,
            }
        )
        first += one.count
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


def battery(result: FleetResult, devices: slice = slice(None)) -> dict[str, float] | None:
    """Return what became of the batteries: how many died, charge left, life in hours; None without any.

    Parameters
    ----------
    devices
        Of which devices, by their numbers in the fleet; default: all.
    """
    life = battery_life_s(result)
    if life is None or result.devices is None:
        return None
    all_devices = np.arange(result.scenario.device_count)
    chosen = np.isin(result.devices["device"].astype(np.intp), all_devices[devices])
    if not chosen.any():
        return None
    left = result.devices["charge_share"][chosen]
    hours = np.quantile(life[chosen], [0.01, 0.5], method="lower") / 3600.0
    return {
        "devices": len(left),
        "died": int(np.isfinite(result.devices["died_s"][chosen]).sum()),
        "charge_left_mean": float(left.mean()),
        "life_p1_h": float(hours[0]),
        "life_p50_h": float(hours[1]),
    }
