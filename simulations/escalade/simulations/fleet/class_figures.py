"""What each class of endpoints does by itself, which the figures of the whole fleet mix: `class_figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from escalade.simulations.fleet.energy import battery, class_energy_j
from escalade.simulations.fleet.result import Class

if TYPE_CHECKING:
    from escalade.simulations.fleet.result import FleetResult


def class_figures(result: FleetResult) -> dict[str, dict[str, Any]]:
    """Return figures by the name of the class; nan where nothing was counted.

    ``local_share`` is of the inferences of the endpoints: what their policy did not send up. ``late_share`` is nan
    where neither a deadline nor an objective says what late is; ``battery`` is as `energy.battery` has it.
    """
    found, first = {}, 0
    scenario = result.scenario
    for one, row, energy in zip(scenario.endpoints, result.stats.by_class, class_energy_j(result), strict=True):
        answered = int(row[Class.ANSWERED])
        limited = one.deadline_ms is not None or scenario.slo_ms is not None
        found[one.name] = {
            "devices": one.count,
            "requests": int(row[Class.ARRIVED]),
            "answered": answered,
            "local_share": 1.0 - _per(row[Class.ESCALATED], row[Class.SERVED]),
            "accuracy": _per(row[Class.CORRECT], answered),
            "degraded_share": _per(row[Class.DEGRADED], answered),
            "late_share": _per(row[Class.LATE], answered) if limited else float("nan"),
            "energy_j": sum(energy.values()),
            "energy_mj_per_answer": _per(1e3 * sum(energy.values()), answered),
            "battery": battery(result, slice(first, first + one.count)),
        }
        first += one.count
    return found


def _per(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
