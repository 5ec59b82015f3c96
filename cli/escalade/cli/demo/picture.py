"""The picture of a run: what accuracy costs, in inputs escalated and in bytes sent up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import MAX_PROB, Threshold
from escalade.simulations.replay import replay, threshold_curve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.calibrate import Calibration
    from escalade.cli.demo.strategies import Measured
    from escalade.simulations.replay import Recording

BLUE, ORANGE, GREEN, DARK, LIGHT = "#0072B2", "#D55E00", "#009E73", "#555555", "#999999"
"""The colours are from the palette of M. Okabe and K. Ito (2008), distinct for colour-blind readers too."""

STYLES = {
    "always_endpoint": ("s", GREEN),
    "cascade": ("o", ORANGE),
    "always_edge_server": ("D", BLUE),
}
"""Marker and colour of each strategy's point."""

COMMON_THRESHOLDS = 200
"""Points of the curve on which both tiers share one threshold."""


def draw(file: Path, recording: Recording, calibration: Calibration, measured: Mapping[str, Measured]) -> None:
    """Write the picture as PNG: curves by replay, points as the running processes measured them.

    Parameters
    ----------
    file:
        Where to.
    recording:
        What every tier says about the test images.
    calibration:
        The operating point. One curve varies the endpoint's threshold and keeps the edge node's; the other
        gives both the same threshold.
    measured:
        By strategy.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    n = len(recording)
    curves = _curves(recording, calibration)
    accuracy = {name: 100 * (one.answers.label == recording.labels).mean() for name, one in measured.items()}
    left_pct = {name: 100 * (one.answers.tier != "endpoint").mean() for name, one in measured.items()}
    sent_kb = {name: one.bytes_up / 1000 for name, one in measured.items()}

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 4.4), dpi=140, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, column, points in ((left, 0, left_pct), (right, 1, sent_kb)):
            _draw_curves(axes, [(curve[column], curve[2]) for curve in curves])
            _draw_points(axes, points, accuracy)
        left.set_xlabel("digits that leave their endpoint (%)")
        right.set_xlabel(f"sent up for {n} digits, over all hops (kB)")
        left.set_ylabel(f"accuracy on {n} held-out digits (%)")
        left.annotate(
            "operating point: thresholds\n"
            f"{calibration.threshold['endpoint']:.2f} at the endpoints\n"
            f"{calibration.threshold['edge_node']:.2f} at the edge nodes",
            (left_pct["cascade"], accuracy["cascade"]),
            xytext=(4, -12),
            textcoords="offset points",
            va="top",
            color=ORANGE,
        )
        right.legend(loc="lower right", frameon=False)
        figure.savefig(file)


def _curves(recording: Recording, calibration: Calibration) -> list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Return both curves, each as percent escalated, kilobytes sent, percent right."""
    scores = np.unique(MAX_PROB.batch(recording.posteriors[0]))
    own = threshold_curve(recording, np.append(scores, np.inf), calibration.policies()[1:])
    common = [
        replay(recording, [Threshold(float(t)), Threshold(float(t))])
        for t in np.append(np.quantile(scores, np.linspace(0, 1, COMMON_THRESHOLDS)), np.inf)
    ]
    return [
        (100 * own.share_escalated, own.bytes_up / 1000, 100 * own.accuracy),
        (
            np.array([100 * (1 - one.share["endpoint"]) for one in common]),
            np.array([one.bytes_up.sum() / 1000 for one in common]),
            np.array([100 * one.accuracy for one in common]),
        ),
    ]


def _draw_curves(axes: Any, curves: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    styles = [
        ("-", DARK, "only the endpoint's threshold varies (replay)"),
        (":", LIGHT, "one threshold for both tiers (replay)"),
    ]
    for (x, y), (line, colour, label) in zip(curves, styles, strict=True):
        axes.plot(x, y, linestyle=line, color=colour, linewidth=1.7, label=label, zorder=1)
    axes.grid(color="#E2E2E2", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_points(axes: Any, x: Mapping[str, float], y: Mapping[str, float]) -> None:
    for name, (marker, colour) in STYLES.items():
        axes.plot(
            x[name],
            y[name],
            marker=marker,
            color=colour,
            markersize=9,
            markeredgecolor="white",
            linestyle="none",
            label=f"{name.replace('_', ' ')} (measured)",
            zorder=3,
        )
    axes.plot(x["cascade"], y["cascade"], marker="o", color=ORANGE, markersize=15, fillstyle="none", zorder=2)
