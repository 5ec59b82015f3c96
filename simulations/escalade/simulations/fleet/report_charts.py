"""Charts of a run's page: over time with the listed faults shaded, latencies as CDFs, battery lives."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.simulations.fleet.energy import battery_life_s
from escalade.simulations.fleet.histogram import EDGES_MS
from escalade.simulations.fleet.recovery import periods
from escalade.simulations.svg import Chart, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from escalade.simulations.fleet.result import FleetResult, Hist
    from escalade.simulations.fleet.scenario import Scenario

    Points = list[tuple[float, float]]

MOST_STEPS = 300
"""Of a line over time; longer series are averaged."""
UNITS = ((7200.0 * 24, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (600.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
SIZE, WIDE = (470, 270), (780, 250)


class Timeline:
    """Charts whose x is simulated time, and whose faults are shaded.

    Parameters
    ----------
    series
        As `time_series` returns it; its last row, of unknown length, is left out.
    """

    def __init__(self, scenario: Scenario, series: Mapping[str, NDArray[Any]]) -> None:
        start = series["time_s"][:-1]
        end = start + series["length_s"][:-1]
        self._group = np.arange(len(start)) // -(-max(len(start), 1) // MOST_STEPS)
        self._length = float(end[-1]) if len(end) else scenario.duration_s
        self._unit_s, self._unit = next((by, name) for least, by, name in UNITS if self._length >= least)
        firsts = np.flatnonzero(np.diff(self._group, prepend=-1))
        self._edges = np.append(start[firsts], self._length) / self._unit_s
        self._faults = [(what, one.from_s, one.to_s) for what, one in periods(scenario) if one.from_s < self._length]

    def lines(
        self,
        values: Sequence[NDArray[Any]],
        styles: Sequence[str],
        label: str,
        description: str,
        *,
        percent: bool = False,
        tight: bool = False,
        top: float = 0.0,
        size: tuple[int, int] = SIZE,
    ) -> str:
        """Draw a step line for each column; `tight` fits the axis to them, else it goes from 0 to `top` or more."""
        steps = [self._averaged(one) for one in values]
        finite = np.concatenate([one[np.isfinite(one)] for one in steps])
        if tight:
            limits = span(finite.tolist(), 0.02)
        else:
            high = max(float(finite.max(initial=0.0)), top)
            limits = (0.0, high * 1.05 if high > 0 else 0.01 if percent else 1.0)
        chart = self._chart(limits, label, percent, size)
        for one, style in zip(steps, styles, strict=True):
            for points in self._stairs(one):
                chart.line(points, style)
        return chart.render(description)

    def stacked(self, shares: Sequence[NDArray[Any]], styles: Sequence[str], label: str, description: str) -> str:
        """Fill the shares above each other, the first lowest."""
        chart = self._chart((0.0, 1.0), label, True, WIDE)
        steps = [self._averaged(one) for one in shares]
        lower = np.zeros_like(steps[0])
        for one, style in zip(steps, styles, strict=True):
            for top, bottom in zip(self._stairs(lower + one), self._stairs(lower + 0 * one), strict=True):
                chart.band(top, bottom, style)
            lower = lower + one
        return chart.render(description)

    def fault_key(self) -> list[tuple[str, str, str]]:
        """Return the legend's entry of the shading, if anything is shaded."""
        return [("fault", "box", "a listed outage, failure or brown-out")] if self._faults else []

    def _chart(self, limits: tuple[float, float], label: str, percent: bool, size: tuple[int, int]) -> Chart:
        x = (0.0, self._length / self._unit_s)
        chart = Chart(
            x, limits, f"simulated {self._unit}", label, percent=(False, percent), width=size[0], height=size[1]
        )
        for what, begin, end in self._faults:
            chart.span(begin / self._unit_s, min(end, self._length) / self._unit_s, "fault", what)
        return chart

    def _averaged(self, values: NDArray[Any]) -> NDArray[np.float64]:
        kept = values[:-1].astype(np.float64)
        known = np.isfinite(kept)
        total = np.bincount(self._group, np.where(known, kept, 0.0))
        count = np.bincount(self._group, known.astype(np.float64))
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def _stairs(self, values: NDArray[np.float64]) -> list[Points]:
        """Return a run of points for each run of finite values."""
        runs = []
        spans = list(pairwise(self._edges.tolist()))
        for known, group in groupby(range(len(values)), key=lambda index: bool(np.isfinite(values[index]))):
            if known:
                runs.append([(x, float(values[index])) for index in group for x in spans[index]])
        return runs


def latency_cdf(result: FleetResult, hists: Sequence[Hist], styles: Sequence[str], label: str) -> str:
    """Draw the distribution of some histograms, with time by its logarithm."""
    curves = []
    for hist, style in zip(hists, styles, strict=True):
        counts = result.stats.hist[hist]
        total = int(counts.sum())
        filled = np.flatnonzero(counts)
        if total:
            share = np.cumsum(counts)[filled] / total
            curves.append((_steps(EDGES_MS[filled], EDGES_MS[filled + 1], share), style))
    # What almost nobody waits for, at either end, would squeeze the rest.
    low = min((x for points, _ in curves for x, y in points if y > 0.001), default=1.0)
    high = max((next(x for x, y in points if y >= 0.999) for points, _ in curves), default=10.0)
    low = max(low * 0.8, high / 1e6, 1e-4)
    limits = (low, max(high * 1.3, low * 10))
    chart = Chart(limits, (0.0, 1.0), label, "share", log_x=True, percent=(False, True), width=SIZE[0], height=SIZE[1])
    for points, style in curves:
        chart.line([(max(x, low), y) for x, y in points] + [(high * 2, 1.0)], style)
    return chart.render(f"distribution of times: {label}, {len(curves)} lines")


def _steps(lower: NDArray[Any], upper: NDArray[Any], share: NDArray[Any]) -> Points:
    """Return the points of a CDF that rises within the filled bins alone, and is level between them."""
    points: Points = [(float(max(lower[0], 1e-6)), 0.0)]
    for left, right, now in zip(lower.tolist(), upper.tolist(), share.tolist(), strict=True):
        if left > points[-1][0]:
            points.append((left, points[-1][1]))
        points.append((right, now))
    return points


def battery_life(result: FleetResult) -> str:
    """Draw the share of batteries that last at least so long."""
    life = battery_life_s(result)
    hours = np.sort(life[np.isfinite(life)]) / 3600.0 if life is not None else np.empty(0)
    if not len(hours):
        hours = np.array([1.0])
    picked = hours[np.unique(np.linspace(0, len(hours) - 1, MOST_STEPS).astype(np.intp))]
    unit_h, unit = (24.0, "days") if picked[-1] > 96 else (1.0, "hours")
    xs = picked / unit_h
    still = 1.0 - np.searchsorted(hours, picked, side="right") / len(hours)
    limits, label = (0.0, float(xs[-1]) * 1.05), f"battery life, {unit}"
    chart = Chart(limits, (0.0, 1.0), label, "still alive", percent=(False, True), width=SIZE[0], height=SIZE[1])
    chart.line([(0.0, 1.0), (float(xs[0]), 1.0), *zip(xs.tolist(), still.tolist(), strict=True)], "p0")
    return chart.render("share of batteries that last at least so long")
