"""The picture of a run: what accuracy costs, in inputs escalated and in bytes sent up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from escalade.policies import MAX_PROB
from escalade.simulations.replay import threshold_curve

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from escalade.cli.demo.calibrate import Calibration
    from escalade.cli.demo.strategies import Measured
    from escalade.simulations.replay import Recording

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""From the palette of M. Okabe and K. Ito (2008), distinct for colour-blind readers too; GREY for text."""

STYLES = {
    "always_endpoint": ("s", GREEN),
    "cascade": ("o", ORANGE),
    "always_edge_server": ("D", BLUE),
}
"""Marker and colour of each strategy's point."""


def draw(
    file: Path, recording: Recording, calibration: Calibration, measured: Mapping[str, Measured]
) -> None:
    """Write the picture as PNG: the curve by replay, the points as the running processes measured them.

    Parameters
    ----------
    file:
        Where to.
    recording:
        What every tier says about the test images.
    calibration:
        The operating point. The curve varies the endpoint's threshold and keeps the edge node's.
    measured:
        By strategy.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    n = len(recording)
    scores = MAX_PROB.batch(recording.posteriors[0])
    curve = threshold_curve(recording, np.append(np.unique(scores), np.inf), calibration.policies()[1:])
    accuracy = {name: 100 * (one.answers.label == recording.labels).mean() for name, one in measured.items()}
    left_pct = {name: 100 * (one.answers.tier != "endpoint").mean() for name, one in measured.items()}
    sent_kb = {name: one.bytes_up / 1000 for name, one in measured.items()}

    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9.6, 4.4), dpi=140, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _panel(left, 100 * curve.share_escalated, 100 * curve.accuracy, left_pct, accuracy)
        _panel(right, curve.bytes_up / 1000, 100 * curve.accuracy, sent_kb, accuracy)
        left.set_xlabel("digits that leave their endpoint (%)")
        right.set_xlabel(f"sent up for {n} digits, over all hops (kB)")
        left.set_ylabel(f"accuracy on {n} held-out digits (%)")
        left.annotate(
            f"operating point:\nendpoint threshold {calibration.threshold['endpoint']:.2f}",
            (left_pct["cascade"], accuracy["cascade"]),
            xytext=(0, -18),
            textcoords="offset points",
            ha="center",
            va="top",
            color=ORANGE,
        )
        left.legend(loc="lower right", frameon=False)
        figure.savefig(file)


def _panel(
    axes: Any, curve_x: NDArray[Any], curve_y: NDArray[Any], x: Mapping[str, float], y: Mapping[str, float]
) -> None:
    axes.plot(
        curve_x, curve_y, color=GREY, linewidth=1.6, label="every endpoint threshold (replay)", zorder=1
    )
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
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
