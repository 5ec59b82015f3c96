"""Faults of a run and how long they were felt: `faults`, to the resolution of the time series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from escalade.simulations.fleet.network import Period
    from escalade.simulations.fleet.scenario import Scenario

POINTS = 0.01
"""So near to what it was before, a share counts as recovered."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A time that the scenario lists in which something was down or slow.

    Attributes
    ----------
    what
        The scenario's key.
    from_s, to_s
        When.
    degraded_peak, late_peak
        Highest share of an interval's answers, from its beginning until recovery.
    recovered_s
        From its end until the first interval in which both shares are within `POINTS` of what they were before it;
        nan when the run ended first.
    """

    what: str
    from_s: float
    to_s: float
    degraded_peak: float
    late_peak: float
    recovered_s: float


def periods(scenario: Scenario) -> Iterator[tuple[str, Period]]:
    """Yield key and period of every fault that a scenario lists; those that are drawn by chance are not known here."""
    sections: list[tuple[str, Any]] = [
        ("links.access.outages", scenario.links.access.outages),
        ("links.uplink.outages", scenario.links.uplink.outages),
        ("edge_nodes.failures", scenario.edge_nodes.failures),
        ("edge_servers.failures", scenario.edge_servers.failures),
    ]
    for what, section in sections:
        for period in section.periods if section else ():
            yield what, period
    for period in scenario.edge_servers.brownouts:
        yield "edge_servers.brownouts", period


def faults(scenario: Scenario, series: Mapping[str, NDArray[Any]]) -> list[Fault]:
    """Return every listed fault with its effect on the time series."""
    start = series["time_s"][:-1]
    end = start + series["length_s"][:-1]
    shares = [np.nan_to_num(series[name][:-1]) for name in ("degraded_share", "late_share")]
    found = []
    for what, period in periods(scenario):
        before = end <= period.from_s
        usual = [float(share[before].mean()) if before.any() else 0.0 for share in shares]
        calm = np.all([share <= was + POINTS for share, was in zip(shares, usual, strict=True)], axis=0)
        back = np.flatnonzero(calm & (end > period.to_s) & (start >= period.from_s))
        until = float(start[back[0]]) if len(back) else float("nan")
        felt = (end > period.from_s) & ((start < max(until, period.to_s)) if len(back) else True)
        degraded, late = (float(share[felt].max(initial=0.0)) for share in shares)
        found.append(Fault(what, period.from_s, period.to_s, degraded, late, max(until - period.to_s, 0.0)))
    return sorted(found, key=lambda one: one.from_s)
